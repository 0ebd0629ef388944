//! Numbers as answers write them: found in text, and compared by value.

/// The first number in a text, as it stands there.
pub(super) fn first(text: &str) -> Option<&str> {
    next(text, 0).map(|(start, end)| &text[start..end])
}

/// The last number in a text, as it stands there.
pub(super) fn last(text: &str) -> Option<&str> {
    let (mut found, mut from) = (None, 0);
    while let Some((start, end)) = next(text, from) {
        (found, from) = (Some(&text[start..end]), end);
    }
    found
}

/// Where the next number stands: a sign, unless something is taken away there; digits, in groups of three with commas
/// between them or not; a point and more digits.
fn next(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let digits = |mut at: usize| {
        while digit(at) {
            at += 1;
        }
        at
    };
    let point = |at: usize| bytes[at] == b'.' && digit(at + 1) && (at == 0 || !digit(at - 1));
    let first = (from..bytes.len()).find(|&at| digit(at) || point(at))?;
    let mut end = digits(first);
    while bytes.get(end) == Some(&b',') && digits(end + 1) == end + 4 {
        end += 4;
    }
    if bytes.get(end) == Some(&b'.') && digit(end + 1) {
        end = digits(end + 1);
    }
    let before = text[..first].trim_end_matches('$');
    let sign = before.strip_suffix(['-', '−']);
    let negates = |left: &str| !left.ends_with(|last: char| last.is_alphanumeric() || last == ')');
    let start = match sign {
        Some(left) if left.len() >= from && negates(left) => left.len(),
        _ => first,
    };
    Some((start, end))
}

/// A number as it may be written: one decimal over another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fraction {
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
    /// Reads a text that is a number and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
        let numerator = Decimal::parse(numerator.trim_end())?;
        let denominator = Decimal::parse(denominator.trim_start())?;
        (!denominator.digits.is_empty()).then_some(Self { numerator, denominator })
    }

    /// Whether two are one number, exactly.
    pub fn equals(&self, other: &Self) -> bool {
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
