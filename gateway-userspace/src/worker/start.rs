//! What a worker begins with, over its control socket: a head with four descriptors (records,
//! dial path, identities, policy), then the listening sockets in the order they were bound.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::SendFlags,
};
use serde::{Deserialize, Serialize};

use super::{
    packet::{self, DESCRIPTORS_MAX},
    pulse::RELOAD,
    tries::Tries,
};
use crate::{
    identity::Assurance,
    names::AgentId,
    policy::{Mode, Policy},
    tls::IssuerText,
};

/// Octets of the largest head.
const HEAD: usize = 16 << 10;
/// Octets of the largest policy with the files it names; each of them is bounded lower.
const POLICY: u64 = 256 << 20;
/// What a worker says when it is locked in.
pub(super) const READY: &[u8] = b"ready";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) agent: String,
    pub(super) observe: bool,
    pub(super) assurance: Assurance,
    pub(super) issuer: IssuerText,
    pub(super) drain: Duration,
    /// How many listening sockets follow.
    pub(super) sockets: usize,
    /// The id it is to have.
    pub(super) uid: u32,
    pub(super) supervisor: u32,
    /// Instead of serving, what it tries.
    pub(super) tries: Option<Tries>,
}

/// The worker's ends of its lines.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) records: OwnedFd,
    pub(super) dial: OwnedFd,
    pub(super) identity: OwnedFd,
}

/// Everything as the worker has it.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) head: Head,
    pub(super) lines: Lines,
    pub(super) policy: Policy,
    pub(super) sockets: Vec<OwnedFd>,
}

/// Sends it all.
pub(super) fn hand_over<'a>(
    control: &OwnedFd,
    head: &Head,
    lines: &Lines,
    policy: &Policy,
    sockets: impl Iterator<Item = BorrowedFd<'a>>,
) -> io::Result<()> {
    let text = cargo(policy)?;
    let descriptors = [
        lines.records.as_fd(),
        lines.dial.as_fd(),
        lines.identity.as_fd(),
        text.as_fd(),
    ];
    let bytes = serde_json::to_vec(head)?;
    packet::send(control, &bytes, &descriptors, SendFlags::empty())?;
    let sockets: Vec<_> = sockets.collect();
    for some in sockets.chunks(DESCRIPTORS_MAX) {
        packet::send(control, b"s", some, SendFlags::empty())?;
    }
    Ok(())
}

/// Sends another policy, to be put in the place of the one before.
pub(super) fn send_policy(control: &OwnedFd, policy: &Policy) -> io::Result<()> {
    let text = cargo(policy)?;
    packet::send(control, RELOAD, &[text.as_fd()], SendFlags::DONTWAIT)
}

/// A policy as it travels.
fn cargo(policy: &Policy) -> io::Result<File> {
    let mut text = File::from(memfd_create("sluice-policy", MemfdFlags::CLOEXEC)?);
    text.write_all(policy.carried().as_bytes())?;
    text.rewind()?;
    Ok(text)
}

/// A policy that arrived, for an agent of this name.
pub(super) fn unpack(text: OwnedFd, agent: &AgentId, observe: bool) -> io::Result<Policy> {
    let mut source = String::new();
    File::from(text).take(POLICY).read_to_string(&mut source)?;
    let policy = Policy::from_carried(&source).map_err(io::Error::other)?;
    let policy = policy.with_agent(agent.clone());
    Ok(match observe {
        true => policy.with_observe(),
        false => policy,
    })
}

/// Receives it all.
pub(super) fn take_over(control: &OwnedFd) -> io::Result<Start> {
    let mut buffer = vec![0; HEAD];
    let received = packet::receive(control, &mut buffer)?;
    let (length, descriptors) = received.ok_or(io::ErrorKind::UnexpectedEof)?;
    let head: Head = serde_json::from_slice(buffer.get(..length).unwrap_or_default())?;
    let Ok([records, dial, identity, text]) = <[OwnedFd; 4]>::try_from(descriptors) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let agent = AgentId::parse(&head.agent).map_err(io::Error::other)?;
    let policy = unpack(text, &agent, head.observe)?;
    let mut sockets = Vec::new();
    while sockets.len() < head.sockets {
        let some = packet::receive(control, &mut buffer)?.map(|(_, some)| some);
        let some = some.filter(|some| !some.is_empty());
        sockets.extend(some.ok_or(io::ErrorKind::UnexpectedEof)?);
    }
    let lines = Lines {
        records,
        dial,
        identity,
    };
    Ok(Start {
        head,
        lines,
        policy,
        sockets,
    })
}

/// Whether refusals are only recorded.
pub(super) fn observes(policy: &Policy) -> bool {
    policy.own_mode() == Mode::Observe
}
