//! Exit statuses at an interactive shell.

use anyhow::Result;
use sluice_tests::needs_root;

use super::play;

#[test]
fn are_those_of_the_command() -> Result<()> {
    needs_root!();
    play(
        r#"
for command, code in [
    ('/nowhere', 127),
    ('nowhere', 127),
    ('/etc/passwd', 126),
    ("sh -c 'exit 42'", 42),
    ("sh -c 'kill -TERM $$'", 143),
    ("sh -c 'kill -KILL $$'", 137),
    ("sh -c 'kill -PIPE $$'", 141),
    ("sh -c 'kill -USR1 $$'", 138),
]:
    line(run + command)
    outer()
    status(code)
is_restored()
"#,
    )
}
