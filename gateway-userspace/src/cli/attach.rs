//! `sluice attach`: confines what already runs, and serves it until it is told to stop.
//!
//! Stopping is not freeing: the programs stay, and nothing leaves the agent, until another
//! `sluice attach` takes over or `sluice detach` takes them away.

mod inherit;
mod predecessor;
mod site;
mod watch;

use std::{io, os::fd::AsRawFd as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) use self::predecessor::Predecessor;
use self::{site::Site, watch::Watch};
use super::{
    ca,
    chronicle::{Chronicle, kernel, kernel_controls},
    say,
};
use crate::{
    app::{BindConfig, BindError, Bound, Gateway},
    attach::{
        sockets,
        survey::{self, Survey},
        target::Target,
    },
    audit::{Audit, AuditConfig, SessionFacts, Subject, default_path},
    identity::Assurance,
    kernel::{AgentSpec, Boundary, KernelHeld, cgroup::Cgroup, forward_logs},
    launch::{
        assurance::Assessment,
        canary::{Canary, prove},
    },
    names::AgentId,
    netns::{self, NetworkNamespace},
    open_files,
    policy::{Mode, Policy},
    reload::{Bounds, Reload, Source},
    serve::{self, Serving},
    sessions::{self, Entry, Origin, Session},
    tls::Authority,
};

/// How long open connections may go on once this gateway is to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Confine a process, unit, container or cgroup that already runs.
///
/// Everything in its cgroup, and all that it starts, has the gateway as its only way out from
/// then on; TCP and UDP sockets that it had open are closed. Serves in the foreground. When this
/// command ends, by SIGTERM or otherwise, the agent stays shut in and nothing leaves it (but with
/// `--observe`, where nothing is shut): call it again to take over, or free the agent with
/// `sluice detach`. Takes another policy when its file changes, and on SIGHUP; a broken one
/// changes nothing. Needs root.
#[derive(Debug, clap::Args)]
pub struct AttachCommand {
    #[command(flatten)]
    target: Target,
    /// Policy file that decides.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Audit file, or `-` for standard output [default: /var/log/sluice/audit.jsonl].
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Name of the agent in records, instead of the policy's.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Record what policy refuses, and let it pass.
    #[arg(long)]
    observe: bool,
    /// Take over from a `sluice attach` that still serves this agent, with its port: no connection
    /// is refused, and those that are open may go on for 30 seconds.
    #[arg(long)]
    replace: bool,
    /// The gateway's port [default: that of the gateway before, else one that is free].
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "replace"
    )]
    port: u16,
}

impl AttachCommand {
    /// Confines and serves.
    ///
    /// # Errors
    /// When nothing could be confined, or the boundary could not be served: whatever was attached
    /// by then stays attached.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let policy = self.source()?.load()?;
        check_process(&policy)?;
        anyhow::ensure!(
            rustix::process::geteuid().is_root(),
            "`sluice attach` needs root, to load BPF programs; try it with sudo"
        );
        let cgroup = self.target.resolve()?;
        open_files::raise().context("raising the limit on open files")?;
        let predecessor = Predecessor::of(&cgroup)?;
        if let Some(before) = predecessor.as_ref().filter(|before| before.is_alive())
            && !self.replace
        {
            anyhow::bail!(
                "{} is confined already, by {} (process {}); `--replace` takes over from it",
                cgroup.display(),
                before.session.run,
                before.session.pid
            );
        }
        let site = Site::prepare()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("starting the runtime")?;
        let served = runtime.block_on(self.confine(&site, policy, cgroup, predecessor));
        site.leave();
        if served.is_err() && !site.holds()? {
            site.clear();
        }
        served
    }

    async fn confine(
        self,
        site: &Site,
        policy: Policy,
        cgroup: PathBuf,
        mut predecessor: Option<Predecessor>,
    ) -> anyhow::Result<ExitCode> {
        // What can fail before anybody is confined, fails here.
        let audit = self.open_audit()?;
        let agent = Cgroup::adopt(cgroup);
        if let Some(before) = &mut predecessor {
            before.gather()?;
        }
        let (bound, inherits) = self.listen(&agent, predecessor.as_ref())?;
        let port = port(&bound)?;
        let mut spec = AgentSpec::new(&policy, agent.id()?, port)?;
        let alive = predecessor.as_ref().filter(|before| before.is_alive());
        if let Some(before) = alive.filter(|before| before.session.port != port) {
            spec = spec.draining(before.session.port);
        }
        // Should it come no further, `sluice agents` shows who is shut in, the next one knows what
        // to take over, and `detach` frees it.
        let unfinished = describe(site, &policy, &agent, &unfinished(), port)?;
        let pins = site.pins()?;
        Entry::write(site.scratch(), &unfinished).context("writing the session's file")?;
        let before = predecessor.as_ref().map(|before| &before.pins);
        let mut boundary = Boundary::replace(&spec, &agent, &site.gateway, pins, before, inherits)?;
        // From here on nothing leaves the agent until the gateway's sockets are marked. Those that
        // were inherited are, and whoever connects to them waits.
        forward_logs(&mut boundary);
        let takes_over = predecessor.is_some();
        match predecessor {
            Some(before) if inherits => before.hand_over()?,
            Some(before) => before.end()?,
            None => {}
        }
        if policy.mode() == Mode::Enforce {
            let canary = match inherits {
                true => Canary::set_out_aside()?,
                false => Canary::set_out()?,
            };
            canary.check(&agent)?;
            prove(&mut boundary, &agent, &site.gateway)?;
            boundary.arm()?;
        }
        let closed =
            sockets::close(agent.path(), inherits).context("closing the sockets it had")?;
        let survey = Survey::of(agent.path()).context("looking at its processes")?;
        let assessment = survey::assess(&policy, boundary.held(), &survey, closed);
        if let Err(below) = assessment.meets_floor(&policy) {
            // Whom another shut in stays so.
            if !takes_over {
                boundary.lower()?;
            }
            return Err(below.into());
        }
        let mut session = describe(site, &policy, &agent, &assessment, port)?;
        session.sockets = bound.sockets().map(|socket| socket.as_raw_fd()).collect();
        let subject = Subject {
            agent: policy.agent().clone(),
            assurance: assessment.level,
            policy: policy.digest(),
        };
        let facts = facts(site, &agent, &assessment, boundary.held())?;
        // Whoever reads of it may signal at once.
        let (mut stop, mut replaced) = (Stop::new()?, Replaced::new()?);
        // Without a record nobody is served.
        let chronicle =
            Chronicle::begin(&audit, subject.clone(), facts, &session, site.scratch()).await?;
        let serving = Serving::begin(
            &mut boundary,
            bound,
            serve::Plan {
                policy: policy.clone(),
                audit: audit.clone(),
                assurance: assessment.level,
                within: site::within(&agent)?,
                issuer: node_authority()?.issuer()?,
                drain: DRAIN,
            },
        )
        .await?;
        Predecessor::forget_unheld(agent.path())?;
        announce(&session, closed.closed, survey.processes);
        let reload = Reload::new(
            self.source()?,
            true,
            Bounds::Kernel,
            policy.clone(),
            audit.clone(),
            subject.clone(),
        )
        .context("listening for SIGHUP")?;
        let watch = Watch::new(&agent, boundary.pins().folder(), audit.clone(), subject)?;
        let mut lost = false;
        let mut handed_over = false;
        let gone = tokio::select! {
            never = reload.run(async |new: &Policy| serving.reload(new).await) => match never {},
            () = chronicle.entry.keep_beating(|| serving.answers()) => false,
            () = watch.until_gone() => true,
            () = stop.asked() => false,
            () = replaced.by_another(&session) => {
                handed_over = true;
                false
            }
            () = serving.lost() => {
                lost = true;
                false
            }
        };
        if handed_over {
            serving.hand_over().await;
            // For which the other waits.
            sessions::withdraw(site.scratch()).context("handing over")?;
            tokio::select! {
                () = serving.lost() => {}
                () = stop.asked() => {}
            }
        }
        serving.end().await;
        chronicle.end(None);
        let summary = audit.close();
        if summary.lost > 0 {
            say::error(format_args!("{} audit records were lost", summary.lost));
        }
        if handed_over {
            // What is left of them: the links are the other's.
            boundary.lower()?;
            site.clear();
            say::line("another gateway has taken over, and what was open has ended");
            return Ok(ExitCode::SUCCESS);
        }
        anyhow::ensure!(
            !lost,
            "the gateway's worker died too often; the agent stays shut in, and nothing leaves it"
        );
        if gone {
            // Links to a cgroup that is gone hold nothing.
            boundary.lower()?;
            site.clear_but_for_word();
            say::error("the agent's cgroup was removed; if it is made again, attach to it again");
            return Ok(ExitCode::FAILURE);
        }
        if agent.is_empty().unwrap_or(false) {
            say::line("nobody is left in the agent's cgroup; its boundary stays");
        }
        let stays = match policy.mode() {
            Mode::Enforce => "stays shut in, and nothing leaves it",
            Mode::Observe => "was only observed, and goes on unseen",
        };
        say::line(format_args!(
            "{} {stays}; `sluice attach` takes over, `sluice detach {}` frees it",
            session.agent, session.run
        ));
        Ok(ExitCode::SUCCESS)
    }

    /// Listens where the agent is: on the sockets of the gateway before, which the second word
    /// tells, else on its port, else on another.
    fn listen(
        &self,
        agent: &Cgroup,
        before: Option<&Predecessor>,
    ) -> anyhow::Result<(Bound, bool)> {
        let namespaces = netns::of_cgroup(agent.path()).context("finding its namespaces")?;
        let bind = |port| bind(port, &namespaces);
        let Some(before) = before.filter(|it| self.port == 0 || self.port == it.session.port)
        else {
            return Ok((bind(self.port)?, false));
        };
        if before.is_alive() {
            match inherit::sockets(before, &namespaces) {
                Ok(bound) => return Ok((bound, true)),
                Err(error) => say::line(format_args!(
                    "the gateway before cannot hand over its sockets: {error}; new connections \
                     are refused until this one serves"
                )),
            }
        }
        let port = before.session.port;
        match bind(port) {
            Err(BindError::Listen { source, .. })
                if self.port == 0 && source.kind() == io::ErrorKind::AddrInUse =>
            {
                say::line(format_args!(
                    "port {port}, which it had, is taken: it has another"
                ));
                Ok((bind(0)?, false))
            }
            bound => Ok((bound?, false)),
        }
    }

    fn open_audit(&self) -> anyhow::Result<Audit> {
        let path = match &self.audit {
            Some(path) => path.clone(),
            None => default_path(true, std::env::var_os)?,
        };
        Audit::open(AuditConfig::path(path)).context("opening the audit log")
    }

    fn source(&self) -> anyhow::Result<Source> {
        let agent = self.agent.as_deref().map(AgentId::parse);
        Ok(Source {
            policy: Some(self.policy.clone()),
            node: None,
            agent: agent.transpose().context("--agent")?,
            observe: self.observe,
        })
    }
}

fn bind(port: u16, namespaces: &[NetworkNamespace]) -> Result<Bound, BindError> {
    Gateway::bind(&BindConfig {
        port,
        addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        optional: vec![std::net::Ipv6Addr::LOCALHOST.into()],
        namespaces: namespaces.to_vec(),
    })
}

/// The one port on all addresses and in all namespaces.
fn port(bound: &Bound) -> anyhow::Result<u16> {
    let address = bound.addresses().next();
    Ok(address.context("the gateway has no address")?.port())
}

fn describe(
    site: &Site,
    policy: &Policy,
    agent: &Cgroup,
    assessment: &Assessment,
    port: u16,
) -> anyhow::Result<Session> {
    Ok(Session {
        run: site.run.clone(),
        origin: Origin::Attach,
        agent: policy.agent().to_string(),
        cgroup: agent.path().to_owned(),
        cgroup_id: agent.id()?,
        assurance: assessment.level.label().to_owned(),
        open: assessment.open.clone(),
        policy: policy.digest().to_string(),
        port,
        pid: std::process::id(),
        started: jiff::Timestamp::now(),
        sockets: Vec::new(),
    })
}

/// What is known of an agent that is shut in and not looked at yet.
fn unfinished() -> Assessment {
    Assessment {
        level: Assurance::Partial,
        open: vec!["it was not looked at: the attachment came to no end".to_owned()],
    }
}

/// What stands in the records of the session.
fn facts(
    site: &Site,
    agent: &Cgroup,
    assessment: &Assessment,
    held: KernelHeld,
) -> anyhow::Result<SessionFacts> {
    Ok(SessionFacts {
        run: site.run.clone(),
        kernel: kernel(),
        cgroup: site::within(agent)?,
        uid: None,
        command: String::new(),
        controls: kernel_controls(held),
        open: assessment.open.clone(),
        exit: None,
    })
}

fn announce(session: &Session, closed: usize, processes: usize) {
    say::line(format_args!(
        "agent {} under policy {}, assurance {}; attached to {} ({processes} processes, {closed} \
         sockets closed), gateway on port {}",
        session.agent,
        session.policy,
        session.assurance,
        session.cgroup.display(),
        session.port,
    ));
    for open in &session.open {
        say::line(format_args!("open: {open}"));
    }
}

/// SIGTERM and SIGINT, which do not end this process from when it is made.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The word that another gateway has taken over, which ends nothing from when this is made.
struct Replaced(Signal);

impl Replaced {
    fn new() -> anyhow::Result<Self> {
        let kind = SignalKind::from_raw(predecessor::HAND_OVER as i32);
        Ok(Self(signal(kind).context("listening for a take-over")?))
    }

    /// Comes back when it is so, whoever may have said it.
    async fn by_another(&mut self, session: &Session) {
        while self.0.recv().await.is_some() {
            match Predecessor::has_successor(session) {
                Ok(true) => return,
                Ok(false) => tracing::warn!("told of a gateway that took over, and there is none"),
                Err(error) => tracing::warn!("looking who took over: {error:#}"),
            }
        }
        std::future::pending().await
    }
}

/// Refuses what only the launcher can carry out.
fn check_process(policy: &Policy) -> anyhow::Result<()> {
    let process = policy.process();
    for (key, named) in [
        ("read", process.read.is_some()),
        ("write", process.write.is_some()),
        ("run", !process.run.is_empty()),
    ] {
        anyhow::ensure!(
            !named,
            "`{key}` of [process] cannot be carried out for what runs already; delete it, or \
             start the agent with `sluice run`"
        );
    }
    Ok(())
}

/// The node's certificate authority, which an agent that runs already must have been told to
/// trust where its TLS is to be opened.
fn node_authority() -> anyhow::Result<Authority> {
    Ok(Authority::open(&ca::folder(None)?)?)
}
