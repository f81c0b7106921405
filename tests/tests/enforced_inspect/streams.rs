//! Real clients of protocols that stay open, inside opened TLS.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    agent::field,
    deadline::wait_for,
    needs, needs_root,
    origin::Origin,
    skip,
    world::{ORIGIN4, World},
};

use super::{BOTH, RULE, run, text};

/// A program of Python's in the origin's namespace, which ends with it.
struct Server(Child);

impl Server {
    /// Starts it; it must listen on this port of [`ORIGIN4`].
    fn start(world: &World, port: u16, program: &str, arguments: &[PathBuf]) -> Result<Self> {
        let mut command = Command::new(skip::PYTHON);
        command
            .args(["-c", program])
            .args(arguments)
            .stdin(Stdio::null());
        let child = world.origin.run(|| command.spawn());
        let server = Self(child.context("starting the server")?);
        let address = SocketAddr::new(ORIGIN4.into(), port);
        wait_for("the server", || {
            let up = world.origin.run(|| {
                let domain = socket2::Domain::IPV4;
                socket2::Socket::new(domain, socket2::Type::STREAM, None)
                    .and_then(|socket| socket.connect(&address.into()))
                    .is_ok()
            });
            Ok(up.then_some(()))
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const GRPC_SERVER: &str = r#"
import grpc, sys
from concurrent import futures
def each(requests, context):
    for request in requests:
        yield b"got " + request
    context.set_trailing_metadata((("x-trailer", "came through"),))
methods = {
    "Echo": grpc.stream_stream_rpc_method_handler(each),
    "Shut": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", methods),))
pem, key = (open(path, "rb").read() for path in sys.argv[1:])
server.add_secure_port("192.0.2.2:50051", grpc.ssl_server_credentials([(key, pem)]))
server.start()
server.wait_for_termination()
"#;

const GRPC_CLIENT: &str = r#"
import grpc, queue
channel = grpc.secure_channel("allowed.test:50051", grpc.ssl_channel_credentials())
# The next request is made only once the answer to the last one has come.
turns = queue.Queue()
def requests():
    for number in range(3):
        turns.get(timeout=20)
        yield b"%d" % number
turns.put(None)
call = channel.stream_stream("/test.Service/Echo")(requests(), timeout=20)
for answer in call:
    print(answer.decode())
    turns.put(None)
print(dict(call.trailing_metadata())["x-trailer"])
try:
    channel.unary_unary("/test.Service/Shut")(b"x", timeout=20)
except grpc.RpcError as error:
    print(error.code().name, error.details())
"#;

#[test]
fn grpc_streams_both_ways() -> Result<()> {
    needs_root!();
    needs!(skip::python("grpc"));
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    let _server = Server::start(&world, 50051, GRPC_SERVER, &origin.certificate())?;
    for way in BOTH {
        let policy = way.policy(50051, "paths = [\"/test.Service/Echo\"]");
        let words = way.command([skip::PYTHON, "-c", GRPC_CLIENT]);
        let finished = run(&world, &origin, &policy, words)?;
        let said = finished.out();
        let lines: Vec<_> = said.lines().collect();
        let [a, b, c, trailer, refusal] = lines[..] else {
            anyhow::bail!("{way:?}: {finished:#?}");
        };
        ensure!(
            [a, b, c, trailer] == ["got 0", "got 1", "got 2", "came through"],
            "{way:?}: {finished:#?}"
        );
        let told = refusal
            .strip_prefix("PERMISSION_DENIED ")
            .context("no refusal")?;
        let told: serde_json::Value = serde_json::from_str(told)?;
        ensure!(field(&told, "reason") == "path_not_allowed", "{told:#}");
    }
    Ok(())
}

const WEBSOCKET_SERVER: &str = r#"
import asyncio, ssl, sys, websockets
async def echo(socket):
    # Says whether the connection is compressed, then each message backwards.
    await socket.send(",".join(extension.name for extension in socket.extensions))
    async for message in socket:
        await socket.send(message[::-1])
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    async with websockets.serve(echo, "192.0.2.2", 8443, ssl=context):
        await asyncio.Future()
asyncio.run(main())
"#;

/// This version of the package asks no proxy by itself.
const PYTHON_CLIENT: &str = r#"
import asyncio, os, socket, urllib.parse, websockets
def connect(path):
    proxy = os.environ.get("https_proxy")
    if not proxy:
        return websockets.connect("wss://allowed.test:8443" + path)
    proxy = urllib.parse.urlsplit(proxy)
    tunnel = socket.create_connection((proxy.hostname, proxy.port))
    tunnel.sendall(b"CONNECT allowed.test:8443 HTTP/1.1\r\nHost: allowed.test:8443\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += tunnel.recv(1)
    assert head.startswith(b"HTTP/1.1 200 "), head
    return websockets.connect("wss://allowed.test:8443" + path, sock=tunnel, server_hostname="allowed.test")
async def main():
    async with connect("/repos/acme/it") as socket:
        print(await socket.recv())
        for message in ["abc", b"\x00\x01" * 100000, "abc" * 50000]:
            await socket.send(message)
            answer = await socket.recv()
            print(len(answer), answer[:1] == message[-1:], answer == message[::-1])
    try:
        await connect("/repos/other/it")
    except websockets.InvalidStatusCode as error:
        print(error.status_code)
asyncio.run(main())
"#;

const NODE_CLIENT: &str = r#"
const [packages, proxy] = [process.argv[1], process.env.https_proxy];
const from = require("module").createRequire(packages + "/");
const WebSocket = from("ws");
const { HttpsProxyAgent } = from("https-proxy-agent");
const options = proxy ? { agent: new HttpsProxyAgent(proxy) } : {};
const open = path => new WebSocket("wss://allowed.test:8443" + path, options);
const next = socket => new Promise((resolve, reject) => {
    socket.once("message", resolve);
    socket.once("error", reject);
});
(async () => {
    const socket = open("/repos/acme/it");
    console.log((await next(socket)).toString());
    for (const message of ["abc", Buffer.alloc(200000, "\x00\x01"), "abc".repeat(50000)]) {
        const answer = next(socket);
        socket.send(message);
        const [got, sent] = [await answer, Buffer.from(message)];
        console.log(got.length, got[0] == sent.at(-1) ? "True" : "False",
            got.equals(sent.reverse()) ? "True" : "False");
    }
    socket.close();
    open("/repos/other/it")
        .on("unexpected-response", (request, answer) => { console.log(answer.statusCode); request.destroy(); })
        .on("error", () => {});
})().catch(error => { console.error(error); process.exitCode = 1; });
"#;

/// A client that says which extension is agreed on, then of three messages how long the answer
/// is and whether it is the message backwards, then with which status it was refused.
fn check_websocket<const N: usize>(client: [&str; N]) -> Result<()> {
    needs!(skip::python("websockets"));
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    let _server = Server::start(&world, 8443, WEBSOCKET_SERVER, &origin.certificate())?;
    for way in BOTH {
        let policy = way.policy(8443, &format!("{RULE}\nwebsocket = true"));
        let finished = run(&world, &origin, &policy, way.command(client))?;
        let said = finished.out();
        let lines: Vec<_> = said.lines().collect();
        let expected = [
            "permessage-deflate",
            "3 True True",
            "200000 True True",
            "150000 True True",
            "403",
        ];
        ensure!(lines == expected, "{way:?}: {finished:#?}");
        let opened = finished.records_with(&[("kind", "http"), ("status", "101")]);
        let [record] = opened[..] else {
            anyhow::bail!("{way:?}: {finished:#?}");
        };
        // What went over the wire was compressed, and went on as it was.
        let sent: u64 = field(record, "bytes_out").parse()?;
        ensure!(sent < 50_000, "{way:?}: {record:#}");
    }
    Ok(())
}

#[test]
fn python_websockets_with_compression() -> Result<()> {
    needs_root!();
    check_websocket([skip::PYTHON, "-c", PYTHON_CLIENT])
}

#[test]
fn node_ws_with_compression() -> Result<()> {
    needs_root!();
    let node = needs!(skip::node());
    let ws = needs!(skip::node_package("ws"));
    needs!(skip::node_package("https-proxy-agent"));
    let packages = ws.parent().context("a folder of packages")?;
    check_websocket([&text(&node), "-e", NODE_CLIENT, &text(packages)])
}
