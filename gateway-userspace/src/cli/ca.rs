//! `sluice ca`: the certificate that agents must trust where their TLS is opened.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use crate::tls::{Authority, default_folder};

/// Print the certificate of the node's authority, which is made if there is none.
///
/// `sluice run` has an authority of its own for each run and tells its command of it by the
/// usual variables. `sluice attach` and `sluice gateway` open TLS in the name of the node's:
/// whatever is attached, or sent to the gateway, must trust this certificate.
#[derive(Debug, clap::Args)]
pub(super) struct CaCommand {
    /// Folder of the authority [default: /var/lib/sluice/ca for root, otherwise
    /// ~/.local/state/sluice/ca].
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
}

impl CaCommand {
    /// Prints it as PEM.
    ///
    /// # Errors
    /// When the authority cannot be read or made, or others could have its key.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let authority = Authority::open(&folder(self.ca)?)?;
        let mut output = std::io::stdout().lock();
        output
            .write_all(authority.pem().as_bytes())
            .and_then(|()| output.flush())
            .context("printing the certificate")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The folder that was named, or the default.
pub(super) fn folder(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match named {
        Some(path) => Ok(path),
        None => {
            let root = rustix::process::geteuid().is_root();
            Ok(default_folder(root, std::env::var_os)?)
        }
    }
}
