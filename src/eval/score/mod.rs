//! Reading an answer out of generated text, and judging it (docs/method.md 12.1).

mod math;
mod number;

use tokenizers::NormalizedString;

use number::Fraction;

use crate::data::published::boxed;

/// How a set's answers are read out of generated text and compared with the right ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scorer {
    /// What stands after the last answer mark, as models write it that were trained here; none without a mark.
    #[default]
    Mark,
    /// A number, compared by value: the first one after the last mark, or else the last one in the last `\boxed`, or
    /// else the last one of all.
    Number,
    /// One of a few words, such as `A` to `E` or `True` and `False`, that stands alone: the first one after the last
    /// mark, or else the last one of all.
    Choice(Vec<String>),
    /// What the last `\boxed` holds, or else what stands after the last mark, compared as MATH's scorer does.
    Boxed,
    /// What stands after the last mark, or else the last line.
    Line,
}

impl Scorer {
    /// What [`Scorer::named`] takes.
    pub const NAMES: [&str; 6] = ["auto", "mark", "number", "choice", "boxed", "line"];

    /// The scorer that the right answers of a set call for.
    pub fn of<'a>(answers: impl IntoIterator<Item = &'a str>) -> Self {
        const FEW: usize = 10;
        let answers: Vec<String> = answers.into_iter().map(normalized).collect();
        let is_word = |text: &String| !text.is_empty() && text.chars().all(char::is_alphabetic);
        let choices = each_once(answers.clone());
        if answers.iter().all(|answer| Fraction::parse(answer).is_some()) {
            Self::Number
        } else if choices.iter().all(is_word) && choices.len() <= FEW.min(answers.len()) {
            Self::Choice(choices)
        } else if answers.iter().any(|answer| answer.contains('\\')) {
            Self::Boxed
        } else {
            Self::Line
        }
    }

    /// The scorer of a name; `choice` takes its words from the right answers.
    pub fn named<'a>(name: &str, answers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        Some(match name {
            "auto" => Self::of(answers),
            "mark" => Self::Mark,
            "number" => Self::Number,
            "choice" => Self::Choice(each_once(answers.into_iter().map(normalized).collect())),
            "boxed" => Self::Boxed,
            "line" => Self::Line,
            _ => return None,
        })
    }

    /// Its name, as [`Scorer::named`] takes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mark => "mark",
            Self::Number => "number",
            Self::Choice(_) => "choice",
            Self::Boxed => "boxed",
            Self::Line => "line",
        }
    }

    /// The answer in a text; `None` if there is none. `mark` stands before answers.
    pub fn read(&self, text: &str, mark: &str) -> Option<String> {
        let marked = text.rsplit_once(mark).map(|(_, after)| after);
        match self {
            Self::Mark => read_answer(text, mark),
            Self::Number => {
                let after = marked.and_then(number::first);
                let in_box = || boxed(text).and_then(number::last);
                let found = after.or_else(in_box).or_else(|| number::last(text));
                found.map(|number| normalized(number).replace('−', "-").replace('$', ""))
            }
            Self::Choice(choices) => {
                let after = marked.and_then(|after| chosen(after, choices).into_iter().next());
                after.or_else(|| chosen(text, choices).pop())
            }
            Self::Boxed => boxed(text).or(marked).map(|answer| answer.trim().to_owned()),
            Self::Line => {
                let last = || text.lines().rfind(|line| !line.trim().is_empty());
                marked.or_else(last).map(normalized)
            }
        }
    }

    /// Whether a prediction is the right answer; `spoken` as in [`is_right`].
    pub fn is_right(&self, prediction: Option<&str>, answer: &str, spoken: Option<&str>) -> bool {
        match (self, prediction) {
            (Self::Boxed, Some(prediction)) => math::equivalent(prediction, answer),
            _ => is_right(prediction, answer, spoken),
        }
    }
}

/// The words of a list, each once, in order.
fn each_once(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words.dedup();
    words
}

/// Those of a few words that stand alone in a text, in its order. Words of several letters are found in any case; a
/// letter that is a word of its own, as in `A dog`, is none of them.
fn chosen(text: &str, choices: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let length = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let goes_on =
            after.strip_prefix(' ').is_some_and(|next| next.starts_with(char::is_lowercase));
        let is_article = goes_on && (word == "A" || word == "I");
        let is_one = |choice: &&String| match word.chars().count() {
            0 => false,
            1 => choice.as_str() == word && !is_article,
            _ => choice.to_lowercase() == word.to_lowercase(),
        };
        found.extend(choices.iter().find(is_one).cloned());
        let mut characters = after.chars();
        if characters.next().is_none() {
            return found;
        }
        rest = characters.as_str();
    }
}

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
