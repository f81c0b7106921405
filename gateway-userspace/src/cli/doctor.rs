//! `sluice doctor`: what this kernel can enforce, found out by trying.

use std::{path::Path, process::ExitCode, time::Duration};

use serde::Serialize;

use crate::{
    attach::{
        sockets::Closed,
        survey::{self, Survey},
    },
    kernel::{
        AgentSpec, Boundary, KernelHeld,
        bpffs::{self, Pins},
        cgroup::{self, Cgroup},
        probe,
    },
    launch::{
        assurance::{Assessment, assess},
        canary::{Canary, prove},
        order::Order,
        supervise::Waiting,
        user::AgentUser,
    },
    policy::Policy,
    sessions::SCRATCH,
    starting::Starting,
};

/// Longest that a process may take to die.
const PATIENCE: Duration = Duration::from_secs(10);

/// Probe what this kernel can enforce.
///
/// Each program is loaded and attached to a scratch cgroup; a canary inside a real boundary tries
/// to get out and must fail, and a first process is shut in as that of an agent would be. The
/// level told is the one that such an agent reaches under a policy that opens nothing; the second
/// one is that of a process which already runs, and has nothing that stands in the way. The exit
/// status is 0 when an agent can be confined here, 1 when it cannot. Needs root.
#[derive(Debug, clap::Args)]
pub struct DoctorCommand {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    ok: bool,
    /// Whether an agent can be confined without it.
    required: bool,
    /// What was seen, or what follows and how to mend it.
    detail: String,
}

impl Finding {
    fn optional<E: Into<anyhow::Error>>(
        check: impl Into<String>,
        result: Result<String, E>,
        without: &str,
    ) -> Self {
        Self {
            required: false,
            ..Self::required(check, result, without)
        }
    }

    fn required<E: Into<anyhow::Error>>(
        check: impl Into<String>,
        result: Result<String, E>,
        mend: &str,
    ) -> Self {
        let (ok, detail) = match result {
            Ok(seen) => (true, seen),
            Err(error) => (false, format!("{:#}; {mend}", brief(&error.into()))),
        };
        Self {
            check: check.into(),
            ok,
            required: true,
            detail,
        }
    }
}

/// The chain of causes on one line, without the verifier's log.
fn brief(error: &anyhow::Error) -> String {
    let causes: Vec<_> = error
        .chain()
        .map(|cause| {
            let text = cause.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        })
        .collect();
    causes.join(": ")
}

impl DoctorCommand {
    /// Looks at everything and tells.
    ///
    /// # Errors
    /// If the findings cannot be written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Examined {
            findings,
            reached,
            attached,
        } = examine();
        let healthy = findings.iter().all(|found| found.ok || !found.required);
        let reached = reached.filter(|_| healthy);
        if self.json {
            let report = serde_json::json!({
                "healthy": healthy,
                "assurance": reached.as_ref().map(|reached| reached.level.label()),
                "open": reached.map(|reached| reached.open),
                "attached": attached.filter(|_| healthy).map(|attached| attached.level.label()),
                "findings": findings,
            });
            println!("{report:#}");
        } else {
            for found in &findings {
                let mark = match (found.ok, found.required) {
                    (true, _) => "ok  ",
                    (false, true) => "FAIL",
                    (false, false) => "note",
                };
                println!("{mark} {}: {}", found.check, found.detail);
            }
            if let Some(reached) = reached {
                for open in &reached.open {
                    println!("open {open}");
                }
                let level = reached.level.label();
                println!("agents can be confined here, with assurance `{level}`");
                if let Some(attached) = attached {
                    let level = attached.level.label();
                    println!("what already runs can be attached to, with `{level}` at best");
                }
            } else {
                println!("agents cannot be confined here; `sluice run` will refuse to start one");
            }
        }
        Ok(ExitCode::from(u8::from(!healthy)))
    }
}

/// All that was looked at, and what follows.
struct Examined {
    findings: Vec<Finding>,
    /// What an agent reaches that is started here.
    reached: Option<Assessment>,
    /// What a process that already runs reaches at best.
    attached: Option<Assessment>,
}

fn examine() -> Examined {
    let root = rustix::process::geteuid().is_root();
    let mut findings = vec![
        Finding::required(
            "root",
            root.then(|| "this is root".to_owned())
                .ok_or_else(|| anyhow::anyhow!("this is not root")),
            "call it with sudo; without root nothing else can be tried",
        ),
        Finding::required(
            "cgroup2",
            cgroup::mount_point().map(|path| path.display().to_string()),
            "without it no program can be attached",
        ),
        Finding {
            check: "kernel types (BTF)".to_owned(),
            ok: probe::has_btf(),
            required: false,
            detail: "account of processes is kept, and leavers are killed, only with them"
                .to_owned(),
        },
    ];
    let modules = probe::security_modules();
    findings.push(Finding {
        check: "BPF among the active security modules".to_owned(),
        ok: modules.iter().any(|module| module == "bpf"),
        required: false,
        detail: format!(
            "active: {}; what only they close the launcher closes for `sluice run`",
            if modules.is_empty() {
                "unknown".to_owned()
            } else {
                modules.join(",")
            }
        ),
    });
    let mut examined = Examined {
        findings: Vec::new(),
        reached: None,
        attached: None,
    };
    if root {
        findings.push(Finding::required(
            "BPF file system",
            bpffs::root().map(|path| path.display().to_string()),
            "without it the boundary would end with the gateway",
        ));
        findings.extend(programs());
        findings.push(Finding {
            check: "names of unix sockets".to_owned(),
            ok: probe::reads_unix_names(),
            required: false,
            detail: "without them a policy allows all unix sockets or none".to_owned(),
        });
        findings.push(Finding::required(
            "canary",
            canary().map(|()| "could not get out".to_owned()),
            "do not run agents on this kernel",
        ));
        examined = tried();
    }
    findings.append(&mut examined.findings);
    Examined {
        findings,
        ..examined
    }
}

/// What follows where a kernel has no programs on unix sockets.
const WITHOUT_UNIX: &str =
    "agents reach every unix socket that their user may; kernels from 6.7 on have it";

/// What follows where it has no LSM programs.
const WITHOUT_LSM: &str = "see `LSM programs` below";

/// What follows where it has no account of processes.
const WITHOUT_PROCESSES: &str = "see `leavers` below";

/// Each program's answer.
fn programs() -> Vec<Finding> {
    let mend = "the boundary would have a hole here; kernels from 6.1 on have it";
    match in_scratch(|_, agent, _| Ok(probe::programs(agent)?)) {
        Ok(probes) => probes
            .into_iter()
            .map(|probe| {
                let seen = probe.result.map(|()| "loads and attaches".to_owned());
                let check = format!("program {}", probe.program);
                if probe.optional {
                    let follows = match probe.program {
                        program if program.starts_with("lsm_") => WITHOUT_LSM,
                        program if program.starts_with("process_") => WITHOUT_PROCESSES,
                        _ => WITHOUT_UNIX,
                    };
                    Finding::optional(check, seen, follows)
                } else {
                    Finding::required(check, seen, mend)
                }
            })
            .collect(),
        Err(error) => vec![Finding::required("programs", Err(error), mend)],
    }
}

/// A real boundary, and a canary in it.
fn canary() -> anyhow::Result<()> {
    in_scratch(|run, agent, gateway| {
        let pins = Pins::create(&bpffs::root()?, run)?;
        // No gateway listens there: nothing at all must get out.
        let spec = AgentSpec::new(&Policy::locked_down(), agent.id()?, 9)?;
        let boundary = Boundary::raise(&spec, agent, gateway, pins)?;
        let result = Canary::set_out().and_then(|canary| canary.check(agent));
        boundary.lower()?;
        Ok(result?)
    })
}

/// A real boundary, and what else it holds: tried by a process that leaves it, by one that does
/// what only the LSM programs refuse, and by one that is shut in as an agent's first is.
fn tried() -> Examined {
    let seen = in_scratch(|run, agent, gateway| {
        let policy = Policy::locked_down();
        let pins = Pins::create(&bpffs::root()?, run)?;
        let spec = AgentSpec::new(&policy, agent.id()?, 9)?;
        let mut boundary = Boundary::raise(&spec, agent, gateway, pins)?;
        let attached = boundary.held();
        let proof = prove(&mut boundary, agent, gateway);
        let held = boundary.held();
        let launched = launch(&policy, held, run, agent);
        agent.kill(PATIENCE)?;
        boundary.lower()?;
        proof?;
        Ok((attached, held, launched))
    });
    let (seen, launched) = match seen {
        Ok((attached, held, launched)) => (Ok((attached, held)), launched),
        Err(error) => (Err(error), Err(anyhow::anyhow!("no boundary to try it in"))),
    };
    let (launched, reached) = match launched {
        Ok(reached) => (Ok("a first process was shut in".to_owned()), Some(reached)),
        Err(error) => (Err(error), None),
    };
    let launcher = Finding::required("launcher", launched, "`sluice run` would fail likewise");
    let tell = |check: &str, of: fn(KernelHeld) -> bool, [holds, idle, missing]: [&str; 3]| {
        let (ok, detail) = match &seen {
            Ok((_, held)) if of(*held) => (true, holds.to_owned()),
            Ok((attached, _)) if of(*attached) => (false, idle.to_owned()),
            Ok(_) => (false, missing.to_owned()),
            Err(error) => (false, brief(error)),
        };
        Finding {
            check: check.to_owned(),
            ok,
            required: false,
            detail,
        }
    };
    let findings = vec![
        launcher,
        tell(
            "leavers",
            |held| held.leavers,
            [
                "a process that left the agent's cgroup was killed",
                "a process that left the agent's cgroup lived on",
                "the programs cannot be attached; an agent that may write to cgroup.procs can \
                 leave, and records name executables as /proc shows them later",
            ],
        ),
        tell(
            "LSM programs",
            |held| held.lsm,
            [
                "bpf(2) was refused inside",
                "they are attached and refuse nothing; boot with `bpf` in `lsm=`",
                "they cannot be attached; the launcher alone closes families, descriptors and \
                 processes; boot a kernel from 6.0 on with `bpf` in `lsm=`",
            ],
        ),
    ];
    let attached = seen.ok().map(|(_, held)| {
        let nothing = Survey::default();
        survey::assess(&Policy::locked_down(), held, &nothing, Closed::default())
    });
    Examined {
        findings,
        reached,
        attached,
    }
}

/// Shuts a process in as an agent's first is, which is never given the word to go on.
fn launch(
    policy: &Policy,
    held: KernelHeld,
    run: &str,
    agent: &Cgroup,
) -> anyhow::Result<Assessment> {
    let user = AgentUser::choose(None, policy.agent().as_str())?;
    let scratch = Path::new(SCRATCH).join(run);
    let order = Order {
        command: vec!["true".into()],
        ..Order::under(policy, &user, held, agent.path(), &scratch)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let within = agent.within()?;
    let shut = runtime.block_on(async {
        let waiting = Waiting::begin(&order, &within).await?;
        let shut = waiting.shut.clone();
        waiting.abandon().await?;
        Ok::<_, anyhow::Error>(shut)
    })?;
    Ok(assess(policy, &user, held, &shut))
}

/// Works with two cgroups of its own, this process in the second, that are removed afterwards.
fn in_scratch<T>(
    work: impl FnOnce(&str, &Cgroup, &Cgroup) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let run = format!("doctor-{}", uuid::Uuid::now_v7().simple());
    let starting = Starting::begin()?;
    let parent = Cgroup::create(bpffs::runs_cgroup()?.join(&run))?;
    let agent = Cgroup::create(parent.path().join("agent"))?;
    let gateway = Cgroup::create(parent.path().join("gateway"))?;
    let home = cgroup::current()?;
    // With a process inside it counts as alive, and no run that starts now clears it away.
    gateway.enter()?;
    drop(starting);
    let result = work(&run, &agent, &gateway);
    cgroup::enter(&home)?;
    for cgroup in [&agent, &gateway, &parent] {
        cgroup.remove()?;
    }
    result
}
