//! The rows beyond plain IP sockets, by family of vectors.

mod disarm;
mod families;
mod foreign;
mod sockets;
mod unix;

use super::{Place, ROWS, Row, session::Direct};

/// Every row, in the order in which they are tried.
pub fn all() -> impl Iterator<Item = &'static Row> + Clone {
    [
        ROWS,
        sockets::ROWS,
        families::ROWS,
        foreign::ROWS,
        unix::ROWS,
        disarm::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// The table of all rows for `docs/THREAT_MODEL.md`.
#[must_use]
pub fn table() -> String {
    let mut text = String::from(
        "| vector | an agent under the launcher | root with a container's capabilities, attached |\n\
         | --- | --- | --- |\n",
    );
    for row in all() {
        let cells = [Place::Agent, Place::Attached].map(|place| cell(row, place));
        let [agent, attached] = cells;
        text.push_str(&format!("| `{}` | {agent} | {attached} |\n", row.name));
    }
    text
}

/// What becomes of a vector at this place, and by what.
fn cell(row: &Row, place: Place) -> String {
    let expected = row.expected(Direct::Redirect, place);
    if let Some(why) = expected.open {
        return format!("**open**: {why}");
    }
    let by = match (expected.record, place) {
        (Some(("direct", Some(hook), _)), _) => format!("`{hook}`"),
        (Some((_, _, reason)), _) => return format!("the gateway decides: `{reason}`"),
        (None, Place::Agent | Place::Rooted) if !row.by.is_empty() => row.by.join(", "),
        (None, _) => "the kernel's own rules".to_owned(),
    };
    match (expected.errno, expected.signal) {
        (Some(errno), _) => {
            let name = nix::errno::Errno::from_raw(errno);
            format!("{by}: `{name:?}`")
        }
        (None, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal);
            let name = name.map_or("a signal", |signal| signal.as_str());
            format!("{by}: `{name}`")
        }
        (None, None) => format!("{by}: nothing comes of it"),
    }
}
