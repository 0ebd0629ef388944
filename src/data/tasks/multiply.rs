//! Multiplication of an a-digit by a b-digit number with partial products as steps (Deng et al., iCoT).
//!
//! Every digit is a symbol, least significant first: 2365 · 4347 is asked as `5 6 3 2 * 7 4 3 4`. A step is one
//! partial product, shifted, with the sum so far in parentheses from the second to the last but one.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::data::Example;

/// The settings of the multiplication task; the published files have four digits by four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiply {
    /// Digits of the first factor.
    pub a_digits: u32,
    /// Digits of the second factor, which is the number of steps.
    pub b_digits: u32,
}

impl Default for Multiply {
    fn default() -> Self {
        Self { a_digits: 4, b_digits: 4 }
    }
}

impl Multiply {
    pub(super) fn check(self) -> Result<(), String> {
        match (self.a_digits, self.b_digits) {
            (1..=18, 1..=18) => Ok(()),
            (a, b) => Err(format!("both factors must have 1 to 18 digits, not {a} and {b}")),
        }
    }

    pub(super) fn example(self, rng: &mut ChaCha8Rng) -> Example {
        let mut factor = |digits| rng.random_range(smallest(digits)..smallest(digits + 1));
        let (a, b) = (factor(self.a_digits), factor(self.b_digits));
        self.worked(a, b)
    }

    /// The example for two given factors, which must have at most the task's digits.
    pub fn worked(self, a: u64, b: u64) -> Example {
        let (a, b) = (u128::from(a), u128::from(b));
        let mut sum = 0;
        let mut power = 1;
        let mut steps = Vec::new();
        for place in 0..self.b_digits {
            let partial = a * (b / power % 10) * power;
            sum += partial;
            power *= 10;
            let width = self.a_digits + 1 + place;
            let mut step = digits(partial, width);
            if place > 0 && place + 1 < self.b_digits {
                step.push_str(&format!(" ( {} )", digits(sum, width)));
            }
            steps.push(step);
        }
        let question = format!("{} * {}", digits(a, self.a_digits), digits(b, self.b_digits));
        Example::new(question, steps, digits(sum, self.a_digits + self.b_digits))
    }
}

/// The smallest number of so many digits; one digit may be zero.
fn smallest(digits: u32) -> u64 {
    if digits <= 1 { 0 } else { 10_u64.pow(digits - 1) }
}

/// `width` digits, the least significant first, with blanks between them.
fn digits(mut number: u128, width: u32) -> String {
    let mut digits = Vec::new();
    for _ in 0..width {
        digits.push((number % 10).to_string());
        number /= 10;
    }
    digits.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_the_published_file() {
        let expected = Example::new(
            "5 6 3 2 * 7 4 3 4",
            [
                "5 5 5 6 1",
                "0 0 6 4 9 0 ( 5 5 1 1 1 1 )",
                "0 0 5 9 0 7 0 ( 5 5 6 0 2 8 0 )",
                "0 0 0 0 6 4 9 0",
            ],
            "5 5 6 0 8 2 0 1",
        );
        assert_eq!(Multiply::default().worked(2365, 4347), expected);
        let by_one_digit = Multiply { a_digits: 2, b_digits: 1 };
        assert_eq!(by_one_digit.worked(25, 4), Example::new("5 2 * 4", ["0 0 1"], "0 0 1"));
    }
}
