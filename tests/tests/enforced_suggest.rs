//! From a run that only observes to a policy that covers it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    process::{Command, Output},
};

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::{Agent, sluice},
    needs_root,
    world::{ORIGIN4, World},
};

const CURL: &str = "/usr/bin/curl";
const EMPTY: &str = "schema = 1\nagent = \"watched\"\n";

/// What the agent does: reads, writes, a tunnel through which nothing comes, and a datagram.
fn script(at: SocketAddr) -> String {
    let curl =
        format!("{CURL} --silent --show-error --max-time 20 --noproxy '' --output /dev/null");
    format!(
        "{curl} http://{at}/users/17; {curl} http://{at}/users/18; \
         {curl} --data x http://{at}/users; \
         {curl} --noproxy '*' http://{at}/direct; \
         {curl} --proxytunnel http://{at}/tunnel"
    )
}

fn tool(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(sluice()?)
        .arg("policy")
        .args(arguments)
        .output()?)
}

#[test]
fn what_is_suggested_covers_what_was_observed() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let listener = world.origin.run(|| TcpListener::bind((ORIGIN4, 0)))?;
    let at = SocketAddr::new(IpAddr::from(ORIGIN4), listener.local_addr()?.port());
    std::thread::spawn(move || {
        for call in listener.incoming() {
            let Ok(mut call) = call else { return };
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                let read = call.read(&mut head)?;
                if read == 0 {
                    return Ok(());
                }
                call.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            });
        }
    });
    let audit = world.scratch().join("observed.jsonl");
    let policy = world.file("empty.toml", EMPTY)?;
    let text = |path: &std::path::Path| path.display().to_string();
    let finished = Agent::behind(&world, &[], audit.clone())?
        .options(["--observe", "--policy", &text(&policy)])
        .run(["/bin/sh", "-c", &script(at)])?;
    ensure!(finished.status == 0, "{finished:?}");
    let observed = finished.records_with(&[("outcome", "observe")]);
    ensure!(observed.len() >= 5, "{finished:?}");

    // The empty policy refuses all of it.
    let audit = text(&audit);
    let before = tool(&["diff", "--policy", &text(&policy), "--audit", &audit])?;
    ensure!(before.status.code() == Some(1), "{before:?}");

    let suggested = tool(&["suggest", "--audit", &audit])?;
    ensure!(suggested.status.success(), "{suggested:?}");
    let suggestion = world.scratch().join("suggested.toml");
    fs::write(&suggestion, &suggested.stdout)?;
    let words = String::from_utf8(suggested.stdout)?;
    ensure!(words.contains("\"/users/*\""), "{words}");
    ensure!(words.contains("private = true"), "{words}");
    let suggestion = text(&suggestion);
    let checked = tool(&["check", &suggestion])?;
    ensure!(checked.status.success(), "{checked:?}\n{words}");

    let after = tool(&["diff", "--json", "--policy", &suggestion, "--audit", &audit])?;
    ensure!(after.status.code() == Some(0), "{after:?}\n{words}");
    let report: serde_json::Value = serde_json::from_slice(&after.stdout)?;
    ensure!(report["changes"]["refused"] == 0, "{report:#}");
    ensure!(report["covered"].as_u64() >= Some(4), "{report:#}");

    // The tunnel may have hidden what the rule for HTTP would have to see.
    ensure!(report["not_decided"]["hidden"] == 1, "{report:#}");

    // And in force, it lets the same through.
    let finished = Agent::behind(&world, &[], world.scratch().join("enforced.jsonl"))?
        .options(["--policy", &suggestion])
        .run(["/bin/sh", "-c", &script(at)])?;
    ensure!(finished.status == 0, "{finished:?}");
    let refused = finished.records_with(&[("outcome", "deny"), ("source", "both")]);
    ensure!(refused.is_empty(), "{finished:?}\n{words}");

    // One event of it, looked up.
    let read: Vec<_> = observed.iter().filter(|it| it["kind"] == "http").collect();
    let event = read[0]["event"].as_str().unwrap_or_default();
    let explained = tool(&[
        "explain",
        "--policy",
        &suggestion,
        "--event",
        event,
        "--audit",
        &audit,
    ])?;
    let explained = String::from_utf8(explained.stdout)?;
    ensure!(
        explained.starts_with("recorded observe, no_rule"),
        "{explained}"
    );
    ensure!(explained.contains("verdict  allow"), "{explained}");

    // What cannot be told has a status of its own.
    let missing = tool(&["diff", "--policy", &suggestion, "--audit", "/nowhere"])?;
    ensure!(missing.status.code() == Some(2), "{missing:?}");
    Ok(())
}
