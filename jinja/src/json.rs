//! Python's `json.dumps`.

use crate::{
    Error, Result,
    arguments::{Given, required},
    text,
    value::{Kind, Value},
};

/// The filter `tojson` with its options.
pub fn tojson(value: &Value, given: Given) -> Result<String> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort_keys] = given.bind("tojson", names)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(indent)) => Some(indent.as_ref().to_owned()),
        Some(width) => {
            let width = required(width.as_int().map(Value::Int), "tojson", "indent")?;
            let width = width.as_int().unwrap_or_default().clamp(0, 1000);
            Some(" ".repeat(usize::try_from(width).unwrap_or_default()))
        }
    };
    let (between, colon) = match separators {
        None | Some(Value::None) => {
            let between = if indent.is_some() { "," } else { ", " };
            (between.into(), ": ".into())
        }
        Some(separators) => match separators.items()?.as_slice() {
            [Value::Text(between), Value::Text(colon)] => (between.clone(), colon.clone()),
            _ => return Err(Error::new("the separators of `tojson` are two texts")),
        },
    };
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let writer = Writer {
        ascii: is_set(ascii),
        sort_keys: is_set(sort_keys),
        indent,
        between: between.as_ref(),
        colon: colon.as_ref(),
    };
    let mut out = String::new();
    writer.write(value, 1, &mut out)?;
    Ok(out)
}

struct Writer<'a> {
    ascii: bool,
    sort_keys: bool,
    /// What each level of nesting begins its lines with; without it all is on one line.
    indent: Option<String>,
    between: &'a str,
    colon: &'a str,
}

impl Writer<'_> {
    fn write(&self, value: &Value, level: usize, out: &mut String) -> Result<()> {
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Int(int) => out.push_str(&int.to_string()),
            Value::Float(float) => out.push_str(&number(*float)),
            Value::Text(text) | Value::Markup(text) => self.string(text, out),
            Value::Sequence(of) if matches!(of.kind, Kind::List | Kind::Tuple) => {
                out.push('[');
                for (index, item) in of.items.iter().enumerate() {
                    self.begin(index, level, out);
                    self.write(item, level + 1, out)?;
                }
                self.end(of.items.is_empty(), level, out);
                out.push(']');
            }
            Value::Dict(dict) => {
                let mut pairs: Vec<_> = dict.pairs.iter().collect();
                if self.sort_keys {
                    sort_by_key(&mut pairs)?;
                }
                out.push('{');
                for (index, (key, value)) in pairs.iter().enumerate() {
                    self.begin(index, level, out);
                    self.string(&written_key(key)?, out);
                    out.push_str(self.colon);
                    self.write(value, level + 1, out)?;
                }
                self.end(pairs.is_empty(), level, out);
                out.push('}');
            }
            _ => {
                let kind = value.type_name();
                return Err(Error::new(format!("a value of type {kind} has no form in JSON")));
            }
        }
        Ok(())
    }

    /// What stands before an item.
    fn begin(&self, index: usize, level: usize, out: &mut String) {
        if index > 0 {
            out.push_str(self.between);
        }
        self.new_line(level, out);
    }

    /// What stands behind the last item.
    fn end(&self, empty: bool, level: usize, out: &mut String) {
        if !empty {
            self.new_line(level - 1, out);
        }
    }

    fn new_line(&self, level: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(level));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn number(float: f64) -> String {
    if float.is_nan() {
        "NaN".to_owned()
    } else if float.is_infinite() {
        if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        text::float(float)
    }
}

fn written_key(key: &Value) -> Result<String> {
    match key {
        Value::Text(text) => Ok(text.as_ref().to_owned()),
        Value::None => Ok("null".to_owned()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Int(int) => Ok(int.to_string()),
        Value::Float(float) => Ok(number(*float)),
        _ => Err(Error::new(format!("a {} cannot be a key in JSON", key.type_name()))),
    }
}

fn sort_by_key(pairs: &mut [&(Value, Value)]) -> Result<()> {
    let text = |key: &Value| key.as_text().cloned();
    let all_text = pairs.iter().all(|(key, _)| text(key).is_some());
    if !all_text && pairs.len() > 1 {
        return Err(Error::new("`tojson` sorts keys that are texts alone"));
    }
    pairs.sort_by_key(|(key, _)| text(key));
    Ok(())
}
