//! What is told of a run: how its command is started, and what is in force.

use jiff::Timestamp;

use super::{
    super::chronicle::{Chronicle, kernel, kernel_controls},
    session::Plan,
    site::Site,
};
use crate::{
    audit::{SessionFacts, Subject},
    kernel::KernelHeld,
    launch::channel::Shut,
    sessions::{Origin, Session},
};

/// Tells that it begins; without that nothing starts.
pub(super) async fn begin(
    plan: &Plan,
    site: &Site,
    port: u16,
    held: KernelHeld,
    shut: &Shut,
) -> anyhow::Result<Chronicle> {
    let subject = Subject {
        agent: plan.policy.agent().clone(),
        assurance: plan.assessment.level,
        policy: plan.policy.digest(),
    };
    let words: Vec<_> = plan.command.iter().map(|word| word.display()).collect();
    let words: Vec<_> = words.iter().map(ToString::to_string).collect();
    let facts = SessionFacts {
        run: site.run.clone(),
        kernel: kernel(),
        cgroup: site.agent.within()?,
        uid: Some(plan.user.uid.as_raw()),
        command: words.join(" "),
        controls: controls(plan, held, shut),
        open: plan.assessment.open.clone(),
        exit: None,
    };
    let session = Session {
        run: site.run.clone(),
        origin: Origin::Run,
        agent: subject.agent.to_string(),
        cgroup: site.agent.path().to_owned(),
        cgroup_id: site.agent.id()?,
        assurance: subject.assurance.label().to_owned(),
        open: facts.open.clone(),
        policy: subject.policy.to_string(),
        port,
        pid: std::process::id(),
        started: Timestamp::now(),
        sockets: Vec::new(),
    };
    Chronicle::begin(&plan.audit, subject, facts, &session, site.scratch()).await
}

/// What is in force, by name.
fn controls(plan: &Plan, held: KernelHeld, shut: &Shut) -> Vec<String> {
    let process = plan.policy.process();
    let filtered = shut.missing_filters == 0;
    let named = [
        ("namespaces", true),
        ("no_capabilities", true),
        ("no_new_privs", true),
        ("seccomp", filtered),
        ("seccomp_tracing", filtered && !process.ptrace),
        (
            "seccomp_user_namespaces",
            filtered && !process.user_namespaces,
        ),
        ("seccomp_io_uring", filtered && !process.io_uring),
        ("born_inside", shut.born_inside),
    ];
    let named = named.into_iter().filter(|(_, in_force)| *in_force);
    let mut controls = kernel_controls(held);
    controls.extend(named.map(|(name, _)| name.to_owned()));
    if shut.landlock > 0 {
        controls.push(format!("landlock_{}", shut.landlock));
    }
    controls
}
