//! Source to tokens: where tags begin and end, and which white space around them goes.

use std::sync::Arc;

use crate::{
    Error, Result,
    text::{escape, is_space},
};

/// One token and the line it begins on.
#[derive(Clone, Debug)]
pub struct Spanned {
    pub token: Token,
    pub line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// Text outside tags.
    Data(Arc<str>),
    /// `{{`
    PrintBegin,
    /// `}}`
    PrintEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    Name(Arc<str>),
    Text(Arc<str>),
    Int(i128),
    Float(f64),
    Op(&'static str),
}

/// The operators, longer ones first.
const OPERATORS: [&str; 27] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";", "!",
];

#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Print,
    Block,
    Comment,
}

/// Cuts a template into tokens, with `trim_blocks` and `lstrip_blocks` as transformers sets them.
pub fn tokenize(source: &str) -> Result<Vec<Spanned>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    // One line end at the very end belongs to the file and not to the text.
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { rest: source, line: 1, line_starts: true, tokens: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.text_and_tag()?;
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    /// Whether what was read last ended with a line end.
    line_starts: bool,
    tokens: Vec<Spanned>,
}

impl<'a> Lexer<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::at(self.line, message))
    }

    fn push(&mut self, token: Token) {
        self.tokens.push(Spanned { token, line: self.line });
    }

    /// Goes on by some bytes and returns them.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        self.line += taken.matches('\n').count();
        if let Some(last) = taken.chars().next_back() {
            self.line_starts = last == '\n';
        }
        taken
    }

    fn skip_spaces(&mut self) {
        let kept = self.rest.trim_start_matches(is_space).len();
        self.take(self.rest.len() - kept);
    }

    /// The text up to the next tag, then the tag.
    fn text_and_tag(&mut self) -> Result<()> {
        let tag_at = |(start, _): (usize, &str)| match self.rest.as_bytes().get(start + 1) {
            Some(b'{') => Some((start, Tag::Print)),
            Some(b'%') => Some((start, Tag::Block)),
            Some(b'#') => Some((start, Tag::Comment)),
            _ => None,
        };
        let Some((start, tag)) = self.rest.match_indices('{').find_map(tag_at) else {
            let text = self.take(self.rest.len());
            self.push(Token::Data(text.into()));
            return Ok(());
        };
        let sign = self.rest[start + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
        let line_starts = self.line_starts;
        let line = self.line;
        let text = self.take(start);
        let kept = self.strip_end(text, sign, tag, line_starts);
        if !kept.is_empty() {
            self.tokens.push(Spanned { token: Token::Data(kept.into()), line });
        }
        if tag == Tag::Block
            && let Some(raw) = raw_begin(self.rest)
        {
            self.take(raw);
            return self.raw();
        }
        self.take(2 + usize::from(sign.is_some()));
        match tag {
            Tag::Print => {
                self.push(Token::PrintBegin);
                self.expression(tag)
            }
            Tag::Block => {
                self.push(Token::BlockBegin);
                self.expression(tag)
            }
            Tag::Comment => match self.rest.find("#}") {
                Some(end) => {
                    let before = self.rest[..end].chars().next_back();
                    // `{#-#}` has its sign already.
                    let sign = before.filter(|sign| matches!(sign, '-' | '+'));
                    self.take(end + 2);
                    self.after_block(sign);
                    Ok(())
                }
                None => self.fail("a comment `{#` is not closed"),
            },
        }
    }

    /// What stays of the text before a tag.
    fn strip_end(&self, text: &'a str, sign: Option<char>, tag: Tag, line_starts: bool) -> &'a str {
        if sign == Some('-') {
            return text.trim_end_matches(is_space);
        }
        let line = text.rfind('\n').map_or(0, |end| end + 1);
        let alone = (line > 0 || line_starts) && text[line..].chars().all(is_space);
        if sign.is_none() && tag != Tag::Print && alone { &text[..line] } else { text }
    }

    /// White space after a block or a comment: all of it after `-`, one line end after no sign.
    fn after_block(&mut self, sign: Option<char>) {
        match sign {
            Some('-') => self.skip_spaces(),
            None if self.rest.starts_with('\n') => {
                self.take(1);
            }
            _ => {}
        }
    }

    /// The text of a raw block and its end.
    fn raw(&mut self) -> Result<()> {
        let mut from = 0;
        while let Some(found) = self.rest[from..].find("{%") {
            let start = from + found;
            let sign =
                self.rest[start + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let inside = &self.rest[start + 2 + usize::from(sign.is_some())..];
            let ended = inside.trim_start_matches(is_space).strip_prefix("endraw");
            let ended = ended.map(|after| after.trim_start_matches(is_space));
            let close = ended.and_then(|after| {
                [("+%}", Some('+')), ("-%}", Some('-')), ("%}", None)]
                    .into_iter()
                    .find_map(|(end, sign)| Some((after.strip_prefix(end)?, sign)))
            });
            if let Some((after, end_sign)) = close {
                let (line, line_starts) = (self.line, self.line_starts);
                let whole = self.rest.len() - after.len();
                let text = &self.rest[..start];
                let kept = self.strip_end(text, sign, Tag::Block, line_starts);
                self.take(whole);
                if !kept.is_empty() {
                    self.tokens.push(Spanned { token: Token::Data(kept.into()), line });
                }
                self.after_block(end_sign);
                return Ok(());
            }
            from = start + 2;
        }
        self.fail("a `{% raw %}` is not closed by `{% endraw %}`")
    }

    /// The tokens inside a tag, and its end.
    fn expression(&mut self, tag: Tag) -> Result<()> {
        let mut open = Vec::new();
        loop {
            if open.is_empty() && self.end_of_tag(tag) {
                return Ok(());
            }
            let Some(c) = self.rest.chars().next() else {
                return self.fail("the template ends inside a tag");
            };
            if is_space(c) {
                self.skip_spaces();
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphabetic() {
                let end = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric());
                let name = &self.rest[..end.unwrap_or(self.rest.len())];
                self.push(Token::Name(name.into()));
                self.take(name.len());
            } else if c == '"' || c == '\'' {
                self.string(c)?;
            } else {
                let Some(&op) = OPERATORS.iter().find(|op| self.rest.starts_with(**op)) else {
                    return self.fail(format!("unexpected character {c:?}"));
                };
                match op {
                    "(" | "[" | "{" => open.push(op),
                    ")" | "]" | "}" => {
                        let pair = open.pop().map(|open| [open, op].concat());
                        if !pair.is_some_and(|pair| matches!(&*pair, "()" | "[]" | "{}")) {
                            return self.fail(format!("unexpected `{op}`"));
                        }
                    }
                    _ => {}
                }
                self.push(Token::Op(op));
                self.take(op.len());
            }
        }
    }

    fn end_of_tag(&mut self, tag: Tag) -> bool {
        let ends: &[(&str, Option<char>)] = match tag {
            Tag::Print => &[("-}}", Some('-')), ("}}", Some('+'))],
            _ => &[("+%}", Some('+')), ("-%}", Some('-')), ("%}", None)],
        };
        let Some(&(end, sign)) = ends.iter().find(|(end, _)| self.rest.starts_with(end)) else {
            return false;
        };
        self.push(if tag == Tag::Print { Token::PrintEnd } else { Token::BlockEnd });
        self.take(end.len());
        self.after_block(sign);
        true
    }

    fn number(&mut self) -> Result<()> {
        let bytes = self.rest.as_bytes();
        let radix = match bytes.get(..2).map(<[u8]>::to_ascii_lowercase).as_deref() {
            Some(b"0b") => 2,
            Some(b"0o") => 8,
            Some(b"0x") => 16,
            _ => 10,
        };
        let run = |from: usize, radix: u32| {
            let is_digit = |c: char| c.is_digit(radix) || c == '_';
            from + self.rest[from..].find(|c| !is_digit(c)).unwrap_or(self.rest.len() - from)
        };
        let mut end = run(if radix == 10 { 0 } else { 2 }, radix);
        let mut float = false;
        let digit_at = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        // `a.0.1` takes two items; only a number that follows no dot has a fraction.
        let after_dot = matches!(self.tokens.last(), Some(last) if last.token == Token::Op("."));
        if radix == 10 && !after_dot {
            if bytes.get(end) == Some(&b'.') && digit_at(end + 1) {
                (end, float) = (run(end + 1, 10), true);
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                if digit_at(end + 1 + sign) {
                    (end, float) = (run(end + 1 + sign, 10), true);
                }
            }
        }
        let written = self.rest[..end].replace('_', "");
        let digits = if radix == 10 { &written } else { &written[2..] };
        let token = if float {
            written.parse().map(Token::Float).ok()
        } else {
            i128::from_str_radix(digits, radix).map(Token::Int).ok()
        };
        let Some(token) = token else {
            return self.fail(format!("the number `{written}` cannot be read"));
        };
        self.push(token);
        self.take(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let mut escaped = false;
        let end = self.rest[1..].find(|c| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { return self.fail("a string is not closed") };
        let content = &self.rest[1..end + 1];
        let text = unescape(content).map_err(|message| Error::at(self.line, message))?;
        self.push(Token::Text(text.into()));
        self.take(end + 2);
        Ok(())
    }
}

/// The length of `{% raw %}` with the white space that its sign removes, if the source begins with it.
fn raw_begin(source: &str) -> Option<usize> {
    let inside = source.strip_prefix("{%")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let inside = inside.trim_start_matches(is_space).strip_prefix("raw")?;
    let inside = inside.trim_start_matches(is_space);
    let after = match inside.strip_prefix("-%}") {
        Some(after) => after.trim_start_matches(is_space),
        None => inside.strip_prefix("%}")?,
    };
    Some(source.len() - after.len())
}

/// Python's escapes; an unknown one stays as it is written.
fn unescape(content: &str) -> Result<String, String> {
    let mut text = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(start) = rest.find('\\') {
        text.push_str(&rest[..start]);
        let mut chars = rest[start + 1..].chars();
        let Some(c) = chars.next() else { return Err("a string ends with `\\`".to_owned()) };
        rest = chars.as_str();
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => text.push(c),
            'a' => text.push('\x07'),
            'b' => text.push('\x08'),
            'f' => text.push('\x0c'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'v' => text.push('\x0b'),
            '0'..='7' => {
                let octal = |c: &char| ('0'..='7').contains(c);
                let digits: String =
                    std::iter::once(c).chain(rest.chars().take(2).take_while(octal)).collect();
                rest = &rest[digits.len() - 1..];
                text.extend(u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32));
            }
            'x' | 'u' | 'U' => {
                let width = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits = rest.get(..width).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                let Some(decoded) = code.and_then(char::from_u32) else {
                    return Err(format!("the escape `\\{c}` in a string names no character"));
                };
                text.push(decoded);
                rest = &rest[width..];
            }
            'N' => return Err("the escape `\\N{…}` is not supported".to_owned()),
            c if c.is_ascii() => text.extend(['\\', c]),
            // Jinja writes other characters as escapes first, and the backslash escapes theirs.
            c => text.push_str(&escape(c)),
        }
    }
    text.push_str(rest);
    Ok(text)
}
