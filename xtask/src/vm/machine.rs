//! One machine, from power on to power off.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Job, folder, image, inside,
    report::{Event, Outcome, Report, event},
    suite::Suite,
};
use crate::{interrupt, process::Guarded};

/// Memory of a machine, MiB. Its files are in there as well.
const MEMORY: u32 = 2560;
/// Longest until user space is there. Without hardware to help this takes 5 to 40 s.
const BOOT: Duration = Duration::from_secs(150);
/// The same with hardware to help.
const QUICK_BOOT: Duration = Duration::from_secs(40);
/// How often a boot is tried that does not come so far: one in some hundreds hangs on a busy
/// host, before any test has run.
const TRIES: u32 = 3;
/// Longest without a word, beyond what the guest itself allows a test.
const GRACE: Duration = Duration::from_secs(120);
/// Longest that all of it may take.
const ALL: Duration = Duration::from_secs(45 * 60);
/// How often results are looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// Most of the kernel's last words that is shown, lines.
const LAST_WORDS: usize = 30;

/// Security modules that are active; `capability` always is.
const MODULES: &str = "landlock,lockdown,yama,integrity";

/// What runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accelerator {
    /// The processor, by the host's kernel.
    Hardware,
    /// QEMU.
    Emulation,
}

/// Whether hardware turned out to be of no help: a host that is a machine itself often has the
/// device, and kernels do not run on it.
static NO_HARDWARE: AtomicBool = AtomicBool::new(false);
/// Where the host's kernel offers to help.
const DEVICE: &str = "/dev/kvm";

impl Accelerator {
    /// The best that may work.
    fn choose() -> Self {
        let usable = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(DEVICE)
                .is_ok()
        };
        if !NO_HARDWARE.load(Ordering::Relaxed) && usable() {
            Self::Hardware
        } else {
            Self::Emulation
        }
    }

    const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Hardware => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
        }
    }

    /// Longest until user space is there.
    const fn patience(self) -> Duration {
        match self {
            Self::Hardware => QUICK_BOOT,
            Self::Emulation => BOOT,
        }
    }
}

/// How a boot ended.
enum End {
    /// QEMU is gone, as it should when the guest switches off.
    Off,
    /// There never was a user space.
    NotUp,
    /// It was ended, for this reason.
    Late(String),
}

/// Boots a kernel, and reads what comes of the suite.
///
/// # Errors
/// The machine cannot be started. What goes wrong inside is in the report.
pub(super) fn run(job: &Job, suite: &Suite, common: &image::Common, keep: bool) -> Result<Report> {
    let home = folder()?.join("runs").join(job.name());
    fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    let initrd = home.join("initrd");
    let plan = suite.plan(job.lsm);
    image::whole(common, &job.kernel, &plan, &initrd)?;
    let limit = plan.tests.iter().map(|test| test.seconds).max();
    let silence = Duration::from_secs(limit.unwrap_or_default()) + GRACE;

    let mut report = Report {
        name: job.name(),
        kernel: job.kernel.label.clone(),
        lsm: job.lsm,
        events: Vec::new(),
        problem: None,
        took: Duration::ZERO,
        planned: plan.tests.len(),
    };
    let mut tries = 0;
    loop {
        let began = Instant::now();
        let accelerator = Accelerator::choose();
        let (end, events) = boot(job, common, &home, &initrd, silence, accelerator)?;
        if accelerator == Accelerator::Hardware && events.is_empty() {
            eprintln!(
                "xtask: {}: {DEVICE} is of no help here; emulating",
                job.name()
            );
            NO_HARDWARE.store(true, Ordering::Relaxed);
            continue;
        }
        tries += 1;
        report.took = began.elapsed();
        report.events = events;
        let through = matches!(report.events.last(), Some(Event::Done { .. }));
        let up = !matches!(end, End::NotUp);
        report.problem = match end {
            End::Off if through => None,
            End::Off => Some("it stopped before the suite was through".to_owned()),
            End::NotUp => Some("it never got to user space".to_owned()),
            End::Late(why) => Some(why),
        };
        if up || tries == TRIES {
            break;
        }
        eprintln!("xtask: {}: boot {tries} of {TRIES} hangs", job.name());
    }
    if let Some(problem) = &mut report.problem {
        let log = fs::read(home.join("console.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let last = lines.len().saturating_sub(LAST_WORDS);
        for line in &lines[last..] {
            problem.push_str("\n    | ");
            problem.push_str(line.trim_end());
        }
    }
    if keep {
        eprintln!("xtask: kept: {}", home.display());
    } else {
        fs::remove_file(&initrd).context("removing the image")?;
    }
    Ok(report)
}

/// Boots once.
fn boot(
    job: &Job,
    common: &image::Common,
    home: &Path,
    initrd: &Path,
    silence: Duration,
    accelerator: Accelerator,
) -> Result<(End, Vec<Event>)> {
    let results = home.join("results.jsonl");
    let console = home.join("console.log");
    for file in [&results, &console] {
        File::create(file).with_context(|| format!("making {}", file.display()))?;
    }
    let modules = if job.lsm { "bpf" } else { "" };
    let modules = format!("{MODULES}{}{modules}", if job.lsm { "," } else { "" });
    let said = File::create(home.join("qemu.log")).context("making a log")?;
    let mut qemu = Guarded::spawn("qemu-system-x86_64", |command| {
        command
            .args(accelerator.arguments())
            .args(["-machine", "q35", "-smp", "1", "-m", &MEMORY.to_string()])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", results.display()))
            .arg("-kernel")
            .arg(&job.kernel.image)
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 lsm={modules} mitigations=off \
                 random.trust_cpu=on rdinit={} -- {}",
                common.init.display(),
                inside::INIT
            ))
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a descriptor can be copied"))
            .stderr(said);
    })?;

    let began = Instant::now();
    let mut heard = began;
    let mut reader = Lines::open(&results)?;
    let mut events = Vec::new();
    loop {
        interrupt::check()?;
        let ended = qemu.child().try_wait().context("looking after QEMU")?;
        for line in reader.more()? {
            heard = Instant::now();
            let event = event(&line)?;
            say(job, &event);
            events.push(event);
        }
        if ended.is_some() {
            return Ok((End::Off, events));
        }
        let late = if events.is_empty() && began.elapsed() > accelerator.patience() {
            Some(End::NotUp)
        } else if heard.elapsed() > silence {
            Some(End::Late(format!("no word for {} s", silence.as_secs())))
        } else if began.elapsed() > ALL {
            Some(End::Late(format!("not through after {} s", ALL.as_secs())))
        } else {
            None
        };
        if let Some(end) = late {
            return Ok((end, events));
        }
        thread::sleep(GLANCE);
    }
}

/// A word to whoever waits.
fn say(job: &Job, event: &Event) {
    match event {
        Event::Up { release, .. } => eprintln!("xtask: {}: {release} is up", job.name()),
        Event::Ended {
            name,
            outcome,
            seconds,
            ..
        } => {
            let how = match outcome {
                Outcome::Passed => "passed",
                Outcome::Failed => "FAILED",
                Outcome::TimedOut => "TIMED OUT",
                Outcome::Skipped(_) => "skipped",
            };
            eprintln!("xtask: {}: {how} {name} in {seconds:.0} s", job.name());
        }
        Event::Doctor { .. } | Event::Began { .. } | Event::Broken { .. } | Event::Done { .. } => {}
    }
}

/// A file that grows, line by line.
struct Lines {
    file: File,
    at: u64,
    rest: Vec<u8>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self {
            file,
            at: 0,
            rest: Vec::new(),
        })
    }

    /// The lines that have been ended since.
    fn more(&mut self) -> Result<Vec<String>> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let read = self.file.read_to_end(&mut self.rest)?;
        self.at += u64::try_from(read).context("a length past u64")?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let whole = String::from_utf8_lossy(&whole);
        Ok(whole
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use super::Lines;

    #[test]
    fn half_a_line_is_not_one_yet() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results");
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .expect("a file");
        let mut lines = Lines::open(&path).expect("it is there");
        let mut told = |text: &str| {
            file.write_all(text.as_bytes()).expect("written");
            lines.more().expect("read")
        };
        assert_eq!(told("one"), [""; 0]);
        assert_eq!(told(" line\r\n\r\ntwo\n thr"), ["one line", "two"]);
        assert_eq!(told("ee\n"), [" three"]);
    }
}
