//! The part of Python's pickle that `torch.save` writes for a state dict, read without carrying anything out.
//!
//! A pickle is a program for a machine with a stack: it pushes values, puts them together, and calls functions by name.
//! Here only the functions of [`Function`] have a meaning, each computed here; any other name ends the reading.
//! Values lie in one list and name each other by their numbers, so that a value that is used a thousand times, or
//! nested a thousand deep, costs what its bytes in the file do.

use std::collections::HashMap;

use safetensors::Dtype;

/// A value's number.
pub type Ref = usize;

/// What a pickle is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a point.
    Float,
    /// Text.
    Text(String),
    /// A tuple.
    Tuple(Vec<Ref>),
    /// A list.
    List(Vec<Ref>),
    /// A dict, or an `OrderedDict`; of keys that stand twice the last one counts.
    Dict(Vec<(Ref, Ref)>),
    /// A function that may be called.
    Function(Function),
    /// The type of a storage's elements.
    Element(Dtype),
    /// A storage: elements in a file of the archive.
    Storage {
        /// The text that names the file below `data/`.
        key: Ref,
        /// The type of its elements.
        element: Dtype,
    },
    /// A view of a storage.
    Tensor {
        /// The storage.
        storage: Ref,
        /// The place of the first element in it.
        offset: i64,
        /// The tuple of sizes.
        shape: Ref,
        /// The tuple of the places by which the next element lies further on, one a dimension.
        strides: Ref,
    },
}

/// The functions that state dicts are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    Tensor,
    /// `torch._utils._rebuild_parameter`.
    Parameter,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::OrderedDict => "OrderedDict",
            Self::Tensor => "_rebuild_tensor_v2",
            Self::Parameter => "_rebuild_parameter",
        }
    }
}

/// Most items of a tuple that a function is given.
const MOST_ARGUMENTS: usize = 8;

/// What cannot be read: the byte at which it stands, and what is wrong.
pub type Problem = (usize, String);

/// A pickle that was read: its values, of which the last is the whole.
#[derive(Debug)]
pub struct Pickle {
    values: Vec<Value>,
    whole: Ref,
}

impl Pickle {
    /// Reads a pickle.
    ///
    /// # Errors
    /// A pickle that is cut short or malformed; by its name whatever it would import or call besides what state dicts
    /// are made with.
    pub fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let mut machine = Machine { bytes, ..Machine::default() };
        loop {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(whole)) => return Ok(Self { values: machine.values, whole }),
                Err(problem) => return Err((at, problem)),
            }
        }
    }

    /// The value that was pickled.
    pub fn whole(&self) -> &Value {
        self.get(self.whole)
    }

    /// A value that another one names.
    pub fn get(&self, value: Ref) -> &Value {
        self.values.get(value).unwrap_or(&Value::None)
    }
}

/// The machine in the middle of a pickle.
#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    /// The next byte.
    at: usize,
    values: Vec<Value>,
    stack: Vec<Ref>,
    /// The heights of the stack at which marks stand.
    marks: Vec<usize>,
    memo: HashMap<u64, Ref>,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    /// Carries out one opcode; the value that was pickled, once it is the last one.
    fn step(&mut self) -> Step<Option<Ref>> {
        match self.take(1)?[0] {
            b'.' => return self.pop().map(Some),
            0x80 => match self.take(1)?[0] {
                2..=5 => {}
                other => return Err(format!("its protocol is {other}; expected 2 to 5")),
            },
            0x95 => drop(self.take(8)?), // a frame, which means nothing where all bytes are at hand
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let bytes = self.take(4)?.try_into().unwrap_or_default();
                self.push(Value::Int(i32::from_le_bytes(bytes).into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let pair = [self.pop()?, self.pop()?];
                self.set_items(&[pair[1], pair[0]])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => {
                let (number, top) = (self.memo.len() as u64, self.top()?);
                self.memo.insert(number, top);
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => {
                        let (module, name) = (module.clone(), name.clone());
                        self.global(&module, &name)?;
                    }
                    _ => return Err("it imports something that is not named by text".into()),
                }
            }
            b'Q' => self.persistent()?,
            b'R' => self.call()?,
            b'b' => self.build()?,
            other => {
                return Err(format!(
                    "it uses opcode {other:#04x}, which torch does not write for a state dict"
                ));
            }
        }
        Ok(None)
    }

    // ---- Bytes -----------------------------------------------------------------------------------------------------

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let taken = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("it is cut short")?;
        self.at += n;
        Ok(taken)
    }

    fn number(&mut self, width: usize) -> Step<u64> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Text up to a newline.
    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or("it is cut short")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 1;
        Ok(line)
    }

    fn text(&mut self, width: usize) -> Step<()> {
        let length = self.number(width)?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a text in it is not UTF-8")?;
        self.push(Value::Text(text.to_owned()));
        Ok(())
    }

    fn int(&mut self, width: usize) -> Step<()> {
        let number = self.number(width)?;
        self.push(Value::Int(number as i64));
        Ok(())
    }

    /// A number of as many bytes as the first says.
    fn long(&mut self) -> Step<()> {
        let width = self.take(1)?[0];
        let bytes = self.take(width.into())?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let low = wide.get_mut(..bytes.len()).ok_or("a number in it has more than 8 bytes")?;
        low.copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    // ---- Stack and memo --------------------------------------------------------------------------------------------

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn top(&self) -> Step<Ref> {
        let above = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(above..).and_then(|stack| stack.last());
        top.copied().ok_or_else(|| "it takes a value that is not there".into())
    }

    fn pop(&mut self) -> Step<Ref> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Step<Vec<Ref>> {
        let mark = self.marks.pop().ok_or("it takes a mark that is not there")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn put(&mut self, width: usize) -> Step<()> {
        let (number, top) = (self.number(width)?, self.top()?);
        self.memo.insert(number, top);
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Step<()> {
        let number = self.number(width)?;
        let value = self.memo.get(&number).ok_or("it recalls a value that it has not kept")?;
        self.stack.push(*value);
        Ok(())
    }

    // ---- Values put together ---------------------------------------------------------------------------------------

    fn tuple(&mut self, n: usize) -> Step<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Step<Vec<_>>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Ref>) -> Step<()> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(list) => list.extend(items),
            _ => return Err("it appends to something that is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Ref]) -> Step<()> {
        let dict = self.top()?;
        match (&mut self.values[dict], items.as_chunks::<2>()) {
            (Value::Dict(dict), (pairs, [])) => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            (Value::Dict(_), _) => return Err("it sets a key without a value".into()),
            _ => return Err("it sets an item of something that is no dict".into()),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let value = match (module, name) {
            ("torch", storage) if let Some(element) = element(storage) => Value::Element(element),
            ("collections", "OrderedDict") => Value::Function(Function::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Value::Function(Function::Tensor),
            ("torch._utils", "_rebuild_parameter") => Value::Function(Function::Parameter),
            _ => {
                let name: String = format!("{module}.{name}").chars().take(100).collect();
                return Err(format!(
                    "it names the Python object `{name}`, which no state dict needs; reading it as Python does could run any program, so nothing of the file was read. Save the state dict alone, `torch.save(model.state_dict(), FILE)`"
                ));
            }
        };
        self.push(value);
        Ok(())
    }

    /// A storage, by what torch says of it: `("storage", type, key, device, elements)`.
    fn persistent(&mut self) -> Step<()> {
        let about = self.pop()?;
        let value = match self.arguments(about) {
            Some(&[kind, element, key, _, _]) => {
                match (&self.values[kind], &self.values[element], &self.values[key]) {
                    (Value::Text(kind), &Value::Element(element), Value::Text(_))
                        if kind == "storage" =>
                    {
                        Some(Value::Storage { key, element })
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        self.push(value.ok_or("it refers to something outside of it that is no storage")?);
        Ok(())
    }

    fn call(&mut self) -> Step<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Function(function) = self.values[function] else {
            return Err("it calls something that is no function".into());
        };
        let value = match (function, self.arguments(arguments)) {
            (Function::OrderedDict, Some([])) => Some(Value::Dict(Vec::new())),
            (Function::Parameter, Some(&[tensor, ..])) => match self.values[tensor] {
                Value::Tensor { .. } => Some(self.values[tensor].clone()),
                _ => None,
            },
            (Function::Tensor, Some(&[storage, offset, shape, strides, ..])) => {
                match (&self.values[storage], &self.values[offset]) {
                    (Value::Storage { .. }, &Value::Int(offset)) => {
                        Some(Value::Tensor { storage, offset, shape, strides })
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let name = function.name();
        self.push(value.ok_or(format!("it calls `{name}` with arguments that torch never gives"))?);
        Ok(())
    }

    /// What is set on an object after it was made: of a state dict its `_metadata`, which nothing here reads.
    fn build(&mut self) -> Step<()> {
        self.pop()?;
        let object = self.top()?;
        match self.values[object] {
            Value::Dict(_) => Ok(()),
            _ => Err("it sets attributes of something that is no dict".into()),
        }
    }

    /// The items of a tuple of arguments, if it is one.
    fn arguments(&self, value: Ref) -> Option<&[Ref]> {
        match &self.values[value] {
            Value::Tuple(items) if items.len() <= MOST_ARGUMENTS => Some(items),
            _ => None,
        }
    }
}

/// The type of the elements of a storage of torch's.
fn element(storage: &str) -> Option<Dtype> {
    Some(match storage {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}
