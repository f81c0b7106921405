//! The official SDKs for Python and TypeScript at both ends of the gateway: servers that answer in
//! JSON or in events, with sessions and without, and write down which calls reached them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use sluice_tests::skip;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::rig::{Rig, in_time};

/// Whose SDK.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Sdk {
    Python,
    TypeScript,
}

/// Where their scripts run.
struct Stage {
    folder: tempfile::TempDir,
    python: PathBuf,
    node: PathBuf,
}

impl Stage {
    fn new() -> Option<Self> {
        let python = skip::python_packages("mcp")?;
        let node = skip::node()?;
        let sdk = skip::node_package("@modelcontextprotocol/sdk")?;
        let packages = sdk.ancestors().nth(2)?;
        let folder = tempfile::tempdir().unwrap();
        for name in ["mcp_server", "mcp_client"] {
            for kind in ["py", "mjs"] {
                let name = format!("{name}.{kind}");
                let from = Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("peers")
                    .join(&name);
                fs::copy(from, folder.path().join(name)).unwrap();
            }
        }
        symlink(packages, folder.path().join("node_modules")).unwrap();
        Some(Self {
            folder,
            python,
            node,
        })
    }

    /// A script in this SDK's language.
    fn script(&self, sdk: Sdk, name: &str) -> Command {
        let script = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        let mut command = match sdk {
            Sdk::Python => {
                let mut command = Command::new(skip::PYTHON);
                command.env("PYTHONPATH", &self.python).arg(script("py"));
                command
            }
            Sdk::TypeScript => {
                let mut command = Command::new(&self.node);
                command.env("NODE_USE_ENV_PROXY", "1").arg(script("mjs"));
                command
            }
        };
        for name in ["no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY"] {
            command.env_remove(name);
        }
        command.kill_on_drop(true).stdin(Stdio::null());
        command
    }

    async fn server(&self, sdk: Sdk, options: &[&str]) -> Server {
        let log = self.folder.path().join("log");
        fs::write(&log, "").unwrap();
        let mut child = self
            .script(sdk, "mcp_server")
            .arg(&log)
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = in_time(said.next_line()).await.unwrap().unwrap();
        let port = serde_json::from_str::<Value>(&line).unwrap()["listening"].clone();
        Server {
            url: format!("http://127.0.0.1:{port}/mcp"),
            log,
            _child: child,
        }
    }

    /// What a client says of these calls, which it makes behind the gateway.
    async fn client(
        &self,
        sdk: Sdk,
        mode: &str,
        rig: &Rig,
        url: &str,
        calls: &[&str],
    ) -> Vec<Value> {
        let output = self
            .script(sdk, "mcp_client")
            .env("HTTP_PROXY", format!("http://{}", rig.address))
            .env("http_proxy", format!("http://{}", rig.address))
            .args([mode, url])
            .args(calls)
            .output();
        let output = in_time(output).await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sdk:?} {mode}: {said}\n{failed}");
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// A server, and what reached it.
struct Server {
    url: String,
    log: PathBuf,
    _child: Child,
}

impl Server {
    fn reached(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap();
        fs::write(&self.log, "").unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

const LEGACY: &str = "legacy";
const MODERN: &str = "2026-07-28";
const CALLS: [&str; 4] = [
    "search_tickets={\"query\":\"x\"}",
    "refund={\"amount\":5}",
    "refund={\"amount\":500}",
    "drop={}",
];

fn rules(url: &str, methods: &str) -> String {
    format!(
        "[[mcp]]\nid = \"tickets\"\nserver = \"{url}\"\nprivate = true\npin_definitions = true\n\
         {methods}tools = [\"search_*\", \"refund\", \"ask_user\"]\n\
         when = 'mcp.tool != \"refund\" || mcp.args.amount <= 100'\n"
    )
}

/// A client that calls each server in its own way.
async fn calls_of(client: Sdk, mode: &str, server: Sdk, options: &[&str]) -> Option<()> {
    let stage = Stage::new()?;
    let server = stage.server(server, options).await;
    // The control: without the gateway all of it arrives.
    let unchecked = Rig::start(&format!(
        "[[egress]]\nid = \"all\"\nhosts = [\"127.0.0.1\"]\nports = [{}]\nprivate = true\n",
        server.url.split([':', '/']).nth(4).unwrap()
    ));
    let said = stage
        .client(client, mode, &unchecked, &server.url, &CALLS)
        .await;
    assert_eq!(said[0]["tools"].as_array().unwrap().len(), 4, "{said:#?}");
    assert_eq!(
        server.reached(),
        ["search_tickets", "refund", "refund", "drop"]
    );

    let rig = Rig::start(&rules(&server.url, ""));
    let said = stage.client(client, mode, &rig, &server.url, &CALLS).await;
    let [listed, search, refund, large, drop] = &said[..] else {
        panic!("{said:#?}")
    };
    assert_eq!(
        listed["tools"],
        json!(["search_tickets", "refund", "ask_user"])
    );
    assert_eq!(search["text"], "nothing about x");
    assert_eq!(refund["text"], "refunded 5");
    for (refused, reason) in [(large, "condition_not_met"), (drop, "call_not_allowed")] {
        assert_eq!(refused["code"], -32000, "{refused}");
        assert_eq!(refused["data"]["reason"], reason, "{refused}");
        assert_eq!(refused["data"]["rule"], "tickets", "{refused}");
    }
    assert_eq!(server.reached(), ["search_tickets", "refund"]);
    Some(())
}

/// A server that asks the user, through a client that would agree.
async fn questions_of(client: Sdk, server: Sdk) -> Option<()> {
    let stage = Stage::new()?;
    let server = stage.server(server, &[]).await;
    let methods = "methods = [\"initialize\", \"notifications/*\", \"tools/list\", \
        \"elicitation/create\"]\n";
    let ask = ["ask_user={}"];
    let rig = Rig::start(&rules(&server.url, methods));
    let said = stage.client(client, LEGACY, &rig, &server.url, &ask).await;
    assert_eq!(said[1], json!({"asked": "May I?"}), "{said:#?}");
    assert_eq!(said[2]["text"], "accept", "{said:#?}");
    assert_eq!(server.reached(), ["ask_user accept"]);

    let rig = Rig::start(&rules(&server.url, ""));
    let said = stage.client(client, LEGACY, &rig, &server.url, &ask).await;
    assert_eq!(said.len(), 2, "it was not asked: {said:#?}");
    // Asked on the stream of the call, that fails with a reason; asked on another, the server was
    // told that nobody answers such questions.
    let failed = &said[1]["failed"] == true || said[1]["data"]["reason"] == "call_not_allowed";
    assert!(failed, "{said:#?}");
    let answered = server.reached();
    assert!(
        !answered.contains(&"ask_user accept".to_owned()),
        "{answered:?}"
    );
    Some(())
}

/// A test for each pair of peers.
macro_rules! pairs {
    ($($name:ident: $client:ident $mode:ident to $server:ident $options:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let options: &[&str] = &$options;
                // Without the SDKs there is nothing to be seen; that was said.
                let _ran = calls_of(Sdk::$client, $mode, Sdk::$server, options).await;
            }
        )*
    };
}

pairs! {
    python_to_python: Python LEGACY to Python [];
    python_to_python_json: Python LEGACY to Python ["json", "stateless"];
    python_without_session_to_python: Python MODERN to Python [];
    python_to_typescript: Python LEGACY to TypeScript [];
    typescript_to_python: TypeScript LEGACY to Python [];
    typescript_to_typescript: TypeScript LEGACY to TypeScript [];
    typescript_to_typescript_json: TypeScript LEGACY to TypeScript ["json", "stateless"];
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_a_typescript_server() {
    let _ran = questions_of(Sdk::TypeScript, Sdk::TypeScript).await;
    let _ran = questions_of(Sdk::Python, Sdk::TypeScript).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_a_python_server() {
    let _ran = questions_of(Sdk::Python, Sdk::Python).await;
}
