//! Chat templates as transformers renders them.
//!
//! A tokenizer's chat template is a program in Jinja, which transformers runs with Python's values: `None`
//! and `True` are printed as such, `%` formats a text, `.strip()` and `.rsplit()` are methods of strings.
//! This crate reads and runs that language, so that a prompt is the same text to the last byte.
//!
//! The language is that of `jinja2`'s sandbox of values that cannot change, with `trim_blocks`,
//! `lstrip_blocks`, `break` and `continue`, and with what transformers adds: `{% generation %}`, a `tojson`
//! that keeps keys in order and text as it is, `raise_exception` and `strftime_now`. The date of the latter
//! is the caller's: a prompt must not change from one day to the next. What is not supported is an error.
//!
//! ```
//! use coconut_jinja::{Date, Template, Value};
//!
//! let template = Template::parse("{{ names | tojson }} {{ none }}, {{ strftime_now('%d %b %Y') }}")?;
//! let names = Value::list(vec![Value::text("é"), Value::text("<a>")])?;
//! let text = template.render(&[("names", names)], "2024-07-26".parse::<Date>()?)?;
//! assert_eq!(text, r#"["é", "<a>"] None, 26 Jul 2024"#);
//! # Ok::<(), coconut_jinja::Error>(())
//! ```

mod access;
mod arguments;
mod ast;
mod date;
mod filters;
mod format;
mod functions;
mod interpreter;
mod json;
mod lexer;
mod methods;
mod ops;
mod parser;
mod strings;
mod tests;
mod text;
mod value;

pub use date::Date;
pub use value::Value;

/// Why a template cannot be read or rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", line.map_or(String::new(), |line| format!("line {line}: ")))]
pub struct Error {
    line: Option<usize>,
    message: String,
    raised: bool,
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into(), raised: false }
    }

    fn at(line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), ..Self::new(message) }
    }

    fn raised(message: impl Into<String>) -> Self {
        Self { raised: true, ..Self::new(message) }
    }

    /// The same error at a line, unless it has one.
    fn or_at(self, line: usize) -> Self {
        Self { line: self.line.or(Some(line)), ..self }
    }

    /// Whether the template itself refused what it was given, by `raise_exception`.
    pub fn is_raised(&self) -> bool {
        self.raised
    }
}

/// A template that was read.
#[derive(Debug)]
pub struct Template {
    body: ast::Body,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is not Jinja, and tags that ask for other templates.
    pub fn parse(source: &str) -> Result<Self> {
        Ok(Self { body: parser::parse(source)? })
    }

    /// Renders with variables by name, on a day.
    ///
    /// # Errors
    /// What the template raises, uses of what is undefined, and what is not supported; a template that does
    /// not come to an end, calls itself too often or makes too long a text.
    pub fn render(&self, variables: &[(&str, Value)], today: Date) -> Result<String> {
        interpreter::Interpreter::render(&self.body, variables, today)
    }
}
