//! What an agent types at its terminal stays there: whoever reads the operator's gets none of it.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    net::Ipv6Addr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{pty::openpty, sys::termios, unistd::ttyname};
use sluice_tests::{
    skip,
    vector::{Attempt, marker, stage::Stage},
    vectors::session::{NOBODY, sluice},
};

/// The attempt's port; nothing goes there.
const PORT: u16 = 2801;

/// Runs the attempt with a terminal of its session; answers with what it said, and with what
/// somebody else then reads at that terminal.
fn attempt(folder: &Path, tag: &str, before: &[&str]) -> (Attempt, Vec<u8>) {
    let ends = openpty(None, None).expect("a terminal");
    let mut mode = termios::tcgetattr(&ends.slave).expect("its mode");
    termios::cfmakeraw(&mut mode);
    termios::tcsetattr(&ends.slave, termios::SetArg::TCSANOW, &mode).expect("raw");
    let reader: PathBuf = ttyname(&ends.slave).expect("its name");
    let stage = serde_json::to_string(&Stage::default()).expect("text");
    let local = Ipv6Addr::LOCALHOST.to_string();
    let way = format!("terminal={PORT}");
    let output = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .args(before)
        .arg(folder.join("vector"))
        .args(["127.0.0.1", &local, tag, &stage, &way])
        .stdin(Stdio::from(ends.slave))
        .stderr(Stdio::inherit())
        .env_remove("SUDO_UID")
        .output()
        .expect("it ends");
    let attempt = serde_json::from_slice(&output.stdout).expect("an attempt");
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut reader = File::options()
        .read(true)
        .custom_flags(flags)
        .open(reader)
        .expect("the terminal");
    let mut typed = [0; 512];
    let length = match reader.read(&mut typed) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        result => result.expect("what was typed"),
    };
    drop(ends.master);
    (attempt, typed.get(..length).unwrap_or_default().to_vec())
}

#[test]
fn nothing_is_typed_in_the_operators_place() {
    if !skip::is_root() {
        return;
    }
    if fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|on| on.trim() == "0") {
        return skip::because("this kernel lets nobody type at a terminal (legacy_tiocsti = 0)");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("vector");
    fs::copy(env!("CARGO_BIN_EXE_vector"), &copy).expect("a copy");
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("for everybody");
    }
    let nobody = NOBODY.to_string();
    let credentials = ["setpriv", "--reuid", &nobody, "--clear-groups", "--"];
    let carries = |typed: &[u8], tag: &str| {
        let marker = marker(tag, "terminal");
        typed.windows(marker.len()).any(|bytes| bytes == marker)
    };
    let (free, typed) = attempt(folder.path(), "free", &credentials);
    assert!(free.ok && carries(&typed, "free"), "{free:?}: {typed:?}");

    let sluice = sluice().expect("sluice").display().to_string();
    let audit = folder.path().join("audit.jsonl").display().to_string();
    let before = [&sluice, "run", "--audit", &audit, "--user", &nobody, "--"];
    let (shut, typed) = attempt(folder.path(), "shut", &before);
    assert!(!carries(&typed, "shut"), "it was typed: {typed:?}");
    assert_eq!(shut.errno, Some(libc::EPERM), "{shut:?}");
}
