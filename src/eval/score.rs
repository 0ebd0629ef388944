//! Reading an answer out of generated text, and judging it (METHOD.md 7).

/// The answer in a text: what stands after its last mark, commas removed and trimmed. `None` if there
/// is no mark.
pub fn read_answer(text: &str, mark: &str) -> Option<String> {
    let (_, answer) = text.rsplit_once(mark)?;
    Some(normalize(answer))
}

/// The reasoning in a text: what stands before its first mark, one line a step.
pub fn read_steps<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    let reasoning = text.split_once(mark).map_or(text, |(before, _)| before);
    reasoning.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// Whether a read answer is the right one, exactly, apart from commas and blanks at its ends.
pub fn is_right(read: Option<&str>, answer: &str) -> bool {
    read.is_some_and(|read| read == normalize(answer))
}

fn normalize(answer: &str) -> String {
    answer.replace(',', "").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_after_the_last_mark() {
        let right = |text: &str, answer| is_right(read_answer(text, "###").as_deref(), answer);
        assert!(right("<<3+4=7>>\n### 7", "7"));
        assert!(right("### 1,234 ", "1234"));
        assert!(right("### -3.5", "-3.5"));
        assert!(right("### 2 ### 3", "3"));
        assert!(!right("### 17", "7"));
        assert!(!right("7", "7"), "no mark, no answer");
        assert!(!right("", ""), "nothing generated is not an empty answer");
        assert!(!right("### 7.0", "7"), "exactly");
    }

    #[test]
    fn steps_are_the_lines_before_the_mark() {
        assert_eq!(read_steps("a b\nc\n### 7", "###"), ["a b", "c"]);
        assert!(read_steps("### 7", "###").is_empty());
    }
}
