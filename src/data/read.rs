//! Reading examples from files: JSON list, JSON lines, Parquet, iCoT text, and ProntoQA as its authors publish it.
//!
//! The format is told from the content, never from the file's name.

use std::{fs, path::Path};

use serde_json::value::RawValue;

use super::{
    Example,
    example::{FieldProblem, Fields},
    parquet,
    published::{self, icot_steps},
};
use crate::{Error, Result};

/// Reads a file of examples, at most `max_size` of them, in the file's order.
///
/// JSON may be a list of objects, an object that holds one such list, or objects one after the other, each on a line
/// of its own or over several lines. Objects, and rows of a Parquet table, may also be in the forms in which well-known
/// sets are published.
///
/// # Errors
/// A file that is missing, empty, not UTF-8 or in no known format, by name where it is a known other one; JSON that
/// ends early or is wrong (with the line); an example without a needed field or with a field twice (with its number,
/// counted from 1).
pub fn load(path: &Path, max_size: Option<usize>) -> Result<Vec<Example>> {
    if path.is_dir() {
        return Err(Error::input(path, "", "is a folder. Name a file of examples in it."));
    }
    let limit = max_size.unwrap_or(usize::MAX);
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    if parquet::is_table(&bytes) {
        let rows = parquet::rows(path, bytes, limit)?;
        let rows: Vec<&RawValue> = rows.iter().map(AsRef::as_ref).collect();
        return match rows.is_empty() && limit > 0 {
            true => Err(empty(path)),
            false => read_items(path, rows, limit),
        };
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        if let Some(problem) = foreign(&bytes) {
            return Error::input(path, "", problem);
        }
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        Error::input(path, format!("line {line}"), "is not UTF-8 text. Convert the file to UTF-8.")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);

    let examples = match Format::of(text) {
        Some(Format::JsonList) => read_items(path, parse(path, text)?, limit)?,
        Some(Format::JsonObjects) => read_json_objects(path, text, limit)?,
        Some(Format::ProntoQa) => read_prontoqa(path, text, limit)?,
        Some(Format::Icot) => read_icot(path, text, limit)?,
        None if text.trim().is_empty() => return Err(empty(path)),
        None => return Err(Error::input(path, "", foreign(&bytes).unwrap_or(UNKNOWN_FORMAT))),
    };
    if examples.is_empty() && limit > 0 {
        return Err(empty(path));
    }
    Ok(examples)
}

const UNKNOWN_FORMAT: &str = "is neither JSON nor iCoT text. Give a JSON list or JSON lines of objects with \
    `question`, `steps` and `answer`, or lines such as `question||<<1+1=2>> <<2+1=3>> #### 3`.";

/// What a file is that is often taken for examples, told from how it begins, and what to do with it.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let starts = |&&(start, _): &&(&[u8], _)| bytes.trim_ascii_start().starts_with(start);
    FOREIGN.iter().find(starts).map(|&(_, problem)| problem)
}

const FOREIGN: [(&[u8], &str); 18] = [
    (b"\x1f\x8b", "is compressed with gzip. Unpack it first: `gunzip FILE.gz`."),
    (
        b"PK\x03\x04",
        "is a zip archive. Unpack it with `unzip`, and name the file of examples inside.",
    ),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard. Unpack it first: `unzstd FILE.zst`."),
    (b"\xfd7zXZ\x00", "is compressed with xz. Unpack it first: `unxz FILE.xz`."),
    (b"BZh", "is compressed with bzip2. Unpack it first: `bunzip2 FILE.bz2`."),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive. Unpack it, and name the file of examples inside."),
    (b"PAR1", PARQUET),
    (b"ARROW1", ARROW),
    (b"\xff\xff\xff\xff", ARROW),
    (b"\x89HDF", "is an HDF5 file. Write its examples as JSON lines first."),
    (b"SQLite format 3\0", "is an SQLite database. Write its examples as JSON lines first."),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the data itself. Fetch the data with `git lfs pull`.",
    ),
    (b"\xff\xfe", UTF16),
    (b"\xfe\xff", UTF16),
    (b"<!DOCTYPE", WEB_PAGE),
    (b"<!doctype", WEB_PAGE),
    (b"<?xml", WEB_PAGE),
    (b"<html", WEB_PAGE),
];
const PARQUET: &str = "is a Parquet table that is cut off. Fetch it again.";
const ARROW: &str = "is an Arrow table. Write it as JSON lines first, in Python: \
    `datasets.Dataset.from_file(\"FILE\").to_json(\"FILE.jsonl\")`.";
const UTF16: &str = "is UTF-16 text. Convert it to UTF-8: `iconv -f UTF-16 -t UTF-8 FILE > NEW`.";
const WEB_PAGE: &str = "is a web page, not the data itself. Download the file behind it.";

fn empty(path: &Path) -> Error {
    Error::input(path, "", "has no examples. Give a file with at least one.")
}

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    JsonList,
    JsonObjects,
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
            '{' if !is_icot(first_line) => Some(Self::JsonObjects),
            _ if is_icot(first_line) => Some(Self::Icot),
            _ => None,
        }
    }
}

fn is_icot(line: &str) -> bool {
    let after_question = line.split_once("||").map(|(_, rest)| rest);
    after_question.is_some_and(|rest| rest.contains("##")) && !line.contains("\"question\"")
}

/// The items of a list.
fn read_items(path: &Path, items: Vec<&RawValue>, limit: usize) -> Result<Vec<Example>> {
    let numbered = items.into_iter().take(limit).enumerate();
    numbered.map(|(index, value)| example(path, &format!("example {}", index + 1), value)).collect()
}

/// Objects one after the other, or one object around a list of them.
fn read_json_objects(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let mut objects = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let first = match objects.next() {
        Some(first) => first.map_err(|error| not_json(path, error.line(), &error))?,
        None => return Ok(Vec::new()),
    };
    let is_alone = text[objects.byte_offset()..].trim().is_empty();
    if is_alone && let Some(items) = wrapped_list(path, first)? {
        return read_items(path, items, limit);
    }
    if first.get().contains('\n') {
        read_json_stream(path, text, limit)
    } else {
        read_json_lines(path, text, limit)
    }
}

/// An object a line: a line that is cut short does not take the next one with it.
fn read_json_lines(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let last_line = text.trim_end().lines().count();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let numbered = lines.take(limit).enumerate();
    numbered
        .map(|(index, (line_index, line))| {
            let line_number = line_index + 1;
            let value = serde_json::from_str(line).map_err(|error| {
                if error.is_eof() && line_number < last_line {
                    let problem = "ends in the middle of a value, and the first line is an object of its own. \
                        Give one whole object a line.";
                    return Error::input(path, format!("line {line_number}"), problem);
                }
                not_json(path, line_number, &error)
            })?;
            example(path, &format!("example {} (line {line_number})", index + 1), value)
        })
        .collect()
}

/// Objects over several lines, as `jq` prints them.
fn read_json_stream(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let mut objects = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let mut examples = Vec::new();
    let (mut line, mut counted) = (1, 0); // the line at the byte `counted`
    while examples.len() < limit
        && let Some(object) = objects.next()
    {
        let object = object.map_err(|error| not_json(path, error.line(), &error))?;
        let start = objects.byte_offset() - object.get().len();
        line += text[counted..start].matches('\n').count();
        counted = start;
        let place = format!("example {} (line {line})", examples.len() + 1);
        examples.push(example(path, &place, object)?);
    }
    Ok(examples)
}

/// The list of objects that an object without a question holds, such as `{"data": [...]}`.
fn wrapped_list<'a>(path: &Path, value: &'a RawValue) -> Result<Option<Vec<&'a RawValue>>> {
    let fields = Fields::of(value).map_err(|fault| field_error(path, "", fault))?;
    let Some(fields) = fields.filter(|fields| fields.get("question").is_none()) else {
        return Ok(None);
    };
    let is_object = |value: &&RawValue| value.get().starts_with('{');
    let lists = fields.iter().filter_map(|(name, _)| Some((name, fields.list(name)?)));
    let mut lists: Vec<_> = lists.filter(|(_, items)| items.iter().any(is_object)).collect();
    if lists.len() > 1 {
        let names: Vec<&str> = lists.iter().map(|(name, _)| *name).collect();
        let problem = format!(
            "holds several lists: `{}`. Write the one to use to a file of its own.",
            names.join("`, `")
        );
        return Err(Error::input(path, "", problem));
    }
    Ok(lists.pop().map(|(_, items)| items))
}

fn parse<'a, T: serde::Deserialize<'a>>(path: &Path, text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| not_json(path, error.line(), &error))
}

fn not_json(path: &Path, line: usize, error: &serde_json::Error) -> Error {
    let problem = if error.is_eof() {
        "the JSON ends in the middle of a value: the file is truncated. Fetch or write it again."
            .into()
    } else {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or(&text);
        let column = error.column();
        format!(
            "is not valid JSON: {reason} (column {column}). Each line or list item must be one object."
        )
    };
    Error::input(path, format!("line {}", line.max(1)), problem)
}

fn example(path: &Path, place: &str, value: &RawValue) -> Result<Example> {
    published::from_json(value).map_err(|fault| field_error(path, place, fault))
}

fn field_error(path: &Path, place: &str, fault: FieldProblem) -> Error {
    Error::input(path, place, format!("the field `{}` {}", fault.field, fault.problem))
}

/// ProntoQA: `{"example1": {"test_example": {question, query, chain_of_thought, answer}}, …}`.
///
/// As in facebookresearch/coconut's preprocessing/prontoqa.py: the query joins the question, and the
/// chain's sentences are joined in pairs (a fact and the rule applied to it), one step a pair.
fn read_prontoqa(path: &Path, text: &str, limit: usize) -> Result<Vec<Example>> {
    let entries = Fields::of(parse(path, text)?).map_err(|fault| field_error(path, "", fault))?;
    let numbered = entries.iter().flat_map(Fields::iter).take(limit).enumerate();
    numbered
        .map(|(index, (name, entry))| {
            let place = format!("example {} (`{name}`)", index + 1);
            prontoqa_example(entry).map_err(|fault| field_error(path, &place, fault))
        })
        .collect()
}

fn prontoqa_example(entry: &RawValue) -> Result<Example, FieldProblem> {
    let inner = Fields::of(entry)?.and_then(|entry| entry.get("test_example"));
    let test = inner.map(Fields::of).transpose()?.flatten().ok_or(FieldProblem {
        field: "test_example".into(),
        problem: "must be an object".into(),
    })?;
    let within = |fault: FieldProblem| FieldProblem {
        field: format!("test_example.{}", fault.field),
        ..fault
    };
    let text = |name: &str| {
        let text = test.text(name).map_err(within)?;
        text.ok_or_else(|| within(test.wrong_type(name, "a string")))
    };
    let chain = test.list("chain_of_thought").and_then(|items| {
        let sentence = |item: &RawValue| serde_json::from_str::<String>(item.get()).ok();
        items.into_iter().map(sentence).collect::<Option<Vec<String>>>()
    });
    let chain =
        chain.ok_or_else(|| within(test.wrong_type("chain_of_thought", "a list of strings")))?;
    let steps = chain.chunks(2).map(|pair| pair.join(" "));
    Ok(Example::new(format!("{} {}", text("question")?, text("query")?), steps, text("answer")?))
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
    fn objects_over_several_lines() {
        let a = "{\n  \"question\": \"a\",\n  \"steps\": [\n    \"s\"\n  ],\n  \"answer\": 1\n}";
        let b = a.replace("\"a\"", "\"b\"");
        let expected = [Example::new("a", ["s"], "1"), Example::new("b", ["s"], "1")];
        assert_eq!(loaded_from(a).unwrap(), expected[..1], "one object");
        for both in [
            format!("{a}\n{b}\n"),
            format!("{a}{b}"),
            format!("[\n{a},\n{b}]"),
            format!("{{\n  \"data\": [\n{a},\n{b}]\n}}"),
            format!("{{\"version\": 1, \"tags\": [\"x\"], \"data\": [{a},{b}]}}").replace('\n', ""),
        ] {
            assert_eq!(loaded_from(&both).unwrap(), expected, "{both}");
            let (_folder, path) = file(&both);
            assert_eq!(load(&path, Some(1)).unwrap(), expected[..1], "{both}");
        }
        let second = format!("{a}\n{}", a.replace("\"steps\"", "\"s\""));
        assert!(refused(&second).contains("example 2 (line 8): the field `steps` is missing"));
        assert!(refused(&format!("{a}\n{{\n")).contains("line 9: the JSON ends in the middle"));
        let lists = format!("{{\"train\": [{a}], \"test\": [{b}]}}");
        assert!(refused(&lists).contains("holds several lists: `train`, `test`"));
    }

    #[test]
    fn other_files_are_named() {
        for (start, words) in [
            (&b"\x1f\x8b\x08\x00\x00"[..], "is compressed with gzip"),
            (b"PK\x03\x04\x14\x00\xff", "is a zip archive"),
            (b"\x28\xb5\x2f\xfd\x00", "is compressed with Zstandard"),
            (b"\xfd7zXZ\x00\x00", "is compressed with xz"),
            (b"BZh91AY&SY\xff", "is compressed with bzip2"),
            (b"PAR1\x15\x04\x15\xff", "is a Parquet table that is cut off"),
            (b"ARROW1\0\0\xff", "is an Arrow table"),
            (b"\xff\xff\xff\xff\x10", "is an Arrow table"),
            (b"\xff\xfe[\x00", "is UTF-16 text"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
                "is a Git LFS pointer",
            ),
            (b"\n<!DOCTYPE html>\n<html>", "is a web page"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("data.json");
            fs::write(&path, start).unwrap();
            let error = load(&path, None).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{error} lacks {words:?}");
        }
        let question = "BZh and PAR1 begin files||<<1+1=2>> #### 2";
        assert_eq!(loaded_from(question).unwrap().len(), 1, "text that begins so is text");
        let folder = tempfile::tempdir().unwrap();
        let error = load(folder.path(), None).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("is a folder"), "{error}");
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
            (
                &format!("{good}\n{{\"question\": \"b\", \"st\n{good}"),
                "line 2: ends in the middle of a value, and the first line is an object",
            ),
            (
                r#"[{"question":"a","question":"b","steps":[],"answer":"1"}]"#,
                "example 1: the field `question` stands there twice",
            ),
            (
                &format!("{good}\n{}", good.replace("}", ",\"steps\":[]}")),
                "example 2 (line 2): the field `steps` stands there twice",
            ),
            ("a||b #### 3\nc|| #### ", "example 2 (line 2): an iCoT line"),
            (
                r#"{"e1": {"test_example": {"question": "q", "query": 3}}}"#,
                "example 1 (`e1`): the field `test_example.chain_of_thought` is missing",
            ),
            (
                r#"{"e": {"test_example": {}}, "e": {"test_example": {}}}"#,
                "the field `e` stands there twice",
            ),
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
