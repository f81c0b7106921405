//! Tells what is wrong with a policy file: place, source and mend, for people and for scripts.
//!
//! What the file says is quoted only with its control and direction characters made visible.

use std::{fmt, ops::Range, sync::Arc};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};

use super::{
    fault::{Fault, Severity},
    places::{Place, Places},
};

/// Lines between two places that are still shown as one piece.
const LINES_BETWEEN: usize = 8;
/// Octets of the longest line in a file whose lines are shown. miette pads by columns, of which
/// `format!` takes at most 65,535, and a tab takes several.
const LINE_DRAWN: usize = 8192;

/// Problems of one file that are shown with their lines; the others follow in one line each.
/// Drawing one takes a reading of the whole file.
const PROBLEMS_DRAWN: usize = 100;

/// A fault and where it is.
#[derive(Debug)]
pub struct Problem {
    fault: Fault,
    /// Bytes of the file that are meant; none if it is the file as a whole.
    span: Option<Range<usize>>,
    /// Another place that has to do with it, and how.
    other: Option<(Range<usize>, &'static str)>,
}

/// All that is wrong, or odd, with one policy file.
#[derive(Clone, Debug)]
pub struct PolicyErrors {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    source: NamedSource<String>,
    places: Places,
    problems: Vec<Problem>,
}

impl Problem {
    /// What is wrong.
    #[must_use]
    pub const fn fault(&self) -> &Fault {
        &self.fault
    }
}

/// Collects problems while a file is read.
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, fault: impl Into<Fault>, span: Range<usize>) {
        self.0.push(Problem {
            fault: fault.into(),
            span: Some(span),
            other: None,
        });
    }

    pub(super) fn add_with(
        &mut self,
        fault: Fault,
        span: Range<usize>,
        other: (Range<usize>, &'static str),
    ) {
        self.0.push(Problem {
            fault,
            span: Some(span),
            other: Some(other),
        });
    }

    pub(super) fn add_whole(&mut self, fault: Fault) {
        self.0.push(Problem {
            fault,
            span: None,
            other: None,
        });
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0
            .iter()
            .any(|problem| problem.fault.severity() == Severity::Error)
    }

    /// All places that problems name.
    fn spans(&self) -> impl Iterator<Item = &Range<usize>> {
        self.0.iter().flat_map(|it| {
            let others = it.other.iter().map(|(span, _)| span);
            it.span.iter().chain(others)
        })
    }

    pub(super) fn finish(mut self, name: &str, text: &str) -> PolicyErrors {
        let start = |problem: &Problem| problem.span.as_ref().map_or(0, |span| span.start);
        self.0.sort_by_key(start);
        let source = shown(text);
        debug_assert!(
            self.spans().all(|span| source.get(span.clone()).is_some()),
            "a problem lies outside the file"
        );
        PolicyErrors {
            inner: Arc::new(Inner {
                name: visible(name),
                places: Places::of(&source),
                source: NamedSource::new(visible(name), source),
                problems: self.0,
            }),
        }
    }
}

impl PolicyErrors {
    /// The problems, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.inner.problems
    }

    /// The file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Where a problem begins; none if it is the file as a whole.
    #[must_use]
    pub fn place(&self, problem: &Problem) -> Option<Place> {
        self.place_at(problem.span.as_ref()?.start)
    }

    fn place_at(&self, at: usize) -> Option<Place> {
        self.inner.places.at(self.inner.source.inner(), at)
    }

    /// The message of a problem, fit for a terminal.
    #[must_use]
    pub fn message(&self, problem: &Problem) -> String {
        visible(&problem.fault.to_string())
    }

    /// All problems with their lines of the file, as wide as `width`.
    #[must_use]
    pub fn render(&self, color: bool, width: usize) -> String {
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(width)
            .with_context_lines(1)
            .with_links(false);
        let mut out = String::new();
        let drawn = self.inner.source.inner().lines().map(str::len).max() <= Some(LINE_DRAWN);
        for (index, problem) in self.problems().iter().enumerate() {
            let drawn = drawn && index < PROBLEMS_DRAWN;
            let shown = Shown {
                errors: self,
                problem,
            };
            // Writing to a string does not fail; a span outside the text would.
            if !drawn || handler.render_report(&mut out, &shown).is_err() {
                out.push_str(&self.line(problem));
            }
            out.push('\n');
        }
        out
    }

    /// `file:line:column: error: message; mend`
    fn line(&self, problem: &Problem) -> String {
        let place = self.place(problem).map_or_else(String::new, |place| {
            format!(":{}:{}", place.line, place.column)
        });
        let kind = match problem.fault.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        format!(
            "{}{place}: {kind}: {}; {}",
            self.name(),
            self.message(problem),
            problem.fault.mend()
        )
    }
}

/// One line for each problem.
impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems().iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.line(problem))?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// A problem as miette shows it.
#[derive(Debug)]
struct Shown<'a> {
    errors: &'a PolicyErrors,
    problem: &'a Problem,
}

impl Shown<'_> {
    /// The line of the other place, if it is too far off to be shown along.
    fn other_line(&self) -> Option<usize> {
        let (other, _) = self.problem.other.as_ref()?;
        let here = self.errors.place(self.problem)?.line;
        let there = self.errors.place_at(other.start)?.line;
        (here.abs_diff(there) > LINES_BETWEEN).then_some(there)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.problem.span.is_none() {
            write!(f, "{}: ", self.errors.name())?;
        }
        f.write_str(&self.errors.message(self.problem))
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.problem.fault.severity() {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let mend = self.problem.fault.mend();
        Some(Box::new(match self.other_line() {
            Some(line) => format!("{mend} (see line {line})"),
            None => mend,
        }))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.errors.inner.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone()?;
        let other = self.problem.other.clone();
        // Everything between two labels is shown.
        let other = other.filter(|_| self.other_line().is_none());
        let label = other.as_ref().map(|_| "here".to_owned());
        let here = LabeledSpan::new_primary_with_span(label, span);
        let other = other.map(|(span, label)| LabeledSpan::new_with_span(Some(label.into()), span));
        Some(Box::new(std::iter::once(here).chain(other)))
    }
}

/// Characters that change how the text around them reads: controls, and Unicode's line
/// separators and marks of direction.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// A text with hidden characters written out.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// A text of the same length in bytes, with `?` for hidden characters.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && !matches!(c, '\n' | '\t' | '\r') {
            out.extend(std::iter::repeat_n('?', c.len_utf8()));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::PROBLEMS_DRAWN;
    use crate::policy::Policy;

    /// miette panics where it pads by more columns than `format!` takes.
    #[test]
    fn a_line_too_long_to_draw_is_told_in_one() {
        let text = format!("schema = 1\nagent = \"a\"\nx = {}", "[".repeat(100_000));
        let errors = Policy::parse("a.toml", &text).unwrap_err();
        let told = errors.render(false, 80);
        let plain = told.lines().all(|line| line.starts_with("a.toml:3:"));
        assert!(plain && !told.is_empty(), "{told:.200}");
    }

    #[test]
    fn of_very_many_problems_the_first_are_drawn_and_none_is_left_out() {
        let more = 50;
        let keys: String = (0..PROBLEMS_DRAWN + more)
            .map(|it| format!("k{it} = 1\n"))
            .collect();
        let text = format!("schema = 1\nagent = \"a\"\n{keys}");
        let told = Policy::parse("a.toml", &text)
            .unwrap_err()
            .render(false, 80);
        let in_one = told
            .lines()
            .filter(|line| line.starts_with("a.toml:"))
            .count();
        assert_eq!(in_one, more);
        for key in 0..PROBLEMS_DRAWN + more {
            assert!(told.contains(&format!("`k{key}`")), "k{key} is left out");
        }
    }
}
