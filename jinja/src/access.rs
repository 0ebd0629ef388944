//! `value.name` and `value[index]`, within the bounds of the sandbox.

use std::{rc::Rc, sync::Arc};

use crate::{
    Result,
    methods::{self, Method},
    ops,
    value::{Function, Kind, Loop, Object, Value},
};

/// `value.name`: an attribute or a method first, an item of a dictionary otherwise.
pub fn attribute(value: &Value, name: &str) -> Result<Value> {
    value.defined()?;
    if let Some(found) = own_attribute(value, name) {
        return Ok(found);
    }
    if let Value::Dict(dict) = value
        && let Some(found) = dict.get(&Value::text(name))
    {
        return Ok(found.clone());
    }
    Ok(missing(value, name))
}

/// `value[index]`: an item first, an attribute or a method otherwise.
pub fn item(value: &Value, index: &Value) -> Result<Value> {
    let found = match value.defined()? {
        Value::Dict(dict) => dict.get(index).cloned(),
        Value::Text(text) => index.as_int().and_then(|at| {
            let at = ops::index(at, text.chars().count())?;
            text.chars().nth(at).map(|c| Value::text(c.to_string()))
        }),
        Value::Sequence(of) if matches!(of.kind, Kind::List | Kind::Tuple | Kind::Range) => {
            let at = index.as_int().and_then(|at| ops::index(at, of.items.len()));
            at.and_then(|at| of.items.get(at).cloned())
        }
        _ => None,
    };
    let named = || own_attribute(value, index.as_text()?);
    Ok(found.or_else(named).unwrap_or_else(|| {
        let written = index.repr().unwrap_or_default();
        missing(value, written.trim_matches('\''))
    }))
}

/// An attribute or a method, but no item.
pub fn own_attribute(value: &Value, name: &str) -> Option<Value> {
    match value {
        Value::Object(Object::Namespace(namespace)) => namespace.get(name),
        Value::Object(Object::Loop(of)) => of.attribute(name),
        Value::Object(Object::Macro(of)) if name == "name" => {
            Some(Value::Text(of.definition.name.clone()))
        }
        Value::Object(Object::Cycler(cycler)) if name == "current" => {
            cycler.items.items.get(cycler.at.get()).cloned()
        }
        _ => match methods::find(value, name)? {
            Method::Callable => {
                let method = Rc::new((value.clone(), Arc::from(name)));
                Some(Value::Object(Object::Method(method)))
            }
            Method::Changing => Some(Value::undefined(format!(
                "`{name}` would change a {}, which templates cannot",
                value.type_name()
            ))),
        },
    }
}

fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(format!("a value of type {} has no `{name}`", value.type_name()))
}

/// A name that every template knows.
pub fn global(name: &str) -> Option<Value> {
    let function = match name {
        "range" => Function::Range,
        "dict" => Function::Dict,
        "namespace" => Function::Namespace,
        "cycler" => Function::Cycler,
        "joiner" => Function::Joiner,
        "raise_exception" => Function::RaiseException,
        "strftime_now" => Function::StrftimeNow,
        _ => return None,
    };
    Some(Value::Object(Object::Function(function)))
}

impl Loop {
    fn attribute(self: &Rc<Self>, name: &str) -> Option<Value> {
        let (index0, length) = (self.index0.get(), self.items.items.len());
        let int = |number: usize| Some(Value::Int(number as i128));
        let neighbour = |at: Option<usize>, which: &str| {
            let found = at.and_then(|at| self.items.items.get(at).cloned());
            Some(found.unwrap_or_else(|| Value::undefined(format!("there is no {which} item"))))
        };
        match name {
            "index" => int(index0 + 1),
            "index0" => int(index0),
            "revindex" => int(length - index0),
            "revindex0" => int(length - index0 - 1),
            "first" => Some(Value::Bool(index0 == 0)),
            "last" => Some(Value::Bool(index0 + 1 == length)),
            "length" => int(length),
            "depth" => int(self.depth0 + 1),
            "depth0" => int(self.depth0),
            "previtem" => neighbour(index0.checked_sub(1), "previous"),
            "nextitem" => neighbour(Some(index0 + 1), "next"),
            "cycle" | "changed" => {
                let receiver = Value::Object(Object::Loop(self.clone()));
                Some(Value::Object(Object::Method(Rc::new((receiver, name.into())))))
            }
            _ => None,
        }
    }
}
