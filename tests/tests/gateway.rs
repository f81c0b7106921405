//! `sluice gateway` as a script uses it: it says where it listens, serves, records, and ends on
//! a signal.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The binary under test: the one that `cargo xtask test` built, or else the one beside us.
fn sluice() -> Command {
    let beside_us = || {
        env::current_exe()
            .unwrap()
            .ancestors()
            .nth(2)
            .unwrap()
            .join("sluice")
    };
    let binary = env::var_os("SLUICE_BIN").map_or_else(beside_us, PathBuf::from);
    assert!(
        binary.exists(),
        "no {}: `cargo xtask test` builds it",
        binary.display()
    );
    Command::new(binary)
}

/// Ends with the test, whatever comes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn it_serves_until_it_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = origin.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut call, _) = origin.accept().unwrap();
        let mut request = [0; 1024];
        let length = call.read(&mut request).unwrap();
        call.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        String::from_utf8(request[..length].to_vec()).unwrap()
    });
    let policy = folder.path().join("policy.toml");
    let text = format!(
        "schema = 1\nagent = \"scripted\"\n[[egress]]\nid = \"origin\"\nhosts = [\"127.0.0.1\"]\n\
         ports = [{}]\nprivate = true\n",
        place.port()
    );
    fs::write(&policy, text).unwrap();
    let audit = folder.path().join("audit.jsonl");
    let child = sluice()
        .args(["gateway", "--listen", "127.0.0.1:0", "--policy"])
        .arg(&policy)
        .arg("--audit")
        .arg(&audit)
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let mut said = |what: &str| {
        lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| Some(line.strip_prefix(what)?.to_owned()))
            .unwrap_or_else(|| panic!("it never said `{what}`"))
    };
    said("sluice: assurance: cooperative");
    let address = said("sluice: listening on ");

    #[expect(clippy::disallowed_methods, reason = "this is the agent's end")]
    let mut agent = std::net::TcpStream::connect(&address).unwrap();
    agent
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    agent
        .write_all(
            format!("GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .unwrap();
    let mut answer = String::new();
    agent.read_to_string(&mut answer).unwrap();
    assert_eq!(
        answer,
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        serving.join().unwrap(),
        format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n")
    );
    drop(agent);

    let process = nix::unistd::Pid::from_raw(running.0.id().try_into().unwrap());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
    said("sluice: draining");
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    let records = fs::read_to_string(&audit).unwrap();
    assert_eq!(records.lines().count(), 1, "{records}");
    let record: serde_json::Value = serde_json::from_str(&records).unwrap();
    assert_eq!(record["outcome"], "allow");
    assert_eq!(record["assurance"], "cooperative");
}

#[test]
fn it_does_not_start_with_a_broken_policy() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "schema = 1\n").unwrap();
    let output = sluice()
        .args([
            "gateway",
            "--listen",
            "127.0.0.1:0",
            "--audit",
            "-",
            "--policy",
        ])
        .arg(&policy)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with("sluice: error: ") && told.contains("agent"),
        "{told}"
    );
    assert!(output.stdout.is_empty());
}
