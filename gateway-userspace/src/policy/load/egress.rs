//! `[[egress]]` and what `[[mcp]]` shares with it: from a table to a [`Rule`].

use std::{collections::HashMap, net::IpAddr, ops::Range, sync::Arc};

use toml::Spanned;

use super::{
    mcp,
    reader::Section,
    sections::{duplicate, ports},
};
use crate::{
    names::RuleId,
    policy::{
        Action, BadCondition, BadPattern, Condition, Fault, HostPattern, Inspect, PathPattern,
        Rate, Rule, Target, Traffic,
        address::{AddressClass, classify},
        fault::RULES_MAX,
        report::Problems,
    },
};

/// Ports of a rule with `hosts` that names none.
const DEFAULT_PORTS: [u16; 2] = [80, 443];
/// The port where TLS is for certain.
const HTTPS: u16 = 443;
/// Bytes of the longest HTTP method that a rule may name.
const METHOD_MAX: usize = 32;

/// A rule, and where its name is in the file.
pub(super) struct Draft {
    pub(super) rule: Rule,
    pub(super) place: Range<usize>,
}

/// The rules of both kinds, in the order of the file within each.
pub(super) fn rules(
    egress: Vec<Section<'_>>,
    mcp: Vec<Section<'_>>,
    root: Inspect,
    problems: &mut Problems,
) -> Vec<Draft> {
    let egress = egress.into_iter().map(|section| (section, false));
    let sections: Vec<_> = egress
        .chain(mcp.into_iter().map(|section| (section, true)))
        .collect();
    if let Some((first, _)) = sections.get(RULES_MAX) {
        problems.add(Fault::TooManyRules, first.span());
        return Vec::new();
    }
    let mut seen: HashMap<RuleId, Range<usize>> = HashMap::new();
    let mut drafts = Vec::with_capacity(sections.len());
    for (mut section, is_mcp) in sections {
        let id = id(&mut section, problems);
        if let Some((id, span)) = &id
            && let Some(first) = seen.insert(id.clone(), span.clone())
        {
            let fault = Fault::DuplicateId(id.to_string());
            problems.add_with(fault, span.clone(), (first, "first here"));
        }
        // Read on whatever the name is: all that is wrong is to be found.
        let action = section.word("action", problems);
        let mode = section.word("mode", problems);
        let inspect = inspect(&mut section, problems);
        let (targets, traffic, private) = match is_mcp {
            true => mcp::body(&mut section, action, root, problems),
            false => body(&mut section, action, inspect.unwrap_or(root), problems),
        };
        let parse: Parse = match is_mcp {
            true => Condition::parse_mcp,
            false => Condition::parse,
        };
        let when = condition(&mut section, parse, problems);
        if let (Action::Deny, Some(limit)) = (action, section.value("limit")) {
            problems.add(Fault::NotForDeny("limit"), limit.span());
        }
        let limit = rate("limit", &mut section, problems);
        let Some((id, place)) = id else { continue };
        let rule = Rule {
            id,
            action,
            mode,
            targets,
            traffic,
            inspect,
            when,
            limit,
            private,
        };
        drafts.push(Draft { rule, place });
    }
    drafts
}

fn id(section: &mut Section<'_>, problems: &mut Problems) -> Option<(RuleId, Range<usize>)> {
    let text = section.require::<String>("id", problems)?;
    match RuleId::parse(text.get_ref()) {
        Ok(id) => Some((id, text.span())),
        Err(bad) => {
            problems.add(bad, text.span());
            None
        }
    }
}

pub(super) fn rate(
    key: &'static str,
    section: &mut Section<'_>,
    problems: &mut Problems,
) -> Option<Rate> {
    let text = section.take::<String>(key, problems)?;
    Rate::parse(text.get_ref())
        .map_err(|bad| {
            let found = text.get_ref().clone();
            problems.add(Fault::Rate { found, bad }, text.span());
        })
        .ok()
}

fn inspect(section: &mut Section<'_>, problems: &mut Problems) -> Option<Inspect> {
    let inspect = section.value("inspect").map(Spanned::span)?;
    if section.has("tcp") {
        problems.add(Fault::NotForTcp("inspect"), inspect);
    }
    Some(section.word("inspect", problems))
}

/// How a condition is read.
type Parse = fn(&str) -> Result<Condition, (BadCondition, Range<usize>)>;

/// The condition of a rule, and where in the file its flaw is.
fn condition(
    section: &mut Section<'_>,
    parse: Parse,
    problems: &mut Problems,
) -> Option<Condition> {
    if section.has("tcp")
        && let Some(value) = section.take_value("when")
    {
        problems.add(Fault::NotForTcp("when"), value.span());
        return None;
    }
    let text = section.take::<String>("when", problems)?;
    parse(text.get_ref())
        .map_err(|(bad, within)| {
            let span = place_within(text.span(), text.get_ref(), within);
            problems.add(Fault::Condition(bad), span);
        })
        .ok()
}

/// The bytes of the file that a part of a string was read from; the whole string if escapes may
/// have moved them.
fn place_within(span: Range<usize>, text: &str, part: Range<usize>) -> Range<usize> {
    let plain = !text.contains(['"', '\\', '\t', '\r']);
    let quotes = match span.len().saturating_sub(text.len()) {
        2 => 1,
        6..=8 if plain => 3,
        _ => return span,
    };
    let start = span.end - quotes - text.len();
    start + part.start..start + part.end
}

type Body = (Vec<Target>, Traffic, Option<Arc<[IpAddr]>>);

fn body(
    section: &mut Section<'_>,
    action: Action,
    inspect: Inspect,
    problems: &mut Problems,
) -> Body {
    let (web, tcp) = (section.has("hosts"), section.has("tcp"));
    let whole = section.span();
    match (web, tcp) {
        (true, true) => problems.add(Fault::TwoTargets, whole),
        (false, false) => problems.add(Fault::NoTarget, whole),
        (true, false) | (false, true) => {}
    }
    let leave = section.take::<bool>("private", problems);
    if let (Action::Deny, Some(leave)) = (action, &leave) {
        problems.add(Fault::NotForDeny("private"), leave.span());
    }
    let private = leave.is_some_and(Spanned::into_inner);
    // Any address may be refused.
    let reaches = private || action == Action::Deny;
    let (targets, traffic) = if tcp {
        over_tcp(section, reaches, problems)
    } else {
        over_web(section, action, inspect, reaches, problems)
    };
    let private = private.then(|| {
        let named = targets.iter().filter_map(|target| match &target.hosts {
            HostPattern::Exact(host) => host.address(),
            HostPattern::Child(_) | HostPattern::Descendant(_) => None,
        });
        named.collect()
    });
    (targets, traffic, private)
}

fn over_tcp(
    section: &mut Section<'_>,
    private: bool,
    problems: &mut Problems,
) -> (Vec<Target>, Traffic) {
    for key in ["ports", "methods", "paths", "websocket"] {
        if let Some(value) = section.take_value(key) {
            problems.add(Fault::NotForTcp(key), value.span());
        }
    }
    let entries = list(section, "tcp", parse_host_port, problems);
    let targets = entries.into_iter().map(|(span, (hosts, port))| {
        check_address(&hosts, private, span, problems);
        Target {
            hosts,
            ports: [port].into(),
        }
    });
    (targets.collect(), Traffic::Tcp)
}

fn over_web(
    section: &mut Section<'_>,
    action: Action,
    inspect: Inspect,
    private: bool,
    problems: &mut Problems,
) -> (Vec<Target>, Traffic) {
    let ports = web_ports(section, inspect, problems);
    let websocket = section.take::<bool>("websocket", problems);
    let websocket = match (action, websocket) {
        (Action::Allow, Some(websocket)) => websocket.into_inner(),
        // What only reads must not open a way in both directions.
        (Action::Allow, None) => !section.has("methods"),
        (Action::Approve | Action::Deny, None) => true,
        (Action::Approve | Action::Deny, Some(websocket)) => {
            problems.add(Fault::NotForRefusing, websocket.span());
            true
        }
    };
    let methods = list(section, "methods", parse_method, problems);
    let paths = list(section, "paths", parse_path, problems);
    let hosts = list(section, "hosts", parse_host, problems);
    let targets = hosts.into_iter().map(|(span, hosts)| {
        check_address(&hosts, private, span, problems);
        Target {
            hosts,
            ports: ports.clone(),
        }
    });
    let targets = targets.collect();
    let traffic = Traffic::Web {
        methods: methods.into_iter().map(|(_, method)| method).collect(),
        paths: paths.into_iter().map(|(_, path)| path).collect(),
        websocket,
    };
    (targets, traffic)
}

/// The ports of a rule with `hosts`. Where TLS is never opened, what it hides goes only with ports
/// that are written out and are not HTTPS.
fn web_ports(section: &mut Section<'_>, inspect: Inspect, problems: &mut Problems) -> Arc<[u16]> {
    let hidden = ["methods", "paths", "when"]
        .into_iter()
        .find(|key| inspect == Inspect::Never && section.has(key));
    let limit = hidden.and_then(|key| section.value(key).map(|value| (key, value.span())));
    if !section.has("ports") {
        if let Some((key, span)) = limit {
            problems.add(Fault::HiddenByDefault(key), span);
        }
        return DEFAULT_PORTS.into();
    }
    let Some(list) = section.take::<Vec<Spanned<i64>>>("ports", problems) else {
        return DEFAULT_PORTS.into();
    };
    if list.get_ref().is_empty() {
        problems.add(Fault::Empty("ports"), list.span());
    }
    let https = list
        .get_ref()
        .iter()
        .find(|port| *port.get_ref() == i64::from(HTTPS));
    if let (Some((key, _)), Some(port)) = (limit, https) {
        problems.add(Fault::HiddenByTls(key), port.span());
    }
    ports("ports", list.get_ref(), problems).into()
}

/// The entries of a list of strings, with their places. What does not parse, and what is there
/// twice, is reported.
pub(super) fn list<T: PartialEq>(
    section: &mut Section<'_>,
    key: &'static str,
    parse: fn(&str) -> Result<(String, T), Fault>,
    problems: &mut Problems,
) -> Vec<(Range<usize>, T)> {
    let Some(list) = section.take::<Vec<Spanned<String>>>(key, problems) else {
        return Vec::new();
    };
    if list.get_ref().is_empty() {
        problems.add(Fault::Empty(key), list.span());
    }
    let mut seen: HashMap<String, Range<usize>> = HashMap::new();
    let mut entries = Vec::with_capacity(list.get_ref().len());
    for entry in list.get_ref() {
        match parse(entry.get_ref()) {
            Ok((normal, value)) => {
                if let Some(first) = seen.insert(normal.clone(), entry.span()) {
                    duplicate(key, normal, entry.span(), first, problems);
                }
                entries.push((entry.span(), value));
            }
            Err(fault) => problems.add(fault, entry.span()),
        }
    }
    entries
}

pub(super) fn parse_host(text: &str) -> Result<(String, HostPattern), Fault> {
    let bad = |bad| Fault::Host {
        text: text.to_owned(),
        bad,
    };
    let pattern = HostPattern::parse(text).map_err(bad)?;
    Ok((pattern.to_string(), pattern))
}

fn parse_host_port(text: &str) -> Result<(String, (HostPattern, u16)), Fault> {
    let not_one = || Fault::HostPort(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(not_one)?;
    // Without brackets, the last group of an IPv6 address would pass for a port.
    if host.contains(':') && !host.starts_with('[') {
        return Err(not_one());
    }
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_one());
    }
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 => port,
        Ok(_) | Err(_) => return Err(Fault::Port(port.to_owned())),
    };
    let (normal, hosts) = match parse_host(host) {
        Ok(parsed) => parsed,
        Err(Fault::Host {
            bad: BadPattern::Port | BadPattern::Url,
            ..
        }) => return Err(not_one()),
        Err(fault) => return Err(fault),
    };
    Ok((format!("{normal}:{port}"), (hosts, port)))
}

fn parse_method(text: &str) -> Result<(String, Box<str>), Fault> {
    let fits = |b: u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
    if !(1..=METHOD_MAX).contains(&text.len()) || !text.bytes().all(fits) {
        return Err(Fault::Method(text.to_owned()));
    }
    if text == "CONNECT" {
        return Err(Fault::MethodConnect);
    }
    Ok((text.to_owned(), text.into()))
}

fn parse_path(text: &str) -> Result<(String, PathPattern), Fault> {
    let pattern = PathPattern::parse(text).map_err(|bad| Fault::Path {
        text: text.to_owned(),
        bad,
    })?;
    Ok((text.to_owned(), pattern))
}

/// A rule that names an address which it cannot reach would never hold.
pub(super) fn check_address(
    hosts: &HostPattern,
    private: bool,
    span: Range<usize>,
    problems: &mut Problems,
) {
    let HostPattern::Exact(host) = hosts else {
        return;
    };
    let Some(address) = host.address() else {
        return;
    };
    match classify(address) {
        AddressClass::Public => {}
        AddressClass::Never => problems.add(Fault::NoDestination(address), span),
        AddressClass::Private | AddressClass::Metadata if private => {}
        AddressClass::Private | AddressClass::Metadata => {
            problems.add(Fault::NotPublic(address), span);
        }
    }
}
