//! Methods of strings.

use std::sync::Arc;

use crate::{
    Error, Result,
    arguments::{Given, int_or, required, text_or},
    format::braces,
    methods::unsupported,
    ops::{check_length, slice},
    text,
    value::{Kind, Value},
};

fn tuple(parts: [&str; 3]) -> Result<Value> {
    Value::sequence(Kind::Tuple, parts.map(Value::text).to_vec())
}

fn list<'a>(parts: impl IntoIterator<Item = &'a str>) -> Result<Value> {
    Value::list(parts.into_iter().map(Value::text).collect())
}

/// Calls a method of a string.
pub fn call(text: &str, name: &str, given: Given) -> Result<Value> {
    match name {
        "split" | "rsplit" => return split(text, name == "rsplit", given),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.bind(name, ["chars"])?;
            return Ok(Value::text(strip(text, chars, name != "rstrip", name != "lstrip")?));
        }
        "count" | "find" | "index" | "rfind" | "rindex" => return search(text, name, given),
        "startswith" | "endswith" => return at_end(text, name, given),
        "ljust" | "rjust" | "center" => {
            let [width, fill] = given.bind(name, ["width", "fillchar"])?;
            let width = int_or(Some(required(width, name, "width")?), 0)?;
            return padded(text, name, width, &text_or(fill, " ")?).map(Value::text);
        }
        "partition" | "rpartition" => {
            let [separator] = given.bind(name, ["sep"])?;
            let separator = text_or(Some(required(separator, name, "sep")?), "")?;
            check_separator(&separator)?;
            let found = match name {
                "partition" => text.split_once(&*separator),
                _ => text.rsplit_once(&*separator),
            };
            return match found {
                Some((before, after)) => tuple([before, &separator, after]),
                None if name == "partition" => tuple([text, "", ""]),
                None => tuple(["", "", text]),
            };
        }
        "removeprefix" | "removesuffix" => {
            let [part] = given.bind(name, ["part"])?;
            let part = text_or(Some(required(part, name, "part")?), "")?;
            let rest = match name {
                "removeprefix" => text.strip_prefix(&*part),
                _ => text.strip_suffix(&*part),
            };
            return Ok(Value::text(rest.unwrap_or(text)));
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let old = text_or(Some(required(old, name, "old")?), "")?;
            let new = text_or(Some(required(new, name, "new")?), "")?;
            return replace(text, &old, &new, int_or(count, -1)?).map(Value::text);
        }
        "join" => {
            let [parts] = given.bind(name, ["iterable"])?;
            let parts = required(parts, name, "iterable")?.items()?;
            let texts: Vec<Arc<str>> =
                parts.into_iter().map(|part| text_or(Some(part), "")).collect::<Result<_>>()?;
            return joined(text, &texts).map(Value::text);
        }
        "splitlines" => {
            let [keep_ends] = given.bind(name, ["keepends"])?;
            return list(text::lines(text, keep_ends.is_some_and(|keep| keep.is_true())));
        }
        "zfill" => {
            let [width] = given.bind(name, ["width"])?;
            let width = int_or(Some(required(width, name, "width")?), 0)?;
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            let filled = padded(digits, "rjust", width.saturating_sub(sign.len() as i128), "0")?;
            return Ok(Value::text([sign, &filled].concat()));
        }
        "format" => return braces(text, &given.positional, &given.named).map(Value::text),
        "encode" | "expandtabs" | "format_map" | "isidentifier" | "isprintable" | "istitle"
        | "maketrans" | "translate" => return unsupported(&Value::text(text), name),
        _ => {}
    }
    let [] = given.bind(name, [])?;
    // Old Greek's letters with an iota, and sigma at the end of a word, have forms that are not known here.
    let greek =
        |c: char| ('\u{1f80}'..='\u{1fff}').contains(&c) || (c == 'Σ' && name != "capitalize");
    if matches!(name, "capitalize" | "title" | "swapcase") && text.contains(greek) {
        return unsupported(&Value::text(text), name);
    }
    Ok(match name {
        "upper" => Value::text(text.to_uppercase()),
        "lower" => Value::text(text.to_lowercase()),
        "capitalize" => Value::text(text::capitalize(text)),
        "title" => Value::text(text::title(text)),
        "casefold" => Value::text(text.chars().flat_map(folded).collect::<String>()),
        "swapcase" => Value::text(text.chars().fold(String::new(), |mut out, c| {
            if c.is_uppercase() {
                out.extend(c.to_lowercase())
            } else {
                out.extend(c.to_uppercase())
            }
            out
        })),
        "isascii" => Value::Bool(text.is_ascii()),
        "isspace" => Value::Bool(!text.is_empty() && text.chars().all(text::is_space)),
        "islower" => Value::Bool(is_lower(text)),
        "isupper" => Value::Bool(is_upper(text)),
        "isalpha" => all(text, |c| letter_or_digit(c).map(|is| is && !c.is_numeric()))?,
        "isalnum" => all(text, letter_or_digit)?,
        "isdigit" | "isdecimal" => all(text, digit)?,
        "isnumeric" => all(text, |c| match c {
            '\u{2e80}'.. => Err(Error::new(format!("whether {c:?} is a number is not known here"))),
            c => digit(c),
        })?,
        _ => return unsupported(&Value::text(text), name),
    })
}

// ---- What classes characters fall into ---------------------------------------------------------------------------------

fn all(text: &str, holds: impl Fn(char) -> Result<bool>) -> Result<Value> {
    for c in text.chars() {
        if !holds(c)? {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(!text.is_empty()))
}

/// `isalnum` of one character, for the scripts of which it is certain here.
pub fn letter_or_digit(c: char) -> Result<bool> {
    match c {
        '\0'..='\x7f' => Ok(c.is_ascii_alphanumeric()),
        '×' | '÷' => Ok(false),
        'À'..='ɏ' | 'Ѐ'..='ҁ' | 'Ҋ'..='ԯ' | 'Α'..='Ρ' | 'Σ'..='ϵ' => Ok(true),
        'ぁ'..='ゖ' | 'ァ'..='ヺ' | '一'..='鿿' | '가'..='힣' => Ok(true),
        _ if !c.is_alphanumeric() => Ok(false),
        _ => Err(Error::new(format!("whether {c:?} is a letter is not known here"))),
    }
}

fn digit(c: char) -> Result<bool> {
    match c {
        '\0'..='\x7f' => Ok(c.is_ascii_digit()),
        _ if !c.is_numeric() => Ok(false),
        _ => Err(Error::new(format!("whether {c:?} is a digit is not known here"))),
    }
}

pub fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase)
        && !text.chars().any(|c| text::is_cased(c) && !c.is_lowercase())
}

pub fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase)
        && !text.chars().any(|c| text::is_cased(c) && !c.is_uppercase())
}

/// `casefold` of one character.
fn folded(c: char) -> impl std::iter::Iterator<Item = char> {
    // Letters fold to their small form, by way of the capital one where that is several letters.
    let keeps = matches!(c, 'ı' | '\u{13a0}'..='\u{13f5}');
    let cherokee = matches!(c, '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}');
    let upper: Vec<char> = match c {
        c if keeps => vec![c],
        'ẞ' => vec!['S', 'S'],
        c => c.to_uppercase().collect(),
    };
    upper.into_iter().flat_map(
        move |c| {
            if keeps || cherokee { vec![c] } else { c.to_lowercase().collect() }
        },
    )
}

// ---- Searching, cutting, padding ---------------------------------------------------------------------------------------

fn check_separator(separator: &str) -> Result<()> {
    if separator.is_empty() { Err(Error::new("a separator is empty")) } else { Ok(()) }
}

fn split(text: &str, from_right: bool, given: Given) -> Result<Value> {
    let [separator, limit] = given.bind("split", ["sep", "maxsplit"])?;
    let limit = usize::try_from(int_or(limit, -1)?).ok();
    let separator = match separator {
        None | Some(Value::None) => {
            return list(match from_right {
                true => text::rsplit_spaces(text, limit),
                false => text::split_spaces(text, limit),
            });
        }
        Some(separator) => text_or(Some(separator), "")?,
    };
    check_separator(&separator)?;
    let parts = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    if from_right {
        let mut found: Vec<&str> = text.rsplitn(parts, &*separator).collect();
        found.reverse();
        return list(found);
    }
    list(text.splitn(parts, &*separator))
}

/// `strip`, or one side of it; white space if no characters are given.
pub fn strip(text: &str, chars: Option<Value>, left: bool, right: bool) -> Result<&str> {
    let chars = match chars {
        None | Some(Value::None) => None,
        Some(chars) => Some(text_or(Some(chars), "")?),
    };
    let goes = |c: char| match &chars {
        Some(chars) => chars.contains(c),
        None => text::is_space(c),
    };
    let text = if left { text.trim_start_matches(goes) } else { text };
    Ok(if right { text.trim_end_matches(goes) } else { text })
}

/// The part of the text between two indices, and the index that it begins at.
fn between(text: &str, start: Option<Value>, end: Option<Value>) -> Result<(Arc<str>, usize)> {
    let whole = Value::text(text);
    let part = slice(&whole, [start.clone(), end, None])?;
    let before = slice(&whole, [None, start.filter(|start| !matches!(start, Value::None)), None])?;
    let skipped = if text.is_empty() { 0 } else { before.length().unwrap_or(0) };
    Ok((part.as_text().cloned().unwrap_or_default(), skipped))
}

fn search(text: &str, name: &str, given: Given) -> Result<Value> {
    let [part, start, end] = given.bind(name, ["sub", "start", "end"])?;
    let part = text_or(Some(required(part, name, "sub")?), "")?;
    let limited = start.is_some();
    let (within, skipped) = between(text, start, end)?;
    if name == "count" {
        return Ok(Value::Int(within.matches(&*part).count() as i128));
    }
    let found = if name.starts_with('r') { within.rfind(&*part) } else { within.find(&*part) };
    match found {
        Some(at) => {
            let skipped = if limited { skipped } else { 0 };
            Ok(Value::Int((skipped + within[..at].chars().count()) as i128))
        }
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Error::new(format!("`{name}` does not find {}", text::quoted(&part)))),
    }
}

fn at_end(text: &str, name: &str, given: Given) -> Result<Value> {
    let [parts, start, end] = given.bind(name, ["prefix", "start", "end"])?;
    let parts = match required(parts, name, "prefix")? {
        Value::Sequence(of) if of.kind == Kind::Tuple => of.items.clone(),
        single => vec![single],
    };
    let (within, _) = between(text, start, end)?;
    for part in parts {
        let part = text_or(Some(part), "")?;
        let found = match name {
            "startswith" => within.starts_with(&*part),
            _ => within.ends_with(&*part),
        };
        if found {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// `ljust`, `rjust` or `center`.
pub fn padded(text: &str, side: &str, width: i128, fill: &str) -> Result<String> {
    if fill.chars().count() != 1 {
        return Err(Error::new("a text is filled up with one character"));
    }
    let width = usize::try_from(width).unwrap_or(0);
    check_length(Some(width))?;
    let missing = width.saturating_sub(text.chars().count());
    let before = match side {
        "ljust" => 0,
        "rjust" => missing,
        // Of an odd number the larger half goes before a text of odd width.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok([&*fill.repeat(before), text, &*fill.repeat(missing - before)].concat())
}

/// `str.replace`; a negative count replaces all.
pub fn replace(text: &str, old: &str, new: &str, count: i128) -> Result<String> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(old).count().min(count);
    check_length(found.checked_mul(new.len()).and_then(|more| more.checked_add(text.len())))?;
    Ok(text.replacen(old, new, found))
}

/// Texts with a separator between them.
pub fn joined(separator: &str, texts: &[Arc<str>]) -> Result<String> {
    let between = separator.len().checked_mul(texts.len());
    let whole = texts.iter().try_fold(between, |sum, text| Some(sum?.checked_add(text.len())));
    check_length(whole.flatten())?;
    Ok(texts.join(separator))
}
