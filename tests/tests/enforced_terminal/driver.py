"""What each scenario begins with: an operator's shell on a terminal of its own.

`line` types a line, `t.expect` waits, `status` checks `$?`. `run` is what commands are begun
with: `sluice run`, or nothing, which is the control.
"""
import fcntl, os, pty, re, select, signal, struct, subprocess, sys, termios, time

PATIENCE, RUN = float(sys.argv[1]), sys.argv[2:]


class Terminal:
    def __init__(self, argv):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.environ.update(PS1='outer> ', TERM='dumb', LESS='')
            os.execvp(argv[0], argv)
        self.seen = b''

    def expect(self, text):
        end = time.monotonic() + PATIENCE
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


def line(text):
    t.say(text + '\n')


def outer():
    t.expect(rb'outer> ')


def inner():
    t.expect(rb'inner> ')


def status(expected, prompt=outer):
    line('echo st=$?=')
    got = int(t.expect(rb'st=(\d+)=')[1])
    prompt()
    if got != expected:
        sys.exit(f'status {got}, not {expected}')


def is_restored():
    line('stty -a | grep -ow -e -icanon -e icanon')
    t.expect(rb'\nicanon')
    outer()


def answered(word):
    """A line is shown once as it is typed, and once as it is answered."""
    line(word)
    shown = t.expect(rb'(?s)\A.*got-%b\r+\n' % word.encode())[0]
    if shown.count(word.encode()) != 2:
        sys.exit(f'shown more than once: {shown!r}')


def answers():
    """What is typed before a program has the terminal is the shell's, even without Sluice."""
    t.expect(rb'\nready\r?\n')
    answered('one')


def continued(word):
    """What is typed while the terminal is still the shell's may be shown twice, and in a pipeline
    the answer comes another way than what the terminal shows."""
    line(word)
    t.expect(rb'got-%b\r*\n' % word.encode())


def wait(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            sys.exit('waited for a condition in vain')
        time.sleep(.01)


def outer_until(state):
    """Asks the shell for its jobs until one is that far."""
    end = time.monotonic() + PATIENCE
    while True:
        line("jobs; echo do''ne")
        if re.search(state, t.expect(rb'(?s)\A.*?\ndone\r\n')[0]):
            return outer()
        if time.monotonic() > end:
            sys.exit(f'no job is {state!r}')
        time.sleep(.05)


def resize(rows, columns):
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))


t = Terminal(['bash', '--norc', '--noprofile', '-i'])
run = ''.join(word + ' ' for word in RUN)
# Says that it is there, and answers each line.
answer = "sh -c 'echo re''ady; exec sed -u s/^/got-/'"
outer()
