//! `[network]`, `[process]`, `[dns]` and `[upstream]`.

use std::{collections::HashMap, net::IpAddr, ops::Range};

use gateway_common::{
    LOOPBACK_PORTS_MAX,
    agent::DEVICES_MAX,
    unix::{UNIX_NAMES_MAX, UnixName},
};
use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeValue, ValueDeserializer},
};

use super::{
    egress::rate,
    reader::{Section, not_a},
};
use crate::{
    names::HostName,
    policy::{
        Dns, Fault, Network, Rule, UnixSockets, index::Index, report::Problems,
        settings::record_type,
    },
};

pub(super) fn network(mut section: Section<'_>, problems: &mut Problems) -> Network {
    let (direct, inbound) = (
        section.word("direct", problems),
        section.word("inbound", problems),
    );
    let unix = unix(&mut section, problems);
    let (loopback, own_loopback) = loopback(section, problems);
    Network {
        direct,
        inbound,
        loopback,
        own_loopback,
        unix,
    }
}

fn unix(section: &mut Section<'_>, problems: &mut Problems) -> UnixSockets {
    let mut sockets = UnixSockets::default();
    let Some(list) = section.take::<Vec<Spanned<String>>>("unix", problems) else {
        return sockets;
    };
    let mut seen: HashMap<&str, Range<usize>> = HashMap::new();
    for entry in list.get_ref() {
        let text: &str = entry.get_ref();
        if let Some(first) = seen.insert(text, entry.span()) {
            duplicate("unix", text.to_owned(), entry.span(), first, problems);
            continue;
        }
        match text {
            "any" => sockets.any = true,
            "self" => sockets.own = true,
            name if is_unix_name(name) => sockets.names.push(name.to_owned()),
            other => problems.add(Fault::UnixName(other.to_owned()), entry.span()),
        }
    }
    if sockets.names.len() > UNIX_NAMES_MAX {
        problems.add(Fault::TooManyUnix, list.span());
    }
    if sockets.any && list.get_ref().len() > 1 {
        problems.add(Fault::UnixAny, list.span());
    }
    sockets
}

/// Whether this is an absolute path in its plainest form, or an abstract name behind an `@`.
fn is_unix_name(text: &str) -> bool {
    if UnixName::parse(text).is_none() {
        return false;
    }
    match text.strip_prefix('/') {
        Some(path) => path.split('/').all(|part| !matches!(part, "" | "." | "..")),
        None => text.starts_with('@'),
    }
}

/// Ports, and whether the agent's own listeners are among what it reaches.
fn loopback(mut section: Section<'_>, problems: &mut Problems) -> (Vec<u16>, bool) {
    let Some(value) = section.take_value("loopback") else {
        return (Vec::new(), false);
    };
    let span = value.span();
    let mut own = None;
    let mut list = Vec::new();
    let entries = match value.into_inner() {
        DeValue::Array(entries) => entries,
        other => {
            let message = not_a("list", &other);
            problems.add(section.wrong_type("loopback", &message), span);
            return (Vec::new(), false);
        }
    };
    for entry in entries {
        let span = entry.span();
        let value = entry.into_inner();
        if value.as_str() == Some("self") {
            match own {
                Some(first) => {
                    duplicate("loopback", "self".to_owned(), span, first, problems);
                    own = None;
                }
                None => own = Some(span),
            }
            continue;
        }
        match i64::deserialize(ValueDeserializer::from(Spanned::new(span.clone(), value))) {
            Ok(port) => list.push(Spanned::new(span, port)),
            Err(error) => {
                problems.add(section.wrong_type("loopback", error.message()), span);
            }
        }
    }
    if list.len() > LOOPBACK_PORTS_MAX {
        problems.add(Fault::TooManyLoopback, span);
    }
    (ports("loopback", &list, problems), own.is_some())
}

/// `[process]`.
pub(super) fn devices(section: &mut Section<'_>, problems: &mut Problems) -> Vec<String> {
    let mut devices = Vec::new();
    let Some(list) = section.take::<Vec<Spanned<String>>>("devices", problems) else {
        return devices;
    };
    if list.get_ref().len() > DEVICES_MAX {
        problems.add(Fault::TooManyDevices, list.span());
    }
    let mut seen: HashMap<&str, Range<usize>> = HashMap::new();
    for entry in list.get_ref() {
        let text: &str = entry.get_ref();
        if let Some(first) = seen.insert(text, entry.span()) {
            duplicate("devices", text.to_owned(), entry.span(), first, problems);
        } else if is_plain_path(text) {
            devices.push(text.to_owned());
        } else {
            problems.add(Fault::DevicePath(text.to_owned()), entry.span());
        }
    }
    devices
}

/// Whether this is an absolute path in its plainest form.
fn is_plain_path(text: &str) -> bool {
    text.strip_prefix('/')
        .is_some_and(|path| path.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// Ports in ascending order. Those that are no ports and those that are there twice are reported.
pub(super) fn ports(key: &'static str, list: &[Spanned<i64>], problems: &mut Problems) -> Vec<u16> {
    let mut seen: HashMap<u16, Range<usize>> = HashMap::new();
    for entry in list {
        let port = match u16::try_from(*entry.get_ref()) {
            Ok(port) if port != 0 => port,
            Ok(_) | Err(_) => {
                problems.add(Fault::Port(entry.get_ref().to_string()), entry.span());
                continue;
            }
        };
        if let Some(first) = seen.insert(port, entry.span()) {
            duplicate(key, port.to_string(), entry.span(), first, problems);
        }
    }
    let mut ports: Vec<u16> = seen.into_keys().collect();
    ports.sort_unstable();
    ports
}

pub(super) fn duplicate(
    key: &'static str,
    entry: String,
    span: Range<usize>,
    first: Range<usize>,
    problems: &mut Problems,
) {
    let fault = Fault::DuplicateEntry { key, entry };
    problems.add_with(fault, span, (first, "first here"));
}

pub(super) fn dns(mut section: Section<'_>, problems: &mut Problems) -> Dns {
    let deny_types = record_types("deny_types", &mut section, problems);
    let allow_types = section.value("allow_types").map(Spanned::span);
    if let Some(span) = allow_types
        && let Some(DeValue::Array(list)) = section.value("allow_types").map(Spanned::get_ref)
        && list.is_empty()
    {
        problems.add(Fault::Empty("allow_types"), span);
    }
    Dns {
        mode: section.word("mode", problems),
        deny_types: deny_types.unwrap_or_else(|| Dns::DENY_TYPES.to_vec()),
        allow_types: record_types("allow_types", &mut section, problems),
        max_label: at_most("max_label", Dns::LABEL_MAX, &mut section, problems),
        max_name: at_most("max_name", Dns::NAME_MAX, &mut section, problems),
        entropy: entropy(&mut section, problems),
        rate: rate("rate", &mut section, problems),
    }
}

fn record_types(
    key: &'static str,
    section: &mut Section<'_>,
    problems: &mut Problems,
) -> Option<Vec<u16>> {
    let list = section.take::<Vec<Spanned<String>>>(key, problems)?;
    let mut seen: HashMap<u16, Range<usize>> = HashMap::new();
    for entry in list.get_ref() {
        let text = entry.get_ref();
        let Some(number) = record_type(text) else {
            problems.add(Fault::RecordType(text.clone()), entry.span());
            continue;
        };
        if let Some(first) = seen.insert(number, entry.span()) {
            duplicate(key, text.clone(), entry.span(), first, problems);
        }
    }
    Some(seen.into_keys().collect())
}

/// A number from 1 to `most`, which is the default.
fn at_most(key: &'static str, most: u8, section: &mut Section<'_>, problems: &mut Problems) -> u8 {
    let Some(found) = section.take::<i64>(key, problems) else {
        return most;
    };
    match u8::try_from(*found.get_ref()) {
        Ok(number) if (1..=most).contains(&number) => number,
        Ok(_) | Err(_) => {
            problems.add(Fault::OutOfRange { key, most }, found.span());
            most
        }
    }
}

/// Bits, as thousandths.
fn entropy(section: &mut Section<'_>, problems: &mut Problems) -> Option<u16> {
    let bits = section.take::<f64>("entropy", problems)?;
    let thousandths = (bits.get_ref() * 1000.0).round();
    if !(1.0..=8000.0).contains(&thousandths) {
        let (key, most) = ("entropy", 8);
        problems.add(Fault::OutOfRange { key, most }, bits.span());
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a whole number from 1 to 8000"
    )]
    Some(thousandths as u16)
}

/// A static name as it was read.
pub(super) struct Static {
    name: HostName,
    span: Range<usize>,
    addresses: Vec<IpAddr>,
}

/// `resolve` of `[upstream]`.
pub(super) fn resolve(mut section: Section<'_>, problems: &mut Problems) -> Vec<Static> {
    let Some(value) = section.take_value("resolve") else {
        return Vec::new();
    };
    let span = value.span();
    let table = match value.into_inner() {
        DeValue::Table(table) => table,
        other => {
            problems.add(section.wrong_type("resolve", &not_a("table", &other)), span);
            return Vec::new();
        }
    };
    let mut seen: HashMap<HostName, Range<usize>> = HashMap::new();
    let mut statics = Vec::new();
    for (key, value) in table {
        let span = key.span();
        let addresses = addresses(&section, value, problems);
        let name = match HostName::parse(key.get_ref()) {
            Ok(name) => name,
            Err(bad) => {
                let text = key.into_inner().into_owned();
                problems.add(Fault::StaticName { text, bad }, span);
                continue;
            }
        };
        if let Some(first) = seen.insert(name.clone(), span.clone()) {
            duplicate("resolve", name.to_string(), span.clone(), first, problems);
        }
        statics.push(Static {
            name,
            span,
            addresses,
        });
    }
    statics
}

/// One address, or a list of them.
fn addresses(
    section: &Section<'_>,
    value: Spanned<DeValue<'_>>,
    problems: &mut Problems,
) -> Vec<IpAddr> {
    let span = value.span();
    let entries = match value.into_inner() {
        DeValue::Array(entries) => entries.into_iter().collect(),
        single => vec![Spanned::new(span.clone(), single)],
    };
    if entries.is_empty() {
        problems.add(Fault::Empty("resolve"), span);
    }
    let mut seen: HashMap<IpAddr, Range<usize>> = HashMap::new();
    let mut addresses = Vec::with_capacity(entries.len());
    for entry in entries {
        let span = entry.span();
        let Some(text) = entry.get_ref().as_str() else {
            let message = not_a("string", entry.get_ref());
            problems.add(section.wrong_type("resolve", &message), span);
            continue;
        };
        let Ok(address) = text.parse::<IpAddr>() else {
            problems.add(Fault::StaticAddress(text.to_owned()), span);
            continue;
        };
        let address = address.to_canonical();
        match seen.insert(address, span.clone()) {
            Some(first) => duplicate("resolve", address.to_string(), span, first, problems),
            None => addresses.push(address),
        }
    }
    addresses
}

/// Settles the static names, once it is known which names the rules have.
pub(super) fn settle(
    statics: Vec<Static>,
    rules: &[Rule],
    index: &Index,
    problems: &mut Problems,
) -> HashMap<HostName, Vec<IpAddr>> {
    for entry in &statics {
        if !index.knows(&entry.name, rules) {
            let fault = Fault::StaticUnused(entry.name.to_string());
            problems.add(fault, entry.span.clone());
        }
    }
    let resolve = statics
        .into_iter()
        .map(|entry| (entry.name, entry.addresses));
    resolve.collect()
}
