//! `sluice gateway`: the gateway alone, without the kernel half.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{ca, say};
use crate::{
    app::{BindConfig, Bound, Context, Gateway},
    audit::{Audit, AuditConfig, Subject, default_path},
    config::Limits,
    dns::Resolver,
    identity::{Assurance, Cooperative},
    open_files,
    policy::Policy,
    reload::{Bounds, Reload, Source},
    tls::{Authority, Connector, Roots, Terminator},
};

/// Run the gateway alone, without the kernel half.
///
/// Nothing makes a program use it: the assurance is `cooperative`. For hosts without eBPF, for
/// tests and for benchmarks. Ends on SIGTERM or SIGINT after open connections had 10 s to
/// finish; a second signal ends it at once. Takes another policy when its file changes, and on
/// SIGHUP; a broken one changes nothing.
#[derive(Debug, clap::Args)]
pub struct GatewayCommand {
    /// Policy file that decides.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Address and port for HTTP, TLS and DNS clients; port 0 takes one that is free.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Audit file, or `-` for standard output [default: /var/log/sluice/audit.jsonl for root,
    /// otherwise ~/.local/state/sluice/audit.jsonl].
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Folder of the certificate authority in whose name TLS is opened, made if it is not there
    /// [default: /var/lib/sluice/ca for root, otherwise ~/.local/state/sluice/ca].
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
}

impl GatewayCommand {
    /// Serves until it is told to end.
    ///
    /// # Errors
    /// When the policy, the audit file or the address cannot be had.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let source = Source {
            policy: Some(self.policy.clone()),
            ..Source::default()
        };
        let policy = source.load()?;
        open_files::raise().context("raising the limit on open files")?;
        let bound = Gateway::bind(&BindConfig {
            namespaces: Vec::new(),
            port: self.listen.port(),
            addresses: vec![self.listen.ip()],
            optional: Vec::new(),
        })?;
        let audit =
            Audit::open(AuditConfig::path(self.audit_path()?)).context("opening the audit log")?;
        let authority = Authority::open(&ca::folder(self.ca.clone())?)?;
        let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
        let served = runtime.block_on(serve(bound, source, policy, audit.clone(), &authority));
        // Nothing writes to the audit log any more: it may be closed, and whole.
        drop(runtime);
        let summary = audit.close();
        served?;
        if summary.lost > 0 {
            anyhow::bail!("{} audit records were lost", summary.lost);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn audit_path(&self) -> anyhow::Result<PathBuf> {
        match &self.audit {
            Some(path) => Ok(path.clone()),
            None => {
                let root = rustix::process::geteuid().is_root();
                Ok(default_path(root, std::env::var_os)?)
            }
        }
    }
}

async fn serve(
    bound: Bound,
    source: Source,
    policy: Policy,
    audit: Audit,
    authority: &Authority,
) -> anyhow::Result<()> {
    let limits = Limits::default();
    let mut signals = Signals::listen()?;
    let drain = CancellationToken::new();
    let trusted = policy.upstream().trust.clone();
    let subject = Subject {
        agent: policy.agent().clone(),
        assurance: Assurance::Cooperative,
        policy: policy.digest(),
    };
    let reload = Reload::new(
        source,
        true,
        Bounds::Gateway,
        policy.clone(),
        audit.clone(),
        subject,
    )
    .context("listening for SIGHUP")?;
    let policy = Arc::new(ArcSwap::from_pointee(policy));
    let force = Arc::clone(&policy);
    let reload = reload.run(async |new: &Policy| {
        force.store(Arc::new(new.clone()));
        Ok(())
    });
    let context = Context {
        identify: Arc::new(Cooperative {
            agent: policy.load().agent().clone(),
        }),
        resolver: Resolver::system(limits.resolve_timeout)
            .context("reading the system's DNS configuration")?,
        policy,
        terminator: Terminator::under(authority)?,
        connector: Connector::new(&Roots::system().with(trusted))?,
        dial: None,
        audit,
        limits,
        assurance: Assurance::Cooperative,
    };
    say::line("assurance: cooperative; without the kernel half nothing makes a program come here");
    for address in bound.addresses() {
        say::line(format_args!("listening on {address}"));
    }
    let serving = bound.serve(Arc::new(context), drain.clone());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        never = reload => match never {},
        () = signals.next() => {
            say::line("draining");
            drain.cancel();
        }
    }
    tokio::select! {
        ended = &mut serving => Ok(ended?),
        () = signals.next() => anyhow::bail!("ended at once, on a second signal"),
    }
}

/// What asks the gateway to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
