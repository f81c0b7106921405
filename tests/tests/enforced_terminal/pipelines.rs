//! Pipelines: others use the operator's terminal as well.

use anyhow::Result;
use sluice_tests::needs_root;

use super::play;

#[test]
fn a_pager_behind_it_has_the_keys() -> Result<()> {
    needs_root!();
    play(
        r"
resize(10, 60)
line(run + 'seq 5000 | TERM=vt100 less')
t.expect(rb'\n9\r\n')
t.say(' ')
t.expect(rb'\n18\r\n')
t.say('G')
t.expect(rb'\n5000\r\n')
t.say('q')
outer()
is_restored()
",
    )
}

#[test]
fn a_pager_behind_a_pipe_has_the_keys() -> Result<()> {
    needs_root!();
    play(
        r"
resize(10, 60)
line(f'seq 5000 | {run}env TERM=vt100 less')
t.expect(rb'\n9\r*\n')
t.say('G')
t.expect(rb'\n5000\r*\n')
t.say('q')
outer()
is_restored()
",
    )
}

#[test]
fn lines_go_to_who_reads_them() -> Result<()> {
    needs_root!();
    play(
        r#"
command = run + "sh -c 'echo re''ady >&2; exec sed -u s/^/got-/' | cat"
line(command)
t.expect(rb'\nready\r?\n')
continued('one')
t.say('\x04')
outer()
status(0)
line(command)
t.expect(rb'\nready\r?\n')
continued('one')
t.say('\x03')
outer()
status(130)
line(command)
t.expect(rb'\nready\r?\n')
continued('one')
t.say('\x1a')
t.expect(rb'Stopped')
outer()
is_restored()
line('fg')
t.expect(rb'exec sed')
continued('two')
t.say('\x04')
outer()
is_restored()
"#,
    )
}

#[test]
fn lines_go_to_who_waits_for_them_with_select() -> Result<()> {
    needs_root!();
    play(
        r#"
line(run + '''python3 -c "
import os, select, sys
print('re' + 'ady', file=sys.stderr)
while select.select([0], [], [])[0]:
    got = os.read(0, 100)
    if not got:
        break
    print('got', got.decode().strip(), flush=True)
" | cat''')
t.expect(rb'\nready\r?\n')
line('one')
t.expect(rb'got one')
line('two')
t.expect(rb'got two')
t.say('\x04')
outer()
status(0)
is_restored()
"#,
    )
}

#[test]
fn what_is_not_to_be_shown_is_not() -> Result<()> {
    needs_root!();
    play(
        r#"
line(f"x=$({run}sh -c 'stty -echo; echo as''ks >&2; read x; stty echo; echo $x')")
t.expect(rb'\nasks')
line('hidden')
if b'hidden' in t.expect(rb'(?s)\A.*outer> ')[0]:
    sys.exit('what was typed is shown')
line('echo $x')
t.expect(rb'\r\nhidden\r\n')
outer()
is_restored()
"#,
    )
}

#[test]
fn from_pipe_to_pipe() -> Result<()> {
    needs_root!();
    play(
        r#"
line(f"seq 20000 | {run}cat | cat")
for number in range(1, 20001):
    t.expect(rb'^(?s:.*?)\b%d\r\n' % number if number == 1 else rb'\A%d\r\n' % number)
outer()
status(0)
is_restored()
"#,
    )
}
