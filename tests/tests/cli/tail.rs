//! `sluice audit tail`.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{outcome, sluice, told};

const DEADLINE: Duration = Duration::from_secs(60);
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/audit.jsonl");

/// A record that can be told from others by its host.
fn line(host: &str) -> String {
    format!(r#"{{"time":"2026-03-01T12:00:00Z","kind":"http","outcome":"allow","host":"{host}"}}"#)
}

fn hosts(shown: &[String]) -> Vec<&str> {
    shown
        .iter()
        .filter_map(|line| line.rsplit(' ').next())
        .collect()
}

#[test]
fn shows_a_compact_line_each() {
    insta::assert_snapshot!("tail-fixture", outcome(&["audit", "tail", FIXTURE]));
    insta::assert_snapshot!("tail-two", outcome(&["audit", "tail", "-n", "2", FIXTURE]));
}

#[test]
fn what_is_no_record_is_shown_and_counted_and_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut content = b"not json \x1b]0;title\x07 \xff\xfe \xe2\x80\xaex\n".to_vec();
    content.extend(b"\n[]\n{}\nnull\n");
    content.extend(line("between.example").bytes().chain(*b"\n"));
    // Raw where our writer escapes: C1 controls and bidi overrides are legal within JSON.
    content.extend(line("c1\u{9b}2J\u{202e}.example").bytes().chain(*b"\n"));
    content.extend(format!("{{\"kind\":\"{}\"}}\n", "x".repeat(100_000)).bytes());
    content.extend(format!("{{\"kind\":{}1{}}}\n", "[".repeat(5000), "]".repeat(5000)).bytes());
    content.extend(b"{\"kind\":\"http\",\"torn");
    fs::write(&path, content).unwrap();
    for (name, flags) in [
        ("tail-foreign", &["-n", "99"][..]),
        ("tail-foreign-json", &["-n", "99", "--json"]),
    ] {
        let output = sluice()
            .args(["audit", "tail"])
            .arg(&path)
            .args(flags)
            .output()
            .unwrap();
        let told = told(&output);
        let hostile = |c: char| c != '\n' && gateway_userspace::sanitize::is_hostile(c);
        assert!(!told.contains(hostile), "{told:?}");
        insta::assert_snapshot!(name, told);
    }
}

#[test]
fn json_is_the_file_to_the_byte() {
    let output = sluice()
        .args(["audit", "tail", "--json", FIXTURE])
        .output()
        .unwrap();
    assert_eq!(output.stdout, fs::read(FIXTURE).unwrap());
}

#[test]
fn the_end_of_a_huge_file_is_found_without_reading_it_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = File::create(&path).unwrap();
    // A hole: 10 GiB that take no room, and would take long to read.
    file.seek(SeekFrom::Start(10 << 30)).unwrap();
    write!(file, "\n{}\n{}\n", line("a.example"), line("b.example")).unwrap();
    let output = sluice()
        .args(["audit", "tail", "-n", "2"])
        .arg(&path)
        .output()
        .unwrap();
    let shown: Vec<String> = output.stdout.lines().map(Result::unwrap).collect();
    assert_eq!(hosts(&shown), ["a.example", "b.example"]);
}

/// A running `tail --follow`, killed and reaped in the end.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(path: &Path) -> Self {
        let mut child = follow(path);
        let lines = in_background(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line, and its last word.
    fn next(&self) -> String {
        let line = self.lines.recv_timeout(DEADLINE).expect("a line in time");
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may be dead already; reaping says so too.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn follow(path: &Path) -> Child {
    let mut command = sluice();
    command.args(["audit", "tail", "--follow"]).arg(path);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn in_background(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1024);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

fn with_one_line(folder: &Path) -> (PathBuf, File) {
    let path = folder.join("audit.jsonl");
    fs::write(&path, line("old.example") + "\n").unwrap();
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    (path, file)
}

#[test]
fn follows_what_is_appended_also_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut file) = with_one_line(folder.path());
    let follower = Follower::start(&path);
    assert_eq!(follower.next(), "old.example");
    let (torn, mend) = (line("torn.example"), line("next.example"));
    let (start, end) = torn.split_at(20);
    write!(file, "{}\n{start}", line("whole.example")).unwrap();
    assert_eq!(follower.next(), "whole.example");
    writeln!(file, "{end}\n{mend}").unwrap();
    assert_eq!(follower.next(), "torn.example");
    assert_eq!(follower.next(), "next.example");
}

#[test]
fn follows_a_file_that_is_cut_or_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = with_one_line(folder.path());
    let follower = Follower::start(&path);
    assert_eq!(follower.next(), "old.example");

    file.set_len(0).unwrap();
    // Shorter than what was read, so that the cut shows however late it is looked for.
    writeln!(&file, r#"{{"kind":"http","host":"cut.example"}}"#).unwrap();
    assert_eq!(follower.next(), "cut.example");

    fs::rename(&path, folder.path().join("audit.jsonl.1")).unwrap();
    writeln!(&file, "{}", line("late.example")).unwrap();
    assert_eq!(follower.next(), "late.example");
    let staged = folder.path().join("staged");
    fs::write(&staged, line("new.example") + "\n").unwrap();
    fs::rename(&staged, &path).unwrap();
    assert_eq!(follower.next(), "new.example");
}

#[test]
fn ends_quietly_when_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _file) = with_one_line(folder.path());
    let mut child = follow(&path);
    // Nothing is ever written to the file again: the reader's leaving is enough.
    drop(child.stdout.take());
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "still running without a reader");
        thread::yield_now();
    };
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}
