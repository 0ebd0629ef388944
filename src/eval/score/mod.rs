//! Reading an answer out of generated text, and judging it (docs/method.md 12.1).

use tokenizers::NormalizedString;

/// The answer in a text: what stands after its last mark, normalized. `None` if there is no mark.
pub fn read_answer(text: &str, mark: &str) -> Option<String> {
    let (_, answer) = text.rsplit_once(mark)?;
    Some(normalized(answer))
}

/// Whether a generated answer is the right one.
///
/// An answer that the data writes as a number is compared by value: signs, leading zeros, thousands separators, zeros
/// after the point, exponents and fractions are forms of one number (`1`, `+01`, `1.0`, `1e0`, `1,000/1000`), exactly
/// and with any number of digits. Any other answer is text, compared letter by letter without commas and blanks at its
/// ends, in composed Unicode, and as the tokenizer decodes it: `spoken` is the answer that generated text would hold,
/// `None` if none can.
pub fn is_right(prediction: Option<&str>, answer: &str, spoken: Option<&str>) -> bool {
    let Some(prediction) = prediction.map(normalized) else { return false };
    let answer = normalized(answer);
    if prediction == answer || spoken.is_some_and(|spoken| prediction == normalized(spoken)) {
        return true;
    }
    let numbers = Fraction::parse(&prediction).zip(Fraction::parse(&answer));
    numbers.is_some_and(|(ours, right)| ours.equals(&right))
}

/// Whether two texts hold the same reasoning: the lines before the first mark, in composed Unicode, without blanks at
/// their ends.
pub fn same_steps(generated: &str, right: &str, mark: &str) -> bool {
    let (generated, right) = (composed(generated), composed(right));
    read_steps(&generated, mark) == read_steps(&right, mark)
}

/// The reasoning in a text: what stands before its first mark, one line a step.
fn read_steps<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    let reasoning = text.split_once(mark).map_or(text, |(before, _)| before);
    reasoning.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// In composed Unicode, without commas and without blanks at its ends.
fn normalized(answer: &str) -> String {
    let mut text = String::with_capacity(answer.len());
    for part in composed(answer).split(',') {
        // Tokenizers of words write `1, 234`.
        let thousands = text.ends_with(|last: char| last.is_ascii_digit()) && is_group(part);
        text.push_str(if thousands { part.trim_start() } else { part });
    }
    text.trim().to_owned()
}

/// Whether a blank, three digits and no fourth begin a text.
fn is_group(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(' ') else { return false };
    rest.bytes().take_while(u8::is_ascii_digit).count() == 3
}

/// The text in Unicode's composed form (NFC), in which `é` is one character.
fn composed(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    NormalizedString::from(text).nfc().get().to_owned()
}

/// A number as it may be written: one decimal over another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fraction {
    numerator: Decimal,
    denominator: Decimal,
}

/// An exact decimal number, ± digits · 10^exponent. Digits neither begin nor end with a zero, so that equal numbers
/// have equal fields; zero has none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Fraction {
    fn parse(text: &str) -> Option<Self> {
        let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
        let numerator = Decimal::parse(numerator.trim_end())?;
        let denominator = Decimal::parse(denominator.trim_start())?;
        (!denominator.digits.is_empty()).then_some(Self { numerator, denominator })
    }

    fn equals(&self, other: &Self) -> bool {
        self.numerator.times(&other.denominator) == other.numerator.times(&self.denominator)
    }
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix(['-', '−']) {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digits = digits.into_iter().map(|digit| digit - b'0').collect();
        Some(Self::new(negative, digits, i64::from(exponent) - fraction.len() as i64))
    }

    fn new(negative: bool, mut digits: Vec<u8>, mut exponent: i64) -> Self {
        let leading = digits.iter().take_while(|&&digit| digit == 0).count();
        digits.drain(..leading);
        while digits.last() == Some(&0) {
            digits.pop();
            exponent += 1;
        }
        if digits.is_empty() {
            return Self { negative: false, digits, exponent: 0 };
        }
        Self { negative, digits, exponent }
    }

    /// The product, as it is worked out on paper.
    fn times(&self, other: &Self) -> Self {
        let mut columns = vec![0_u64; self.digits.len() + other.digits.len()]; // from the ones up
        for (i, &a) in self.digits.iter().rev().enumerate() {
            for (column, &b) in columns[i..].iter_mut().zip(other.digits.iter().rev()) {
                *column += u64::from(a) * u64::from(b);
            }
        }
        let mut carry = 0;
        for column in &mut columns {
            carry += *column;
            *column = carry % 10;
            carry /= 10;
        }
        let digits = columns.into_iter().rev().map(|digit| digit as u8).collect();
        Self::new(self.negative != other.negative, digits, self.exponent + other.exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(text: &str, answer: &str) -> bool {
        is_right(read_answer(text, "###").as_deref(), answer, Some(answer))
    }

    #[test]
    fn answers_are_read_after_the_last_mark() {
        assert!(right("<<3+4=7>>\n### 7", "7"));
        assert!(right("### 1,234 ", "1234"));
        assert!(right("### -3.5", "-3.5"));
        assert!(right("### 2 ### 3", "3"));
        assert!(!right("### 17", "7"));
        assert!(!right("7", "7"), "no mark, no answer");
        assert!(!right("", ""), "nothing generated is not an empty answer");
    }

    #[test]
    fn numbers_are_compared_by_value() {
        let forms = ["1", "1.0", "01", "+1", "1.", "1e0", "10E-1", "0.1e+1", "1,000/1000", "2 / 2"];
        for form in forms {
            assert!(right("### 1", form), "{form} is 1");
            assert!(right(&format!("### {form}"), "1"), "{form} is 1");
            assert!(!right("### -1", form), "{form} is not −1");
        }
        for (same, answer) in [
            ("0", "-0"),
            ("0.0", "-0"),
            ("-.5", "−0.50"),
            ("- 3", "-3"),
            ("1,234,567", "1234567.00"),
            ("1, 234", "1234"),
            ("3/4", "0.75"),
            ("-2/6", "1/-3"),
            ("100000000000000000000000000000", "1e29"),
            ("123456789012345678901234567890.0", "123456789012345678901234567890"),
        ] {
            assert!(right(&format!("### {same}"), answer), "{same} is {answer}");
            assert!(right(&format!("### {answer}"), same), "{answer} is {same}");
        }
    }

    #[test]
    fn other_numbers_differ() {
        for (other, answer) in [
            ("17", "7"),
            ("1.01", "1.0"),
            ("10", "1"),
            ("18446744073709551617", "18446744073709551616"), // equal as floats
            ("0.1000000000000000000001", "0.1"),
            ("1e400", "1e401"), // both infinite as floats
            ("1/0", "2/0"),
            ("1/3", "0.3333333333333333"),
            ("1 2", "12"),
            ("7 apples", "7"),
            ("e5", "0"),
            ("", "0"),
            (".", "0"),
            ("1e99999999999", "1"),
        ] {
            assert!(!right(&format!("### {other}"), answer), "{other} is not {answer}");
            assert!(!right(&format!("### {answer}"), other), "{answer} is not {other}");
        }
    }

    #[test]
    fn text_is_compared_as_text() {
        assert!(!right("### 0 5 3", "0 5 30"), "digits apart are no number");
        assert!(!right("### 53", "0 5 3"));
        assert!(!right("### tom", "Tom"));
        assert!(right("### a, b", "a b"), "commas do not count");
        assert!(!right("### 10:30", "10.30"));
        assert!(is_right(Some("( A)"), "(A)", Some("( A)")), "as the tokenizer decodes it");
        assert!(is_right(Some("12"), "1 2", Some("12")), "as the tokenizer decodes it");
        assert!(!is_right(Some("012"), "1 2", Some("12")), "text, whatever it is decoded as");
        assert!(!is_right(Some(""), "eel", None), "an answer without a token");
    }

    #[test]
    fn composed_and_decomposed_letters_are_equal() {
        for (composed, decomposed) in
            [("café", "cafe\u{301}"), ("Å", "\u{212b}"), ("각", "\u{1100}\u{1161}\u{11a8}")]
        {
            assert!(right(&format!("### {composed}"), decomposed));
            assert!(right(&format!("### {decomposed}"), composed));
            assert!(same_steps(&format!("{composed}\n### 1"), decomposed, "###"));
        }
        assert!(!right("### cafe", "café"));
    }

    #[test]
    fn steps_are_the_lines_before_the_mark() {
        assert_eq!(read_steps("a b\nc\n### 7", "###"), ["a b", "c"]);
        assert!(read_steps("### 7", "###").is_empty());
        assert!(same_steps("a b\nc \n### 7", "a b\nc\n", "###"));
        assert!(!same_steps("a b\n### 7", "a b\nc\n", "###"));
    }
}
