//! The tests behind `is`.

use std::cmp::Ordering;

use crate::{
    Error, Result,
    arguments::{Given, is_among, required},
    ast::Binary,
    filters, ops, strings,
    value::{Kind, Object, Value},
};

const NAMES: &str = "!= < <= == > >= boolean callable defined divisibleby eq equalto escaped even false filter \
    float ge greaterthan gt in integer iterable le lessthan lower lt mapping ne none number odd \
    sameas sequence string test true undefined upper";

/// Whether `value is name(given)`.
pub fn holds(name: &str, value: &Value, given: Given) -> Result<bool> {
    if !is_among(name, NAMES) {
        return Err(Error::new(format!("there is no test `{name}`")));
    }
    if let Some(holds) = of_two(name, value, &given)? {
        return Ok(holds);
    }
    let [] = given.bind(name, [])?;
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
        "string" => matches!(value, Value::Text(_) | Value::Markup(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => value.is_iterable(),
        "sequence" => match value {
            Value::Undefined(_) | Value::Text(_) | Value::Markup(_) | Value::Dict(_) => true,
            Value::Sequence(of) => matches!(of.kind, Kind::List | Kind::Tuple | Kind::Range),
            _ => false,
        },
        "callable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Object(
                    Object::Function(_)
                        | Object::Method(_)
                        | Object::Macro(_)
                        | Object::Loop(_)
                        | Object::Joiner(_)
                )
        ),
        "escaped" => matches!(value, Value::Markup(_)),
        "lower" => strings::is_lower(&value.printed()?),
        "upper" => strings::is_upper(&value.printed()?),
        "filter" => value.as_text().is_some_and(|name| filters::exists(name)),
        "test" => value.as_text().is_some_and(|name| is_among(name, NAMES)),
        _ => remainder(value, &Value::Int(2))?.equals(&Value::Int((name == "odd").into())),
    })
}

/// Tests that compare with a second value.
fn of_two(name: &str, value: &Value, given: &Given) -> Result<Option<bool>> {
    let other = || {
        let [other] = given.clone().bind(name, ["other"])?;
        required(other, name, "other")
    };
    let ordered = |holds: fn(Ordering) -> bool| {
        Ok::<_, Error>(Some(value.compare(&other()?)?.is_some_and(holds)))
    };
    match name {
        "eq" | "==" | "equalto" => Ok(Some(value.equals(&other()?))),
        "ne" | "!=" => Ok(Some(!value.equals(&other()?))),
        "gt" | ">" | "greaterthan" => ordered(Ordering::is_gt),
        "ge" | ">=" => ordered(Ordering::is_ge),
        "lt" | "<" | "lessthan" => ordered(Ordering::is_lt),
        "le" | "<=" => ordered(Ordering::is_le),
        "in" => other()?.contains(value).map(Some),
        "sameas" => Ok(Some(value.is_same(&other()?))),
        "divisibleby" => Ok(Some(remainder(value, &other()?)?.equals(&Value::Int(0)))),
        _ => Ok(None),
    }
}

fn remainder(value: &Value, by: &Value) -> Result<Value> {
    ops::binary(Binary::Mod, value, by)
}
