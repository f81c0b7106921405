//! What Sluice tells its user: lines on standard error that begin with `sluice:`.
//!
//! The command that runs under `sluice run` may write to the same terminal. So that neither it
//! nor a name it chose can pass for Sluice, text is sanitised and never starts a line.

use std::{fmt, io::Write as _};

use crate::sanitize::sanitize;

/// Says one line. Newlines in it are written out as `\n`: say several lines one by one.
pub fn line(text: impl fmt::Display) {
    print(&format!("sluice: {}\n", sanitize(&text.to_string())));
}

/// Says that something went wrong, in one line.
pub fn error(text: impl fmt::Display) {
    line(format_args!("error: {text}"));
}

/// Says why Sluice failed, with the chain of causes.
pub fn failure(error: &anyhow::Error) {
    print(&explain(error));
}

/// The error on one line, each cause on a line of its own; further lines of either are
/// indented, so that they cannot pass for lines of ours.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let cause = cause.to_string();
        let mut lines = cause.lines().map(sanitize);
        let lead = if depth == 0 { "error" } else { "  caused by" };
        let first = lines.next().unwrap_or_default();
        text += &format!("sluice: {lead}: {first}\n");
        for more in lines {
            text += &format!("sluice:     {more}\n");
        }
    }
    text
}

/// One write, so that the lines of several threads do not mix.
fn print(text: &str) {
    // There is nobody left to tell when standard error is gone.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_follow_each_on_its_own_line() {
        let error = anyhow!("no such file")
            .context("reading policy.toml")
            .context("starting");
        assert_eq!(
            explain(&error),
            "sluice: error: starting\n\
             sluice:   caused by: reading policy.toml\n\
             sluice:   caused by: no such file\n"
        );
    }

    #[test]
    fn text_cannot_pass_for_a_line_of_ours() {
        let error = anyhow!("bad\nsluice: error: forged\r\x1b[1Ax");
        assert_eq!(
            explain(&error),
            "sluice: error: bad\n\
             sluice:     sluice: error: forged\\r\\u{1b}[1Ax\n"
        );
    }
}
