//! Operators, indices and slices, as Python computes them.

use crate::{
    Error, Result,
    ast::Binary,
    format::percent,
    text::escaped,
    value::{Kind, Value},
};

/// The longest text, in bytes, and the longest list that one operation may make.
const MAX_LENGTH: usize = 10_000_000;
const MAX_ITEMS: usize = 1_000_000;

/// An error if a text of `length` bytes would be too long.
pub fn check_length(length: Option<usize>) -> Result<()> {
    match length {
        Some(length) if length <= MAX_LENGTH => Ok(()),
        _ => Err(Error::new("a text gets too long")),
    }
}

fn check_items(length: Option<usize>) -> Result<()> {
    match length {
        Some(length) if length <= MAX_ITEMS => Ok(()),
        _ => Err(Error::new("a list gets too long")),
    }
}

pub fn binary(operator: Binary, left: &Value, right: &Value) -> Result<Value> {
    left.defined()?;
    if let (Binary::Mod, Value::Text(format)) = (operator, left) {
        return percent(format, right).map(Value::text);
    }
    right.defined()?;
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return ints(operator, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return floats(operator, a, b).map(Value::Float);
    }
    match (operator, left, right) {
        (Binary::Add, Value::Text(a), Value::Text(b)) => Ok(Value::text([&**a, &**b].concat())),
        (Binary::Add, Value::Sequence(a), Value::Sequence(b))
            if a.kind == b.kind && matches!(a.kind, Kind::List | Kind::Tuple) =>
        {
            check_items(a.items.len().checked_add(b.items.len()))?;
            Value::sequence(a.kind, [&*a.items, &*b.items].concat())
        }
        // What is marked as HTML stays so, and what is added to it is escaped.
        (Binary::Add, Value::Markup(a), Value::Markup(b)) => {
            Ok(Value::Markup([&**a, &**b].concat().into()))
        }
        (Binary::Add, Value::Markup(a), Value::Text(b)) => {
            Ok(Value::Markup([&**a, &escaped(b)].concat().into()))
        }
        (Binary::Add, Value::Text(a), Value::Markup(b)) => {
            Ok(Value::Markup([&*escaped(a), b].concat().into()))
        }
        (Binary::Mul, _, _) => match (left.as_int(), right.as_int()) {
            (None, Some(times)) => repeat(left, times),
            (Some(times), None) => repeat(right, times),
            _ => unsupported(operator, left, right),
        },
        _ => unsupported(operator, left, right),
    }
}

fn unsupported<T>(operator: Binary, left: &Value, right: &Value) -> Result<T> {
    let written = match operator {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "**",
    };
    let (left, right) = (left.type_name(), right.type_name());
    Err(Error::new(format!("`{written}` does not take values of types {left} and {right}")))
}

fn repeat(value: &Value, times: i128) -> Result<Value> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::Text(text) => {
            check_length(text.len().checked_mul(times))?;
            Ok(Value::text(text.repeat(times)))
        }
        Value::Sequence(sequence) if matches!(sequence.kind, Kind::List | Kind::Tuple) => {
            check_items(sequence.items.len().checked_mul(times))?;
            let items = sequence.items.iter().cloned();
            let length = sequence.items.len() * times;
            Value::sequence(sequence.kind, items.cycle().take(length).collect())
        }
        _ => Err(Error::new(format!("a value of type {} cannot be repeated", value.type_name()))),
    }
}

fn ints(operator: Binary, a: i128, b: i128) -> Result<Value> {
    let by_zero = || Error::new("a number is divided by zero");
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div if b == 0 => return Err(by_zero()),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDiv | Binary::Mod if b == 0 => return Err(by_zero()),
        Binary::FloorDiv => {
            a.checked_div(b).map(|q| q - i128::from(a % b != 0 && (a < 0) != (b < 0)))
        }
        Binary::Mod => {
            a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r })
        }
        Binary::Pow if b < 0 => return floats(operator, a as f64, b as f64).map(Value::Float),
        Binary::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map(Value::Int).ok_or_else(|| Error::new("a number gets too large"))
}

fn floats(operator: Binary, a: f64, b: f64) -> Result<f64> {
    if b == 0.0 && matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Mod)
        || operator == Binary::Pow && a == 0.0 && b < 0.0
    {
        return Err(Error::new("a number is divided by zero"));
    }
    Ok(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::FloorDiv => {
            let quotient = (a - modulo(a, b)) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        Binary::Mod => modulo(a, b),
        Binary::Pow if a < 0.0 && b.fract() != 0.0 => {
            return Err(Error::new("a root of a negative number is not supported"));
        }
        Binary::Pow => a.powf(b),
    })
}

/// The remainder with the sign of the divisor.
fn modulo(a: f64, b: f64) -> f64 {
    let remainder = a % b;
    if remainder == 0.0 {
        0.0_f64.copysign(b)
    } else if (remainder < 0.0) != (b < 0.0) {
        remainder + b
    } else {
        remainder
    }
}

pub fn negative(value: &Value) -> Result<Value> {
    match (value.defined()?.as_int(), value.as_float()) {
        (Some(int), _) => {
            let negative = int.checked_neg().map(Value::Int);
            negative.ok_or_else(|| Error::new("a number gets too large"))
        }
        (None, Some(float)) => Ok(Value::Float(-float)),
        _ => Err(Error::new(format!("a value of type {} has no negative", value.type_name()))),
    }
}

/// An index into `length` items, counted from the end if negative.
pub fn index(at: i128, length: usize) -> Option<usize> {
    let length = i128::try_from(length).ok()?;
    let at = if at < 0 { at + length } else { at };
    (0..length).contains(&at).then(|| usize::try_from(at).ok())?
}

/// `value[start:stop:step]`.
pub fn slice(value: &Value, parts: [Option<Value>; 3]) -> Result<Value> {
    let mut bounds = [None; 3];
    for (bound, part) in bounds.iter_mut().zip(&parts) {
        *bound = match part {
            None | Some(Value::None) => None,
            Some(part) => Some(part.defined()?.as_int().ok_or_else(|| {
                Error::new(format!("a slice is bounded by a value of type {}", part.type_name()))
            })?),
        };
    }
    match value.defined()? {
        Value::Text(text) => {
            let chars: Vec<char> = text.chars().collect();
            let picked = picks(chars.len(), bounds)?.into_iter().filter_map(|at| chars.get(at));
            Ok(Value::text(picked.collect::<String>()))
        }
        Value::Sequence(of) if matches!(of.kind, Kind::List | Kind::Tuple | Kind::Range) => {
            let picked = picks(of.items.len(), bounds)?.into_iter();
            let items = picked.filter_map(|at| of.items.get(at).cloned());
            Value::sequence(of.kind, items.collect())
        }
        _ => Err(Error::new(format!("a value of type {} has no slices", value.type_name()))),
    }
}

/// The indices that a slice of `length` items picks, all of them below `length`.
fn picks(length: usize, [start, stop, step]: [Option<i128>; 3]) -> Result<Vec<usize>> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new("the step of a slice is zero"));
    }
    let length = length as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |bound: Option<i128>, absent| match bound {
        None => absent,
        Some(at) if at < 0 => (at + length).clamp(low, high),
        Some(at) => at.clamp(low, high),
    };
    let (first, end) = if step > 0 { (low, high) } else { (high, low) };
    let (mut at, stop) = (bound(start, first), bound(stop, end));
    let mut picked = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        picked.extend(usize::try_from(at));
        let Some(next) = at.checked_add(step) else { break };
        at = next;
    }
    Ok(picked)
}
