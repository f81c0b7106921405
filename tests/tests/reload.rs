//! A policy that is changed while `sluice gateway` serves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "connections here are the agent's"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sluice_tests::{agent::sluice, deadline::wait_for};
use tempfile::TempDir;

/// A gateway, and an origin that echoes what comes after the first line.
struct Rig {
    folder: TempDir,
    gateway: Child,
    address: SocketAddr,
    origin: SocketAddr,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Already gone is as good.
        let _gone = self.gateway.kill();
        let _reaped = self.gateway.wait();
    }
}

/// Answers HTTP in one go, and echoes everything else.
fn serve(mut call: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let length = call.read(&mut buffer)?;
        match buffer.get(..length) {
            Some([]) | None => return Ok(()),
            Some(request) if request.starts_with(b"GET ") => {
                call.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")?;
                return Ok(());
            }
            Some(bytes) => call.write_all(bytes)?,
        }
    }
}

fn allowing(origin: SocketAddr) -> String {
    format!(
        "schema = 1\nagent = \"scripted\"\n[[egress]]\nid = \"web\"\nhosts = [\"127.0.0.1\"]\n\
         ports = [{0}]\nprivate = true\n[[egress]]\nid = \"raw\"\ntcp = [\"127.0.0.1:{0}\"]\n\
         private = true\n",
        origin.port()
    )
}

const NOTHING: &str = "schema = 1\nagent = \"scripted\"\n";

impl Rig {
    fn start(policy: impl FnOnce(&Path, &str) -> PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for call in listener.incoming() {
                std::thread::spawn(move || serve(call.unwrap()));
            }
        });
        let policy = policy(folder.path(), &allowing(origin));
        let mut gateway = Command::new(sluice().unwrap())
            .args(["gateway", "--listen", "127.0.0.1:0", "--policy"])
            .arg(policy)
            .arg("--ca")
            .arg(folder.path().join("ca"))
            .arg("--audit")
            .arg(folder.path().join("audit.jsonl"))
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(gateway.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| {
                let address = line.strip_prefix("sluice: listening on ")?;
                Some(address.parse().unwrap())
            })
            .unwrap();
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            folder,
            gateway,
            address,
            origin,
        }
    }

    fn plain() -> Self {
        Self::start(|folder, text| {
            let path = folder.join("policy.toml");
            fs::write(&path, text).unwrap();
            path
        })
    }

    fn policy(&self) -> PathBuf {
        self.folder.path().join("policy.toml")
    }

    fn hang_up(&self) {
        let pid = Pid::from_raw(self.gateway.id().try_into().unwrap());
        kill(pid, Signal::SIGHUP).unwrap();
    }

    fn status(&self) -> String {
        let mut agent = TcpStream::connect(self.address).unwrap();
        let (origin, mut answer) = (self.origin, String::new());
        write!(
            agent,
            "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        agent.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    }

    /// A tunnel through which bytes go.
    fn tunnel(&self) -> TcpStream {
        let mut agent = TcpStream::connect(self.address).unwrap();
        let origin = self.origin;
        write!(agent, "CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n").unwrap();
        let mut answer = [0; 1024];
        let length = agent.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
        echo(&mut agent);
        agent
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The records of the policy, once there are so many.
    fn told(&self, count: usize) -> Vec<Value> {
        wait_for("records of the policy", || {
            let all = self.records().into_iter();
            let told: Vec<_> = all.filter(|record| record["kind"] == "policy").collect();
            Ok((told.len() >= count).then_some(told))
        })
        .unwrap()
    }
}

fn echo(agent: &mut TcpStream) {
    agent.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    agent.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

#[test]
fn a_changed_file_decides_from_then_on() {
    let rig = Rig::plain();
    assert_eq!(rig.status(), "204");
    fs::write(rig.policy(), NOTHING).unwrap();
    let told = rig.told(1);
    assert_eq!(rig.status(), "403");
    assert_eq!(told[0]["reason"], "policy_reloaded");
    assert_eq!(told[0]["outcome"], "allow");
    let records = rig.records();
    let of = |outcome: &str| {
        let found = records
            .iter()
            .find(|it| it["kind"] == "http" && it["outcome"] == outcome);
        found.unwrap()["policy"].as_str().unwrap().to_owned()
    };
    let (old, new) = (of("allow"), of("deny"));
    assert_ne!(old, new);
    assert_eq!(told[0]["policy"], new);
    assert_eq!(told[0]["hint"], format!("in the place of {old}"));
    // And back, by renaming, as editors do.
    let other = rig.folder.path().join("other");
    fs::write(&other, allowing(rig.origin)).unwrap();
    fs::rename(other, rig.policy()).unwrap();
    rig.told(2);
    assert_eq!(rig.status(), "204");
}

#[test]
fn a_link_that_is_swapped_is_a_change() {
    let rig = Rig::start(|folder, text| {
        for (version, text) in [("one", text), ("two", NOTHING)] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("policy.toml"), text).unwrap();
        }
        symlink("one", folder.join("..data")).unwrap();
        symlink("..data/policy.toml", folder.join("policy.toml")).unwrap();
        folder.join("policy.toml")
    });
    assert_eq!(rig.status(), "204");
    let at = |name: &str| rig.folder.path().join(name);
    symlink("two", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    rig.told(1);
    assert_eq!(rig.status(), "403");
}

#[test]
fn a_bad_file_changes_nothing() {
    let rig = Rig::plain();
    let mut open = rig.tunnel();
    fs::write(rig.policy(), "schema = 1\nagnet = \"x\"\n").unwrap();
    let told = rig.told(1);
    assert_eq!(told[0]["reason"], "policy_kept");
    assert_eq!(told[0]["outcome"], "deny");
    let hint = told[0]["hint"].as_str().unwrap();
    assert!(hint.contains("agnet"), "{hint}");
    assert_eq!(rig.status(), "204");
    echo(&mut open);
    // Another agent is not another policy for this one.
    fs::write(rig.policy(), NOTHING.replace("scripted", "other")).unwrap();
    let told = rig.told(2);
    let hint = told[1]["hint"].as_str().unwrap();
    assert!(hint.contains("agent") && hint.contains("restart"), "{hint}");
    fs::remove_file(rig.policy()).unwrap();
    rig.told(3);
    rig.hang_up();
    rig.told(4);
    assert_eq!(rig.status(), "204");
    echo(&mut open);
    drop(open);
    let digests: Vec<_> = rig.told(4).iter().map(|it| it["policy"].clone()).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn it_is_read_again_when_somebody_asks() {
    let rig = Rig::plain();
    rig.hang_up();
    let told = rig.told(1);
    assert_eq!(told[0]["reason"], "policy_reloaded");
    assert_eq!(rig.status(), "204");
}

#[test]
fn a_tunnel_that_is_allowed_no_more_is_closed() {
    let rig = Rig::plain();
    let mut open = rig.tunnel();
    // One that leaves it allowed closes nothing.
    fs::write(rig.policy(), allowing(rig.origin) + "# the same\n").unwrap();
    rig.told(1);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    echo(&mut open);
    fs::write(rig.policy(), NOTHING).unwrap();
    let mut rest = Vec::new();
    // Reset, so that nobody takes what came for all there was.
    let ended = open.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    assert!(ended.is_err(), "{ended:?}");
    let record = wait_for("the tunnel's record", || {
        let mut all = rig.records().into_iter();
        Ok(all.find(|it| it["kind"] == "connect" && it["phase"] == "end"))
    })
    .unwrap();
    assert_eq!(record["reason"], "policy_changed", "{record}");
    assert_eq!(record["blame"], "policy");
    assert_eq!(record["outcome"], "allow");
    assert!(
        record["hint"].as_str().unwrap().contains("no rule"),
        "{record}"
    );
}
