//! Chains such as `3+5*2-7`, evaluated strictly from left to right: `<<3+5=8>> <<8*2=16>> <<16-7=9>>`.

use std::ops::RangeInclusive;

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::data::Example;

/// The settings of the arithmetic task.
///
/// No precedence: with a fixed order there is one step an operation, and the number of steps says how hard a
/// question is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// What numbers stand in a chain.
    pub operands: RangeInclusive<i64>,
    /// Which operations.
    pub operators: Vec<Operator>,
    /// How many operations, hence steps.
    pub n_operations: RangeInclusive<usize>,
    /// Reduce every result to 0 .. modulus. The question does not show it: it is the same throughout a file.
    pub modulus: Option<i64>,
    /// Write a step as its value alone, `8`, rather than as the equation `<<3+5=8>>`.
    pub value_steps: bool,
}

/// An operation between two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self {
            operands: 0..=9,
            operators: vec![Operator::Add, Operator::Subtract, Operator::Multiply],
            n_operations: 2..=4,
            modulus: Some(10),
            value_steps: false,
        }
    }
}

impl Operator {
    /// The character that writes it.
    pub fn symbol(self) -> char {
        match self {
            Self::Add => '+',
            Self::Subtract => '-',
            Self::Multiply => '*',
        }
    }

    /// The operator that a character writes.
    pub fn from_symbol(symbol: char) -> Option<Self> {
        [Self::Add, Self::Subtract, Self::Multiply].into_iter().find(|op| op.symbol() == symbol)
    }

    /// Wraps on overflow, which [`Arithmetic::check`] has ruled out.
    fn apply(self, a: i64, b: i64) -> i64 {
        match self {
            Self::Add => a.wrapping_add(b),
            Self::Subtract => a.wrapping_sub(b),
            Self::Multiply => a.wrapping_mul(b),
        }
    }
}

impl Arithmetic {
    pub(super) fn check(&self) -> Result<(), String> {
        let (low, high) = (*self.operands.start(), *self.operands.end());
        let (fewest, most) = (*self.n_operations.start(), *self.n_operations.end());
        if low > high || low < 0 {
            return Err(format!("operands must be a range of numbers from 0, not {low} to {high}"));
        }
        if fewest > most || fewest == 0 {
            return Err(format!("operations must be a range from 1, not {fewest} to {most}"));
        }
        if self.operators.is_empty() {
            return Err("there must be at least one operator of + - *".to_owned());
        }
        if self.modulus.is_some_and(|modulus| modulus < 2) {
            return Err("the modulus must be at least 2".to_owned());
        }
        // No chain goes beyond the largest operand (at least 2, to cover sums) multiplied by itself.
        let base = i128::from(high.max(2));
        let bound = match self.modulus {
            Some(modulus) => base.max(modulus.into()).checked_pow(2),
            None => u32::try_from(most + 1).ok().and_then(|factors| base.checked_pow(factors)),
        };
        match bound {
            Some(bound) if bound <= i64::MAX.into() => Ok(()),
            _ => Err(format!(
                "operands up to {high} and {most} operations overflow 64 bits. Lower them, or set a modulus."
            )),
        }
    }

    pub(super) fn example(&self, rng: &mut ChaCha8Rng) -> Example {
        let n_operations = rng.random_range(self.n_operations.clone());
        let mut value = rng.random_range(self.operands.clone());
        let mut question = value.to_string();
        let mut steps = Vec::with_capacity(n_operations);
        for _ in 0..n_operations {
            let operator = self.operators.choose(rng).copied().unwrap_or(Operator::Add);
            let operand = rng.random_range(self.operands.clone());
            let result = self.reduced(operator.apply(value, operand));
            let symbol = operator.symbol();
            question.push_str(&format!("{symbol}{operand}"));
            steps.push(if self.value_steps {
                result.to_string()
            } else {
                format!("<<{value}{symbol}{operand}={result}>>")
            });
            value = result;
        }
        Example::new(question, steps, value.to_string())
    }

    fn reduced(&self, value: i64) -> i64 {
        self.modulus.map_or(value, |modulus| value.rem_euclid(modulus))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::{Task, generate, keys};
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let good = Arithmetic::default();
        for (bad, words) in [
            (Arithmetic { operands: RangeInclusive::new(5, 2), ..good.clone() }, "operands"),
            (Arithmetic { n_operations: 0..=2, ..good.clone() }, "operations"),
            (Arithmetic { operators: vec![], ..good.clone() }, "operator"),
            (Arithmetic { modulus: Some(1), ..good.clone() }, "modulus"),
            (Arithmetic { n_operations: 1..=30, modulus: None, ..good }, "overflow"),
        ] {
            let message =
                generate(&Task::Arithmetic(bad), 1, 0, &HashSet::new()).unwrap_err().to_string();
            assert!(message.contains(words), "{message:?} lacks {words:?}");
        }
    }

    #[test]
    fn small_space_is_used_up_and_then_refused() {
        let tiny = Task::Arithmetic(Arithmetic {
            operands: 0..=2,
            operators: vec![Operator::Add],
            n_operations: 1..=1,
            modulus: None,
            value_steps: false,
        });
        let test = generate(&tiny, 4, 1, &HashSet::new()).unwrap();
        let train = generate(&tiny, 5, 2, &keys(&test)).unwrap();
        assert_eq!(keys(test.iter().chain(&train)).len(), 9);
        let message = generate(&tiny, 6, 2, &keys(&test)).unwrap_err().to_string();
        assert!(message.contains("6 were asked for, 5 were found beside the 4"), "{message}");
    }
}
