//! Tokens to a template.

use std::sync::Arc;

use crate::{
    Error, Result,
    ast::{
        Arguments, Binary, Body, Call, Comparison, Expr, For, Macro, Stmt, StmtKind, Target, Uses,
    },
    lexer::{Spanned, Token, tokenize},
};

/// Levels of nesting, and operators in a row within one expression, that are still parsed: Python's own
/// compiler stops at about as many.
const MAX_DEPTH: usize = 90;
const MAX_STEPS: usize = 200;

pub fn parse(source: &str) -> Result<Body> {
    let tokens = tokenize(source)?;
    let mut parser = Parser { tokens, at: 0, depth: 0, steps: 0, uses: Uses::default() };
    let body = parser.body(&[])?;
    Ok(body)
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    depth: usize,
    /// Operators since the statement began.
    steps: usize,
    /// Names of the language that occurred since the innermost body began.
    uses: Uses,
}

impl Parser {
    // ---- Tokens -----------------------------------------------------------------------------------------------------

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|spanned| &spanned.token)
    }

    fn peek_at(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|spanned| &spanned.token)
    }

    fn line(&self) -> usize {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(1, |spanned| spanned.line)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::at(self.line(), message))
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        let found = match self.peek() {
            None => "the template ends".to_owned(),
            Some(Token::Data(_)) => "text begins".to_owned(),
            Some(Token::PrintBegin) => "found `{{`".to_owned(),
            Some(Token::PrintEnd) => "found `}}`".to_owned(),
            Some(Token::BlockBegin) => "found `{%`".to_owned(),
            Some(Token::BlockEnd) => "found `%}`".to_owned(),
            Some(Token::Name(name)) => format!("found `{name}`"),
            Some(Token::Text(text)) => format!("found {text:?}"),
            Some(Token::Int(number)) => format!("found `{number}`"),
            Some(Token::Float(number)) => format!("found `{number}`"),
            Some(Token::Op(op)) => format!("found `{op}`"),
        };
        self.fail(format!("{found} where {wanted} is expected"))
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if **found == *name)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(&format!("`{op}`")) }
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(&format!("`{name}`")) }
    }

    fn expect(&mut self, token: &Token, written: &str) -> Result<()> {
        if self.peek() == Some(token) {
            self.at += 1;
            Ok(())
        } else {
            self.unexpected(&format!("`{written}`"))
        }
    }

    fn name(&mut self) -> Result<Arc<str>> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return self.fail("is nested too deeply");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Applies `step` until it finds nothing more to add to `expr`.
    fn chain(
        &mut self,
        mut expr: Expr,
        mut step: impl FnMut(&mut Self, Expr) -> Result<(Expr, bool)>,
    ) -> Result<Expr> {
        loop {
            let more;
            (expr, more) = step(self, expr)?;
            if !more {
                return Ok(expr);
            }
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return self.fail("has too long an expression");
            }
        }
    }

    // ---- Statements -------------------------------------------------------------------------------------------------

    /// Statements up to a block that begins with one of `ends`, whose name is then the next token.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        let mut body = Body::new();
        while let Some(token) = self.peek().cloned() {
            let line = self.line();
            self.steps = 0;
            match token {
                Token::Data(text) => {
                    self.at += 1;
                    body.push(Stmt { line, kind: StmtKind::Text(text) });
                }
                Token::PrintBegin => {
                    self.at += 1;
                    let expr = self.tuple(true, &[])?;
                    self.expect(&Token::PrintEnd, "}}")?;
                    body.push(Stmt { line, kind: StmtKind::Print(expr) });
                }
                Token::BlockBegin => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let line = self.line();
                    if self.skip_name("print") {
                        self.print(line, &mut body)?;
                    } else {
                        let kind = self.nested(|parser| parser.statement(ends))?;
                        body.push(Stmt { line, kind });
                    }
                    self.expect(&Token::BlockEnd, "%}")?;
                }
                _ => return self.unexpected("text or a tag"),
            }
        }
        if ends.is_empty() { Ok(body) } else { self.unexpected(&format!("`{{% {} %}}`", ends[0])) }
    }

    /// The rest of an opening tag, a body, and the name that ends it.
    fn block(&mut self, ends: &[&str]) -> Result<Body> {
        self.skip_op(":");
        self.expect(&Token::BlockEnd, "%}")?;
        self.body(ends)
    }

    /// A body that one name ends.
    fn whole_block(&mut self, end: &str) -> Result<Body> {
        let body = self.block(&[end])?;
        self.expect_name(end)?;
        Ok(body)
    }

    fn print(&mut self, line: usize, body: &mut Body) -> Result<()> {
        while self.peek() != Some(&Token::BlockEnd) {
            let expr = self.expression()?;
            body.push(Stmt { line, kind: StmtKind::Print(expr) });
            if self.peek() != Some(&Token::BlockEnd) {
                self.expect_op(",")?;
            }
        }
        Ok(())
    }

    fn statement(&mut self, ends: &[&str]) -> Result<StmtKind> {
        let tag = self.name()?;
        match &*tag {
            "set" => self.set(),
            "for" => self.for_loop(),
            "if" => self.conditional(),
            "with" => self.with(),
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                Ok(StmtKind::Macro(self.macro_body(name, parameters, "endmacro")?))
            }
            "call" => self.call_block(),
            "filter" => {
                let filters = self.filters(true)?;
                Ok(StmtKind::FilterBlock(filters, self.whole_block("endfilter")?))
            }
            // A mark for losses that cover the assistant's words alone; the text is that of its body.
            "generation" => Ok(StmtKind::Scope(self.whole_block("endgeneration")?)),
            "block" => {
                let name = self.name()?;
                let _ = self.skip_name("scoped");
                let _ = self.skip_name("required");
                let body = self.whole_block("endblock")?;
                let _ = self.skip_name(&name);
                Ok(StmtKind::Scope(body))
            }
            "autoescape" => match self.expression()? {
                Expr::Bool(false) => Ok(StmtKind::Scope(self.whole_block("endautoescape")?)),
                _ => self.fail("`autoescape` other than `false` is not supported"),
            },
            "break" => Ok(StmtKind::Break),
            "continue" => Ok(StmtKind::Continue),
            "extends" | "include" | "import" | "from" => self.fail(format!(
                "`{tag}` asks for another template, and a chat template stands alone"
            )),
            _ if ends.is_empty() => self.fail(format!("unknown tag `{tag}`")),
            _ => self.fail(format!("unknown tag `{tag}`, while `{}` is still to come", ends[0])),
        }
    }

    fn set(&mut self) -> Result<StmtKind> {
        let target = self.target(&[])?;
        if self.skip_op("=") {
            return Ok(StmtKind::Set(target, self.tuple(true, &[])?));
        }
        let filters = self.filters(false)?;
        Ok(StmtKind::SetBlock(target, filters, self.whole_block("endset")?))
    }

    fn for_loop(&mut self) -> Result<StmtKind> {
        let target = self.target(&["in"])?;
        self.expect_name("in")?;
        let items = self.tuple(false, &["recursive"])?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        let before = std::mem::take(&mut self.uses.loop_);
        let body = self.block(&["endfor", "else"])?;
        let uses_loop = recursive || self.uses.loop_;
        let otherwise = if self.skip_name("else") { self.block(&["endfor"])? } else { Vec::new() };
        self.expect_name("endfor")?;
        self.uses.loop_ |= before;
        let parts = For { target, items, condition, recursive, uses_loop, body, otherwise };
        Ok(StmtKind::For(Arc::new(parts)))
    }

    fn conditional(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false, &[])?;
            branches.push((condition, self.block(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise =
                if self.skip_name("else") { self.block(&["endif"])? } else { Vec::new() };
            self.expect_name("endif")?;
            return Ok(StmtKind::If(branches, otherwise));
        }
    }

    fn with(&mut self) -> Result<StmtKind> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Some(Token::BlockEnd)) {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(&[])?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StmtKind::With(values, self.whole_block("endwith")?))
    }

    fn parameters(&mut self) -> Result<Vec<(Arc<str>, Option<Expr>)>> {
        self.expect_op("(")?;
        let mut parameters: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        while !self.is_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, before)| before.is_some()) {
                return self
                    .fail(format!("parameter `{name}` needs a default, as those before it"));
            }
            parameters.push((name, default));
        }
        self.expect_op(")")?;
        Ok(parameters)
    }

    fn macro_body(
        &mut self,
        name: Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Result<Arc<Macro>> {
        let before = std::mem::take(&mut self.uses);
        let body = self.whole_block(end)?;
        let uses = self.uses;
        self.uses = Uses {
            caller: before.caller || uses.caller,
            varargs: before.varargs || uses.varargs,
            kwargs: before.kwargs || uses.kwargs,
            loop_: before.loop_ || uses.loop_,
        };
        Ok(Arc::new(Macro { name, parameters, body, uses }))
    }

    fn call_block(&mut self) -> Result<StmtKind> {
        let parameters = if self.is_op("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(call, Expr::Call(..)) {
            return self.fail("`call` is not followed by a call");
        }
        Ok(StmtKind::CallBlock(self.macro_body("caller".into(), parameters, "endcall")?, call))
    }

    // ---- Expressions ------------------------------------------------------------------------------------------------

    fn target(&mut self, ends: &[&str]) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.ends_tuple(ends) {
                break;
            }
            targets.push(self.one_target()?);
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match targets.pop() {
            Some(only) if !is_tuple && targets.is_empty() => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => self.unexpected("a name to assign to"),
        }
    }

    fn one_target(&mut self) -> Result<Target> {
        if self.skip_op("(") {
            let target = self.nested(|parser| parser.target(&[]))?;
            self.expect_op(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("`{name}` cannot be assigned to"));
        }
        if self.skip_op(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }

    fn ends_tuple(&self, ends: &[&str]) -> bool {
        matches!(self.peek(), None | Some(Token::PrintEnd | Token::BlockEnd))
            || self.is_op(")")
            || ends.iter().any(|end| self.is_name(end))
    }

    /// An expression, or several between commas; `conditional` allows `a if b else c` without parentheses.
    fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        while !self.ends_tuple(ends) {
            items.push(if conditional { self.expression()? } else { self.nested(Self::or)? });
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Expr::Tuple(items))
            }
            None => self.unexpected("an expression"),
        }
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let value = parser.or()?;
            parser.chain(value, |parser, value| {
                if !parser.skip_name("if") {
                    return Ok((value, false));
                }
                let condition = parser.or()?;
                let otherwise = match parser.skip_name("else") {
                    true => Some(Box::new(parser.expression()?)),
                    false => None,
                };
                Ok((Expr::Conditional(Box::new([condition, value]), otherwise), true))
            })
        })
    }

    fn or(&mut self) -> Result<Expr> {
        let left = self.and()?;
        self.chain(left, |parser, left| {
            if !parser.skip_name("or") {
                return Ok((left, false));
            }
            Ok((Expr::Or(Box::new(left), Box::new(parser.and()?)), true))
        })
    }

    fn and(&mut self) -> Result<Expr> {
        let left = self.not()?;
        self.chain(left, |parser, left| {
            if !parser.skip_name("and") {
                return Ok((left, false));
            }
            Ok((Expr::And(Box::new(left), Box::new(parser.not()?)), true))
        })
    }

    fn not(&mut self) -> Result<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut others = Vec::new();
        while let Some(comparison) = self.comparison_operator() {
            others.push((comparison, self.sum()?));
        }
        Ok(if others.is_empty() { first } else { Expr::Compare(Box::new(first), others) })
    }

    fn comparison_operator(&mut self) -> Option<Comparison> {
        let (comparison, width) = match self.peek()? {
            Token::Op("==") => (Comparison::Equal, 1),
            Token::Op("!=") => (Comparison::NotEqual, 1),
            Token::Op("<") => (Comparison::Less, 1),
            Token::Op("<=") => (Comparison::LessEqual, 1),
            Token::Op(">") => (Comparison::Greater, 1),
            Token::Op(">=") => (Comparison::GreaterEqual, 1),
            Token::Name(name) if **name == *"in" => (Comparison::In, 1),
            Token::Name(name) if **name == *"not" => match self.peek_at(1)? {
                Token::Name(next) if **next == *"in" => (Comparison::NotIn, 2),
                _ => return None,
            },
            _ => return None,
        };
        self.at += width;
        Some(comparison)
    }

    /// Operators of one rank, from the left.
    fn binary(
        &mut self,
        operators: &[(&str, Binary)],
        operand: impl Fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        let left = operand(self)?;
        self.chain(left, |parser, left| {
            let found = operators.iter().find(|(written, _)| parser.skip_op(written));
            let Some(&(_, operator)) = found else { return Ok((left, false)) };
            Ok((Expr::Binary(operator, Box::new(left), Box::new(operand(parser)?)), true))
        })
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(&[("+", Binary::Add), ("-", Binary::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_op("~") {
            operands.push(self.product()?);
        }
        Ok(Expr::Concat(operands))
    }

    fn product(&mut self) -> Result<Expr> {
        let operators =
            [("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)];
        self.binary(&operators, |parser| {
            parser.binary(&[("**", Binary::Pow)], |parser| parser.unary(true))
        })
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let expr = if self.skip_op("-") {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip_op("+") {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let expr = self.postfix(expr)?;
        if with_filters { self.filters_and_tests(expr) } else { Ok(expr) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let Some(token) = self.peek().cloned() else { return self.unexpected("an expression") };
        self.at += 1;
        Ok(match token {
            Token::Name(name) => match &*name {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => {
                    match &*name {
                        "caller" => self.uses.caller = true,
                        "varargs" => self.uses.varargs = true,
                        "kwargs" => self.uses.kwargs = true,
                        "loop" => self.uses.loop_ = true,
                        _ => {}
                    }
                    Expr::Name(name)
                }
            },
            Token::Text(text) => {
                let mut whole = text;
                while let Some(Token::Text(more)) = self.peek() {
                    whole = [&*whole, &**more].concat().into();
                    self.at += 1;
                }
                Expr::Text(whole)
            }
            Token::Int(number) => Expr::Int(number),
            Token::Float(number) => Expr::Float(number),
            Token::Op("(") => {
                let inner = match self.is_op(")") {
                    true => Expr::Tuple(Vec::new()),
                    false => self.tuple(true, &[])?,
                };
                self.expect_op(")")?;
                inner
            }
            Token::Op("[") => Expr::List(self.items("]", Self::expression)?),
            Token::Op("{") => Expr::Dict(self.items("}", |parser| {
                let key = parser.expression()?;
                parser.expect_op(":")?;
                Ok((key, parser.expression()?))
            })?),
            _ => {
                self.at -= 1;
                return self.unexpected("an expression");
            }
        })
    }

    /// Items between commas, up to and with a closing bracket; a last comma is allowed.
    fn items<T>(
        &mut self,
        end: &str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.skip_op(end) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn postfix(&mut self, expr: Expr) -> Result<Expr> {
        self.chain(expr, |parser, expr| {
            if parser.skip_op(".") {
                if let Some(&Token::Int(index)) = parser.peek() {
                    parser.at += 1;
                    return Ok((Expr::Item(Box::new(expr), Box::new(Expr::Int(index))), true));
                }
                return Ok((Expr::Attribute(Box::new(expr), parser.name()?), true));
            }
            if parser.skip_op("[") {
                let mut index = parser.index()?;
                if parser.is_op(",") {
                    let mut indices = vec![index];
                    while parser.skip_op(",") {
                        indices.push(parser.index()?);
                    }
                    index = Expr::Tuple(indices);
                }
                parser.expect_op("]")?;
                return Ok((Expr::Item(Box::new(expr), Box::new(index)), true));
            }
            if parser.is_op("(") {
                return Ok((Expr::Call(Box::new(expr), parser.arguments()?), true));
            }
            Ok((expr, false))
        })
    }

    fn filters_and_tests(&mut self, expr: Expr) -> Result<Expr> {
        self.chain(expr, |parser, expr| {
            if parser.skip_op("|") {
                return Ok((Expr::Filter(Box::new(expr), parser.filter()?), true));
            }
            if parser.skip_name("is") {
                return Ok((parser.test(expr)?, true));
            }
            if parser.is_op("(") {
                return Ok((Expr::Call(Box::new(expr), parser.arguments()?), true));
            }
            Ok((expr, false))
        })
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.name()?;
        while self.skip_op(".") {
            name = [&*name, ".", &*self.name()?].concat().into();
        }
        Ok(name)
    }

    fn filter(&mut self) -> Result<Call> {
        let name = self.dotted_name()?;
        let arguments = if self.is_op("(") { self.arguments()? } else { Arguments::default() };
        Ok(Call { name, arguments })
    }

    /// The filters of a block; the first one follows a `|` unless `bare`.
    fn filters(&mut self, bare: bool) -> Result<Vec<Call>> {
        let mut filters = Vec::new();
        if bare {
            filters.push(self.filter()?);
        }
        while self.skip_op("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    fn test(&mut self, expr: Expr) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let ends = ["else", "or", "and"].iter().any(|end| self.is_name(end));
        let arguments = match self.peek() {
            Some(Token::Op("(")) => self.arguments()?,
            Some(Token::Name(name)) if **name == *"is" => {
                return self.fail("tests with `is` cannot follow one another");
            }
            Some(
                Token::Name(_)
                | Token::Text(_)
                | Token::Int(_)
                | Token::Float(_)
                | Token::Op("[" | "{"),
            ) if !ends => {
                let argument = self.nested(|parser| {
                    let argument = parser.primary()?;
                    parser.postfix(argument)
                })?;
                Arguments { positional: vec![argument], ..Arguments::default() }
            }
            _ => Arguments::default(),
        };
        let test = Expr::Test(Box::new(expr), Call { name, arguments });
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    /// What stands between brackets behind a value: an index or a slice.
    fn index(&mut self) -> Result<Expr> {
        let mut parts = [None, None, None];
        for (position, part) in parts.iter_mut().enumerate() {
            let absent = self.is_op(":") || self.is_op("]") || self.is_op(",");
            if !absent {
                *part = Some(self.expression()?);
            }
            if !self.skip_op(":") {
                if position == 0 {
                    return match parts {
                        [Some(index), ..] => Ok(index),
                        _ => self.unexpected("an index"),
                    };
                }
                break;
            }
        }
        Ok(Expr::Slice(Box::new(parts)))
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.expect_op("(")?;
        let mut found = Arguments::default();
        let mut first = true;
        while !self.skip_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.skip_op(")") {
                    break;
                }
            }
            first = false;
            let named = matches!(self.peek_at(1), Some(Token::Op("=")));
            if self.skip_op("*") && found.rest.is_none() && found.named_rest.is_none() {
                found.rest = Some(Box::new(self.expression()?));
            } else if self.skip_op("**") && found.named_rest.is_none() {
                found.named_rest = Some(Box::new(self.expression()?));
            } else if let (Some(Token::Name(name)), true) = (self.peek().cloned(), named) {
                if found.named_rest.is_some() {
                    return self.fail("an argument stands behind `**`");
                }
                self.at += 2;
                let value = self.expression()?;
                found.named.push((name, value));
            } else if found.rest.is_none() && found.named_rest.is_none() && found.named.is_empty() {
                let value = self.expression()?;
                found.positional.push(value);
            } else {
                return self.fail("an argument without a name stands behind one with a name");
            }
        }
        Ok(found)
    }
}
