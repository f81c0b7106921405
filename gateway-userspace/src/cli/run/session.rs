//! One run from its boundary to its exit status.

use std::{ffi::OsString, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::process::Command;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{super::say, site::Site};
use crate::{
    app::{BindConfig, Bound, Context, Gateway},
    audit::{Audit, Subject},
    config::Limits,
    dns::Resolver,
    kernel::{
        AgentSpec, Boundary, Denials, KernelIdentity, Passages, check_unix_paths, forward_logs,
        netns_cookie,
    },
    launch::{
        assurance::Assessment,
        canary::Canary,
        supervise::{exit_code, wait},
        user::AgentUser,
    },
    ledger::Ledger,
    open_files,
    policy::{Mode, Policy},
};

/// How often flows that never reached the gateway are forgotten.
const PURGE_EVERY: Duration = Duration::from_secs(10);

/// How long connections may finish once the agent is gone. Nobody reads their answers.
const DRAIN: Duration = Duration::from_millis(500);

/// What a run needs to begin.
pub(super) struct Plan {
    pub(super) policy: Policy,
    pub(super) user: AgentUser,
    pub(super) assessment: Assessment,
    pub(super) audit: Audit,
    pub(super) command: Vec<OsString>,
}

/// Runs the command. An error means that it was not started.
pub(super) fn run(plan: Plan) -> anyhow::Result<u8> {
    let open_files = open_files::raise().context("raising the limit on open files")?;
    let site = Site::prepare()?;
    let status = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(confine(plan, &site, open_files)));
    site.clear();
    status
}

/// Raises the boundary, runs the command inside, and takes the boundary down again.
async fn confine(plan: Plan, site: &Site, open_files: Option<u64>) -> anyhow::Result<u8> {
    check_unix_paths(
        &plan.policy.network().unix,
        plan.user.uid.as_raw(),
        plan.user.gid.as_raw(),
    )?;
    let bound = Gateway::bind(&BindConfig {
        port: 0,
        addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        optional: vec![std::net::Ipv6Addr::LOCALHOST.into()],
    })?;
    let port = bound
        .addresses()
        .next()
        .context("the gateway has no address")?
        .port();
    let spec = AgentSpec::new(&plan.policy, site.agent.id()?, port);
    let mut boundary = Boundary::raise(&spec, &site.agent, &site.gateway, site.pins()?)?;
    let status = inside(plan, site, &mut boundary, bound, port, open_files).await;
    // The boundary stays until nobody is left inside: better pins that the next run clears away
    // than a process that is free.
    match site.end_agent() {
        Ok(()) => boundary.lower()?,
        Err(error) => say::error(format_args!("{error}; its boundary stays")),
    }
    status
}

async fn inside(
    plan: Plan,
    site: &Site,
    boundary: &mut Boundary,
    bound: Bound,
    port: u16,
    open_files: Option<u64>,
) -> anyhow::Result<u8> {
    let policy = &plan.policy;
    forward_logs(boundary);
    if policy.mode() == Mode::Enforce {
        Canary::set_out()?.check(&site.agent)?;
    }
    let subject = Subject {
        agent: policy.agent().clone(),
        assurance: plan.assessment.level,
        policy: policy.digest(),
    };
    let within = site.agent_within()?;
    let denials = Denials::new(
        boundary,
        plan.audit.clone(),
        subject.clone(),
        within.clone(),
    )?;
    let netns = match bound.stream_sockets().next() {
        Some(socket) => netns_cookie(&socket).context("reading the network namespace's cookie")?,
        None => anyhow::bail!("the gateway has no socket"),
    };
    let agent = policy.agent().clone();
    let ledger = Arc::new(Ledger::default());
    let passages = Passages::new(
        boundary,
        Arc::clone(&ledger),
        plan.audit.clone(),
        subject.clone(),
        within.clone(),
    )?;
    let identify = Arc::new(KernelIdentity::new(boundary, agent, within, netns, ledger)?);
    bound
        .stream_sockets()
        .chain(bound.datagram_sockets())
        .try_for_each(|socket| boundary.mark_listener(&socket))?;

    let limits = Limits {
        drain_timeout: DRAIN,
        ..Limits::default()
    };
    let context = Context {
        identify: Arc::clone(&identify) as _,
        policy: Arc::new(ArcSwap::from_pointee(policy.clone())),
        dial: None,
        audit: plan.audit.clone(),
        resolver: Resolver::system(limits.resolve_timeout)
            .context("reading the system's DNS configuration")?,
        limits,
        assurance: plan.assessment.level,
    };
    announce(&plan);

    let drain = CancellationToken::new();
    let tasks = TaskTracker::new();
    let serving = tasks.spawn(bound.serve(Arc::new(context), drain.clone()));
    tasks.spawn(denials.run(drain.clone()));
    tasks.spawn(passages.run(drain.clone()));
    tasks.spawn(purge(identify, drain.clone()));

    let status = supervise(&plan, site, port, open_files).await;
    // Whatever the command left behind ends with it, before the gateway does.
    let ended = site.end_agent();
    drain.cancel();
    tasks.close();
    tasks.wait().await;
    if let Ok(Err(error)) = serving.await {
        say::error(format_args!("the gateway failed: {error}"));
    }
    if let Err(error) = ended {
        tracing::warn!(%error, "ending what the command left behind");
    }
    status
}

/// Starts the command and waits for it.
async fn supervise(
    plan: &Plan,
    site: &Site,
    port: u16,
    open_files: Option<u64>,
) -> anyhow::Result<u8> {
    let mut agent = Command::new("/proc/self/exe")
        .arg("enter")
        .arg("--cgroup")
        .arg(site.agent.path())
        .args(["--uid", &plan.user.uid.to_string()])
        .args(["--gid", &plan.user.gid.to_string()])
        .args(open_files.map(|limit| format!("--open-files={limit}")))
        .arg("--")
        .args(&plan.command)
        .envs(plan.user.environment(site.scratch())?)
        .envs(proxy_environment(port))
        .spawn()
        .context("starting the command")?;
    let status = wait(&mut agent).await.context("waiting for the command")?;
    Ok(exit_code(status))
}

/// What makes programs that ask for a proxy find the gateway. None of it is needed.
fn proxy_environment(port: u16) -> impl Iterator<Item = (&'static str, OsString)> {
    let proxy = format!("http://127.0.0.1:{port}");
    let with_proxy = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"];
    // An exception would be a request that goes round the proxy, into the boundary.
    let empty = ["no_proxy", "NO_PROXY"];
    with_proxy
        .into_iter()
        .map(move |name| (name, OsString::from(&proxy)))
        .chain(empty.into_iter().map(|name| (name, OsString::new())))
        .chain([("NODE_USE_ENV_PROXY", OsString::from("1"))])
}

async fn purge(identify: Arc<KernelIdentity>, stop: CancellationToken) {
    let mut every = tokio::time::interval(PURGE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let forgotten = identify.purge_abandoned();
        if forgotten > 0 {
            tracing::debug!(forgotten, "flows that never reached the gateway");
        }
    }
}

fn announce(plan: &Plan) {
    let Plan {
        policy, assessment, ..
    } = plan;
    say::line(format_args!(
        "agent {} under policy {}, assurance {}",
        policy.agent(),
        policy.digest(),
        assessment.level.label(),
    ));
    for open in &assessment.open {
        tracing::info!(open, "not closed");
    }
}
