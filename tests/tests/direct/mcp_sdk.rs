//! The official SDK at both ends of the gateway, with sessions (`initialize`) and without
//! (`server/discover`).

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rmcp::{
    ClientLifecycleMode, ClientServiceExt as _, ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult,
        PaginatedRequestParams, ProtocolVersion, ServerCapabilities, ServerConfig, Tool,
    },
    service::{RequestContext, ServiceError},
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::StreamableHttpClientTransportConfig,
        streamable_http_server::{
            StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
        },
    },
};
use serde_json::json;
use tokio::net::TcpListener;

use super::rig::{Rig, in_time};

const TOOLS: [&str; 3] = ["search_tickets", "refund", "drop"];

/// A server that does nothing but write down what it is called for.
#[derive(Clone, Default)]
struct Server {
    called: Arc<Mutex<Vec<String>>>,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = || json!({"type": "object"}).as_object().unwrap().clone();
        let tools = TOOLS.map(|name| Tool::new(name, "does nothing", schema()));
        Ok(ListToolsResult::with_all_items(tools.into()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.called.lock().unwrap().push(request.name.to_string());
        Ok(CallToolResult::success(vec![ContentBlock::text("done")]).into())
    }
}

impl Server {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = StreamableHttpServerConfig::default()
            .with_allowed_hosts([format!("origin.test:{}", address.port())]);
        let this = self.clone();
        let sessions = Arc::<LocalSessionManager>::default();
        let mcp = StreamableHttpService::new(move || Ok(this.clone()), sessions, config);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mcp = mcp.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let mcp = mcp.clone();
                        async move { Ok::<_, Infallible>(mcp.handle(request).await) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        address
    }
}

fn transport(rig: &Rig, url: &str) -> StreamableHttpClientTransport<reqwest::Client> {
    // Another test may have been first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let proxy = reqwest::Proxy::http(format!("http://{}", rig.address)).unwrap();
    let client = reqwest::Client::builder().proxy(proxy).build().unwrap();
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    StreamableHttpClientTransport::with_client(client, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pass_or_are_refused_in_its_own_terms() {
    let server = Server::default();
    let address = server.start().await;
    let url = format!("http://origin.test:{}/mcp", address.port());
    let rig = Rig::start(&format!(
        "[[mcp]]\nid = \"tickets\"\nserver = \"{url}\"\nprivate = true\n\
         tools = [\"search_*\", \"refund\"]\n\
         when = 'mcp.tool != \"refund\" || mcp.args.amount <= 100'\n"
    ));
    for lifecycle in [
        ClientLifecycleMode::Initialize,
        ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
    ] {
        let client = ().serve_with_lifecycle(transport(&rig, &url), lifecycle);
        let client = in_time(client).await.unwrap();
        let tools = in_time(client.list_all_tools()).await.unwrap();
        let tools: Vec<_> = tools.iter().map(|tool| &*tool.name).collect();
        assert_eq!(tools, ["search_tickets", "refund"], "of {TOOLS:?}");
        for (tool, amount, refused) in [
            ("search_tickets", 0, None),
            ("refund", 100, None),
            ("refund", 101, Some("condition_not_met")),
            ("drop", 0, Some("call_not_allowed")),
        ] {
            let arguments = json!({"amount": amount}).as_object().unwrap().clone();
            let call = CallToolRequestParams::new(tool).with_arguments(arguments);
            match (in_time(client.call_tool(call)).await, refused) {
                (Ok(_), None) => {}
                (Err(ServiceError::McpError(error)), Some(reason)) => {
                    let data = error.data.unwrap();
                    assert_eq!(data["reason"], reason);
                    assert_eq!(data["rule"], "tickets");
                    assert_eq!(data["hint"], *error.message);
                }
                (found, _) => panic!("{tool} {amount}: {found:?}"),
            }
        }
        in_time(client.cancel()).await.unwrap();
        let called = std::mem::take(&mut *server.called.lock().unwrap());
        assert_eq!(called, ["search_tickets", "refund"]);
    }
}
