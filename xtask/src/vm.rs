//! `cargo xtask vm`: the enforcement suite on Debian's kernels, each in a virtual machine.
//!
//! Owns kernels, images, machines and the table in `docs/KERNELS.md`. Nothing is installed from
//! what it downloads, and nothing is kept outside the target folder.

pub(crate) mod apt;
mod image;
pub(crate) mod inside;
mod kernel;
mod machine;
mod mirror;
mod report;
mod suite;
mod table;
mod vmlinux;

use std::{collections::VecDeque, process::ExitCode, sync::Mutex, thread};

use anyhow::{Context as _, Result, bail};

use crate::{interrupt, setup, workspace};
use kernel::{Fetched, MATRIX, Version};
use report::Report;

/// Which machines to start, and what to run in them.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A kernel, such as 6.12; may be given again. Without it, all
    #[arg(long = "kernel", value_name = "VERSION")]
    kernels: Vec<String>,
    /// Keep images and logs, and say where
    #[arg(long)]
    keep: bool,
    /// Write the table of docs/KERNELS.md from the last runs, and run nothing
    #[arg(long)]
    table: bool,
    /// Parts of tests' names: only these run
    #[arg(last = true, value_name = "FILTER")]
    filters: Vec<String>,
}

/// One boot.
struct Job {
    kernel: Fetched,
    /// Whether `bpf` is among the security modules.
    lsm: bool,
}

impl Job {
    /// What it is called in print, and its files.
    fn name(&self) -> String {
        let suffix = if self.lsm { "" } else { "-without-bpf-lsm" };
        format!("{}{suffix}", self.kernel.label)
    }
}

/// Runs the suite on every kernel asked for.
///
/// # Errors
/// Something could not be set up, downloaded or built. A test that fails is told by the status.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.table {
        table::write()?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = chosen(&arguments.kernels)?;
    if workspace::find_program("apt-get").is_none() {
        let why = "this is not a Debian: kernels come from Debian's packages";
        if std::env::var_os("CI").is_some() {
            bail!("{why}");
        }
        eprintln!("xtask: NOT RUN: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    setup::run(setup::Scope::Vm)?;
    interrupt::watch()?;
    let mut jobs = VecDeque::new();
    let mut skipped = Vec::new();
    for row in rows {
        match kernel::fetch(row)? {
            Ok(fetched) => {
                if row.also_without_lsm {
                    jobs.push_back(Job {
                        kernel: fetched.clone(),
                        lsm: false,
                    });
                }
                jobs.push_front(Job {
                    kernel: fetched,
                    lsm: true,
                });
            }
            Err(why) if row.required => bail!("no kernel {}: {why}", row.version),
            Err(why) => skipped.push(format!("kernel {} SKIPPED: {why}", row.version)),
        }
    }
    let suite = suite::build(&arguments.filters)?;
    let image = image::common(&suite)?;
    let reports = all(&Vec::from(jobs), &suite, &image, arguments.keep)?;

    let mut good = true;
    for report in &reports {
        good &= report.print();
    }
    for (name, why) in &suite.left_out {
        println!("not run in a machine: {name}: {why}");
    }
    for line in skipped {
        println!("{line}");
    }
    if arguments.filters.is_empty() {
        for report in &reports {
            report.save()?;
        }
        good &= table::check(&reports)?;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The rows of the matrix that the user named.
fn chosen(names: &[String]) -> Result<Vec<&'static Version>> {
    for name in names {
        if !MATRIX.iter().any(|row| row.version == name) {
            let known: Vec<_> = MATRIX.iter().map(|row| row.version).collect();
            bail!("no kernel {name}; there are {}", known.join(", "));
        }
    }
    let wanted = |row: &&Version| names.is_empty() || names.iter().any(|name| name == row.version);
    Ok(MATRIX.iter().filter(wanted).collect())
}

/// Runs all jobs, as many at once as there are processors.
fn all(
    jobs: &[Job],
    suite: &suite::Suite,
    image: &image::Common,
    keep: bool,
) -> Result<Vec<Report>> {
    let waiting = Mutex::new(jobs.iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, |count| count.get().min(jobs.len()));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let next = waiting.lock().expect("no worker panics").pop_front();
                        let Some((number, job)) = next else {
                            return Ok::<_, anyhow::Error>(());
                        };
                        let report = machine::run(job, suite, image, keep)
                            .with_context(|| format!("kernel {}", job.name()))?;
                        done.lock()
                            .expect("no worker panics")
                            .push((number, report));
                    }
                })
            })
            .collect();
        for worker in workers {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let mut done = done.into_inner().expect("no worker panics");
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, report)| report).collect())
}

/// The folder for all of this.
pub(crate) fn folder() -> Result<std::path::PathBuf> {
    let folder = workspace::target()?.join("vm");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
