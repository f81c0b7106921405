//! What a condition may say: checked on its tree, before it is ever evaluated.

use std::ops::Range;

use cel::{
    Env, IdedExpr, Program,
    common::ast::{ComprehensionExpr, EntryExpr, Expr, LiteralValue},
};

use super::{Condition, Reads};

/// Bytes of the longest expression.
const TEXT_MAX: usize = 2048;
/// Expressions within each other: to go through them takes stack.
const DEPTH_MAX: usize = 128;
/// Octets of the largest compiled regular expression: each evaluation compiles it.
const PATTERN_MAX: usize = 64 << 10;
/// How many nodes a regular expression counts for.
const PATTERN_NODES: u64 = 32;

/// Fields of `http`.
const FIELDS: [&str; 10] = [
    "method",
    "host",
    "port",
    "path",
    "query",
    "headers",
    "scheme",
    "websocket",
    "body_size",
    "json",
];
/// Fields of `mcp`.
const MCP_FIELDS: [&str; 5] = ["method", "tool", "prompt", "resource", "args"];
/// Variables.
const VARIABLES: [&str; 3] = ["http", "agent", "mcp"];
/// Functions that are written as such.
const FUNCTIONS: [&str; 9] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
];
/// Operators, and what macros are made of.
const OPERATORS: [&str; 18] = [
    "_?_:_", "_&&_", "_||_", "!_", "_-_", "_+_", "_*_", "_/_", "_%_", "_==_", "_!=_", "_>=_",
    "_<=_", "_>_", "_<_", "-_", "_[_]", "@in",
];
const NOT_FALSE: &str = "@not_strictly_false";

/// Why a condition is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadCondition {
    /// Longer than a condition may be.
    #[error("longer than {TEXT_MAX} bytes")]
    Length,
    /// Not CEL.
    #[error("not CEL: {0}")]
    Syntax(String),
    /// A name that nothing has.
    #[error("there is no variable `{0}`")]
    Variable(String),
    /// `mcp` where nothing is called.
    #[error("`mcp` in a rule that is not an [[mcp]] rule")]
    NotMcp,
    /// `http` or `mcp` itself.
    #[error("`{0}` is not a value; its fields are")]
    Whole(&'static str),
    /// A field that `http` or `mcp` does not have.
    #[error("there is no `{0}.{1}`")]
    Field(&'static str, String),
    /// A function that there is not.
    #[error("there is no function `{0}`")]
    Function(String),
    /// A variable of a macro with the name of another.
    #[error("`{0}` hides the variable of that name")]
    Hides(String),
    /// Nested too deep.
    #[error("expressions within each other more than {DEPTH_MAX} deep")]
    Depth,
    /// A macro inside a macro.
    #[error("a list is gone through inside another")]
    Nested,
    /// A message.
    #[error("a message is built")]
    Message,
    /// A pattern that is not written out.
    #[error("the pattern of `matches` is not written out")]
    Computed,
    /// A pattern that is not one, or too large.
    #[error("the pattern of `matches`: {0}")]
    Pattern(String),
}

impl BadCondition {
    /// What to write instead.
    pub(in crate::policy) fn mend(&self) -> String {
        match self {
            Self::Length | Self::Depth => "make several rules of it".into(),
            Self::Syntax(_) => {
                "write an expression such as `http.path.startsWith(\"/v1/\")`".into()
            }
            Self::Variable(_) => "there are: http, agent, and in [[mcp]] rules mcp".into(),
            Self::NotMcp => "look at `http`, or make an [[mcp]] rule of it".into(),
            Self::Whole("mcp") | Self::Field("mcp", _) => {
                format!("there are: mcp.{}", MCP_FIELDS.join(", mcp."))
            }
            Self::Whole(_) | Self::Field(..) => {
                format!("there are: http.{}", FIELDS.join(", http."))
            }
            Self::Function(_) => format!(
                "there are: {}, has, all, exists, exists_one, filter, map",
                FUNCTIONS.join(", ")
            ),
            Self::Hides(_) => "give it another name".into(),
            Self::Nested => "go through one list at a time, or make two rules of it".into(),
            Self::Message => "compare with values".into(),
            Self::Computed => "write it as a string: `http.path.matches(\"^/v[0-9]+/\")`".into(),
            Self::Pattern(_) => "see https://docs.rs/regex; use ASCII classes such as [0-9]".into(),
        }
    }
}

/// The environment that conditions are compiled for and evaluated in.
pub(super) fn env() -> Env {
    Env::stdlib().with_optional_support(false)
}

type Flaw = (BadCondition, Range<usize>);

/// Compiles an expression that keeps to the rules.
pub(super) fn compile(text: &str, of_mcp: bool) -> Result<Condition, Flaw> {
    if text.len() > TEXT_MAX {
        return Err((BadCondition::Length, 0..text.len()));
    }
    let program = super::ENV.compile(text).map_err(|errors| {
        let first = errors.errors.first();
        let message = first.map_or_else(|| "it cannot be read".into(), |first| first.msg.clone());
        let (line, column) = first.map_or((1, 1), |first| first.pos);
        (BadCondition::Syntax(message), at_place(text, line, column))
    })?;
    let mut walk = Walk {
        program: &program,
        text,
        of_mcp,
        bound: Vec::new(),
        inside: false,
        depth: 0,
        reads: Reads::default(),
        nodes: 0,
        loops: false,
    };
    walk.expression(program.expression())?;
    let (reads, nodes, loops) = (walk.reads, walk.nodes, walk.loops);
    Ok(Condition {
        text: text.into(),
        reads,
        nodes,
        loops,
        program,
    })
}

/// The bytes from a line and column, counted from 1 in bytes, to the end of the text.
fn at_place(text: &str, line: isize, column: isize) -> Range<usize> {
    let before = |count: isize| usize::try_from(count - 1).unwrap_or_default();
    let lines = text.split_inclusive('\n');
    let start = lines.take(before(line)).map(str::len).sum::<usize>() + before(column);
    if text.is_char_boundary(start) {
        start..text.len()
    } else {
        0..text.len()
    }
}

struct Walk<'p> {
    program: &'p Program,
    text: &'p str,
    /// Whether it is of an `[[mcp]]` rule.
    of_mcp: bool,
    /// Variables of macros.
    bound: Vec<&'p str>,
    inside: bool,
    depth: usize,
    reads: Reads,
    nodes: u64,
    loops: bool,
}

impl<'p> Walk<'p> {
    /// The bytes of the text that a node was made of.
    fn span(&self, node: &IdedExpr) -> Range<usize> {
        let offsets = self.program.source_info().offset_for(node.id);
        let (start, stop) = offsets.unwrap_or((0, u32::MAX));
        let byte = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
        let span = byte(start)..byte(stop).saturating_add(1);
        match self.text.get(span.clone()) {
            Some(_) => span,
            None => 0..self.text.len(),
        }
    }

    fn expression(&mut self, node: &'p IdedExpr) -> Result<(), Flaw> {
        if self.depth == DEPTH_MAX {
            return Err((BadCondition::Depth, self.span(node)));
        }
        self.depth += 1;
        let found = self.node(node);
        self.depth -= 1;
        found
    }

    fn node(&mut self, node: &'p IdedExpr) -> Result<(), Flaw> {
        self.nodes += 1;
        let flaw = |walk: &Self, bad| Err((bad, walk.span(node)));
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if self.bound.contains(&name.as_str()) => Ok(()),
            Expr::Ident(name) if name == "mcp" && !self.of_mcp => flaw(self, BadCondition::NotMcp),
            Expr::Ident(name) if name == "http" => flaw(self, BadCondition::Whole("http")),
            Expr::Ident(name) if name == "mcp" => flaw(self, BadCondition::Whole("mcp")),
            Expr::Ident(name) if VARIABLES.contains(&name.as_str()) => Ok(()),
            Expr::Ident(name) => flaw(self, BadCondition::Variable(name.clone())),
            Expr::Select(select) => {
                let of =
                    |wanted| matches!(&select.operand.expr, Expr::Ident(name) if name == wanted);
                if of("mcp") && self.of_mcp {
                    if !MCP_FIELDS.contains(&select.field.as_str()) {
                        return flaw(self, BadCondition::Field("mcp", select.field.clone()));
                    }
                    self.reads.mcp = true;
                    self.reads.args |= select.field == "args";
                    return Ok(());
                }
                if !of("http") {
                    return self.expression(&select.operand);
                }
                if !FIELDS.contains(&select.field.as_str()) {
                    return flaw(self, BadCondition::Field("http", select.field.clone()));
                }
                self.reads.headers |= select.field == "headers";
                self.reads.json |= select.field == "json";
                self.reads.body |= matches!(select.field.as_str(), "json" | "body_size");
                Ok(())
            }
            Expr::List(list) => list.elements.iter().try_for_each(|it| self.expression(it)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::StructField(_) => flaw(self, BadCondition::Message),
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key)?;
                    self.expression(&entry.value)
                }
            }),
            Expr::Struct(_) | Expr::Unspecified => flaw(self, BadCondition::Message),
            Expr::Comprehension(_) if self.inside => flaw(self, BadCondition::Nested),
            Expr::Comprehension(it) => self.comprehension(node, it),
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                let known = FUNCTIONS.contains(&name)
                    || OPERATORS.contains(&name)
                    || self.inside && name == NOT_FALSE;
                if !known {
                    return flaw(self, BadCondition::Function(name.to_owned()));
                }
                if name == "matches" {
                    self.nodes += PATTERN_NODES;
                    let pattern = call.args.last().map(|it| &it.expr);
                    let Some(Expr::Literal(LiteralValue::String(pattern))) = pattern else {
                        return flaw(self, BadCondition::Computed);
                    };
                    let limit = regex::RegexBuilder::new(pattern.inner())
                        .size_limit(PATTERN_MAX)
                        .build();
                    if let Err(error) = limit {
                        return flaw(self, BadCondition::Pattern(error.to_string()));
                    }
                }
                if let Some(target) = &call.target {
                    self.expression(target)?;
                }
                call.args.iter().try_for_each(|it| self.expression(it))
            }
        }
    }

    fn comprehension(
        &mut self,
        node: &IdedExpr,
        macro_: &'p ComprehensionExpr,
    ) -> Result<(), Flaw> {
        self.loops = true;
        // Evaluated once, before the first round.
        self.expression(&macro_.iter_range)?;
        let names = [Some(&macro_.iter_var), macro_.iter_var2.as_ref()];
        let before = self.bound.len();
        for name in names.into_iter().flatten() {
            if VARIABLES.contains(&name.as_str()) {
                return Err((BadCondition::Hides(name.clone()), self.span(node)));
            }
            self.bound.push(name);
        }
        self.bound.push(&macro_.accu_var);
        self.inside = true;
        for part in [
            &macro_.accu_init,
            &macro_.loop_cond,
            &macro_.loop_step,
            &macro_.result,
        ] {
            self.expression(part)?;
        }
        self.inside = false;
        self.bound.truncate(before);
        Ok(())
    }
}
