//! `'%d items' % n`, `'{:>8}'.format(n)` and the forms of numbers that the two share.

use std::sync::Arc;

use crate::{
    Error, Result,
    access::{attribute, item},
    ops::check_length,
    text,
    value::{Kind, Value},
};

/// How one value is written.
#[derive(Clone, Debug, Default)]
struct Form {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+` or a blank: what stands before a positive number.
    sign: Option<char>,
    /// `#`: the base is written before a number that is not decimal.
    alternate: bool,
    width: usize,
    /// `,` or `_` between groups of digits.
    group: Option<char>,
    precision: Option<usize>,
    /// A letter, or none for the form that the value has by itself.
    kind: Option<char>,
}

impl Form {
    fn padded(&self, sign: &str, body: &str, align: char) -> Result<String> {
        check_length(Some(self.width))?;
        let length = sign.chars().count() + body.chars().count();
        let fill = |count: usize| self.fill.unwrap_or(' ').to_string().repeat(count);
        let missing = self.width.saturating_sub(length);
        Ok(match self.align.unwrap_or(align) {
            '<' => [sign, body, &fill(missing)].concat(),
            '^' => [&fill(missing / 2), sign, body, &fill(missing - missing / 2)].concat(),
            '=' => [sign, &fill(missing), body].concat(),
            _ => [&fill(missing), sign, body].concat(),
        })
    }

    fn text(&self, text: &str) -> Result<String> {
        let kept: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        self.padded("", &kept, '<')
    }

    fn int(&self, int: i128) -> Result<String> {
        let size = int.unsigned_abs();
        let (prefix, digits) = match self.kind {
            None | Some('d' | 'i' | 'u' | 'n') => ("", size.to_string()),
            Some('x') => ("0x", format!("{size:x}")),
            Some('X') => ("0X", format!("{size:X}")),
            Some('o') => ("0o", format!("{size:o}")),
            Some('b') => ("0b", format!("{size:b}")),
            Some('c') => {
                let c = u32::try_from(int).ok().and_then(char::from_u32);
                let c = c.ok_or_else(|| Error::new(format!("{int} is no character")))?;
                return self.padded("", &c.to_string(), '<');
            }
            _ => return self.float(int as f64),
        };
        let digits = match self.precision {
            Some(precision) => {
                check_length(Some(precision))?;
                format!("{digits:0>precision$}")
            }
            None => digits,
        };
        let prefix = if self.alternate { prefix } else { "" };
        let sign = [self.sign_of(int < 0), prefix.to_owned()].concat();
        self.padded(&sign, &self.grouped(&digits), '>')
    }

    fn float(&self, float: f64) -> Result<String> {
        let size = float.abs();
        let precision = self.precision.unwrap_or(6);
        check_length(Some(precision))?;
        let body = match self.kind {
            _ if !size.is_finite() => text::float(size),
            None if self.precision.is_none() => text::float(size),
            None => {
                return Err(Error::new(
                    "a number's format with a precision needs a letter, such as `f`",
                ));
            }
            Some('f' | 'F') => format!("{size:.precision$}"),
            Some('e' | 'E') => exponential(size, precision),
            Some('g' | 'G') => general(size, precision, self.alternate),
            Some('%') => format!("{:.precision$}%", size * 100.0),
            Some(kind) => return unknown(kind),
        };
        let body = match self.kind {
            Some('E' | 'F' | 'G') => body.to_uppercase(),
            _ => body,
        };
        self.padded(&self.sign_of(float.is_sign_negative()), &self.grouped(&body), '>')
    }

    fn sign_of(&self, negative: bool) -> String {
        if negative { Some('-') } else { self.sign.filter(|sign| *sign != '-') }
            .map_or(String::new(), String::from)
    }

    /// Digits before the point in groups of three.
    fn grouped(&self, digits: &str) -> String {
        let Some(mark) = self.group else { return digits.to_owned() };
        let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let mut result = String::new();
        for (at, digit) in digits[..whole].chars().enumerate() {
            if at > 0 && (whole - at).is_multiple_of(3) {
                result.push(mark);
            }
            result.push(digit);
        }
        result + &digits[whole..]
    }
}

fn unknown<T>(kind: char) -> Result<T> {
    Err(Error::new(format!("the format `{kind}` is not supported for this value")))
}

/// C's `%e`.
fn exponential(size: f64, precision: usize) -> String {
    let written = format!("{size:.precision$e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// C's `%g`.
fn general(size: f64, precision: usize, alternate: bool) -> String {
    let digits = precision.max(1);
    let scientific = exponential(size, digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |number: &str| match number.contains('.') && !alternate {
        true => number.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => number.to_owned(),
    };
    if power < -4 || i64::from(power) >= digits as i64 {
        return format!("{}e{exponent}", trimmed(mantissa));
    }
    let decimals = usize::try_from(digits as i64 - 1 - i64::from(power)).unwrap_or(0);
    trimmed(&format!("{size:.decimals$}"))
}

// ---- The operator `%` -------------------------------------------------------------------------------------------------

/// `format % value`.
pub fn percent(format: &str, value: &Value) -> Result<String> {
    let single = std::slice::from_ref(value);
    let (arguments, is_tuple) = match value {
        Value::Sequence(sequence) if sequence.kind == Kind::Tuple => (&*sequence.items, true),
        _ => (single, false),
    };
    let mut left = arguments.iter();
    let mut next =
        || left.next().ok_or_else(|| Error::new("a format wants more values than it gets"));
    let mut by_name = false;
    let mut out = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let mut named = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let Some((key, after)) = inside.split_once(')') else {
                return Err(Error::new("a format's `%(` is not closed"));
            };
            let Value::Dict(dict) = value else {
                return Err(Error::new("a format with names needs a dictionary"));
            };
            let found = dict.get(&Value::text(key));
            named =
                Some(found.ok_or_else(|| Error::new(format!("the format's `{key}` is missing")))?);
            by_name = true;
            rest = after;
        }
        let mut form = Form { align: Some('>'), ..Form::default() };
        while let Some(flag) = rest.chars().next().filter(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => form.align = Some('<'),
                '0' if form.align != Some('<') => (form.fill, form.align) = (Some('0'), Some('=')),
                '0' => {}
                '#' => form.alternate = true,
                _ => form.sign = form.sign.filter(|sign| *sign == '+').or(Some(flag)),
            }
            rest = &rest[1..];
        }
        if let Some(after) = rest.strip_prefix('*') {
            let width = next()?.as_int().ok_or_else(|| Error::new("a width must be a number"))?;
            if width < 0 {
                (form.align, form.fill) = (Some('<'), None);
            }
            form.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
            rest = after;
        } else if let Some(width) = digits(&mut rest)? {
            form.width = width;
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            form.precision = Some(match rest.strip_prefix('*') {
                Some(after) => {
                    rest = after;
                    let precision = next()?.as_int();
                    precision.and_then(|p| usize::try_from(p.max(0)).ok()).unwrap_or(0)
                }
                None => digits(&mut rest)?.unwrap_or(0),
            });
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let Some(kind) = rest.chars().next() else {
            return Err(Error::new("a format ends within a `%`"));
        };
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let argument = match named {
            Some(argument) => argument,
            None => next()?,
        };
        out.push_str(&directive(form, kind, argument)?);
    }
    out.push_str(rest);
    let mapping = matches!(value, Value::Dict(_) | Value::Undefined(_))
        || matches!(value, Value::Sequence(_)) && !is_tuple;
    if left.len() > 0 && !by_name && !mapping {
        return Err(Error::new("a format gets more values than it wants"));
    }
    Ok(out)
}

fn digits(rest: &mut &str) -> Result<Option<usize>> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    *rest = after;
    if number.is_empty() {
        return Ok(None);
    }
    number.parse().map(Some).map_err(|_| Error::new(format!("the width {number} is too large")))
}

fn directive(mut form: Form, kind: char, value: &Value) -> Result<String> {
    form.kind = Some(kind);
    match kind {
        's' | 'r' => {
            let text = if kind == 's' { value.printed()? } else { value.repr()?.into() };
            form.fill = None;
            if form.align == Some('=') {
                form.align = Some('>');
            }
            form.text(&text)
        }
        'c' => match value {
            Value::Text(text) if text.chars().count() == 1 => form.text(text),
            _ => form.int(whole(value, kind)?),
        },
        'd' | 'i' | 'u' => match value {
            Value::Float(float) if float.is_finite() => form.int(*float as i128),
            _ => form.int(whole(value, kind)?),
        },
        'x' | 'X' | 'o' => form.int(whole(value, kind)?),
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.defined()?.as_float() {
            Some(float) => form.float(float),
            None => unknown(kind),
        },
        _ => unknown(kind),
    }
}

fn whole(value: &Value, kind: char) -> Result<i128> {
    value.defined()?.as_int().map_or_else(|| unknown(kind), Ok)
}

// ---- `str.format` -----------------------------------------------------------------------------------------------------

/// `format.format(*positional, **named)`.
pub fn braces(format: &str, positional: &[Value], named: &[(Arc<str>, Value)]) -> Result<String> {
    let mut out = String::new();
    let mut rest = format;
    let mut automatic = 0;
    while let Some(start) = rest.find(['{', '}']) {
        out.push_str(&rest[..start]);
        let brace = &rest[start..=start];
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        let field = rest.split_once('}').filter(|_| brace == "{");
        let Some((field, after)) = field.filter(|(field, _)| !field.contains('{')) else {
            return Err(Error::new("the braces of a format do not match, or stand within braces"));
        };
        rest = after;
        let (field, written) = field.split_once(':').unwrap_or((field, ""));
        let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
        let value = field_value(field, positional, named, &mut automatic)?;
        let value = match conversion {
            "" => value,
            "s" => Value::text(value.printed()?),
            "r" => Value::text(value.repr()?),
            _ => {
                return Err(Error::new(format!("the conversion `!{conversion}` is not supported")));
            }
        };
        out.push_str(&formatted(&value, written)?);
    }
    out.push_str(rest);
    Ok(out)
}

fn field_value(
    field: &str,
    positional: &[Value],
    named: &[(Arc<str>, Value)],
    automatic: &mut usize,
) -> Result<Value> {
    let end = field.find(['.', '[']).unwrap_or(field.len());
    let (first, mut path) = field.split_at(end);
    let missing = || Error::new(format!("the format's `{{{first}}}` is not among its values"));
    let mut value = if first.is_empty() {
        *automatic += 1;
        positional.get(*automatic - 1).cloned().ok_or_else(missing)?
    } else if let Ok(position) = first.parse::<usize>() {
        positional.get(position).cloned().ok_or_else(missing)?
    } else {
        let found = named.iter().find(|(name, _)| **name == *first);
        found.map(|(_, value)| value.clone()).ok_or_else(missing)?
    };
    while !path.is_empty() {
        if let Some(after) = path.strip_prefix('[') {
            let Some((index, after)) = after.split_once(']') else {
                return Err(Error::new("a bracket in a format is not closed"));
            };
            let index = index.parse().map_or_else(|_| Value::text(index), Value::Int);
            value = item(&value, &index)?;
            path = after;
        } else {
            let name = path.trim_start_matches('.');
            let end = name.find(['.', '[']).unwrap_or(name.len());
            value = attribute(&value, &name[..end])?;
            path = &name[end..];
        }
    }
    Ok(value)
}

/// `format(value, written)`.
fn formatted(value: &Value, written: &str) -> Result<String> {
    if written.is_empty() {
        return Ok(value.printed()?.as_ref().to_owned());
    }
    let mut form = Form::default();
    let mut chars: Vec<char> = written.chars().collect();
    let aligns = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    if aligns(chars.get(1)) {
        (form.fill, form.align) = (Some(chars.remove(0)), Some(chars.remove(0)));
    } else if aligns(chars.first()) {
        form.align = Some(chars.remove(0));
    }
    let rest: String = chars.into_iter().collect();
    let mut rest = rest.as_str();
    let mut flag = |allowed: &[char]| {
        let found = rest.chars().next().filter(|c| allowed.contains(c));
        rest = &rest[found.map_or(0, char::len_utf8)..];
        found
    };
    form.sign = flag(&['+', '-', ' ']);
    form.alternate = flag(&['#']).is_some();
    let numeric = matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_));
    if flag(&['0']).is_some() {
        form.fill = form.fill.or(Some('0'));
        form.align = form.align.or(numeric.then_some('='));
    }
    form.width = digits(&mut rest)?.unwrap_or(0);
    form.group = rest.chars().next().filter(|c| matches!(c, ',' | '_'));
    rest = &rest[usize::from(form.group.is_some())..];
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        form.precision = digits(&mut rest)?;
    }
    let mut kinds = rest.chars();
    form.kind = kinds.next();
    if kinds.next().is_some() {
        return Err(Error::new(format!("the format `{written}` cannot be read")));
    }
    let padded_groups = form.group.is_some() && form.align == Some('=');
    match (value, form.kind) {
        _ if padded_groups => Err(Error::new("zeros before groups of digits are not supported")),
        (Value::Text(text), None | Some('s')) => form.text(text),
        (Value::Float(float), _) => form.float(*float),
        (Value::Int(_), Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            form.float(value.as_float().unwrap_or_default())
        }
        (Value::Int(int), _) if form.precision.is_none() => match form.kind {
            None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b' | 'c') => form.int(*int),
            Some(kind) => unknown(kind),
        },
        _ => Err(Error::new(format!(
            "the format `{written}` is not supported for a value of type {}",
            value.type_name()
        ))),
    }
}
