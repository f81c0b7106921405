//! The worker itself: takes over what it is given, locks itself in, and serves.

use std::{
    os::fd::{OwnedFd, RawFd},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustix::net::SendFlags;

use super::{
    DialPath,
    confine::confine,
    identity::AskIdentity,
    packet,
    pulse::{HAND_OVER, PULSE},
    start::{READY, Start, take_over},
    tries,
};
use crate::{
    app::{Bound, Context, Drain},
    audit::Audit,
    config::Limits,
    dns::resolver::{Resolver, SystemNames},
    launch::inherited,
    serve::HANDED_OVER,
};

/// The hidden command's arguments.
#[derive(clap::Args, Debug)]
pub struct WorkerCommand {
    /// Descriptor of the control socket.
    #[arg(long, required_unless_present = "tries")]
    control: Option<RawFd>,
    /// Tries what a worker must not be able to do, from inside one, and prints what came of it.
    #[command(flatten)]
    tries: tries::TriesFlags,
}

impl WorkerCommand {
    /// Serves until the supervisor closes the control socket.
    ///
    /// # Errors
    /// When it could not lock itself in, or not serve.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Some(control) = self.control else {
            return self.tries.run();
        };
        let control = inherited(control).context("taking over the control socket")?;
        let start = take_over(&control).context("taking over from the supervisor")?;
        let Start {
            head,
            lines,
            policy,
            sockets,
        } = start;
        let identify = AskIdentity::new(policy.agent().clone(), lines.identity)?;
        // All that is read from files, before there are none.
        let names = SystemNames::read().context("reading the system's DNS configuration")?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        if head.tries.as_ref().is_none_or(|tries| tries.confined) {
            let landlock = confine(head.uid, head.supervisor).context("locking the worker in")?;
            if !landlock {
                tracing::warn!("the worker is without Landlock, which this kernel does not have");
            }
        }
        if let Some(tries) = head.tries {
            return tries.run(&control, lines.dial, head.supervisor);
        }

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(2))
            .enable_all()
            .build()
            .context("starting the runtime")?;
        let audit = Audit::handing_over(lines.records).context("handing over records")?;
        let dial = DialPath::new(lines.dial).context("starting the dial path")?;
        let limits = Limits {
            drain_timeout: head.drain.max(HANDED_OVER),
            ..Limits::default()
        };
        let context = Context {
            identify: Arc::new(identify),
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            audit: audit.clone(),
            resolver: Resolver::handed(names, dial.clone(), limits.resolve_timeout)
                .context("making the resolver")?,
            limits,
            assurance: head.assurance,
            dial: Some(dial),
        };
        let bound = Bound::received(sockets).context("taking over the listening sockets")?;
        let drain = Drain::default();
        packet::send(&control, READY, &[], SendFlags::empty())?;
        let control = Arc::new(control);
        let (orders, drain_of_it) = (Arc::clone(&control), drain.clone());
        let (answering, patience) = (runtime.handle().clone(), head.drain);
        std::thread::Builder::new()
            .name("sluice-control".to_owned())
            .spawn(move || {
                obey(&orders, &drain_of_it, &answering);
                drain_of_it.begin.cancel();
                answering.spawn(async move {
                    tokio::time::sleep(patience).await;
                    drain_of_it.over.cancel();
                });
            })?;
        let accepts_no_more = drain.accepts_no_more.clone();
        runtime.spawn(async move {
            accepts_no_more.cancelled().await;
            answer(&control, HAND_OVER);
        });
        let served = runtime.block_on(bound.serve_until(Arc::new(context), drain));
        let lost = audit.close().lost;
        if lost > 0 {
            tracing::error!(lost, "records could not be handed over");
        }
        served.context("serving")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Does what the supervisor says, until it says no more.
fn obey(control: &Arc<OwnedFd>, drain: &Drain, runtime: &tokio::runtime::Handle) {
    let mut said = [0; PULSE.len()];
    while let Ok(Some(_)) = packet::receive(&**control, &mut said) {
        if said == PULSE {
            // By the threads that serve: when these stand still, there is no answer.
            let control = Arc::clone(control);
            runtime.spawn(async move { answer(&control, PULSE) });
        } else if said == HAND_OVER {
            drain.begin.cancel();
        } else {
            return;
        }
    }
}

fn answer(control: &OwnedFd, word: &[u8]) {
    if let Err(error) = packet::send(control, word, &[], SendFlags::DONTWAIT) {
        tracing::debug!(%error, "answering the supervisor");
    }
}
