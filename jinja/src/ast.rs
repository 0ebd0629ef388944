//! A parsed template.

use std::sync::Arc;

/// A statement and its line, which errors name.
#[derive(Debug)]
pub struct Stmt {
    pub line: usize,
    pub kind: StmtKind,
}

pub type Body = Vec<Stmt>;

#[derive(Debug)]
pub enum StmtKind {
    Text(Arc<str>),
    Print(Expr),
    Set(Target, Expr),
    /// `{% set x %}…{% endset %}`, and the filters that its text goes through.
    SetBlock(Target, Vec<Call>, Body),
    For(Arc<For>),
    /// The branches of `if` and `elif`, and that of `else`.
    If(Vec<(Expr, Body)>, Body),
    With(Vec<(Target, Expr)>, Body),
    /// A body whose names end with it: `{% generation %}`, `{% block %}`.
    Scope(Body),
    Macro(Arc<Macro>),
    /// `{% call %}`: the body, as a macro, and the call that it is given to.
    CallBlock(Arc<Macro>, Expr),
    FilterBlock(Vec<Call>, Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub struct For {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    /// Whether the body names `loop`.
    pub uses_loop: bool,
    pub body: Body,
    pub otherwise: Body,
}

#[derive(Debug)]
pub struct Macro {
    pub name: Arc<str>,
    /// Parameters and their defaults.
    pub parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub body: Body,
    pub uses: Uses,
}

/// Which of the names that the language sets by itself occur in a body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uses {
    pub caller: bool,
    pub varargs: bool,
    pub kwargs: bool,
    pub loop_: bool,
}

/// What a value is assigned to.
#[derive(Debug)]
pub enum Target {
    Name(Arc<str>),
    /// `namespace.attribute`
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

/// A filter, a test or a method: its name and what it is given.
#[derive(Debug)]
pub struct Call {
    pub name: Arc<str>,
    pub arguments: Arguments,
}

#[derive(Debug, Default)]
pub struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*expression`
    pub rest: Option<Box<Expr>>,
    /// `**expression`
    pub named_rest: Option<Box<Expr>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Debug)]
pub enum Expr {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    /// `start:stop:step` between brackets.
    Slice(Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Arguments),
    Filter(Box<Expr>, Call),
    Test(Box<Expr>, Call),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// Operands of `~`.
    Concat(Vec<Expr>),
    /// The first operand, and each further one with what it is compared by.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// Condition, value, and the value otherwise.
    Conditional(Box<[Expr; 2]>, Option<Box<Expr>>),
}
