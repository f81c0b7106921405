//! Real clients whose TLS is opened, since a rule has paths: they are told nothing but what
//! `sluice run` tells every command by its environment.
//!
//! Each asks for a path that is allowed and for one that is not. The server's own log is the
//! witness.

use std::{ffi::OsString, fs, path::Path};

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::{Agent, Finished, field, without_proxy},
    needs, needs_root,
    origin::{ALLOWED, Origin, rules},
    skip,
    world::World,
};

#[path = "enforced_inspect/fetchers.rs"]
mod fetchers;
#[path = "enforced_inspect/mcp.rs"]
mod mcp;
#[path = "enforced_inspect/streams.rs"]
mod streams;

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
    /// A policy whose rule has this port and these lines.
    fn policy(self, port: u16, rule: &str) -> String {
        let direct = match self {
            Self::Redirect => "redirect",
            Self::Proxy => "deny",
        };
        let rules = rules().replace(
            "private = true",
            &format!("private = true\nports = [{port}]\n{rule}"),
        );
        format!("schema = 1\nagent = \"client\"\n[network]\ndirect = \"{direct}\"\n{rules}")
    }

    /// The words as the agent runs them.
    fn command<S: AsRef<std::ffi::OsStr>>(
        self,
        words: impl IntoIterator<Item = S>,
    ) -> Vec<OsString> {
        match self {
            Self::Redirect => without_proxy(words),
            Self::Proxy => words.into_iter().map(|it| it.as_ref().to_owned()).collect(),
        }
    }
}

/// What may be asked in most of these tests.
const RULE: &str = "methods = [\"GET\"]\npaths = [\"/repos/acme/**\"]";

/// Runs a command in a world with an origin. The gateway trusts the origin's authority; the
/// agent is not told of it.
fn run(world: &World, origin: &Origin, policy: &str, words: Vec<OsString>) -> Result<Finished> {
    let agent = Agent::new(world, policy)?.prepare(|command| {
        command.env("SSL_CERT_FILE", origin.authority());
    });
    agent.run(words)
}

/// A client that prints the status and the body of an answer to each of the URLs that follow.
fn check<const N: usize>(client: [&str; N], protocol: &str) -> Result<()> {
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    for repository in ["acme", "other"] {
        let folder = origin.files().join("repos").join(repository);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("it"), "from the origin\n")?;
    }
    let (allowed, refused) = ("/repos/acme/it", "/repos/other/it");
    let urls = [allowed, refused].map(|path| format!("https://{ALLOWED}{path}"));
    let words = || client.into_iter().chain(urls.iter().map(String::as_str));
    for way in BOTH {
        let finished = run(
            &world,
            &origin,
            &way.policy(443, RULE),
            way.command(words()),
        )?;
        let said = finished.out();
        ensure!(finished.status == 0, "{way:?}: {finished:#?}");
        ensure!(
            said.contains("200 from the origin"),
            "{way:?}: {finished:#?}"
        );
        ensure!(
            said.contains("403 {\"error\":\"policy_denied\""),
            "{way:?}: {finished:#?}"
        );
        for (path, outcome, status) in [(allowed, "allow", "200"), (refused, "deny", "403")] {
            let fields = [("kind", "http"), ("path", path), ("outcome", outcome)];
            let records = finished.records_with(&fields);
            let [record] = records[..] else {
                anyhow::bail!("{way:?}: {} of {path}: {finished:#?}", records.len());
            };
            ensure!(field(record, "inspected") == "true", "{record:#}");
            ensure!(field(record, "source") == "both", "{record:#}");
            ensure!(field(record, "status") == status, "{record:#}");
        }
    }
    let asked = origin.protocols()?;
    let expected = format!("{protocol} {allowed}");
    ensure!(asked == [expected.clone(), expected], "{asked:#?}");
    Ok(())
}

const CURL: &str = r#"cd $(mktemp -d) && for url in "$@"; do
    "$0" -sS -w '%{http_code} ' -o body $FLAGS "$url" && cat body
done"#;

fn curl(flags: &str, protocol: &str) -> Result<()> {
    needs_root!();
    let curl = needs!(skip::program("curl"));
    let script = CURL.replace("$FLAGS", flags);
    check(["/bin/sh", "-c", &script, &text(&curl)], protocol)
}

#[test]
fn curl_over_http2() -> Result<()> {
    curl("--http2", "HTTP/2.0")
}

#[test]
fn curl_over_http1() -> Result<()> {
    curl("--http1.1", "HTTP/1.1")
}

#[test]
fn python_requests() -> Result<()> {
    python(
        "requests",
        "import requests
for url in sys.argv[1:]:
    answer = requests.get(url, timeout=20)
    print(answer.status_code, answer.text, end='')",
        "HTTP/1.1",
    )
}

#[test]
fn python_aiohttp() -> Result<()> {
    python(
        "aiohttp",
        "import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        for url in sys.argv[1:]:
            async with session.get(url) as answer:
                print(answer.status, await answer.text(), end='')
asyncio.run(main())",
        "HTTP/1.1",
    )
}

#[test]
fn python_httpx_over_http2() -> Result<()> {
    python(
        "h2",
        "import httpx
with httpx.Client(http2=True, timeout=20) as client:
    for url in sys.argv[1:]:
        answer = client.get(url)
        print(answer.status_code, answer.text, end='')",
        "HTTP/2.0",
    )
}

fn python(module: &str, program: &str, protocol: &str) -> Result<()> {
    needs_root!();
    let python = needs!(skip::python(module));
    let program = format!("import sys\n{program}");
    check([python, "-c", &program], protocol)
}

#[test]
fn node_fetch() -> Result<()> {
    needs_root!();
    let node = needs!(skip::node());
    let program = "(async () => {
        for (const url of process.argv.slice(1)) {
            const answer = await fetch(url);
            process.stdout.write(`${answer.status} ${await answer.text()}`);
        }
    })().catch(error => { console.error(error); process.exitCode = 1; });";
    check([&text(&node), "-e", program], "HTTP/1.1")
}

/// Takes its trust and its proxy from what the virtual machine is told; without one in the
/// environment, it asks none.
const JAVA: &str = r#"
import java.net.*;
import java.net.http.*;
public class Client {
    public static void main(String[] urls) throws Exception {
        var client = HttpClient.newBuilder();
        if (System.getenv("https_proxy") == null) client.proxy(HttpClient.Builder.NO_PROXY);
        for (var url : urls) {
            var answer = client.build().send(
                HttpRequest.newBuilder(URI.create(url)).build(),
                HttpResponse.BodyHandlers.ofString());
            System.out.print(answer.statusCode() + " " + answer.body());
        }
    }
}
"#;

#[test]
fn java_http_client_over_http2() -> Result<()> {
    needs_root!();
    let javac = needs!(skip::program("javac"));
    let java = text(&javac.with_file_name("java"));
    let script = r#"cd $(mktemp -d) && printf %s "$2" > Client.java && java=$1 && shift 2 &&
        "$java" Client.java "$@""#;
    check(["/bin/sh", "-c", script, "sh", &java, JAVA], "HTTP/2.0")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
