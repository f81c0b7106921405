//! A command under `sluice run` on a real terminal behaves as it does without: keys that send
//! signals, the end of input, the size of the window, and a run in the background.
//!
//! A driver types at an interactive shell on a terminal of its own, as an operator would, and
//! waits for what that brings up.

use std::process::Command;

use anyhow::{Result, ensure};
use sluice_tests::{agent::sluice, deadline::patience, needs_root, skip::PYTHON, world::World};

/// What each scenario begins with: `line` types a line, `t.expect` waits, `status` checks `$?`.
const DRIVER: &str = r#"
import fcntl, os, pty, re, select, signal, struct, sys, termios, time
class Terminal:
    def __init__(self, argv):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1='outer> ', TERM='dumb')
            os.execvp(argv[0], argv)
        self.seen = b''
    def expect(self, text):
        end = time.monotonic() + float(sys.argv[3])
        while True:
            found = re.search(text, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            left = end - time.monotonic()
            if left <= 0:
                sys.exit(f'waited for {text!r} in vain: {self.seen!r}')
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 65536)
    def say(self, text):
        os.write(self.fd, text.encode())
t = Terminal(['bash', '--norc', '--noprofile', '-i'])
run = f'{sys.argv[1]} run --audit {sys.argv[2]} -- '
def line(text):
    t.say(text + '\n')
def outer():
    t.expect(rb'outer> ')
def status(expected):
    line('echo st=$?=')
    got = int(t.expect(rb'st=(\d+)=')[1])
    outer()
    if got != expected:
        sys.exit(f'status {got}, not {expected}')
def is_restored():
    line('stty -a | grep -ow -e -icanon -e icanon')
    t.expect(rb'\nicanon')
    outer()
# A shell on its way to start a program takes no signal, so the program shows that it is there.
def cat_is_there():
    line('one')
    t.expect(rb'one\r\none\r\n')
def resize(rows, columns):
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
outer()
"#;

fn play(scenario: &str) -> Result<()> {
    let world = World::new()?;
    let audit = world.scratch().join("audit.jsonl");
    let script = format!("{DRIVER}{scenario}");
    let mut command = Command::new(PYTHON);
    command.args(["-c", &script]).arg(sluice()?).arg(audit);
    command.arg(patience().as_secs().to_string());
    command.current_dir("/");
    let output = world.node.run(|| command.output())?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn keys_that_send_signals() -> Result<()> {
    needs_root!();
    play(
        r"
for key, code in [('\x03', 130), ('\x1c', 131)]:
    line(run + 'cat')
    cat_is_there()
    t.say(key)
    outer()
    status(code)
    is_restored()
",
    )
}

#[test]
fn the_end_of_input() -> Result<()> {
    needs_root!();
    play(
        r#"
line(run + "sh -c 'cat; echo en''ded; exit 4'")
cat_is_there()
t.say('\x04')
t.expect(rb'ended')
outer()
status(4)
"#,
    )
}

#[test]
fn the_size_of_the_window() -> Result<()> {
    needs_root!();
    play(
        r#"
resize(33, 77)
line(run + "sh -c 'trap \"stty size; exit 3\" WINCH; stty size; while read x; do :; done'")
t.expect(rb'33 77')
resize(44, 88)
t.expect(rb'44 88')
outer()
status(3)
"#,
    )
}

#[test]
fn from_the_background_it_takes_no_keys() -> Result<()> {
    needs_root!();
    play(
        r#"
line(run + "sh -c 'echo in-the-ba''ck; read x; echo got=$x' &")
t.expect(rb'in-the-back')
line("echo al''ive")
t.expect(rb'\r\nalive')
line('fg')
t.expect(rb'sh -c')
line('typed')
t.expect(rb'got=typed')
outer()
is_restored()
"#,
    )
}
