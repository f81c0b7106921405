//! The whole gateway in this process: real sockets on loopback, port 0, no kernel half. The
//! origin writes down every byte that reaches it, so that a refusal can be proven there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod direct {
    mod connect;
    mod dns;
    mod drain;
    mod framing;
    mod http;
    mod http2;
    mod http2_floods;
    mod inspect;
    mod limits;
    mod mcp;
    mod mcp_answers;
    mod mcp_peers;
    mod mcp_sdk;
    mod origin;
    mod paths;
    mod raw;
    mod refused;
    mod resolve;
    mod rig;
    mod secure;
    mod slow;
    mod throttle;
    mod tls;
    mod tools;
    mod upstream_proxy;
    mod websocket;
}
