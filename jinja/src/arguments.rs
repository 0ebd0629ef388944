//! What functions, methods, filters and tests are called with.

use std::sync::Arc;

use crate::{Error, Result, value::Value};

/// What a function, a filter or a test is called with.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Given {
    /// The arguments in the order of `names`.
    pub fn bind<const N: usize>(
        self,
        callee: &str,
        names: [&str; N],
    ) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(Error::new(format!("`{callee}` takes at most {N} arguments")));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let slot = names.iter().position(|known| *known == &*name);
            match slot.and_then(|slot| bound.get_mut(slot)) {
                Some(slot @ None) => *slot = Some(value),
                _ => return Err(Error::new(format!("`{callee}` takes no further `{name}`"))),
            }
        }
        Ok(bound)
    }
}

/// Whether a name is among the words of a list.
pub fn is_among(name: &str, words: &str) -> bool {
    words.split_ascii_whitespace().any(|word| word == name)
}

/// An argument that must be given.
pub fn required(argument: Option<Value>, callee: &str, name: &str) -> Result<Value> {
    argument.ok_or_else(|| Error::new(format!("`{callee}` needs its argument `{name}`")))
}

/// A whole number, or the default if none is given.
pub fn int_or(argument: Option<Value>, default: i128) -> Result<i128> {
    match argument {
        None => Ok(default),
        Some(value) => value.defined()?.as_int().ok_or_else(|| {
            Error::new(format!("a value of type {} is no whole number", value.type_name()))
        }),
    }
}

/// Text, or the default if none is given.
pub fn text_or(argument: Option<Value>, default: &str) -> Result<Arc<str>> {
    match argument {
        None => Ok(default.into()),
        Some(Value::Text(text)) => Ok(text),
        Some(value) => {
            let kind = value.defined()?.type_name();
            Err(Error::new(format!("a value of type {kind} stands where text is expected")))
        }
    }
}
