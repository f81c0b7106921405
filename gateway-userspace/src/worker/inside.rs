//! The worker itself: takes over what it is given, locks itself in, and serves.

use std::{
    io,
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
    pulse::{HAND_OVER, KEPT, PULSE, RELOAD, RELOADED},
    start::{READY, Start, take_over, unpack},
    tries,
};
use crate::{
    app::{Bound, Context, Drain},
    audit::Audit,
    config::Limits,
    dns::resolver::{Resolver, SystemNames},
    launch::inherited,
    serve::HANDED_OVER,
    tls::{Connector, Issuer, Roots, Terminator},
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
        let trusted = policy.upstream().trust.iter().cloned();
        let roots = Roots::system().with(trusted);
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
        let agent = policy.agent().clone();
        let policy = Arc::new(ArcSwap::from_pointee(policy));
        let context = Context {
            identify: Arc::new(identify),
            policy: Arc::clone(&policy),
            audit: audit.clone(),
            resolver: Resolver::handed(names, dial.clone(), limits.resolve_timeout)
                .context("making the resolver")?,
            limits,
            assurance: head.assurance,
            terminator: Terminator::new(Issuer::new(&head.issuer)?)?,
            connector: Connector::new(&roots)?,
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
                obey(&orders, &drain_of_it, &answering, |text| {
                    policy.store(Arc::new(unpack(text, &agent, head.observe)?));
                    Ok(())
                });
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
fn obey(
    control: &Arc<OwnedFd>,
    drain: &Drain,
    runtime: &tokio::runtime::Handle,
    reload: impl Fn(OwnedFd) -> io::Result<()>,
) {
    let mut said = [0; PULSE.len()];
    while let Ok(Some((_, mut brought))) = packet::receive(&**control, &mut said) {
        if said == PULSE {
            // By the threads that serve: when these stand still, there is no answer.
            let control = Arc::clone(control);
            runtime.spawn(async move { answer(&control, PULSE) });
        } else if said == HAND_OVER {
            drain.begin.cancel();
        } else if said == RELOAD {
            let text = brought.pop().ok_or(io::ErrorKind::InvalidData.into());
            let word = match text.and_then(&reload) {
                Ok(()) => RELOADED,
                Err(error) => {
                    tracing::error!(%error, "keeping the policy");
                    KEPT
                }
            };
            answer(control, word);
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
