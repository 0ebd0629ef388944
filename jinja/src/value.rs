//! Python's values, as templates see them: what they print, what they equal, what they contain.

use std::{
    cell::{Cell, RefCell},
    cmp::Ordering,
    rc::Rc,
    sync::Arc,
};

use crate::{Error, Result, ast, interpreter::Scope, text};

/// Containers within containers, beyond which a value is refused.
const MAX_DEPTH: usize = 100;

/// A value of a template.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, and why; it prints as nothing and most other uses are errors.
    Undefined(Arc<str>),
    /// `None`.
    None,
    /// `True` and `False`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Text(Arc<str>),
    /// A string that filters marked as HTML; it can be printed, compared and added to.
    Markup(Arc<str>),
    /// A list, a tuple, a range, or a view of a dictionary.
    Sequence(Rc<Sequence>),
    /// What is read once: the outcome of `map` or `select`.
    Iterator(Rc<Iterator>),
    /// A dictionary, in the order of its making.
    Dict(Rc<Dict>),
    #[doc(hidden)]
    Object(Object),
}

/// Values in order, and what Python calls them.
#[derive(Debug)]
pub struct Sequence {
    pub(crate) kind: Kind,
    pub(crate) items: Vec<Value>,
    depth: usize,
}

/// Values that are handed out once.
#[derive(Debug)]
pub struct Iterator {
    left: RefCell<std::vec::IntoIter<Value>>,
    depth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    List,
    Tuple,
    Range,
    Keys,
    Values,
    Items,
}

/// Pairs of key and value; keys are distinct.
#[derive(Debug, Default)]
pub struct Dict {
    pub(crate) pairs: Vec<(Value, Value)>,
    depth: usize,
}

/// What only templates themselves make.
#[derive(Clone, Debug)]
pub enum Object {
    Function(Function),
    /// A method and the value that it belongs to.
    Method(Rc<(Value, Arc<str>)>),
    Macro(Rc<Macro>),
    Namespace(Rc<Namespace>),
    Loop(Rc<Loop>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<Joiner>),
}

/// The functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

#[derive(Debug)]
pub struct Macro {
    pub definition: Arc<ast::Macro>,
    pub scope: Rc<Scope>,
}

#[derive(Debug, Default)]
pub struct Namespace {
    pub attributes: RefCell<Vec<(Arc<str>, Value)>>,
    depth: Cell<usize>,
}

#[derive(Debug)]
pub struct Cycler {
    pub items: Rc<Sequence>,
    pub at: Cell<usize>,
}

#[derive(Debug)]
pub struct Joiner {
    pub separator: Arc<str>,
    pub used: Cell<bool>,
}

/// The `loop` of a `for`.
#[derive(Debug)]
pub struct Loop {
    pub items: Rc<Sequence>,
    pub index0: Cell<usize>,
    pub depth0: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
    /// The statement and the scope that a recursive loop begins anew with.
    pub again: Option<(Arc<ast::For>, Rc<Scope>)>,
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A list.
    ///
    /// # Errors
    /// Containers that are nested deeper than a hundred times.
    pub fn list(items: Vec<Value>) -> Result<Self> {
        Self::sequence(Kind::List, items)
    }

    pub(crate) fn sequence(kind: Kind, items: Vec<Value>) -> Result<Self> {
        Ok(Self::Sequence(Rc::new(Sequence::new(kind, items)?)))
    }

    /// A dictionary; of equal keys the last value stays.
    ///
    /// # Errors
    /// Keys that are lists or dictionaries, and containers that are nested deeper than a hundred times.
    pub fn dict(pairs: Vec<(Value, Value)>) -> Result<Self> {
        let mut dict = Dict::default();
        for (key, value) in pairs {
            dict.insert(key, value)?;
        }
        Ok(Self::Dict(Rc::new(dict)))
    }

    /// A value read from JSON.
    ///
    /// # Errors
    /// Containers that are nested deeper than a hundred times.
    pub fn from_json(json: &serde_json::Value) -> Result<Self> {
        Ok(match json {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(flag) => Self::Bool(*flag),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(int) => Self::Int(int),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Self::text(text.as_str()),
            serde_json::Value::Array(items) => {
                Self::list(items.iter().map(Self::from_json).collect::<Result<_>>()?)?
            }
            serde_json::Value::Object(object) => {
                let pair = |(key, value): (&String, _)| {
                    Ok((Self::text(key.as_str()), Self::from_json(value)?))
                };
                Self::dict(object.iter().map(pair).collect::<Result<_>>()?)?
            }
        })
    }

    pub(crate) fn undefined(why: impl Into<Arc<str>>) -> Self {
        Self::Undefined(why.into())
    }

    pub(crate) fn iterator(items: Vec<Value>) -> Result<Self> {
        let depth = nesting(&items)?;
        Ok(Self::Iterator(Rc::new(Iterator { left: RefCell::new(items.into_iter()), depth })))
    }

    /// What Python calls the type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Markup(_) => "Markup",
            Self::Sequence(sequence) => match sequence.kind {
                Kind::List => "list",
                Kind::Tuple => "tuple",
                Kind::Range => "range",
                Kind::Keys => "dict_keys",
                Kind::Values => "dict_values",
                Kind::Items => "dict_items",
            },
            Self::Iterator(_) => "generator",
            Self::Dict(_) => "dict",
            Self::Object(object) => match object {
                Object::Function(_) => "function",
                Object::Method(_) => "method",
                Object::Macro(_) => "Macro",
                Object::Namespace(_) => "Namespace",
                Object::Loop(_) => "LoopContext",
                Object::Cycler(_) => "Cycler",
                Object::Joiner(_) => "Joiner",
            },
        }
    }

    pub(crate) fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number; `True` is 1.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match *self {
            Self::Int(int) => Some(int),
            Self::Bool(flag) => Some(flag.into()),
            _ => None,
        }
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match *self {
            Self::Float(float) => Some(float),
            _ => self.as_int().map(|int| int as f64),
        }
    }

    /// An error unless the value is there.
    pub(crate) fn defined(&self) -> Result<&Self> {
        match self {
            Self::Undefined(why) => Err(Error::new(&**why)),
            _ => Ok(self),
        }
    }

    /// Whether a condition holds.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Int(int) => *int != 0,
            Self::Float(float) => *float != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.is_empty(),
            Self::Sequence(sequence) => !sequence.items.is_empty(),
            Self::Dict(dict) => !dict.pairs.is_empty(),
            Self::Object(Object::Loop(of)) => !of.items.items.is_empty(),
            Self::Iterator(_) | Self::Object(_) => true,
        }
    }

    /// `len`; characters of a string.
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Self::Undefined(_) => Some(0),
            Self::Text(text) | Self::Markup(text) => Some(text.chars().count()),
            Self::Sequence(sequence) => Some(sequence.items.len()),
            Self::Dict(dict) => Some(dict.pairs.len()),
            Self::Object(Object::Loop(of)) => Some(of.items.items.len()),
            _ => None,
        }
    }

    /// The values that a loop over this one takes; an iterator has none afterwards.
    pub(crate) fn items(&self) -> Result<Vec<Value>> {
        match self {
            Self::Undefined(_) => Ok(Vec::new()),
            Self::Text(text) => Ok(text.chars().map(|c| Self::text(c.to_string())).collect()),
            Self::Sequence(sequence) => Ok(sequence.items.clone()),
            Self::Iterator(iterator) => Ok(iterator.left.borrow_mut().by_ref().collect()),
            Self::Dict(dict) => Ok(dict.pairs.iter().map(|(key, _)| key.clone()).collect()),
            _ => Err(Error::new(format!("a value of type {} has no items", self.type_name()))),
        }
    }

    /// Returns to an iterator what a loop did not take of it.
    pub(crate) fn give_back(&self, left: std::vec::IntoIter<Value>) {
        if let Self::Iterator(iterator) = self {
            iterator.left.replace(left);
        }
    }

    /// The first of the items; an iterator has the others afterwards.
    pub(crate) fn first(&self) -> Result<Option<Value>> {
        let mut items = self.items()?.into_iter();
        let first = items.next();
        self.give_back(items);
        Ok(first)
    }

    pub(crate) fn is_iterable(&self) -> bool {
        matches!(
            self,
            Self::Undefined(_)
                | Self::Text(_)
                | Self::Markup(_)
                | Self::Sequence(_)
                | Self::Iterator(_)
                | Self::Dict(_)
                | Self::Object(Object::Loop(_))
        )
    }

    /// `str`: what `{{ … }}` prints.
    pub(crate) fn printed(&self) -> Result<Arc<str>> {
        match self {
            Self::Undefined(_) => Ok("".into()),
            Self::Text(text) | Self::Markup(text) => Ok(text.clone()),
            _ => Ok(self.repr()?.into()),
        }
    }

    /// `repr`: what is printed inside a list.
    pub(crate) fn repr(&self) -> Result<String> {
        let mut written = String::new();
        self.write_repr(&mut written)?;
        Ok(written)
    }

    fn write_repr(&self, out: &mut String) -> Result<()> {
        match self {
            Self::Undefined(_) => out.push_str("Undefined"),
            Self::None => out.push_str("None"),
            Self::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
            Self::Int(int) => out.push_str(&int.to_string()),
            Self::Float(float) => out.push_str(&text::float(*float)),
            Self::Text(text) => out.push_str(&text::quoted(text)),
            Self::Sequence(sequence) => {
                let items = &sequence.items;
                let (before, after) = match sequence.kind {
                    Kind::List => ("[", "]"),
                    Kind::Tuple if items.len() == 1 => ("(", ",)"),
                    Kind::Tuple => ("(", ")"),
                    Kind::Keys => ("dict_keys([", "])"),
                    Kind::Values => ("dict_values([", "])"),
                    Kind::Items => ("dict_items([", "])"),
                    Kind::Range => return self.cannot_be_printed(),
                };
                out.push_str(before);
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    item.write_repr(out)?;
                }
                out.push_str(after);
            }
            Self::Dict(dict) => {
                out.push('{');
                for (index, (key, value)) in dict.pairs.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    key.write_repr(out)?;
                    out.push_str(": ");
                    value.write_repr(out)?;
                }
                out.push('}');
            }
            // Python prints addresses of these, or names of its own classes.
            Self::Markup(_) | Self::Iterator(_) | Self::Object(_) => {
                return self.cannot_be_printed();
            }
        }
        Ok(())
    }

    fn cannot_be_printed(&self) -> Result<()> {
        Err(Error::new(format!("a value of type {} cannot be printed", self.type_name())))
    }

    /// `==`.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(a) | Self::Markup(a), Self::Text(b) | Self::Markup(b)) => a == b,
            (Self::Sequence(a), Self::Sequence(b)) => {
                let pairs = || a.items.iter().zip(&b.items);
                a.kind == b.kind
                    && a.items.len() == b.items.len()
                    && pairs().all(|(a, b)| a.equals(b))
            }
            (Self::Dict(a), Self::Dict(b)) => {
                a.pairs.len() == b.pairs.len()
                    && a.pairs
                        .iter()
                        .all(|(key, value)| b.get(key).is_some_and(|other| value.equals(other)))
            }
            (Self::Float(a), _) => other.as_float().is_some_and(|b| *a == b),
            (_, Self::Float(b)) => self.as_float().is_some_and(|a| a == *b),
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => self.is_same(other),
            },
        }
    }

    /// `is`: the very same object.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Sequence(a), Self::Sequence(b)) => Rc::ptr_eq(a, b),
            (Self::Iterator(a), Self::Iterator(b)) => Rc::ptr_eq(a, b),
            (Self::Dict(a), Self::Dict(b)) => Rc::ptr_eq(a, b),
            (Self::Object(Object::Function(a)), Self::Object(Object::Function(b))) => a == b,
            (Self::Object(Object::Macro(a)), Self::Object(Object::Macro(b))) => Rc::ptr_eq(a, b),
            (Self::Object(Object::Namespace(a)), Self::Object(Object::Namespace(b))) => {
                Rc::ptr_eq(a, b)
            }
            _ => false,
        }
    }

    /// `<` and its kin.
    pub(crate) fn compare(&self, other: &Self) -> Result<Option<Ordering>> {
        let (a, b) = (self.defined()?, other.defined()?);
        if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (a.as_float(), b.as_float()) {
            return Ok(a.partial_cmp(&b));
        }
        match (a, b) {
            (Self::Text(a), Self::Text(b)) => Ok(Some(a.cmp(b))),
            (Self::Sequence(a), Self::Sequence(b))
                if a.kind == b.kind && matches!(a.kind, Kind::List | Kind::Tuple) =>
            {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b) {
                        return a.compare(b);
                    }
                }
                Ok(Some(a.items.len().cmp(&b.items.len())))
            }
            _ => {
                let (a, b) = (a.type_name(), b.type_name());
                Err(Error::new(format!("values of types {a} and {b} have no order")))
            }
        }
    }

    /// `item in self`.
    pub(crate) fn contains(&self, item: &Self) -> Result<bool> {
        match self {
            Self::Text(text) => match item {
                Self::Text(part) => Ok(text.contains(&**part)),
                _ => Err(Error::new(format!(
                    "`in` looks for a string in a string, not for a value of type {}",
                    item.defined()?.type_name()
                ))),
            },
            Self::Dict(dict) => {
                item.check_key()?;
                Ok(dict.get(item).is_some())
            }
            Self::Undefined(_) | Self::Sequence(_) | Self::Iterator(_) => {
                let mut items = self.items()?.into_iter();
                let found = items.any(|found| found.equals(item));
                self.give_back(items);
                Ok(found)
            }
            _ => Err(Error::new(format!("`in` cannot look into type {}", self.type_name()))),
        }
    }

    fn check_key(&self) -> Result<()> {
        match self {
            Self::Dict(_) => {}
            Self::Sequence(sequence) if sequence.kind == Kind::List => {}
            Self::Sequence(sequence) if sequence.kind == Kind::Tuple => {
                return sequence.items.iter().try_for_each(Self::check_key);
            }
            _ => return Ok(()),
        }
        Err(Error::new(format!("a {} cannot be a key", self.type_name())))
    }
}

/// How deep a container of these values is nested.
fn nesting<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<usize> {
    let depth = |value: &Value| match value {
        Value::Sequence(sequence) => sequence.depth,
        Value::Dict(dict) => dict.depth,
        Value::Iterator(iterator) => iterator.depth,
        Value::Object(Object::Namespace(namespace)) => namespace.depth.get(),
        Value::Object(Object::Loop(of)) => of.items.depth,
        Value::Object(Object::Cycler(cycler)) => cycler.items.depth,
        _ => 0,
    };
    let depth = 1 + values.into_iter().map(depth).max().unwrap_or(0);
    if depth > MAX_DEPTH {
        return Err(Error::new("lists and dictionaries are nested too deeply"));
    }
    Ok(depth)
}

impl Sequence {
    pub(crate) fn new(kind: Kind, items: Vec<Value>) -> Result<Self> {
        let depth = nesting(&items)?;
        Ok(Self { kind, items, depth })
    }
}

impl Dict {
    pub(crate) fn get(&self, key: &Value) -> Option<&Value> {
        self.pairs.iter().find(|(found, _)| found.equals(key)).map(|(_, value)| value)
    }

    pub(crate) fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        key.check_key()?;
        self.depth = self.depth.max(nesting([&key, &value])?);
        match self.pairs.iter_mut().find(|(found, _)| found.equals(&key)) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key, value)),
        }
        Ok(())
    }
}

impl Namespace {
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let attributes = self.attributes.borrow();
        attributes.iter().find(|(found, _)| **found == *name).map(|(_, value)| value.clone())
    }

    pub(crate) fn set(&self, name: &Arc<str>, value: Value) -> Result<()> {
        if name.starts_with('_') {
            return Err(Error::new(format!("the namespace's attribute `{name}` begins with `_`")));
        }
        self.depth.set(self.depth.get().max(nesting([&value])?));
        let mut attributes = self.attributes.borrow_mut();
        match attributes.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = value,
            None => attributes.push((name.clone(), value)),
        }
        Ok(())
    }
}
