//! The golden layout: what crosses the kernel boundary may only change on purpose.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Run as _},
    workspace,
};

/// The golden file, in the repository.
const GOLDEN: &str = "gateway-common/abi.txt";

/// Compares the layout that gateway-common has now with the golden file, or writes that.
pub(crate) fn run(bless: bool) -> Result<()> {
    let now = process::cargo()
        .args([
            "run",
            "--quiet",
            "--package",
            "gateway-common",
            "--example",
            "abi",
        ])
        .read()?;
    let path = workspace::root().join(GOLDEN);
    if bless {
        fs::write(&path, now).with_context(|| format!("writing {GOLDEN}"))?;
        eprintln!("xtask: wrote {GOLDEN}; if it differs from the last commit, raise ABI_VERSION");
        return Ok(());
    }
    let golden = fs::read_to_string(&path)
        .with_context(|| format!("reading {GOLDEN} (`cargo xtask abi --bless` writes it)"))?;
    if let Some(difference) = first_difference(&golden, &now) {
        bail!(
            "the layout no longer is {GOLDEN}'s: {difference}\n\
             If that is meant: raise ABI_VERSION, then `cargo xtask abi --bless`."
        );
    }
    eprintln!("xtask: the layout is {GOLDEN}'s");
    Ok(())
}

/// The first line in which two dumps differ, in words.
fn first_difference(golden: &str, now: &str) -> Option<String> {
    let (mut golden, mut now) = (golden.lines(), now.lines());
    for number in 1.. {
        let (was, is) = (golden.next(), now.next());
        if was == is {
            was?;
            continue;
        }
        let [was, is] = [was, is].map(|line| line.unwrap_or("(no more lines)"));
        return Some(format!("line {number} was `{was}` and is `{is}`"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn equal_dumps_do_not_differ() {
        assert_eq!(first_difference("a 1\nb 2\n", "a 1\nb 2\n"), None);
    }

    #[test]
    fn the_first_differing_line_is_named() {
        let difference = first_difference("a 1\nb 2\n", "a 1\nb 3\n");
        assert_eq!(difference.as_deref(), Some("line 2 was `b 2` and is `b 3`"));
    }

    #[test]
    fn a_shorter_and_a_longer_dump_differ() {
        let lost = first_difference("a 1\nb 2\n", "a 1\n");
        assert_eq!(
            lost.as_deref(),
            Some("line 2 was `b 2` and is `(no more lines)`")
        );
        let gained = first_difference("a 1\n", "a 1\nb 2\n");
        assert_eq!(
            gained.as_deref(),
            Some("line 2 was `(no more lines)` and is `b 2`")
        );
    }
}
