//! One run from its boundary to its exit status.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

use anyhow::Context as _;

use super::{super::say, chronicle, site::Site};
use crate::{
    app::{BindConfig, Bound, Gateway},
    audit::{Audit, Subject},
    kernel::{AgentSpec, Boundary, KernelHeld, check_unix_paths, forward_logs},
    launch::{
        assurance::{Assessment, assess},
        canary::{Canary, prove},
        order::Order,
        supervise::{Waiting, exit_code},
        terminal,
        user::AgentUser,
    },
    open_files,
    policy::{Mode, Policy},
    reload::{Bounds, Reload, Source},
    serve::{self, Serving},
    tls::{Authority, Roots, bundle, truststore},
};

/// How long connections may finish once the agent is gone. Nobody reads their answers.
const DRAIN: Duration = Duration::from_millis(500);

/// What a run needs to begin.
pub(super) struct Plan {
    /// Where the policy is from.
    pub(super) source: Source,
    pub(super) policy: Policy,
    pub(super) user: AgentUser,
    pub(super) assessment: Assessment,
    pub(super) audit: Audit,
    pub(super) command: Vec<OsString>,
    /// Files and folders of Sluice's that the agent must not see.
    pub(super) hide: Vec<PathBuf>,
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
    mut plan: Plan,
    site: &Site,
    boundary: &mut Boundary,
    bound: Bound,
    port: u16,
    open_files: Option<u64>,
) -> anyhow::Result<u8> {
    forward_logs(boundary);
    let authority = authority(site)?;
    if plan.policy.mode() == Mode::Enforce {
        Canary::set_out()?.check(&site.agent)?;
        prove(boundary, &site.agent, &site.gateway)?;
    }
    let held = boundary.held();
    let waiting = shut_in(&mut plan, site, port, open_files, held).await?;
    let serving = Serving::begin(
        boundary,
        bound,
        serve::Plan {
            policy: plan.policy.clone(),
            audit: plan.audit.clone(),
            assurance: plan.assessment.level,
            within: site.agent.within()?,
            issuer: authority.issuer()?,
            drain: DRAIN,
        },
    )
    .await?;
    announce(&plan);

    boundary.arm()?;
    let chronicle = chronicle::begin(&plan, site, port, held, &waiting.shut).await?;
    let subject = Subject {
        agent: plan.policy.agent().clone(),
        assurance: plan.assessment.level,
        policy: plan.policy.digest(),
    };
    // SIGHUP is for the command.
    let reload = Reload::new(
        plan.source.clone(),
        false,
        Bounds::Kernel,
        plan.policy.clone(),
        plan.audit.clone(),
        subject,
    )?;
    let status = tokio::select! {
        never = reload.run(async |new: &Policy| serving.reload(new).await) => match never {},
        status = waiting.go() => status.context("waiting for the command"),
        () = chronicle.entry.keep_beating(|| serving.answers()) => unreachable!("it beats for ever"),
        () = serving.lost() => Err(anyhow::anyhow!(
            "the gateway's worker died too often; the command was ended"
        )),
    };
    // Whatever the command left behind ends with it, before the gateway does.
    let ended = site.end_agent();
    serving.end().await;
    if let Err(error) = ended {
        tracing::warn!(%error, "ending what the command left behind");
    }
    let status = status.map(exit_code);
    chronicle.end(status.as_ref().ok().copied());
    status
}

/// File of the certificates that the agent's programs are to trust, in the scratch folder.
const BUNDLE: &str = "ca.pem";
/// The same for Java.
const TRUSTSTORE: &str = "ca.p12";

/// An authority for this run alone, and the files of certificates to trust.
fn authority(site: &Site) -> anyhow::Result<Authority> {
    let authority = Authority::in_memory(&format!("Sluice {}", site.run))?;
    let named = bundle::named(std::env::var_os);
    let trusted = Roots::system().with(named.iter().cloned());
    let store = truststore::encode(&authority, &trusted).context("encoding Java's truststore")?;
    for (name, content) in [
        (BUNDLE, bundle::text(&authority, &trusted).into_bytes()),
        (TRUSTSTORE, store),
    ] {
        let path = site.scratch().join(name);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(authority)
}

/// What makes programs trust the gateway where it opens TLS; for Java, find it as well.
fn trust_environment(site: &Site, port: u16) -> impl Iterator<Item = (&'static str, OsString)> {
    let path = site.scratch().join(BUNDLE).into_os_string();
    let names = bundle::REPLACING.into_iter().chain(bundle::ADDING);
    let before = std::env::var_os(truststore::VARIABLE);
    let store = site.scratch().join(TRUSTSTORE);
    let java = truststore::options(before.as_deref(), &store, port);
    names
        .map(move |name| (name, path.clone()))
        .chain([(truststore::VARIABLE, java)])
}

/// Starts the agent's first process, which waits for the word, and judges what was reached.
async fn shut_in(
    plan: &mut Plan,
    site: &Site,
    port: u16,
    open_files: Option<u64>,
    held: KernelHeld,
) -> anyhow::Result<Waiting> {
    let within = site.agent.within()?;
    let order = order(plan, site, port, open_files, held)?;
    let waiting = Waiting::begin(&order, &within).await?;
    plan.assessment = assess(&plan.policy, &plan.user, held, &waiting.shut);
    plan.assessment.meets_floor(&plan.policy)?;
    Ok(waiting)
}

/// What the agent's first process is to do.
fn order(
    plan: &Plan,
    site: &Site,
    port: u16,
    open_files: Option<u64>,
    held: KernelHeld,
) -> anyhow::Result<Order> {
    let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    let user = plan.user.environment(site.scratch())?;
    let own = user
        .into_iter()
        .chain(proxy_environment(port))
        .chain(trust_environment(site, port));
    environment.extend(own.map(|(name, value)| (name.into(), value)));
    let mut confined = Order::under(
        &plan.policy,
        &plan.user,
        held,
        site.agent.path(),
        site.scratch(),
    );
    let trusted = [BUNDLE, TRUSTSTORE].map(|name| site.scratch().join(name));
    confined.run.extend(trusted);
    let which = terminal::standard();
    Ok(Order {
        open_files,
        hide: plan.hide.clone(),
        terminal: which,
        in_front: terminal::begins_in_front(which),
        command: plan.command.clone(),
        environment: environment.into_iter().collect(),
        ..confined
    })
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
        say::line(format_args!("open: {open}"));
    }
}
