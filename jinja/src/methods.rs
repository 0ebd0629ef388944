//! Which methods values have, and those of lists, dictionaries and loops.

use crate::{
    Error, Result,
    arguments::{Given, is_among, required},
    strings,
    value::{Kind, Object, Value},
};

/// What a name behind a value's dot is.
pub enum Method {
    Callable,
    /// It would change the value.
    Changing,
}

const OF_TEXT: &str = "capitalize casefold center count encode endswith expandtabs find format format_map index \
    isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace \
    istitle isupper join ljust lower lstrip maketrans partition removeprefix removesuffix \
    replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip \
    swapcase title translate upper zfill";
const OF_DICTS: &str = "copy fromkeys get items keys values";
const CHANGING_DICTS: &str = "clear pop popitem setdefault update";
const CHANGING_LISTS: &str = "append clear extend insert pop remove reverse sort";

/// The method of that name, if the type has one.
pub fn find(value: &Value, name: &str) -> Option<Method> {
    let (callable, changing) = match value {
        Value::Text(_) => (OF_TEXT, ""),
        Value::Dict(_) => (OF_DICTS, CHANGING_DICTS),
        Value::Sequence(of) => match of.kind {
            Kind::List => ("copy count index", CHANGING_LISTS),
            Kind::Tuple | Kind::Range => ("count index", ""),
            Kind::Keys | Kind::Values | Kind::Items => ("", ""),
        },
        Value::Object(Object::Cycler(_)) => ("next reset", ""),
        _ => ("", ""),
    };
    if is_among(name, callable) {
        return Some(Method::Callable);
    }
    is_among(name, changing).then_some(Method::Changing)
}

/// Calls a method that [`find`] found.
pub fn call(receiver: &Value, name: &str, given: Given) -> Result<Value> {
    match receiver {
        Value::Text(text) => strings::call(text, name, given),
        Value::Dict(dict) => {
            let view = |kind, items| Value::sequence(kind, items);
            let pairs = dict.pairs.iter();
            match name {
                "keys" => view(Kind::Keys, pairs.map(|(key, _)| key.clone()).collect()),
                "values" => view(Kind::Values, pairs.map(|(_, value)| value.clone()).collect()),
                "items" => view(Kind::Items, items(&dict.pairs)?),
                "copy" => Ok(receiver.clone()),
                "get" => {
                    let [key, default] = given.bind(name, ["key", "default"])?;
                    let found = dict.get(&required(key, name, "key")?).cloned();
                    Ok(found.or(default).unwrap_or(Value::None))
                }
                _ => unsupported(receiver, name),
            }
        }
        Value::Sequence(sequence) => {
            if name == "copy" {
                return Ok(receiver.clone());
            }
            let [value] = given.bind(name, ["value"])?;
            let value = required(value, name, "value")?;
            let mut found = sequence.items.iter().enumerate();
            if name == "count" {
                let count = found.filter(|(_, item)| item.equals(&value)).count();
                return Ok(Value::Int(count as i128));
            }
            let at = found.find(|(_, item)| item.equals(&value)).map(|(at, _)| at);
            at.map(|at| Value::Int(at as i128)).ok_or_else(|| Error::new("`index` finds nothing"))
        }
        Value::Object(Object::Cycler(cycler)) => {
            let at = cycler.at.get();
            let current = cycler.items.items.get(at).cloned().unwrap_or(Value::None);
            let next = if name == "next" { (at + 1) % cycler.items.items.len().max(1) } else { 0 };
            cycler.at.set(next);
            Ok(if name == "next" { current } else { Value::None })
        }
        Value::Object(Object::Loop(of)) if name == "cycle" => {
            let at = of.index0.get() % given.positional.len().max(1);
            let found = given.positional.into_iter().nth(at);
            found.ok_or_else(|| Error::new("`loop.cycle` is given nothing"))
        }
        Value::Object(Object::Loop(of)) => {
            let same = |before: &Vec<Value>| {
                let pairs = || before.iter().zip(&given.positional);
                before.len() == given.positional.len() && pairs().all(|(a, b)| a.equals(b))
            };
            let changed = !of.changed.borrow().as_ref().is_some_and(same);
            *of.changed.borrow_mut() = Some(given.positional);
            Ok(Value::Bool(changed))
        }
        _ => unsupported(receiver, name),
    }
}

/// Pairs as tuples.
pub fn items(pairs: &[(Value, Value)]) -> Result<Vec<Value>> {
    let tuple = |(key, value): &(Value, Value)| {
        Value::sequence(Kind::Tuple, vec![key.clone(), value.clone()])
    };
    pairs.iter().map(tuple).collect()
}

/// The error of a method that Python has and this crate has not.
pub fn unsupported<T>(receiver: &Value, name: &str) -> Result<T> {
    let kind = receiver.type_name();
    Err(Error::new(format!("the method `{name}` of values of type {kind} is not supported")))
}
