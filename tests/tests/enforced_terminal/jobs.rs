//! Job control, by the operator's shell and by one inside; a shell that has none.

use anyhow::Result;
use sluice_tests::needs_root;

use super::play;

#[test]
fn a_shell_inside_has_job_control() -> Result<()> {
    needs_root!();
    play(
        r#"
line(f"{run}env PS1='inn''er> ' bash --norc -i")
inner()
line(answer)
answers()
t.say('\x03')
inner()
status(130, inner)
line(answer)
answers()
t.say('\x1a')
t.expect(rb'Stopped')
inner()
line('jobs')
t.expect(rb'Stopped')
inner()
line('fg')
t.expect(rb'exec sed')
continued('two')
answered('again')
t.say('\x1a')
t.expect(rb'Stopped')
inner()
line('bg')
t.expect(rb'exec sed')
inner()
line("echo al''ive")
t.expect(rb'\r\nalive')
inner()
line('fg')
t.expect(rb'exec sed')
t.say('\x04')
inner()
status(0, inner)
line('exit 7')
outer()
status(7)
is_restored()
"#,
    )
}

#[test]
fn the_shell_outside_stops_and_continues_it() -> Result<()> {
    needs_root!();
    play(
        r"
line(run + answer)
answers()
for word in ['two', 'three']:
    t.say('\x1a')
    t.expect(rb'Stopped')
    outer()
    is_restored()
    line('fg')
    t.expect(rb'exec sed')
    continued(word)
    answered('again')
t.say('\x03')
outer()
status(130)
is_restored()
",
    )
}

#[test]
fn last_words_before_it_is_stopped_are_drawn() -> Result<()> {
    needs_root!();
    play(
        r#"
line(run + "sh -c 'seq 20000; echo la''st; kill -TSTP $$; echo ag''ain; exit 3'")
if b'last' not in t.expect(rb'(?s)\A.*Stopped')[0]:
    sys.exit('stopped too soon')
outer()
line('fg')
t.expect(rb'\nagain\r+\n')
outer()
status(3)
is_restored()
"#,
    )
}

#[test]
fn in_the_background_it_is_stopped_when_it_asks_for_keys() -> Result<()> {
    needs_root!();
    play(
        r#"
for end in ['', ' | cat']:
    line(run + f"sh -c 'echo in-the-ba''ck >&2; read x; echo got=$x'{end} &")
    t.expect(rb'in-the-back')
    outer_until(rb'Stopped')
    line('fg')
    t.expect(rb'sh -c')
    line('typed')
    t.expect(rb'got=typed')
    outer()
    is_restored()
"#,
    )
}

/// Killed, `sluice` cannot put the terminal back; what it has started does that, and the agent is
/// hung up.
#[test]
fn its_end_by_a_signal_leaves_the_terminal_as_it_was() -> Result<()> {
    needs_root!();
    play(
        r#"
def modes(canonical):
    wait(lambda: bool(termios.tcgetattr(t.fd)[3] & termios.ICANON) == canonical)


def is_there():
    return subprocess.run(['pgrep', '-fx', sleep], stdout=subprocess.DEVNULL).returncode == 0


# A script has no job control, which would put the modes right by itself.
sleep = f'sleep 9{os.getpid()}'
for name, code, end in [('TERM', 143, ''), ('KILL', 137, ''), ('KILL', 137, ' | cat')]:
    command = f'{run}sh -c "echo re""ady; exec {sleep}"{end}'
    line(f"bash --norc -c '{command}; echo e\"\"nd=${{PIPESTATUS[0]}}=; read x'")
    t.expect(rb'\nready\r?\n')
    modes(canonical=not RUN or end != '')
    wait(is_there)
    script = subprocess.check_output(['pgrep', '-P', str(t.pid)]).strip()
    first = int(subprocess.check_output(['pgrep', '-P', script]).split()[0])
    os.kill(first, getattr(signal, 'SIG' + name))
    got = int(t.expect(rb'end=(\d+)=')[1])
    if got != code:
        sys.exit(f'status {got}, not {code}')
    modes(canonical=True)
    wait(lambda: not is_there())
    line('on')
    outer()
"#,
    )
}
