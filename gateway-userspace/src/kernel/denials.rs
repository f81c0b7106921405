//! Refusals of the kernel half: from the ring to the audit stream, with every loss counted.

mod gaps;
mod tally;

use std::{collections::HashMap, sync::Arc, time::Duration};

use aya::{
    maps::{MapData, PerCpuArray, RingBuf},
    util::nr_cpus,
};
use gateway_common::{
    ABI_VERSION,
    agent::Device,
    event::{Event, FLAG_OBSERVED, Fold, Hook, NamedEvent},
    reason::{REASON_SLOTS, Reason},
    unix::UnixName,
};
use jiff::{SignedDuration, Timestamp};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use zerocopy::FromBytes as _;

pub(super) use self::gaps::Gaps;
use self::tally::Tally;
use super::{
    abi::{Wire, pollable},
    boundary::{Boundary, BoundaryError, map_error},
    devices,
    flows::{boot_time, socket_addr},
    processes::Names,
};
use crate::audit::{Audit, Blame, Kind, Outcome, Record, Subject};

/// Where glibc looks for the name service cache, in each program that asks for a user or a host.
pub const NSCD: &str = "/var/run/nscd/socket";

/// How often folded refusals are told that no other followed.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// How often to settle after an event: once for what was folded since, and once more to be sure.
const RESTLESS: u8 = 3;

/// Reads the kernel half's refusals and records each.
pub struct Denials {
    ring: AsyncFd<RingBuf<MapData>>,
    folds: PerCpuArray<MapData, Wire<Fold>>,
    tally: Tally,
    audit: Audit,
    subject: Subject,
    names: Names,
    malformed: u64,
    /// By CPU and reason: the exact totals when they were last settled.
    totals: HashMap<(u32, u32), u64>,
    /// How many more times to settle. Nothing is folded that no event came before.
    restless: u8,
    /// A refusal that is expected of every program, and how often it came up again.
    habitual: Option<(Record, u64)>,
}

impl Denials {
    /// Takes the maps it reads out of the boundary, and forgets what they hold so far: the
    /// canary's attempts are nobody's.
    ///
    /// # Errors
    /// If the object lacks a map or the ring cannot be polled.
    pub fn new(
        boundary: &mut Boundary,
        audit: Audit,
        subject: Subject,
        cgroup: String,
    ) -> Result<Self, BoundaryError> {
        let ring: RingBuf<MapData> = boundary.take_map("DENIALS")?;
        let ring = pollable(ring).map_err(BoundaryError::Poll)?;
        let mut denials = Self {
            ring,
            folds: boundary.take_map("FOLDS")?,
            tally: Tally::new(),
            audit,
            subject,
            names: boundary.names(cgroup),
            malformed: 0,
            totals: HashMap::new(),
            restless: RESTLESS,
            habitual: None,
        };
        while let Some(item) = denials.ring.get_mut().next() {
            if let Some((event, _)) = read(&item) {
                denials.tally.note(&event);
            }
        }
        denials.settle(|tally, cpu, reason, total| {
            tally.remaining(cpu, reason, total);
        })?;
        denials.tally.lost_for_good();
        Ok(denials)
    }

    /// Records refusals until `stop`, then what is left, then what was only counted.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut every = tokio::time::interval(SETTLE_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = every.tick() => {
                    self.drain();
                    if self.restless > 0 {
                        self.restless -= 1;
                        self.record_settled();
                    }
                    continue;
                }
                ready = self.ring.readable_mut() => match ready {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(error) => {
                        tracing::error!(%error, "the ring of refusals cannot be polled");
                        break;
                    }
                },
            }
            self.drain();
            let lost = self.tally.lost();
            self.record_loss(lost);
            self.record_unnamed();
        }
        self.drain();
        let lost = self.tally.lost_for_good();
        self.record_loss(lost);
        self.record_unnamed();
        self.record_habitual();
        self.record_remaining();
    }

    fn drain(&mut self) {
        loop {
            let Some(item) = self.ring.get_mut().next() else {
                break;
            };
            // A record of another size, ABI or code is no event of ours: it is counted.
            let read = read(&item).filter(|(event, _)| event.abi == ABI_VERSION);
            drop(item);
            let decoded = read.and_then(|(event, name)| Some((decode(event)?, name)));
            match decoded {
                Some(((event, hook, reason), name)) => {
                    let repeated = self.tally.note(&event);
                    self.restless = RESTLESS;
                    let mut record = self.describe(&event, hook, reason, repeated);
                    if let Some(name) = name.as_ref().and_then(unix_name) {
                        record.path = Some(name);
                    }
                    if let Some(record) = self.habit(record) {
                        self.write(record);
                    }
                }
                None => self.malformed += 1,
            }
        }
        let malformed = std::mem::take(&mut self.malformed);
        self.record_loss(malformed);
    }

    /// Holds back what every program does by habit, but for the first time: its C library asks
    /// [`NSCD`] for names and goes on without. The others are told in one record at the end.
    fn habit(&mut self, mut record: Record) -> Option<Record> {
        if record.path.as_deref() != Some(NSCD) {
            return Some(record);
        }
        record.hint = Some(format!(
            "the C library of each program asks this socket first and goes on without; \
             further times are told together at the end. {}",
            record.hint.unwrap_or_default()
        ));
        let Some(held) = &mut self.habitual else {
            let mut next = record.clone();
            next.process = None;
            next.repeated = 0;
            self.habitual = Some((next, 0));
            return Some(record);
        };
        held.1 += 1 + record.repeated;
        None
    }

    /// Tells how often [`Self::habit`] held something back.
    fn record_habitual(&mut self) {
        if let Some((mut record, count)) = self.habitual.take()
            && count > 0
        {
            record.time = Timestamp::now();
            record.event = uuid::Uuid::now_v7();
            record.repeated = count - 1;
            self.write(record);
        }
    }

    fn describe(&self, event: &Event, hook: Hook, reason: Reason, repeated: u64) -> Record {
        let outcome = if event.flags & FLAG_OBSERVED == 0 {
            Outcome::Deny
        } else {
            Outcome::Observe
        };
        let task = (event.task.tgid != 0)
            .then(|| Arc::new(self.names.process(&event.task, event.cookie, event.time_ns)));
        let time = wall_clock(event.time_ns);
        let mut record = Record::new(&self.subject, time, Kind::Direct, outcome, reason.label())
            .from_kernel(task)
            .method(hook.label())
            .blame(Blame::Policy);
        if let Some(device) = Device::from_endpoint(&event.destination) {
            record.path = Some(devices::told(&device));
        } else if event.destination.port != 0 || event.destination.address != [0; 4] {
            let destination = socket_addr(&event.destination);
            record = record.target(destination.ip(), Some(destination.port()));
            record.original_destination = Some(destination);
        }
        if event.source.port != 0 {
            record.peer = Some(socket_addr(&event.source));
        }
        record.hint = Some(hint(reason, event));
        record.repeated = repeated;
        record
    }

    fn record_loss(&mut self, lost: u64) {
        if lost > 0 {
            let time = Timestamp::now();
            let mut record =
                Record::new(&self.subject, time, Kind::Loss, Outcome::Deny, "ring_full")
                    .from_kernel(None)
                    .blame(Blame::Us);
            record.hint = Some(
                "refusals that the kernel half could not report singly; they were carried out \
                 and are counted in `repeated` of the next record of their reason"
                    .to_owned(),
            );
            record.repeated = lost - 1;
            self.write(record);
        }
    }

    /// What the tracepoints told and nobody could take in: of some processes nothing is known.
    fn record_unnamed(&self) {
        let lost = self.names.take_lost();
        if lost == 0 {
            return;
        }
        let time = Timestamp::now();
        let mut record = Record::new(
            &self.subject,
            time,
            Kind::Loss,
            Outcome::Deny,
            "process_ring_full",
        )
        .from_kernel(None)
        .blame(Blame::Us);
        record.hint = Some(
            "events of processes that were lost; records of these processes name no executable"
                .to_owned(),
        );
        record.repeated = lost - 1;
        self.write(record);
    }

    /// What was folded a while ago and has not been followed by another event of its reason.
    ///
    /// Up to the totals of last time only: an event of these has long been read, while one that
    /// is counted by now may still be on its way through the ring.
    fn record_settled(&mut self) {
        let last = std::mem::take(&mut self.totals);
        let mut totals = HashMap::new();
        let mut remaining = Vec::new();
        let read = self.settle(|tally, cpu, reason, total| {
            if total == 0 {
                return;
            }
            totals.insert((cpu, reason), total);
            let before = last.get(&(cpu, reason)).copied().unwrap_or(0);
            let count = tally.remaining(cpu, reason, before);
            if count > 0 {
                remaining.push((reason, count));
            }
        });
        self.totals = totals;
        self.record_counted(read, remaining);
    }

    /// What was folded and not followed by another event of its reason.
    fn record_remaining(&mut self) {
        let mut remaining = Vec::new();
        let read = self.settle(|tally, cpu, reason, total| {
            let count = tally.remaining(cpu, reason, total);
            if count > 0 {
                remaining.push((reason, count));
            }
        });
        self.record_counted(read, remaining);
    }

    fn record_counted(&self, read: Result<(), BoundaryError>, remaining: Vec<(u32, u64)>) {
        if let Err(error) = read {
            tracing::error!(%error, "the totals of refusals cannot be read");
        }
        for (reason, count) in remaining {
            let Some(reason) = u16::try_from(reason).ok().and_then(Reason::from_code) else {
                continue;
            };
            let mut record = Record::new(
                &self.subject,
                Timestamp::now(),
                Kind::Direct,
                Outcome::Deny,
                reason.label(),
            )
            .from_kernel(None)
            .blame(Blame::Policy);
            record.hint = Some("further refusals, counted and not reported singly".to_owned());
            record.repeated = count - 1;
            self.write(record);
        }
    }

    /// Goes through the exact totals of all CPUs and reasons.
    fn settle(
        &mut self,
        mut each: impl FnMut(&mut Tally, u32, u32, u64),
    ) -> Result<(), BoundaryError> {
        let cpus = nr_cpus().map_or(0, |cpus| cpus);
        for reason in 0..REASON_SLOTS {
            let folds = self.folds.get(&reason, 0).map_err(map_error("FOLDS"))?;
            for cpu in 0..cpus {
                if let (Some(Wire(fold)), Ok(cpu)) = (folds.get(cpu), u32::try_from(cpu)) {
                    each(&mut self.tally, cpu, reason, fold.total);
                }
            }
        }
        Ok(())
    }

    fn write(&self, record: Record) {
        // Where there is no room, the audit log counts it and says so in a record of its own.
        if !self.audit.offer(record) {
            tracing::error!("a refusal of the kernel half found no room in the audit log");
        }
    }
}

/// An event, with the name of a unix socket where it has one; none if it has another size.
fn read(item: &[u8]) -> Option<(Event, Option<UnixName>)> {
    if let Ok(named) = NamedEvent::read_from_bytes(item) {
        return Some((named.event, Some(named.name)));
    }
    Event::read_from_bytes(item).ok().map(|event| (event, None))
}

/// The name of a unix socket as it is written: a path, or `@` and an abstract name. None where
/// the kernel half could not read it.
fn unix_name(name: &UnixName) -> Option<String> {
    match name.as_bytes() {
        [] => None,
        [0, rest @ ..] => Some(format!("@{}", String::from_utf8_lossy(rest))),
        path => Some(String::from_utf8_lossy(path).into_owned()),
    }
}

/// The event with its codes understood; none if this build does not know one of them.
fn decode(event: Event) -> Option<(Event, Hook, Reason)> {
    let hook = Hook::from_code(event.hook)?;
    let reason = Reason::from_code(event.reason)?;
    Some((event, hook, reason))
}

/// When something happened that long after boot.
pub(super) fn wall_clock(since_boot_ns: u64) -> Timestamp {
    let now = Timestamp::now();
    let boot_ns = u64::try_from(boot_time().as_nanos()).unwrap_or(since_boot_ns);
    let ago = boot_ns.saturating_sub(since_boot_ns);
    let ago = SignedDuration::from_nanos(i64::try_from(ago).unwrap_or(0));
    now.checked_sub(ago).unwrap_or(now)
}

/// What a refusal means, and what to do instead.
fn hint(reason: Reason, event: &Event) -> String {
    match reason {
        Reason::SocketType => format!(
            "an agent opens TCP and UDP sockets only; this was family {}, type {}, protocol {}",
            event.family, event.socket_type, event.protocol
        ),
        Reason::DirectConnect => {
            "direct connections are off; use the proxy that HTTPS_PROXY names".to_owned()
        }
        Reason::Datagram => "of UDP only DNS leaves an agent, to the gateway's resolver".to_owned(),
        Reason::GatewayDown => {
            "the gateway is gone, or something else is on its port; nothing leaves until it is back"
                .to_owned()
        }
        Reason::NotConfigured => "the programs carry no configuration; reinstall Sluice".to_owned(),
        Reason::HeaderMalformed
        | Reason::HeaderOptions
        | Reason::Fragment
        | Reason::ExtensionHeader => "only plain packets leave an agent".to_owned(),
        Reason::Interface | Reason::Destination => {
            "the packet went elsewhere than to the gateway".to_owned()
        }
        Reason::InboundRefused => {
            "nobody may connect to this agent; see `inbound` in its policy".to_owned()
        }
        Reason::GroupMembership => {
            "an agent joins no multicast group: the kernel would tell the network which".to_owned()
        }
        Reason::FlowTableFull | Reason::LedgerFull => {
            "too many connections in the making; try again in a moment".to_owned()
        }
        Reason::UnixSocket => {
            "a unix socket that policy does not name; see `unix` in [network]".to_owned()
        }
        Reason::BindAddress => {
            "an agent binds to loopback only; see `inbound` in [network]".to_owned()
        }
        Reason::SocketOption => format!(
            "this socket option steers packets past the gateway, and no agent has it: level {}, \
             option {}",
            event.family, event.protocol
        ),
        Reason::Device => "policy does not name this device; see `devices` in [process]".to_owned(),
        Reason::UnknownNamespace => {
            "the gateway has no listener in this network namespace, so nothing leaves it".to_owned()
        }
        Reason::ProcessTableFull => {
            "more processes at once than account is kept of; the one that forked was killed"
                .to_owned()
        }
        Reason::LeftCgroup => "a process left the agent's cgroup and was killed".to_owned(),
        Reason::SocketFamily => format!(
            "an agent has sockets of AF_INET, AF_INET6, AF_UNIX and AF_NETLINK only; this was family {}",
            event.family
        ),
        Reason::DescriptorReceived => {
            "a socket made outside the boundary may not be received inside".to_owned()
        }
        Reason::ProcessAccess => "an agent has no access to processes outside".to_owned(),
        Reason::BpfCall => "an agent has no bpf(2)".to_owned(),
        Reason::Mount => "an agent mounts and unmounts nothing".to_owned(),
        Reason::CgroupWrite => "an agent moves no process between cgroups".to_owned(),
        Reason::Gateway
        | Reason::DeclaredLoopback
        | Reason::Redirected
        | Reason::DnsRedirected
        | Reason::Inbound
        | Reason::SocketAllowed
        | Reason::OwnLoopback
        | Reason::Draining
        | Reason::UnixAllowed
        | Reason::DeviceAllowed
        | Reason::BindAllowed => "this is no refusal".to_owned(),
    }
}
