//! Real clients against a real web server, through both modes: nothing about them is adapted to
//! Sluice, but that in deny mode they must know what a proxy is.
//!
//! Beside each request that policy allows stands one that it does not. The server's own log is
//! the witness.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::{Agent, Finished, field, without_proxy},
    needs, needs_root,
    origin::{ALLOWED, Origin, REFUSED, rules},
    skip,
    world::{ORIGIN4, ORIGIN6, World},
};

/// How a client finds its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// It knows nothing: the kernel sends its connections to the gateway.
    Redirect,
    /// It asks the proxy that its environment names; the kernel refuses all else.
    Proxy,
}

const BOTH: [Way; 2] = [Way::Redirect, Way::Proxy];

impl Way {
    fn policy(self) -> String {
        let direct = match self {
            Self::Redirect => "redirect",
            Self::Proxy => "deny",
        };
        format!(
            "schema = 1\nagent = \"client\"\n[network]\ndirect = \"{direct}\"\n{}",
            rules()
        )
    }

    fn command<const N: usize>(self, words: [&str; N]) -> Vec<OsString> {
        match self {
            Self::Redirect => without_proxy(words),
            Self::Proxy => words.map(OsString::from).to_vec(),
        }
    }
}

/// Runs a client in a world with nginx.
fn run(world: &World, origin: &Origin, way: Way, words: Vec<OsString>) -> Result<Finished> {
    let agent = Agent::new(world, &way.policy())?.prepare(|command| {
        // Where each client looks for the authority that it trusts.
        for name in [
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "SSL_CERT_FILE",
            "NODE_EXTRA_CA_CERTS",
            "GIT_SSL_CAINFO",
        ] {
            command.env(name, origin.authority());
        }
    });
    agent.run(words)
}

/// The record of an allowed request names who asked, and for what.
fn check_record(
    finished: &Finished,
    way: Way,
    port: &str,
    comms: &[&str],
    exe: &str,
) -> Result<()> {
    let fields = [("outcome", "allow"), ("host", ALLOWED), ("port", port)];
    let mut records = finished.records_with(&fields);
    records.retain(|record| field(record, "kind") != "dns");
    ensure!(!records.is_empty(), "no record: {:#?}", finished.records);
    for record in records {
        ensure!(field(record, "source") == "both", "{record:#}");
        let comm = field(record, "process.comm");
        ensure!(comms.contains(&comm.as_str()), "{record:#}");
        ensure!(field(record, "process.exe").contains(exe), "{record:#}");
        ensure!(
            field(record, "process.pid").parse::<u32>()? > 1,
            "{record:#}"
        );
        let addressed = field(record, "original_destination");
        match way {
            Way::Redirect => ensure!(
                [format!("{ORIGIN4}:{port}"), format!("[{ORIGIN6}]:{port}")].contains(&addressed),
                "{record:#}"
            ),
            // It asked for the gateway itself.
            Way::Proxy => ensure!(addressed == "null", "{record:#}"),
        }
    }
    Ok(())
}

/// The refused host was never reached, and a record says so.
fn check_refusal(finished: &Finished, origin: &Origin) -> Result<()> {
    ensure!(
        finished.status != 0,
        "a refused host answered: {finished:#?}"
    );
    let denied = finished.records_with(&[("outcome", "deny"), ("host", REFUSED)]);
    ensure!(!denied.is_empty(), "no record: {:#?}", finished.records);
    for record in denied {
        ensure!(field(record, "reason") == "no_rule", "{record:#}");
    }
    let requests = origin.requests()?;
    ensure!(
        !requests.iter().any(|request| request.contains(REFUSED)),
        "{requests:#?}"
    );
    Ok(())
}

/// Runs a client for one URL of each host, in both ways. `client` turns a URL into a command.
fn check<const N: usize>(
    world: &World,
    ways: &[Way],
    comms: &[&str],
    exe: &str,
    client: impl Fn(&str) -> [String; N],
) -> Result<()> {
    let nginx = needs!(skip::program("nginx"));
    let origin = Origin::start(world, &nginx)?;
    for way in ways {
        for (scheme, port) in [("http", "80"), ("https", "443")] {
            let label = format!("{scheme} by {way:?}");
            let seen = origin.requests()?.len();
            let url = format!("{scheme}://{ALLOWED}/hello");
            let command = client(&url);
            let words = way.command(command.each_ref().map(String::as_str));
            let finished = run(world, &origin, *way, words)?;
            ensure!(finished.status == 0, "{label}: {finished:#?}");
            ensure!(
                finished.out() == "hello from the origin\n",
                "{label}: {finished:#?}"
            );
            check_record(&finished, *way, port, comms, exe)?;
            let requests = origin.requests()?;
            ensure!(
                requests.len() == seen + 1 && requests[seen].starts_with(&format!("GET {url} ")),
                "{label}: {requests:#?}"
            );

            let command = client(&format!("{scheme}://{REFUSED}/hello"));
            let words = way.command(command.each_ref().map(String::as_str));
            let finished = run(world, &origin, *way, words)?;
            check_refusal(&finished, &origin)?;
        }
    }
    Ok(())
}

#[test]
fn curl_over_ipv4() -> Result<()> {
    curl(&BOTH, "-4")
}

#[test]
fn curl_over_ipv6() -> Result<()> {
    // The proxy's address is 127.0.0.1, which curl does not ask when it is told IPv6.
    curl(&[Way::Redirect], "-6")
}

fn curl(ways: &[Way], family: &str) -> Result<()> {
    needs_root!();
    let curl = needs!(skip::program("curl"));
    check(&World::new()?, ways, &["curl"], "curl", |url| {
        [&text(&curl), "-sSf", family, url].map(str::to_owned)
    })
}

#[test]
fn python_requests() -> Result<()> {
    python(
        "requests",
        "answer = requests.get(sys.argv[1], timeout=20); answer.raise_for_status(); \
         print(answer.text, end='')",
    )
}

#[test]
fn python_httpx() -> Result<()> {
    python(
        "httpx",
        "answer = httpx.get(sys.argv[1], timeout=20); answer.raise_for_status(); \
         print(answer.text, end='')",
    )
}

fn python(module: &str, program: &str) -> Result<()> {
    needs_root!();
    let python = needs!(skip::python(module));
    let program = format!("import sys, {module}\n{program}");
    check(&World::new()?, &BOTH, &["python3"], "python3", |url| {
        [python, "-c", &program, url].map(str::to_owned)
    })
}

const FETCH: &str = "fetch(process.argv[1]).then(async answer => {
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    process.stdout.write(await answer.text());
}).catch(error => { console.error(error); process.exitCode = 1; });";

#[test]
fn node_fetch_of_any_version() -> Result<()> {
    needs_root!();
    node(&[Way::Redirect], needs!(skip::program("node")))
}

#[test]
fn node_fetch_that_reads_the_environment() -> Result<()> {
    needs_root!();
    node(&[Way::Proxy], needs!(skip::node()))
}

fn node(ways: &[Way], node: PathBuf) -> Result<()> {
    let world = World::new()?;
    let node = world.publish(&node)?;
    // Since version 24 it gives its first thread a name.
    check(&world, ways, &["node", "MainThread"], "node", |url| {
        [&text(&node), "-e", FETCH, url].map(str::to_owned)
    })
}

#[test]
fn git_clone_over_https() -> Result<()> {
    needs_root!();
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    origin.add_repository("read me\n")?;
    // Into the agent's own home; what was cloned is printed.
    const CLONE: &str = "cd && /usr/bin/git clone --quiet \"$1\" clone && cat clone/README";
    for way in BOTH {
        let url = format!("https://{ALLOWED}/repository.git");
        let words = way.command(["sh", "-c", CLONE, "sh", &url]);
        let finished = run(&world, &origin, way, words)?;
        ensure!(finished.status == 0, "{way:?}: {finished:#?}");
        ensure!(finished.out() == "read me\n", "{way:?}: {finished:#?}");
        check_record(&finished, way, "443", &["git-remote-http"], "git")?;
        let asked = origin.requests()?;
        let asked = asked
            .iter()
            .filter(|request| request.contains("/info/refs"));
        ensure!(asked.count() >= 1, "{way:?}");

        let url = format!("https://{REFUSED}/repository.git");
        let words = way.command(["sh", "-c", CLONE, "sh", &url]);
        let finished = run(&world, &origin, way, words)?;
        check_refusal(&finished, &origin)?;
    }
    Ok(())
}

/// The path of a program, for a command line of text.
fn text(path: &Path) -> String {
    path.display().to_string()
}
