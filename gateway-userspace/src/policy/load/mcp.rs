//! `[[mcp]]`: from a table to a [`Rule`](crate::policy::Rule).

use std::{net::IpAddr, ops::Range, sync::Arc};

use toml::de::DeValue;
use url::Url;

use super::{egress::list, reader::Section};
use crate::{
    names::Host,
    policy::{
        Action, Calls, Fault, HostPattern, Inspect, Mcp, NamePattern, Pin, Scheme, Server, Target,
        Traffic, Word, path_pattern::is_plain, report::Problems,
    },
};

/// Where to and what, with the addresses that may be private.
pub(super) fn body(
    section: &mut Section<'_>,
    action: Action,
    root: Inspect,
    problems: &mut Problems,
) -> (Vec<Target>, Traffic, Option<Arc<[IpAddr]>>) {
    let leave = section.take::<bool>("private", problems);
    if let (Action::Deny, Some(leave)) = (action, &leave) {
        problems.add(Fault::NotForDeny("private"), leave.span());
    }
    let private = leave.is_some_and(toml::Spanned::into_inner);
    let mut names = |key| -> Vec<NamePattern> {
        let entries = list(section, key, parse_name, problems);
        entries.into_iter().map(|(_, name)| name).collect()
    };
    let calls = Calls {
        methods: names("methods"),
        tools: names("tools"),
        prompts: names("prompts"),
        resources: names("resources"),
    };
    if let (Action::Deny, Some(pin)) = (action, section.value("pin_definitions")) {
        problems.add(Fault::NotForDeny("pin_definitions"), pin.span());
    }
    let pin = pin(section, problems);
    let Some((span, host, port, server)) = place(section, problems) else {
        let server = Server {
            scheme: Scheme::Https,
            path: "/".into(),
            query: "".into(),
        };
        return (Vec::new(), Traffic::Mcp(Mcp { server, calls, pin }), None);
    };
    if root == Inspect::Never && server.scheme == Scheme::Https {
        problems.add(Fault::HiddenServer, span.clone());
    }
    let hosts = HostPattern::Exact(host);
    super::egress::check_address(&hosts, private || action == Action::Deny, span, problems);
    let named = private.then(|| hosts_address(&hosts).into_iter().collect());
    let target = Target {
        hosts,
        ports: [port].into(),
    };
    (
        vec![target],
        Traffic::Mcp(Mcp { server, calls, pin }),
        named,
    )
}

/// `true`, `false` or `"alert"`.
fn pin(section: &mut Section<'_>, problems: &mut Problems) -> Pin {
    const KEY: &str = "pin_definitions";
    let is_text = section
        .value(KEY)
        .is_some_and(|value| matches!(value.get_ref(), DeValue::String(_)));
    if is_text {
        let word: OnChange = section.word(KEY, problems);
        return match word {
            OnChange::Block => Pin::Block,
            OnChange::Alert => Pin::Alert,
        };
    }
    match section
        .take::<bool>(KEY, problems)
        .map(toml::Spanned::into_inner)
    {
        Some(true) => Pin::Block,
        Some(false) | None => Pin::Off,
    }
}

/// What `pin_definitions` may say beside yes and no.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnChange {
    Block,
    Alert,
}

impl Word for OnChange {
    const WORDS: &'static [(&'static str, Self)] =
        &[("block", Self::Block), ("alert", Self::Alert)];
}

fn hosts_address(hosts: &HostPattern) -> Option<IpAddr> {
    match hosts {
        HostPattern::Exact(host) => host.address(),
        HostPattern::Child(_) | HostPattern::Descendant(_) => None,
    }
}

fn place(
    section: &mut Section<'_>,
    problems: &mut Problems,
) -> Option<(Range<usize>, Host, u16, Server)> {
    let text = section.require::<String>("server", problems)?;
    let place = server(text.get_ref());
    if place.is_none() {
        problems.add(Fault::McpServer(text.get_ref().clone()), text.span());
    }
    let (host, port, server) = place?;
    Some((text.span(), host, port, server))
}

/// The parts of a URL such as `https://mcp.example.com/mcp`.
fn server(text: &str) -> Option<(Host, u16, Server)> {
    let url = Url::parse(text).ok()?;
    let scheme = match url.scheme() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _other => return None,
    };
    // As written: what the URL standard tidies up is not what a client sends.
    let (_, rest) = text.split_once("://")?;
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(at);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = if path.is_empty() { "/" } else { path };
    let fits = url.fragment().is_none() && !authority.contains('@') && is_plain(path);
    let host = Host::parse(url.host_str()?).ok()?;
    let port = url.port_or_known_default().filter(|port| *port != 0)?;
    fits.then(|| {
        let (path, query) = (path.into(), query.into());
        let server = Server {
            scheme,
            path,
            query,
        };
        (host, port, server)
    })
}

fn parse_name(text: &str) -> Result<(String, NamePattern), Fault> {
    let pattern = NamePattern::parse(text).ok_or_else(|| Fault::CallName(text.to_owned()))?;
    Ok((text.to_owned(), pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls() {
        let (host, port, found) = server("https://mcp.example.com/mcp?v=1").unwrap();
        assert_eq!((host.to_string().as_str(), port), ("mcp.example.com", 443));
        assert_eq!((&*found.path, &*found.query), ("/mcp", "v=1"));
        let (host, port, found) = server("http://[::1]:8080").unwrap();
        assert_eq!((host.to_string().as_str(), port), ("[::1]", 8080));
        assert_eq!((found.scheme, &*found.path), (Scheme::Http, "/"));
        for text in [
            "mcp.example.com/mcp",
            "ws://mcp.example.com/",
            "https://u:p@mcp.example.com/",
            "https://mcp.example.com/#x",
            "https://mcp.example.com/a/../b",
            "https://mcp.example.com//b",
        ] {
            assert!(server(text).is_none(), "{text}");
        }
    }
}
