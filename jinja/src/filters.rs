//! The filters of Jinja, and transformers' own `tojson`.

use std::sync::Arc;

use crate::{
    Error, Result,
    access::{item, own_attribute},
    arguments::{Given, int_or, is_among, required, text_or},
    ast::Binary,
    format::percent,
    functions,
    interpreter::Interpreter,
    json, methods, ops, strings, tests, text,
    value::{Kind, Value},
};

const NAMES: &str = "abs attr batch capitalize center count d default dictsort e escape first float forceescape \
    format indent int items join last length list lower map max min reject rejectattr replace \
    reverse round safe select selectattr slice sort string sum title tojson trim truncate unique \
    upper urlencode wordcount";
/// Jinja's others, which a chat has no use for.
const UNSUPPORTED: &str = "filesizeformat groupby pprint random striptags urlize wordwrap xmlattr";

pub fn exists(name: &str) -> bool {
    is_among(name, NAMES) || is_among(name, UNSUPPORTED)
}

/// `value|name(given)`.
pub fn apply(run: &Interpreter, name: &str, value: Value, given: Given) -> Result<Value> {
    match name {
        "default" | "d" => {
            let [default, falsy] = given.bind(name, ["default_value", "boolean"])?;
            let falsy = falsy.is_some_and(|flag| flag.is_true());
            let absent = matches!(value, Value::Undefined(_)) || (falsy && !value.is_true());
            Ok(if absent { default.unwrap_or_else(|| Value::text("")) } else { value })
        }
        "length" | "count" => {
            let [] = given.bind(name, [])?;
            let length = value.length().map(|length| Value::Int(length as i128));
            length.ok_or_else(|| no(name, &value))
        }
        "tojson" => json::tojson(&value, given).map(Value::text),
        "string" | "trim" | "upper" | "lower" | "capitalize" | "title" | "center" | "replace"
        | "format" | "wordcount" | "indent" | "truncate" | "urlencode" | "escape" | "e"
        | "forceescape" | "safe" => of_text(name, &value, given),
        "int" | "float" | "abs" | "round" => of_number(name, &value, given),
        "attr" => {
            let [attribute] = given.bind(name, ["name"])?;
            let attribute = text_or(attribute, "")?;
            let found = own_attribute(value.defined()?, &attribute);
            Ok(found.unwrap_or_else(|| Value::undefined(format!("there is no `{attribute}`"))))
        }
        "list" | "first" | "last" | "reverse" | "items" | "dictsort" | "join" | "sum" | "batch"
        | "slice" => of_items(name, &value, given),
        "sort" | "unique" | "min" | "max" => ordered(name, &value, given),
        "map" => {
            let results: Vec<Value> = map(run, &value, given)?;
            Value::iterator(results)
        }
        "select" | "reject" | "selectattr" | "rejectattr" => select(run, name, &value, given),
        _ if is_among(name, UNSUPPORTED) => {
            Err(Error::new(format!("the filter `{name}` is not supported")))
        }
        _ => Err(Error::new(format!("there is no filter `{name}`"))),
    }
}

fn no(name: &str, value: &Value) -> Error {
    Error::new(format!("`{name}` does not take a value of type {}", value.type_name()))
}

// ---- Text ---------------------------------------------------------------------------------------------------------------

fn of_text(name: &str, value: &Value, given: Given) -> Result<Value> {
    match name {
        "string" if matches!(value, Value::Markup(_)) => return Ok(value.clone()),
        "safe" => return Ok(Value::Markup(value.printed()?)),
        "escape" | "e" if matches!(value, Value::Markup(_)) => return Ok(value.clone()),
        "escape" | "e" | "forceescape" => {
            return Ok(Value::Markup(text::escaped(&value.printed()?).into()));
        }
        "urlencode" => return urlencode(value).map(Value::text),
        _ if matches!(value, Value::Markup(_)) => return Err(no(name, value)),
        _ => {}
    }
    let text = &*value.printed()?;
    Ok(match name {
        "string" => Value::text(text),
        "upper" => Value::text(text.to_uppercase()),
        "lower" => Value::text(text.to_lowercase()),
        "capitalize" => Value::text(text::capitalize(text)),
        "title" => Value::text(title(text)),
        "trim" => {
            let [chars] = given.bind(name, ["chars"])?;
            Value::text(strings::strip(text, chars, true, true)?)
        }
        "center" => {
            let [width] = given.bind(name, ["width"])?;
            Value::text(strings::padded(text, name, int_or(width, 80)?, " ")?)
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let old = required(old, name, "old")?.printed()?;
            let new = required(new, name, "new")?.printed()?;
            let count = count.filter(|count| !matches!(count, Value::None));
            Value::text(strings::replace(text, &old, &new, int_or(count, -1)?)?)
        }
        "format" => {
            let arguments = match (given.positional.is_empty(), given.named.is_empty()) {
                (_, true) => Value::sequence(Kind::Tuple, given.positional)?,
                (true, false) => functions::dict(given)?,
                _ => return Err(Error::new("`format` takes values with names or without")),
            };
            Value::text(percent(text, &arguments)?)
        }
        "wordcount" => {
            let mut words = 0;
            let mut inside = false;
            for c in text.chars() {
                let in_word = c == '_' || strings::letter_or_digit(c)?;
                words += i128::from(in_word && !inside);
                inside = in_word;
            }
            Value::Int(words)
        }
        "indent" => {
            let [width, first, blank] = given.bind(name, ["width", "first", "blank"])?;
            value.as_text().ok_or_else(|| no(name, value))?;
            let indent = match width {
                Some(Value::Text(indent)) => indent.as_ref().to_owned(),
                width => {
                    let width = usize::try_from(int_or(width, 4)?).unwrap_or(0);
                    ops::check_length(Some(width))?;
                    " ".repeat(width)
                }
            };
            let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
            Value::text(indented(text, &indent, is_set(first), is_set(blank))?)
        }
        "truncate" => {
            value.as_text().ok_or_else(|| no(name, value))?;
            Value::text(truncated(text, given)?)
        }
        _ => return Err(no(name, value)),
    })
}

/// Every word begins with a capital letter; words end at blanks, hyphens and opening brackets.
fn title(text: &str) -> String {
    let divides = |c: char| text::is_space(c) || "-({[<".contains(c);
    let mut result = String::with_capacity(text.len());
    for part in text.split_inclusive(divides) {
        let mut chars = part.chars();
        result.extend(chars.next().into_iter().flat_map(char::to_uppercase));
        result.push_str(&chars.as_str().to_lowercase());
    }
    result
}

fn indented(text: &str, indent: &str, first: bool, blank: bool) -> Result<String> {
    // The line end makes an empty last line count as one.
    let ended = [text, "\n"].concat();
    let lines = text::lines(&ended, false);
    ops::check_length(indent.len().checked_mul(lines.len()).map(|more| more + text.len()))?;
    let mut result = String::new();
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            result.push('\n');
        }
        let skipped = if index == 0 { !first } else { line.is_empty() && !blank };
        if !skipped {
            result.push_str(indent);
        }
        result.push_str(line);
    }
    Ok(result)
}

fn truncated(text: &str, given: Given) -> Result<String> {
    let [length, kill_words, end, leeway] =
        given.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let end = text_or(end, "...")?;
    let leeway = leeway.filter(|leeway| !matches!(leeway, Value::None));
    let (length, leeway) = (int_or(length, 255)?, int_or(leeway, 5)?);
    let kept = length - end.chars().count() as i128;
    if kept < 0 || leeway < 0 {
        return Err(Error::new("`truncate` is given too short a length, or a negative leeway"));
    }
    if text.chars().count() as i128 <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept: String = text.chars().take(usize::try_from(kept).unwrap_or(usize::MAX)).collect();
    let whole_words = match kill_words.is_some_and(|kill| kill.is_true()) {
        true => &*kept,
        false => kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before),
    };
    Ok([whole_words, &end].concat())
}

fn urlencode(value: &Value) -> Result<String> {
    let quote = |value: &Value, in_query: bool| -> Result<String> {
        let mut result = String::new();
        for byte in value.printed()?.bytes() {
            match byte {
                b'/' if !in_query => result.push('/'),
                b' ' if in_query => result.push('+'),
                b'_' | b'.' | b'-' | b'~' => result.push(char::from(byte)),
                byte if byte.is_ascii_alphanumeric() => result.push(char::from(byte)),
                byte => result.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(result)
    };
    let pairs = match value {
        Value::Dict(dict) => methods::items(&dict.pairs)?,
        Value::Sequence(_) | Value::Iterator(_) | Value::Undefined(_) => value.items()?,
        _ => return quote(value, false),
    };
    let mut parts = Vec::new();
    for pair in pairs {
        match pair.items()?.as_slice() {
            [key, value] => parts.push([quote(key, true)?, quote(value, true)?].join("=")),
            _ => return Err(Error::new("`urlencode` is made of pairs")),
        }
    }
    Ok(parts.join("&"))
}

// ---- Numbers ------------------------------------------------------------------------------------------------------------

fn of_number(name: &str, value: &Value, given: Given) -> Result<Value> {
    value.defined()?;
    match name {
        "int" => {
            let [default, base] = given.bind(name, ["default", "base"])?;
            let base = u32::try_from(int_or(base, 10)?).unwrap_or(0);
            Ok(int(value, base)?.or(default).unwrap_or(Value::Int(0)))
        }
        "float" => {
            let [default] = given.bind(name, ["default"])?;
            let found = match value {
                Value::Text(text) => parsed(text),
                _ => value.as_float(),
            };
            Ok(found.map(Value::Float).or(default).unwrap_or(Value::Float(0.0)))
        }
        "abs" => match (value.as_int(), value.as_float()) {
            (Some(int), _) => Ok(Value::Int(int.saturating_abs())),
            (None, Some(float)) => Ok(Value::Float(float.abs())),
            _ => Err(no(name, value)),
        },
        _ => round(value, given),
    }
}

/// Python's `float` of a text.
fn parsed(text: &str) -> Option<f64> {
    let text = text.trim_matches(text::is_space);
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let named = ["inf", "infinity", "nan"];
    let named =
        named.iter().any(|name| text.trim_start_matches(['+', '-']).eq_ignore_ascii_case(name));
    (plain || named).then(|| text.parse().ok())?
}

fn int(value: &Value, base: u32) -> Result<Option<Value>> {
    let truncated = |float: f64| float.is_finite().then_some(Value::Int(float as i128));
    let Value::Text(text) = value else {
        return Ok(match value.as_int() {
            Some(int) => Some(Value::Int(int)),
            None => value.as_float().and_then(truncated),
        });
    };
    let digits = text.trim_matches(text::is_space);
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let prefix = match base {
        2 => ["0b", "0B"],
        8 => ["0o", "0O"],
        16 => ["0x", "0X"],
        10 => ["", ""],
        _ => return Err(Error::new("`int` supports the bases 2, 8, 10 and 16")),
    };
    let bare = prefix.iter().find_map(|prefix| unsigned.strip_prefix(prefix)).unwrap_or(unsigned);
    let shape = !bare.is_empty() && bare.chars().all(|c| c.is_digit(base));
    let size = shape.then(|| i128::from_str_radix(bare, base).ok()).flatten();
    let whole = size.map(|size| Value::Int(if digits.starts_with('-') { -size } else { size }));
    Ok(whole.or_else(|| parsed(text).and_then(truncated)))
}

fn round(value: &Value, given: Given) -> Result<Value> {
    let [precision, method] = given.bind("round", ["precision", "method"])?;
    let precision = int_or(precision, 0)?;
    let method = text_or(method, "common")?;
    let number = value.as_float().ok_or_else(|| no("round", value))?;
    let (Ok(decimals), false) = (usize::try_from(precision), precision > 300) else {
        return Err(Error::new("`round` supports 0 to 300 decimals"));
    };
    let scale = 10_f64.powi(decimals as i32);
    match &*method {
        "common" => match value.as_int() {
            Some(int) => Ok(Value::Int(int)),
            None => Ok(Value::Float(format!("{number:.decimals$}").parse().unwrap_or(number))),
        },
        "ceil" => Ok(Value::Float((number * scale).ceil() / scale)),
        "floor" => Ok(Value::Float((number * scale).floor() / scale)),
        _ => Err(Error::new("`round` goes by common, ceil or floor")),
    }
}

// ---- Sequences ----------------------------------------------------------------------------------------------------------

fn of_items(name: &str, value: &Value, given: Given) -> Result<Value> {
    match name {
        "list" => Value::list(value.items()?),
        "first" => Ok(value.first()?.unwrap_or_else(|| Value::undefined("there is no first item"))),
        "last" => {
            if matches!(value, Value::Iterator(_)) {
                return Err(no(name, value));
            }
            let last = value.items()?.pop();
            Ok(last.unwrap_or_else(|| Value::undefined("there is no last item")))
        }
        "reverse" => match value {
            Value::Text(text) => Ok(Value::text(text.chars().rev().collect::<String>())),
            _ => Value::iterator(value.items()?.into_iter().rev().collect()),
        },
        "items" => match value {
            Value::Undefined(_) => Value::iterator(Vec::new()),
            Value::Dict(dict) => Value::iterator(methods::items(&dict.pairs)?),
            _ => Err(no(name, value)),
        },
        "dictsort" => {
            let [case, by, reverse] = given.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = value.defined()? else { return Err(no(name, value)) };
            let by = text_or(by, "key")?;
            let folds = !case.is_some_and(|case| case.is_true());
            let mut keyed = Vec::new();
            for (pair, (key, value)) in methods::items(&dict.pairs)?.into_iter().zip(&dict.pairs) {
                let by = if &*by == "value" { value } else { key };
                keyed.push((if folds { lower(by.clone()) } else { by.clone() }, pair));
            }
            Value::list(sorted(keyed, reverse.is_some_and(|reverse| reverse.is_true()))?)
        }
        "join" => {
            let [separator, attribute] = given.bind(name, ["d", "attribute"])?;
            let separator = separator.map_or(Ok("".into()), |d| d.printed())?;
            let mut texts: Vec<Arc<str>> = Vec::new();
            for item in value.items()? {
                texts.push(attribute_of(item, attribute.as_ref(), None)?.printed()?);
            }
            strings::joined(&separator, &texts).map(Value::text)
        }
        "sum" => {
            let [attribute, start] = given.bind(name, ["attribute", "start"])?;
            value.items()?.into_iter().try_fold(start.unwrap_or(Value::Int(0)), |sum, item| {
                let attribute = attribute.as_ref().filter(|given| !matches!(given, Value::None));
                ops::binary(Binary::Add, &sum, &attribute_of(item, attribute, None)?)
            })
        }
        "batch" => {
            let [count, fill] = given.bind(name, ["linecount", "fill_with"])?;
            let count = count_of(count, name)?;
            let mut batches = Vec::new();
            for batch in value.items()?.chunks(count) {
                let missing = count - batch.len();
                let fill = fill.iter().filter(|fill| !matches!(fill, Value::None)).cloned();
                let filled = fill.cycle().take(missing);
                batches.push(Value::list(batch.iter().cloned().chain(filled).collect())?);
            }
            Value::iterator(batches)
        }
        _ => {
            let [count, fill] = given.bind(name, ["slices", "fill_with"])?;
            let count = count_of(count, name)?;
            let fill = fill.filter(|fill| !matches!(fill, Value::None));
            let items = value.items()?;
            let (each, longer) = (items.len() / count, items.len() % count);
            let mut left = items.into_iter();
            let mut slices = Vec::new();
            for index in 0..count {
                let mut slice: Vec<Value> =
                    left.by_ref().take(each + usize::from(index < longer)).collect();
                if index >= longer {
                    slice.extend(fill.clone());
                }
                slices.push(Value::list(slice)?);
            }
            Value::iterator(slices)
        }
    }
}

fn count_of(count: Option<Value>, name: &str) -> Result<usize> {
    let count =
        usize::try_from(int_or(count, 0)?).ok().filter(|count| (1..=10_000).contains(count));
    count.ok_or_else(|| Error::new(format!("`{name}` makes 1 to 10000 parts")))
}

/// An attribute by the path that filters are given, such as `function.name`; the item itself for none.
fn attribute_of(item: Value, path: Option<&Value>, default: Option<&Value>) -> Result<Value> {
    let parts: Vec<Value> = match path {
        None | Some(Value::None) => return Ok(item),
        Some(Value::Text(path)) => path
            .split('.')
            .map(|part| part.parse().map_or_else(|_| Value::text(part), Value::Int))
            .collect(),
        Some(part) => vec![part.clone()],
    };
    parts.iter().try_fold(item, |value, part| {
        let found = self::item(&value, part)?;
        Ok(match (&found, default) {
            (Value::Undefined(_), Some(default)) => default.clone(),
            _ => found,
        })
    })
}

/// Text in small letters; every other value as it is.
fn lower(value: Value) -> Value {
    match &value {
        Value::Text(text) => Value::text(text.to_lowercase()),
        _ => value,
    }
}

/// Values by their keys, equal keys in the order they came in.
fn sorted(keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
    use std::cmp::Ordering::{Greater, Less};
    let before = if reverse { Greater } else { Less };
    // One by one: the order of Python's values is not total, which a library's sort may not survive.
    let mut done: Vec<(Value, Value)> = Vec::with_capacity(keyed.len());
    for (key, value) in keyed {
        let mut at = done.len();
        while at > 0 && key.compare(&done[at - 1].0)? == Some(before) {
            at -= 1;
        }
        done.insert(at, (key, value));
    }
    Ok(done.into_iter().map(|(_, value)| value).collect())
}

fn ordered(name: &str, value: &Value, given: Given) -> Result<Value> {
    let (reverse, case, attribute) = if name == "sort" {
        let [reverse, case, attribute] =
            given.bind(name, ["reverse", "case_sensitive", "attribute"])?;
        (reverse.is_some_and(|reverse| reverse.is_true()), case, attribute)
    } else {
        let [case, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
        (false, case, attribute)
    };
    let folds = !case.is_some_and(|case| case.is_true());
    let paths: Vec<Option<Value>> = match &attribute {
        Some(Value::Text(paths)) if name == "sort" => {
            paths.split(',').map(|path| Some(Value::text(path))).collect()
        }
        _ => vec![attribute],
    };
    let mut keyed = Vec::new();
    for item in value.items()? {
        let mut keys = Vec::new();
        for path in &paths {
            let key = attribute_of(item.clone(), path.as_ref(), None)?;
            keys.push(if folds { lower(key) } else { key });
        }
        keyed.push((Value::list(keys)?, item));
    }
    match name {
        "sort" => Value::list(sorted(keyed, reverse)?),
        "unique" => {
            let mut seen: Vec<(Value, Value)> = Vec::new();
            for (key, item) in keyed {
                if !seen.iter().any(|(before, _)| before.equals(&key)) {
                    seen.push((key, item));
                }
            }
            Value::iterator(seen.into_iter().map(|(_, item)| item).collect())
        }
        _ => {
            let mut all = sorted(keyed, name == "max")?.into_iter();
            Ok(all.next().unwrap_or_else(|| Value::undefined("there is no item")))
        }
    }
}

// ---- Filters and tests of each item -----------------------------------------------------------------------------------

fn map(run: &Interpreter, value: &Value, mut given: Given) -> Result<Vec<Value>> {
    if !value.is_true() {
        return Ok(Vec::new());
    }
    if given.positional.is_empty() {
        let [attribute, default] = given.bind("map", ["attribute", "default"])?;
        let attribute = required(attribute, "map", "attribute")?;
        let default = default.filter(|default| !matches!(default, Value::None));
        let of = |item| attribute_of(item, Some(&attribute), default.as_ref());
        return value.items()?.into_iter().map(of).collect();
    }
    let name = text_or(Some(given.positional.remove(0)), "")?;
    let items = value.items()?.into_iter();
    items
        .map(|item| {
            run.spend(1)?;
            apply(run, &name, item, given.clone())
        })
        .collect()
}

fn select(run: &Interpreter, name: &str, value: &Value, mut given: Given) -> Result<Value> {
    if !value.is_true() {
        return Value::iterator(Vec::new());
    }
    let mut next = || match given.positional.is_empty() {
        true => None,
        false => Some(given.positional.remove(0)),
    };
    let attribute =
        if name.ends_with("attr") { Some(required(next(), name, "attribute")?) } else { None };
    let test = next().map(|test| text_or(Some(test), "")).transpose()?;
    let mut kept = Vec::new();
    for item in value.items()? {
        run.spend(1)?;
        let tested = attribute_of(item.clone(), attribute.as_ref(), None)?;
        let holds = match &test {
            Some(test) => tests::holds(test, &tested, given.clone())?,
            None => tested.is_true(),
        };
        if holds != name.starts_with("reject") {
            kept.push(item);
        }
    }
    Value::iterator(kept)
}
