//! Reading examples from files: JSON list, JSON lines, iCoT text, and ProntoQA as its authors publish it.
//!
//! The format is told from the content, never from the file's name.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::Example;
use crate::{Error, Result};

/// Reads a file of examples, at most `max_size` of them, in the file's order.
///
/// # Errors
/// A file that is missing, empty, not UTF-8 or in no known format; JSON that ends early or is wrong
/// (with the line); an example without a needed field (with its number, counted from 1).
pub fn load(path: &Path, max_size: Option<usize>) -> Result<Vec<Example>> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        Error::input(path, format!("line {line}"), "is not UTF-8 text. Convert the file to UTF-8.")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let limit = max_size.unwrap_or(usize::MAX);

    let examples = match Format::of(text) {
        Some(Format::JsonList) => read_json_list(path, text, limit)?,
        Some(Format::JsonLines) => read_json_lines(path, text, limit)?,
        Some(Format::ProntoQa) => read_prontoqa(path, text, limit)?,
        Some(Format::Icot) => read_icot(path, text, limit)?,
        None if text.trim().is_empty() => return Err(empty(path)),
        None => return Err(Error::input(path, "", UNKNOWN_FORMAT)),
    };
    if examples.is_empty() && limit > 0 {
        return Err(empty(path));
    }
    Ok(examples)
}

const UNKNOWN_FORMAT: &str = "is neither JSON nor iCoT text. Give a JSON list or JSON lines of objects with \
    `question`, `steps` and `answer`, or lines such as `question||<<1+1=2>> <<2+1=3>> #### 3`.";

fn empty(path: &Path) -> Error {
    Error::input(path, "", "has no examples. Give a file with at least one.")
}

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    JsonList,
    JsonLines,
    ProntoQa,
    Icot,
}

impl Format {
    fn of(text: &str) -> Option<Self> {
        let text = text.trim_start();
        // A question may begin with a bracket, so iCoT is told by its separator outside any JSON.
        let first_line = text.lines().next()?;
        match text.chars().next()? {
            '[' if !is_icot(first_line) => Some(Self::JsonList),
            '{' if text.contains("\"test_example\"") => Some(Self::ProntoQa),
            '{' if !is_icot(first_line) => Some(Self::JsonLines),
            _ if is_icot(first_line) => Some(Self::Icot),
            _ => None,
        }
    }
}

fn is_icot(line: &str) -> bool {
    let after_question = line.split_once("||").map(|(_, rest)| rest);
    after_question.is_some_and(|rest| rest.contains("##")) && !line.contains("\"question\"")
}

fn read_json_list(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let values: Vec<Value> = parse(path, text, 0)?;
    let numbered = values.into_iter().take(limit).enumerate();
    numbered.map(|(index, value)| example(path, format!("example {}", index + 1), value)).collect()
}

fn read_json_lines(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let numbered = lines.take(limit).enumerate();
    numbered
        .map(|(index, (line_index, line))| {
            let value = parse(path, line, line_index)?;
            let place = format!("example {} (line {})", index + 1, line_index + 1);
            example(path, place, value)
        })
        .collect()
}

fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    text: &str,
    lines_before: usize,
) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let place = format!("line {}", lines_before + error.line().max(1));
        let problem = if error.is_eof() {
            "the JSON ends in the middle of a value: the file is truncated. Fetch or write it again.".into()
        } else {
            format!("is not valid JSON: {error}. Each line or list item must be one object.")
        };
        Error::input(path, place, problem)
    })
}

fn example(path: &Path, place: String, value: Value) -> Result<Example> {
    Example::from_json(value).map_err(|fault| {
        Error::input(path, place, format!("the field `{}` {}", fault.field, fault.problem))
    })
}

/// ProntoQA: `{"example1": {"test_example": {question, query, chain_of_thought, answer}}, …}`.
///
/// As in facebookresearch/coconut's preprocessing/prontoqa.py: the query joins the question, and the
/// chain's sentences are joined in pairs (a fact and the rule applied to it), one step a pair.
fn read_prontoqa(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let entries: Map<String, Value> = parse(path, text, 0)?;
    let numbered = entries.into_iter().take(limit).enumerate();
    numbered
        .map(|(index, (name, entry))| {
            let place = format!("example {} (`{name}`)", index + 1);
            let test = &entry["test_example"];
            let field = |field: &str| {
                test[field].as_str().ok_or_else(|| {
                    let problem = format!("the field `test_example.{field}` must be a string");
                    Error::input(path, place.clone(), problem)
                })
            };
            let chain: Option<Vec<&str>> = test["chain_of_thought"]
                .as_array()
                .and_then(|chain| chain.iter().map(Value::as_str).collect());
            let chain = chain.ok_or_else(|| {
                let problem = "the field `test_example.chain_of_thought` must be a list of strings";
                Error::input(path, place.clone(), problem)
            })?;
            let steps = chain.chunks(2).map(|pair| pair.join(" "));
            Ok(Example::new(
                format!("{} {}", field("question")?, field("query")?),
                steps,
                field("answer")?,
            ))
        })
        .collect()
}

/// iCoT text (Deng et al.): `question||step step #### answer`, one example a line.
fn read_icot(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let numbered = lines.take(limit).enumerate();
    numbered
        .map(|(index, (line_index, line))| {
            icot_example(line).ok_or_else(|| {
                let place = format!("example {} (line {})", index + 1, line_index + 1);
                let problem =
                    "an iCoT line must read `question||steps #### answer`, with an answer";
                Error::input(path, place, problem)
            })
        })
        .collect()
}

fn icot_example(line: &str) -> Option<Example> {
    let (question, rest) = line.split_once("||")?;
    let (steps, _) = rest.split_once("##")?;
    let (_, answer) = rest.rsplit_once("##")?;
    // `1,450,000` and `1450000` are one number; only the second form can be told apart digit by digit.
    let answer = answer.trim().replace(',', "");
    (!answer.is_empty()).then(|| Example::new(question, icot_steps(steps), answer))
}

/// Steps are separated by blanks, except in multiplication, where every digit is a word of its own and
/// the partial products are separated by ` + `.
fn icot_steps(steps: &str) -> Vec<String> {
    let mut symbols = steps.split_whitespace().peekable();
    let is_symbol = |word: &str| matches!(word.as_bytes(), [b'0'..=b'9' | b'+' | b'(' | b')']);
    if symbols.peek().is_some() && symbols.clone().all(is_symbol) {
        steps.split(" + ").map(|step| step.trim().to_owned()).collect()
    } else {
        symbols.map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    fn loaded_from(content: &str) -> Result<Vec<Example>> {
        let (_folder, path) = file(content);
        load(&path, None)
    }

    fn refused(content: &str) -> String {
        let error = loaded_from(content).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn icot_lines() {
        let (_folder, path) =
            file("A, B||<<1+1=2>> <<2*3=6>> #### 1,450\r\n\nC?||#### -3\nD|| #### .5");
        assert_eq!(
            load(&path, None).unwrap(),
            [
                Example::new("A, B", ["<<1+1=2>>", "<<2*3=6>>"], "1450"),
                Example::new("C?", [""; 0], "-3"),
                Example::new("D", [""; 0], ".5"),
            ]
        );
    }

    #[test]
    fn icot_multiplication_splits_at_partial_products() {
        let line = "5 2 * 4 1||0 0 1 + 0 5 2 ( 0 5 3 ) + 1 #### 0 5 3";
        let steps = ["0 0 1", "0 5 2 ( 0 5 3 )", "1"];
        assert_eq!(loaded_from(line).unwrap(), [Example::new("5 2 * 4 1", steps, "0 5 3")]);
    }

    #[test]
    fn json_list_and_lines_and_limit() {
        let list = r#"[{"question":"a","steps":["s"],"answer":"1"},
            {"question":"b","steps":[],"answer":2}]"#;
        let lines = "{\"question\":\"a\",\"steps\":[\"s\"],\"answer\":\"1\"}\n\n\
            {\"question\":\"b\",\"steps\":[],\"answer\":2}\n";
        let expected = [Example::new("a", ["s"], "1"), Example::new("b", [""; 0], "2")];
        for content in [list, lines] {
            let (_folder, path) = file(content);
            assert_eq!(load(&path, None).unwrap(), expected);
            assert_eq!(load(&path, Some(1)).unwrap(), expected[..1]);
        }
    }

    #[test]
    fn prontoqa_as_published() {
        let content = r#"{"example1": {"test_example": {"question": "Cats are red. Tom is a cat.",
            "query": "True or false: Tom is red.", "chain_of_thought": ["Tom is a cat.", "Cats are red.",
            "Tom is red."], "answer": "True"}}}"#;
        let question = "Cats are red. Tom is a cat. True or false: Tom is red.";
        let steps = ["Tom is a cat. Cats are red.", "Tom is red."];
        assert_eq!(loaded_from(content).unwrap(), [Example::new(question, steps, "True")]);
    }

    #[test]
    fn errors_say_what_and_where() {
        let good = r#"{"question":"a","steps":[],"answer":"1"}"#;
        for (content, words) in [
            ("", "has no examples"),
            ("[]", "has no examples"),
            ("hello", "neither JSON nor iCoT"),
            (&format!("[{good},\n{good},"), "line 2: the JSON ends in the middle"),
            (
                &format!("{good}\n{{\"question\": \"b\", \"st"),
                "line 2: the JSON ends in the middle",
            ),
            (&format!("[{good},\n\n{good} {good}]"), "line 3: is not valid JSON"),
            (r#"[{"steps":[],"answer":"1"}]"#, "example 1: the field `question` is missing"),
            (
                &format!("{good}\n{{\"question\":\"b\"}}"),
                "example 2 (line 2): the field `steps` is missing",
            ),
            ("a||b #### 3\nc|| #### ", "example 2 (line 2): an iCoT line"),
        ] {
            let message = refused(content);
            assert!(message.contains(words), "{message:?} lacks {words:?}");
        }
        let missing = load(Path::new("/nowhere/data.json"), None).unwrap_err();
        assert_eq!(missing.exit_code(), 2);
        assert!(missing.to_string().contains("cannot read /nowhere/data.json"));
    }

    #[test]
    fn byte_order_mark_is_skipped() {
        let content = "\u{feff}[{\"question\":\"a\",\"steps\":[],\"answer\":\"1\"}]";
        assert_eq!(loaded_from(content).unwrap().len(), 1);
    }

    #[test]
    fn not_utf8_names_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin1");
        fs::write(&path, b"q||a #### 1\n\xe9||a #### 1\n").unwrap();
        assert!(load(&path, None).unwrap_err().to_string().contains("line 2: is not UTF-8"));
    }
}
