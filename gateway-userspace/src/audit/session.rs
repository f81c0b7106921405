//! What a session record says beside what every record says.

use serde::Serialize;

use crate::sanitize::sanitize_bounded;

/// Most characters of a recorded command line.
pub const COMMAND_MAX: usize = 2048;
/// Most characters of one item of a list.
const ITEM_MAX: usize = 256;
/// Most items of a list.
const ITEMS_MAX: usize = 24;

/// How an agent was started or attached to: what stands in the two records of its session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SessionFacts {
    /// Name of the run, which its pins and cgroups carry.
    pub run: String,
    /// The kernel's release.
    pub kernel: String,
    /// Path of the agent's cgroup within the hierarchy.
    pub cgroup: String,
    /// User id of the command; none of an agent that was attached to, which may have several.
    pub uid: Option<u32>,
    /// The command and its arguments, escaped, and cut to a bound; empty of an agent that was
    /// attached to.
    pub command: String,
    /// What is in force.
    pub controls: Vec<String>,
    /// What is open.
    pub open: Vec<String>,
    /// Exit status, as a shell tells it; none while it runs, or if it was never known.
    pub exit: Option<u8>,
}

impl SessionFacts {
    /// Escapes and cuts everything to its bound, so that a line holds it.
    pub(super) fn bound(&mut self) {
        for list in [&mut self.controls, &mut self.open] {
            let more = list.len().saturating_sub(ITEMS_MAX);
            list.truncate(ITEMS_MAX);
            for item in list.iter_mut() {
                *item = sanitize_bounded(item, ITEM_MAX).into_owned();
            }
            if more > 0 {
                list.push(format!("and {more} more"));
            }
        }
        for (text, limit) in [
            (&mut self.run, ITEM_MAX),
            (&mut self.kernel, ITEM_MAX),
            (&mut self.cgroup, COMMAND_MAX),
            (&mut self.command, COMMAND_MAX),
        ] {
            *text = sanitize_bounded(text, limit).into_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_fits_a_line_and_says_what_is_missing() {
        let wide = "\u{1F600}".repeat(COMMAND_MAX + 1);
        let mut facts = SessionFacts {
            run: wide.clone(),
            kernel: wide.clone(),
            cgroup: wide.clone(),
            uid: Some(u32::MAX),
            command: wide.clone(),
            controls: vec!["\"".repeat(ITEM_MAX + 1); ITEMS_MAX],
            open: vec![wide; ITEMS_MAX + 2],
            exit: Some(255),
        };
        facts.bound();
        assert_eq!(facts.controls.len(), ITEMS_MAX);
        assert_eq!(facts.open.last().map(String::as_str), Some("and 2 more"));
        assert!(facts.command.ends_with('…'));
        let line = serde_json::to_vec(&facts).expect("serialises");
        assert!(line.len() < crate::audit::MAX_LINE - 8192, "{}", line.len());
    }
}
