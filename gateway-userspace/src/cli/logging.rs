//! Diagnostics of Sluice itself, on standard error: `tracing`, and what arrives through `log`.
//!
//! Decisions go to the audit stream, not here.

use std::{
    io::{self, Write},
    sync::OnceLock,
};

use anyhow::Context as _;
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt as _};

use crate::sanitize::sanitize_bytes;

/// Flags that each command has.
#[derive(Debug, clap::Args)]
pub struct LogFlags {
    /// What to log to stderr, as a level or `target=level,…` (error, warn, info, debug, trace).
    #[arg(
        long = "log",
        env = "SLUICE_LOG",
        value_name = "FILTER",
        default_value = "warn",
        global = true,
        value_parser = parse_filter,
        help_heading = "Global options"
    )]
    filter: String,
}

/// A filter cannot be cloned, which clap asks for: it is checked here and parsed again later.
fn parse_filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(text).map(|_| text.to_owned())
}

/// What this process logs, for those it starts.
static FILTER: OnceLock<String> = OnceLock::new();

/// The filter in force; none before there is one.
#[must_use]
pub fn filter() -> Option<&'static str> {
    FILTER.get().map(String::as_str)
}

impl LogFlags {
    /// Starts logging for the whole process. `log` records, such as those of the kernel half
    /// (at debug level), arrive in `tracing` under their own targets.
    ///
    /// # Errors
    /// When the process has a logger already.
    pub fn init(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.filter).context("parsing the log filter")?;
        let _again = FILTER.set(self.filter.clone());
        // Sets up the bridge from `log` too, with the filter's level as its limit.
        subscriber(filter, io::stderr)
            .try_init()
            .context("starting the log")
    }
}

fn subscriber<W>(filter: EnvFilter, output: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Sanitised(output))
        .finish()
}

/// Writers whose lines are sanitised.
struct Sanitised<M>(M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Sanitised<M> {
    type Writer = SanitisedLine<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        SanitisedLine(self.0.make_writer())
    }
}

/// Takes each write as one line: the subscriber formats an event and then writes it at once.
struct SanitisedLine<W>(W);

impl<W: Write> Write for SanitisedLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        self.0
            .write_all(format!("{}\n", sanitize_bytes(text)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn captured(filter: &str, log: impl FnOnce()) -> String {
        let output = Captured::default();
        let writer = output.clone();
        let subscriber = subscriber(EnvFilter::new(filter), move || writer.clone());
        let guard = subscriber.set_default();
        log();
        drop(guard);
        let bytes = output.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn records_of_the_log_crate_arrive_under_their_target() {
        let emit = || {
            log::debug!(target: "sluice_ebpf", "from the kernel half");
            log::trace!(target: "sluice_ebpf", "too fine");
            log::debug!(target: "elsewhere", "not asked for");
        };
        let text = captured("warn,sluice_ebpf=debug", emit);
        assert!(
            text.contains("DEBUG sluice_ebpf: from the kernel half"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(captured("warn", emit), "");
    }

    #[test]
    fn lines_are_sanitised() {
        let hostile = "x\n2026-01-01 ERROR forged \u{202e}\u{9b}2J";
        let text = captured("warn", || tracing::warn!(host = hostile, "{hostile}"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            !text.trim_end().contains(crate::sanitize::is_hostile),
            "{text}"
        );
    }

    #[test]
    fn a_filter_that_means_nothing_is_refused() {
        assert!(parse_filter("gateway_userspace=debug,warn").is_ok());
        assert!(parse_filter("warn=loud").is_err());
    }
}
