//! Runs a parsed template.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use crate::{
    Date, Error, Result, access,
    arguments::{Given, required, text_or},
    ast::{Arguments, Call, Comparison, Expr, For, Macro as Definition, Stmt, StmtKind, Target},
    filters, functions, methods, ops, tests,
    value::{Cycler, Function, Joiner, Kind, Loop, Macro, Namespace, Object, Sequence, Value},
};

/// What one rendering may use: steps and characters together, levels of nesting, objects that change.
const MAX_STEPS: u64 = 5_000_000;
const MAX_DEPTH: usize = 180;
const MAX_OBJECTS: usize = 1000;

/// Names and their values, and the names around them.
#[derive(Debug, Default)]
pub struct Scope {
    names: RefCell<Vec<(Arc<str>, Value)>>,
    around: Option<Rc<Scope>>,
}

impl Scope {
    fn inside(around: &Rc<Scope>) -> Rc<Self> {
        Rc::new(Self { names: RefCell::default(), around: Some(around.clone()) })
    }

    fn get(&self, name: &str) -> Option<Value> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            let names = here.names.borrow();
            if let Some((_, value)) = names.iter().find(|(found, _)| **found == *name) {
                return Some(value.clone());
            }
            scope = here.around.as_deref();
        }
        None
    }

    fn set(&self, name: &Arc<str>, value: Value) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = value,
            None => names.push((name.clone(), value)),
        }
    }
}

/// Whether statements go on, or a loop is cut short.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// One rendering.
pub struct Interpreter<'a> {
    variables: &'a [(&'a str, Value)],
    today: Date,
    steps: Cell<u64>,
    depth: Cell<usize>,
    objects: Cell<usize>,
    /// Scopes that macros keep, emptied at the end so that the two do not keep each other.
    kept: RefCell<Vec<Rc<Scope>>>,
}

impl<'a> Interpreter<'a> {
    pub fn render(body: &[Stmt], variables: &'a [(&'a str, Value)], today: Date) -> Result<String> {
        let run = Self {
            variables,
            today,
            steps: Cell::new(0),
            depth: Cell::new(0),
            objects: Cell::new(0),
            kept: RefCell::default(),
        };
        let mut out = String::new();
        let outcome = run.body(body, &Rc::default(), &mut out);
        for scope in run.kept.take() {
            scope.names.take();
        }
        outcome.map(|_| out)
    }

    /// Counts steps, or characters that were made.
    pub fn spend(&self, steps: usize) -> Result<()> {
        self.steps.set(self.steps.get().saturating_add(steps as u64));
        if self.steps.get() > MAX_STEPS {
            return Err(Error::new(
                "the template does not come to an end, or makes too long a text",
            ));
        }
        Ok(())
    }

    /// Goes one level deeper; [`leave`](Self::leave) comes back.
    fn enter(&self) -> Result<()> {
        if self.depth.get() == MAX_DEPTH {
            return Err(Error::new("the template calls itself too often"));
        }
        self.depth.set(self.depth.get() + 1);
        Ok(())
    }

    fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }

    /// An object that changes, of which there may not be too many.
    fn object(&self, object: Object) -> Result<Value> {
        self.objects.set(self.objects.get() + 1);
        if self.objects.get() > MAX_OBJECTS {
            return Err(Error::new("the template makes too many namespaces"));
        }
        Ok(Value::Object(object))
    }

    // ---- Statements -------------------------------------------------------------------------------------------------

    fn body(&self, body: &[Stmt], scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        for statement in body {
            self.enter()?;
            let flow = self.statement(&statement.kind, scope, out);
            self.leave();
            let flow = flow.map_err(|error| error.or_at(statement.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// The text that a body makes.
    fn captured(&self, body: &[Stmt], scope: &Rc<Scope>) -> Result<Arc<str>> {
        let mut out = String::new();
        self.body(body, scope, &mut out)?;
        Ok(out.into())
    }

    fn statement(&self, kind: &StmtKind, scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        self.spend(1)?;
        match kind {
            StmtKind::Text(text) => self.write(text, out)?,
            StmtKind::Print(expr) => self.print(&self.eval(expr, scope)?, out)?,
            StmtKind::Set(target, expr) => self.assign(target, self.eval(expr, scope)?, scope)?,
            StmtKind::SetBlock(target, filters, body) => {
                self.assign(target, self.block_text(filters, body, scope)?, scope)?;
            }
            StmtKind::For(parts) => {
                return self.for_loop(parts, self.eval(&parts.items, scope)?, scope, 0, out);
            }
            StmtKind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition, scope)?.is_true() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            StmtKind::With(values, body) => {
                let inside = Scope::inside(scope);
                for (target, expr) in values {
                    self.assign(target, self.eval(expr, scope)?, &inside)?;
                }
                return self.body(body, &inside, out);
            }
            StmtKind::Scope(body) => return self.body(body, &Scope::inside(scope), out),
            StmtKind::Macro(definition) => {
                scope.set(&definition.name, self.macro_value(definition, scope));
            }
            StmtKind::CallBlock(definition, call) => {
                self.print(&self.call_block(definition, call, scope)?, out)?;
            }
            StmtKind::FilterBlock(filters, body) => {
                self.print(&self.block_text(filters, body, scope)?, out)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn print(&self, value: &Value, out: &mut String) -> Result<()> {
        self.write(&value.printed()?, out)
    }

    /// A body's text after filters.
    fn block_text(&self, filters: &[Call], body: &[Stmt], scope: &Rc<Scope>) -> Result<Value> {
        let text = self.captured(body, &Scope::inside(scope))?;
        self.filtered(Value::Text(text), filters, scope)
    }

    /// What the called macro makes of the body that it is given as its `caller`.
    fn call_block(
        &self,
        definition: &Arc<Definition>,
        call: &Expr,
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let caller = self.macro_value(definition, scope);
        let Expr::Call(callee, arguments) = call else {
            return Err(Error::new("`call` is not followed by a call"));
        };
        let callee = self.eval(callee, scope)?;
        let mut given = self.given(arguments, scope)?;
        given.named.push(("caller".into(), caller));
        self.call(&callee, given)
    }

    fn write(&self, text: &str, out: &mut String) -> Result<()> {
        self.spend(text.len())?;
        out.push_str(text);
        Ok(())
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(of, name) => match self.name(of, scope)?.defined()? {
                Value::Object(Object::Namespace(namespace)) => namespace.set(name, value)?,
                _ => return Err(Error::new(format!("`{of}` is no namespace"))),
            },
            Target::Tuple(targets) => {
                let values = value.defined()?.items()?;
                if values.len() != targets.len() {
                    let (names, values) = (targets.len(), values.len());
                    return Err(Error::new(format!(
                        "{values} values are assigned to {names} names"
                    )));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
        }
        Ok(())
    }

    fn for_loop(
        &self,
        parts: &Arc<For>,
        items: Value,
        scope: &Rc<Scope>,
        depth0: usize,
        out: &mut String,
    ) -> Result<Flow> {
        let source = items;
        let items = source.items()?;
        let passes = |item: &Value| -> Result<bool> {
            let Some(condition) = &parts.condition else { return Ok(true) };
            let inside = Scope::inside(scope);
            self.assign(&parts.target, item.clone(), &inside)?;
            Ok(self.eval(condition, &inside)?.is_true())
        };
        let mut any = false;
        let mut iteration = |item: Value, of: Option<&Rc<Loop>>, out: &mut String| {
            self.spend(1)?;
            any = true;
            let inside = Scope::inside(scope);
            if let Some(of) = of {
                inside.set(&"loop".into(), Value::Object(Object::Loop(of.clone())));
            }
            self.assign(&parts.target, item, &inside)?;
            self.body(&parts.body, &inside, out)
        };
        if parts.uses_loop {
            let mut kept = Vec::new();
            for item in items {
                if passes(&item)? {
                    kept.push(item);
                }
            }
            let of = Rc::new(Loop {
                items: Rc::new(Sequence::new(Kind::List, kept.clone())?),
                index0: Cell::new(0),
                depth0,
                changed: RefCell::default(),
                again: parts.recursive.then(|| (parts.clone(), scope.clone())),
            });
            for (index, item) in kept.into_iter().enumerate() {
                of.index0.set(index);
                if iteration(item, Some(&of), out)? == Flow::Break {
                    break;
                }
            }
        } else {
            // Conditions are asked one by one: the body may change what they depend on.
            let mut items = items.into_iter();
            while let Some(item) = items.next() {
                if passes(&item)? && iteration(item, None, out)? == Flow::Break {
                    source.give_back(items);
                    break;
                }
            }
        }
        if any { Ok(Flow::On) } else { self.body(&parts.otherwise, &Scope::inside(scope), out) }
    }

    // ---- Calls ------------------------------------------------------------------------------------------------------

    fn macro_value(&self, definition: &Arc<Definition>, scope: &Rc<Scope>) -> Value {
        self.kept.borrow_mut().push(scope.clone());
        let of = Macro { definition: definition.clone(), scope: scope.clone() };
        Value::Object(Object::Macro(Rc::new(of)))
    }

    fn given(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Given> {
        let mut given = Given::default();
        for expr in &arguments.positional {
            given.positional.push(self.eval(expr, scope)?);
        }
        for (name, expr) in &arguments.named {
            given.named.push((name.clone(), self.eval(expr, scope)?));
        }
        if let Some(rest) = &arguments.rest {
            given.positional.extend(self.eval(rest, scope)?.items()?);
        }
        if let Some(rest) = &arguments.named_rest {
            let Value::Dict(dict) = self.eval(rest, scope)? else {
                return Err(Error::new("`**` takes a dictionary"));
            };
            for (name, value) in &dict.pairs {
                given.named.push((text_or(Some(name.clone()), "")?, value.clone()));
            }
        }
        Ok(given)
    }

    fn filtered(&self, value: Value, filters: &[Call], scope: &Rc<Scope>) -> Result<Value> {
        filters.iter().try_fold(value, |value, filter| {
            let given = self.given(&filter.arguments, scope)?;
            filters::apply(self, &filter.name, value, given)
        })
    }

    fn call(&self, callee: &Value, given: Given) -> Result<Value> {
        match callee.defined()? {
            Value::Object(Object::Function(function)) => self.function(*function, given),
            Value::Object(Object::Method(method)) => {
                let (receiver, name) = &**method;
                methods::call(receiver, name, given)
            }
            Value::Object(Object::Macro(of)) => self.macro_call(of, given).map(Value::Text),
            Value::Object(Object::Joiner(joiner)) => {
                let text = if joiner.used.replace(true) { &*joiner.separator } else { "" };
                Ok(Value::text(text))
            }
            Value::Object(Object::Loop(of)) => {
                let Some((parts, scope)) = &of.again else {
                    return Err(Error::new("`loop` is called, and its loop is not `recursive`"));
                };
                let [items] = given.bind("loop", ["iterable"])?;
                let items = required(items, "loop", "iterable")?;
                let mut out = String::new();
                self.for_loop(parts, items, scope, of.depth0 + 1, &mut out)?;
                Ok(Value::text(out))
            }
            other => {
                let kind = other.type_name();
                Err(Error::new(format!(
                    "a value of type {kind} is called as if it were a function"
                )))
            }
        }
    }

    fn macro_call(&self, of: &Macro, given: Given) -> Result<Arc<str>> {
        let Definition { name, parameters, body, uses } = &*of.definition;
        let inside = Scope::inside(&of.scope);
        let Given { positional, mut named } = given;
        let mut positional = positional.into_iter();
        let mut take_named = |wanted: &str| {
            let at = named.iter().position(|(name, _)| **name == *wanted)?;
            Some(named.remove(at).1)
        };
        let mut defaults = Vec::new();
        let mut takes_caller = false;
        for (parameter, default) in parameters {
            takes_caller |= **parameter == *"caller";
            match positional.next().or_else(|| take_named(parameter)) {
                Some(value) => inside.set(parameter, value),
                None => {
                    let why = format!("the parameter `{parameter}` of `{name}` was not given");
                    inside.set(parameter, Value::undefined(why));
                    defaults.extend(default.as_ref().map(|default| (parameter, default)));
                }
            }
        }
        if uses.caller && !takes_caller {
            let caller = take_named("caller");
            let absent = || Value::undefined("there is no caller");
            inside.set(&"caller".into(), caller.unwrap_or_else(absent));
        }
        let rest: Vec<Value> = positional.collect();
        if uses.varargs {
            inside.set(&"varargs".into(), Value::sequence(Kind::Tuple, rest)?);
        } else if !rest.is_empty() {
            let most = parameters.len();
            return Err(Error::new(format!("the macro `{name}` takes at most {most} arguments")));
        }
        if uses.kwargs {
            let named = named.drain(..).map(|(name, value)| (Value::Text(name), value)).collect();
            inside.set(&"kwargs".into(), Value::dict(named)?);
        } else if let Some((extra, _)) = named.first() {
            return Err(Error::new(format!("the macro `{name}` takes no argument `{extra}`")));
        }
        for (parameter, default) in defaults {
            inside.set(parameter, self.eval(default, &inside)?);
        }
        self.captured(body, &inside)
    }

    fn function(&self, function: Function, given: Given) -> Result<Value> {
        match function {
            Function::Range => {
                let numbers = functions::range(given)?;
                self.spend(numbers.length().unwrap_or(0))?;
                Ok(numbers)
            }
            Function::Dict => functions::dict(given),
            Function::Namespace => {
                let namespace = Namespace::default();
                if let Value::Dict(dict) = functions::dict(given)? {
                    for (name, value) in &dict.pairs {
                        namespace.set(&text_or(Some(name.clone()), "")?, value.clone())?;
                    }
                }
                self.object(Object::Namespace(Rc::new(namespace)))
            }
            Function::Cycler => {
                if given.positional.is_empty() {
                    return Err(Error::new("`cycler` is given nothing"));
                }
                let items = Rc::new(Sequence::new(Kind::Tuple, given.positional)?);
                self.object(Object::Cycler(Rc::new(Cycler { items, at: Cell::new(0) })))
            }
            Function::Joiner => {
                let [separator] = given.bind("joiner", ["sep"])?;
                let separator = text_or(separator, ", ")?;
                self.object(Object::Joiner(Rc::new(Joiner { separator, used: Cell::new(false) })))
            }
            Function::RaiseException => {
                let [message] = given.bind("raise_exception", ["message"])?;
                let message = required(message, "raise_exception", "message")?;
                Err(Error::raised(&*message.printed()?))
            }
            Function::StrftimeNow => {
                let [format] = given.bind("strftime_now", ["format"])?;
                let format = required(format, "strftime_now", "format")?;
                self.today.strftime(&text_or(Some(format), "")?).map(Value::text)
            }
        }
    }

    // ---- Expressions ------------------------------------------------------------------------------------------------

    fn name(&self, name: &str, scope: &Rc<Scope>) -> Result<Value> {
        let variable = || self.variables.iter().find(|(known, _)| *known == name);
        let found = scope.get(name).or_else(|| variable().map(|(_, value)| value.clone()));
        match found.or_else(|| access::global(name)) {
            Some(value) => Ok(value),
            None if matches!(name, "self" | "lipsum") => {
                Err(Error::new(format!("`{name}` is not supported")))
            }
            None => Ok(Value::undefined(format!("`{name}` is undefined"))),
        }
    }

    fn eval(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.spend(1)?;
        self.enter()?;
        let value = self.value(expr, scope);
        self.leave();
        let value = value?;
        match &value {
            // Texts that grow count, so that they cannot fill the memory.
            Value::Text(text) if !matches!(expr, Expr::Name(_) | Expr::Text(_)) => {
                self.spend(text.len() / 16)?;
            }
            Value::Sequence(of) if !matches!(expr, Expr::Name(_)) => {
                self.spend(of.items.len())?;
            }
            _ => {}
        }
        Ok(value)
    }

    fn all(&self, exprs: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        exprs.iter().map(|expr| self.eval(expr, scope)).collect()
    }

    fn value(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        match expr {
            Expr::None => Ok(Value::None),
            Expr::Bool(flag) => Ok(Value::Bool(*flag)),
            Expr::Int(int) => Ok(Value::Int(*int)),
            Expr::Float(float) => Ok(Value::Float(*float)),
            Expr::Text(text) => Ok(Value::Text(text.clone())),
            Expr::Name(name) => self.name(name, scope),
            Expr::List(items) => Value::list(self.all(items, scope)?),
            Expr::Tuple(items) => Value::sequence(Kind::Tuple, self.all(items, scope)?),
            Expr::Dict(pairs) => self.dict(pairs, scope),
            Expr::Attribute(of, name) => access::attribute(&self.eval(of, scope)?, name),
            Expr::Item(of, index) => self.item(of, index, scope),
            Expr::Slice(_) => Err(Error::new("a slice stands among several indices")),
            Expr::Call(callee, arguments) => self.called(callee, arguments, scope),
            Expr::Filter(value, filter) => {
                self.filtered(self.eval(value, scope)?, std::slice::from_ref(filter), scope)
            }
            Expr::Test(value, test) => self.tested(value, test, scope),
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value, scope)?.is_true())),
            Expr::Negative(value) => ops::negative(&self.eval(value, scope)?),
            Expr::Positive(value) => ops::negative(&ops::negative(&self.eval(value, scope)?)?),
            Expr::Binary(operator, left, right) => {
                ops::binary(*operator, &self.eval(left, scope)?, &self.eval(right, scope)?)
            }
            Expr::Concat(operands) => self.concat(operands, scope),
            Expr::Compare(first, others) => self.compared(first, others, scope),
            Expr::And(left, right) => {
                let left = self.eval(left, scope)?;
                if left.is_true() { self.eval(right, scope) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.eval(left, scope)?;
                if left.is_true() { Ok(left) } else { self.eval(right, scope) }
            }
            Expr::Conditional(parts, otherwise) => {
                let [condition, value] = &**parts;
                match (self.eval(condition, scope)?.is_true(), otherwise) {
                    (true, _) => self.eval(value, scope),
                    (false, Some(otherwise)) => self.eval(otherwise, scope),
                    (false, None) => Ok(Value::undefined(
                        "an inline `if` has no `else`, and its condition is false",
                    )),
                }
            }
        }
    }

    fn dict(&self, pairs: &[(Expr, Expr)], scope: &Rc<Scope>) -> Result<Value> {
        let pair = |(key, value)| Ok((self.eval(key, scope)?, self.eval(value, scope)?));
        Value::dict(pairs.iter().map(|(key, value)| pair((key, value))).collect::<Result<_>>()?)
    }

    fn item(&self, of: &Expr, index: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        let of = self.eval(of, scope)?;
        let Expr::Slice(parts) = index else {
            return access::item(&of, &self.eval(index, scope)?);
        };
        let mut bounds = [None, None, None];
        for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
            *bound = part.as_ref().map(|part| self.eval(part, scope)).transpose()?;
        }
        ops::slice(&of, bounds)
    }

    fn called(&self, callee: &Expr, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Value> {
        let callee = self.eval(callee, scope)?;
        self.call(&callee, self.given(arguments, scope)?)
    }

    fn tested(&self, value: &Expr, test: &Call, scope: &Rc<Scope>) -> Result<Value> {
        let value = self.eval(value, scope)?;
        let given = self.given(&test.arguments, scope)?;
        tests::holds(&test.name, &value, given).map(Value::Bool)
    }

    fn concat(&self, operands: &[Expr], scope: &Rc<Scope>) -> Result<Value> {
        let mut text = String::new();
        for operand in operands {
            text.push_str(&self.eval(operand, scope)?.printed()?);
            ops::check_length(Some(text.len()))?;
        }
        Ok(Value::text(text))
    }

    fn compared(
        &self,
        first: &Expr,
        others: &[(Comparison, Expr)],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let mut left = self.eval(first, scope)?;
        for (comparison, right) in others {
            let right = self.eval(right, scope)?;
            if !compare(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }
}

fn compare(comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
    let ordered =
        |holds: fn(std::cmp::Ordering) -> bool| Ok(left.compare(right)?.is_some_and(holds));
    match comparison {
        Comparison::Equal => Ok(left.equals(right)),
        Comparison::NotEqual => Ok(!left.equals(right)),
        Comparison::Less => ordered(std::cmp::Ordering::is_lt),
        Comparison::LessEqual => ordered(std::cmp::Ordering::is_le),
        Comparison::Greater => ordered(std::cmp::Ordering::is_gt),
        Comparison::GreaterEqual => ordered(std::cmp::Ordering::is_ge),
        Comparison::In => right.contains(left),
        Comparison::NotIn => Ok(!right.contains(left)?),
    }
}
