//! One run from its boundary to its exit status.

use std::{ffi::OsString, time::Duration};

use anyhow::Context as _;
use tokio::process::Command;

use super::{super::say, site::Site};
use crate::{
    app::{BindConfig, Bound, Gateway},
    audit::Audit,
    kernel::{AgentSpec, Boundary, check_unix_paths, forward_logs},
    launch::{
        assurance::Assessment,
        canary::Canary,
        supervise::{exit_code, wait},
        user::AgentUser,
    },
    open_files,
    policy::{Mode, Policy},
    serve::{self, Serving},
};

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
        namespaces: Vec::new(),
    })?;
    let port = bound
        .addresses()
        .next()
        .context("the gateway has no address")?
        .port();
    let spec = AgentSpec::new(&plan.policy, site.agent.id()?, port)?;
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
    let serving = Serving::begin(
        boundary,
        bound,
        serve::Plan {
            policy: policy.clone(),
            audit: plan.audit.clone(),
            assurance: plan.assessment.level,
            within: site.agent_within()?,
            drain: DRAIN,
        },
    )?;
    announce(&plan);

    let status = supervise(&plan, site, port, open_files).await;
    // Whatever the command left behind ends with it, before the gateway does.
    let ended = site.end_agent();
    if let Err(error) = serving.end().await {
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
