//! The functions `range` and `dict`.

use crate::{
    Error, Result,
    arguments::{Given, int_or, required},
    value::{Kind, Value},
};

/// The function `range`.
pub fn range(given: Given) -> Result<Value> {
    let [first, second, step] = given.bind("range", ["start", "stop", "step"])?;
    let (start, stop) = match second {
        None => (0, int_or(Some(required(first, "range", "stop")?), 0)?),
        Some(stop) => (int_or(first, 0)?, int_or(Some(stop), 0)?),
    };
    let step = int_or(step, 1)?;
    if step == 0 {
        return Err(Error::new("the step of `range` is zero"));
    }
    let mut numbers = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        // As many as the sandbox allows.
        if numbers.len() == 100_000 {
            return Err(Error::new("`range` has more than 100000 numbers"));
        }
        numbers.push(Value::Int(at));
        let Some(next) = at.checked_add(step) else { break };
        at = next;
    }
    Value::sequence(Kind::Range, numbers)
}

/// The function `dict`, and the pairs that `namespace` begins with.
pub fn dict(given: Given) -> Result<Value> {
    let mut pairs = Vec::new();
    for argument in given.positional {
        match argument {
            Value::Dict(dict) => pairs.extend(dict.pairs.iter().cloned()),
            pairs_of => {
                for pair in pairs_of.items()? {
                    let Ok([key, value]) = <[Value; 2]>::try_from(pair.items()?) else {
                        return Err(Error::new("`dict` is made of pairs"));
                    };
                    pairs.push((key, value));
                }
            }
        }
    }
    pairs.extend(given.named.into_iter().map(|(name, value)| (Value::Text(name), value)));
    Value::dict(pairs)
}
