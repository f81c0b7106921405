//! Each connection and each question is put down to the process that made it, however many there
//! are at once. Each process says who it is in what it asks for, by the number it knows itself by;
//! records have the number that it has outside, which is looked up while it waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, Finished, field, without_proxy},
    cgroup::processes,
    needs, needs_root,
    origin::{ALLOWED, Origin, rules},
    skip::{self, PYTHON},
    world::{ORIGIN4, World},
};

const PROCESSES: usize = 50;
const EACH: usize = 20;

/// Starts processes that all begin together: argument 1 is the address, 2 the port to connect
/// to, 3 and 4 how many processes and how many connections each. A request's path has the pid.
const CONNECT: &str = r#"
import os, socket, sys
address, port, processes, each = sys.argv[1], *map(int, sys.argv[2:5])
if port == 0:
    port = int(os.environ["http_proxy"].rsplit(":", 1)[1])
gate, opener = os.pipe()
for _ in range(processes):
    if os.fork() == 0:
        os.close(opener)
        os.read(gate, 1)
        for number in range(each):
            one = socket.create_connection((address, port), 60)
            target = f"http://{sys.argv[5]}" if len(sys.argv) > 6 else ""
            one.sendall(f"GET {target}/pid/{os.getpid()}/{number} HTTP/1.1\r\n"
                        f"Host: {sys.argv[5]}\r\nConnection: close\r\n\r\n".encode())
            head = one.makefile("rb").read()
            if not head.startswith(b"HTTP/1.1 200 ") or not head.endswith(b"pid\n"):
                print("not answered", head, flush=True)
                os._exit(1)
            one.close()
        os._exit(0)
print("ready", flush=True)
sys.stdin.readline()
os.close(opener)
failed = sum(os.wait()[1] != 0 for _ in range(processes))
print("failed", failed)
"#;

#[test]
fn a_thousand_redirected_connections() -> Result<()> {
    needs_root!();
    thousand_connections("redirect", &[&ORIGIN4.to_string(), "80"], &[])
}

#[test]
fn a_thousand_connections_to_the_proxy() -> Result<()> {
    needs_root!();
    thousand_connections("deny", &["127.0.0.1", "0"], &["absolute"])
}

/// Runs the crowd, and answers with what each member's number is outside.
fn run(agent: Agent<'_>, words: Vec<OsString>) -> Result<(Finished, BTreeMap<u32, u32>)> {
    let agent = agent.prepare(|command| {
        command.stdin(Stdio::piped());
    });
    let mut running = agent.spawn(words)?;
    running.wait_for_output("ready\n")?;
    let outside = processes(&running.cgroup()?)?;
    running.say("go")?;
    let finished = running.finish()?;
    ensure!(finished.status == 0, "{}", finished.err());
    ensure!(finished.out() == "ready\nfailed 0\n", "{}", finished.out());
    Ok((finished, outside))
}

/// Whether a record has the number outside of the process that said this number.
fn is_of(record: &Value, said: &str, outside: &BTreeMap<u32, u32>) -> Result<bool> {
    let outside = outside.get(&said.parse()?).context("it was there before")?;
    Ok(field(record, "process.pid") == outside.to_string())
}

fn thousand_connections(direct: &str, to: &[&str], more: &[&str]) -> Result<()> {
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    let policy = format!(
        "schema = 1\nagent = \"crowd\"\n[network]\ndirect = \"{direct}\"\n{}",
        rules()
    );
    let (processes, each) = (PROCESSES.to_string(), EACH.to_string());
    let mut words = vec![PYTHON, "-c", CONNECT];
    words.extend(to);
    words.extend([processes.as_str(), &each, ALLOWED]);
    words.extend(more);
    let words = words.into_iter().map(OsString::from).collect();
    let (finished, outside) = run(Agent::new(&world, &policy)?, words)?;

    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for record in finished.records_with(&[("kind", "http"), ("outcome", "allow")]) {
        let path = field(record, "path");
        let (pid, number) = path
            .strip_prefix("/pid/")
            .and_then(|rest| rest.split_once('/'))
            .context("a path that was asked for")?;
        ensure!(is_of(record, pid, &outside)?, "{record:#}");
        ensure!(field(record, "process.comm") == "python3", "{record:#}");
        let fresh = found
            .entry(pid.to_owned())
            .or_default()
            .insert(number.to_owned());
        ensure!(fresh, "recorded twice: {record:#}");
    }
    ensure!(found.len() == PROCESSES, "{} processes", found.len());
    for (pid, numbers) in found {
        ensure!(numbers.len() == EACH, "{pid}: {numbers:?}");
    }
    // Both ledgers agree: nothing went past the gateway, and nobody came out of nowhere.
    ensure!(finished.records_with(&[("kind", "finding")]).is_empty());
    ensure!(finished.records_with(&[("kind", "loss")]).is_empty());
    let asked = origin.requests()?;
    ensure!(asked.len() == PROCESSES * EACH, "{} requests", asked.len());
    Ok(())
}

/// Each process asks for names that have its pid in them, on a socket for each: argument 1 is
/// the server, 2 and 3 how many processes and how many questions each.
const ASK: &str = r#"
import os, socket, struct, sys
server, processes, each = sys.argv[1], *map(int, sys.argv[2:4])
gate, opener = os.pipe()
for _ in range(processes):
    if os.fork() == 0:
        os.close(opener)
        os.read(gate, 1)
        for number in range(each):
            labels = f"p{os.getpid()}-{number}.refused.test".split(".")
            name = b"".join(bytes([len(label)]) + label.encode() for label in labels)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.settimeout(60)
                one.sendto(struct.pack("!6H", number, 256, 1, 0, 0, 0) + name + b"\0\0\1\0\1",
                           (server, 53))
                answer, source = one.recvfrom(512)
            # Refused, by whom it was sent to.
            if answer[3] & 15 != 5 or source != (server, 53):
                print("answered", answer, source, flush=True)
                os._exit(1)
        os._exit(0)
print("ready", flush=True)
sys.stdin.readline()
os.close(opener)
failed = sum(os.wait()[1] != 0 for _ in range(processes))
print("failed", failed)
"#;

#[test]
fn questions_over_udp_in_redirect_mode() -> Result<()> {
    needs_root!();
    questions("redirect")
}

#[test]
fn questions_over_udp_in_deny_mode() -> Result<()> {
    needs_root!();
    questions("deny")
}

fn questions(direct: &str) -> Result<()> {
    let world = World::new()?;
    let policy = format!("schema = 1\nagent = \"crowd\"\n[network]\ndirect = \"{direct}\"\n");
    let (server, processes, each) = (ORIGIN4.to_string(), PROCESSES.to_string(), 4);
    let command = [PYTHON, "-c", ASK, &server, &processes, &each.to_string()];
    let agent = Agent::new(&world, &policy)?;
    let (finished, outside) = run(agent, without_proxy(command))?;
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for record in finished.records_with(&[("kind", "dns"), ("outcome", "deny")]) {
        let host = field(record, "host");
        let (pid, _) = host
            .strip_prefix('p')
            .and_then(|rest| rest.split_once('-'))
            .context("a name that was asked for")?;
        ensure!(is_of(record, pid, &outside)?, "{record:#}");
        *found.entry(pid.to_owned()).or_default() += 1;
    }
    ensure!(found.len() == PROCESSES, "{} processes", found.len());
    ensure!(found.values().all(|count| *count == each), "{found:?}");
    Ok(())
}
