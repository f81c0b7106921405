//! Calls on an MCP server behind TLS, by an agent that knows of no gateway.

use super::*;

const CALLS: &str = r#"for tool in search refund drop; do
    "$0" -sS --http1.1 -w '%{http_code}\n' -H 'Content-Type: application/json' -o body-$tool \
        -d '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"'$tool'","arguments":{"amount":500}}}' \
        "$1" && cat body-$tool && echo
done"#;

#[test]
fn each_call_is_decided() -> Result<()> {
    needs_root!();
    let curl = needs!(skip::program("curl"));
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    let url = format!("https://{ALLOWED}/mcp");
    // That rule allows everything at the host, and nothing at the server.
    let mcp = format!(
        "[[mcp]]\nid = \"tickets\"\nserver = \"{url}\"\nprivate = true\n\
         tools = [\"search\", \"refund\"]\n\
         when = 'mcp.tool != \"refund\" || mcp.args.amount <= 100'\n"
    );
    let script = format!("cd $(mktemp -d) && {CALLS}");
    for way in BOTH {
        let policy = way.policy(443, "") + &mcp;
        let words = way.command(["/bin/sh", "-c", &script, &text(&curl), &url]);
        let finished = run(&world, &origin, &policy, words)?;
        let said = finished.out();
        // It has no such server, and says so: the call arrived.
        ensure!(said.starts_with("404\n"), "{way:?}: {finished:#?}");
        for reason in ["condition_not_met", "call_not_allowed"] {
            let told = format!("\"reason\":\"{reason}\"");
            ensure!(said.contains(&told), "{way:?}: {finished:#?}");
        }
        for (call, outcome, status) in [
            ("tools/call search", "allow", "404"),
            ("tools/call refund", "deny", "200"),
            ("tools/call drop", "deny", "200"),
        ] {
            let fields = [("call", call), ("outcome", outcome), ("status", status)];
            let records = finished.records_with(&fields);
            ensure!(records.len() == 1, "{way:?} {call}: {finished:#?}");
        }
    }
    let asked = origin.protocols()?;
    ensure!(asked == ["HTTP/1.1 /mcp", "HTTP/1.1 /mcp"], "{asked:#?}");
    Ok(())
}
