//! The certificate authority of a node, or of one run.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::issuer::IssuerText;
use crate::audit::{NoStateDirectory, state_folder};

/// How far back certificates hold, for clocks that are behind.
pub(super) const SKEW: Duration = Duration::days(1);
/// Life of an authority.
const AUTHORITY: Duration = Duration::days(10 * 365);
/// Life of an issuer: that of a gateway process, at most.
const ISSUER: Duration = Duration::days(365);
/// Octets of the largest file that is read.
const FILE_MAX: u64 = 64 << 10;

/// The certificate, in its folder.
const CERTIFICATE: &str = "ca.pem";
/// Its key, in its folder.
const KEY: &str = "ca.key";

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or folder of it.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key could be read or changed by others.
    #[error(
        "{} is open to others (mode {mode:04o}, owner {owner}): it must be 0600 and this user's; \
         if nobody else had it, mend that, otherwise delete the folder and have agents trust the \
         new authority", path.display()
    )]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's uid.
        owner: u32,
    },
    /// One of the two files is there without the other.
    #[error("{} has only one of ca.pem and ca.key: restore the other, or delete both", .0.display())]
    Half(PathBuf),
    /// The files are no certificate and key.
    #[error("the authority in {}: {reason}", folder.display())]
    Unusable {
        /// Where it is.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Making a key or certificate failed.
    #[error("making a certificate")]
    Make(#[from] rcgen::Error),
}

/// An authority with its key.
pub struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// The folder of the node's authority when nobody says: `/var/lib/sluice/ca` for root, otherwise
/// `sluice/ca` in `$XDG_STATE_HOME` (by default `~/.local/state`).
///
/// # Errors
/// [`NoStateDirectory`] when the variables name no absolute folder.
pub fn default_folder(
    root: bool,
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Result<PathBuf, NoStateDirectory> {
    if root {
        return Ok(PathBuf::from("/var/lib/sluice/ca"));
    }
    Ok(state_folder(variable)?.join("ca"))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File {
        action,
        path,
        source,
    }
}

impl Authority {
    /// A new one, which is nowhere but in this process.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn in_memory(name: &str) -> Result<Self, AuthorityError> {
        let (params, key) = (authority(name), KeyPair::generate()?);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: rcgen::Issuer::new(params, key),
            pem,
        })
    }

    /// The one in this folder, which is made if it is not there: `ca.pem`, which anybody may
    /// read, and `ca.key`, which is this user's alone.
    ///
    /// # Errors
    /// If it cannot be read or made, or others could have the key.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        if !(certificate.exists() && key.exists()) {
            make(folder)?;
        }
        let metadata = fs::metadata(&key).map_err(failed("looking at", &key))?;
        let (mode, owner) = (metadata.permissions().mode() & 0o7777, metadata.uid());
        let own = rustix::process::geteuid().as_raw();
        if mode & 0o077 != 0 || owner != own && owner != 0 {
            return Err(AuthorityError::Exposed {
                path: key,
                mode,
                owner,
            });
        }
        let (pem, key) = (read(&certificate)?, read(&key)?);
        Self::load(&pem, &key).map_err(|error| AuthorityError::Unusable {
            folder: folder.to_owned(),
            reason: error.to_string(),
        })
    }

    fn load(pem: &str, key: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(key)?;
        Ok(Self {
            issuer: rcgen::Issuer::from_ca_cert_pem(pem, key)?,
            pem: pem.to_owned(),
        })
    }

    /// The certificate that agents are to trust, as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A new issuer below it, for one gateway process.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn issuer(&self) -> Result<IssuerText, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params("Sluice gateway", ISSUER);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(IssuerText {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

/// Parameters of a certificate with this name that holds from now for this long.
pub(super) fn params(name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + life;
    // Some clients refuse two certificates of one issuer with the same number.
    params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::now_v7().as_bytes()));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, AUTHORITY);
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Sluice");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Makes both files. Whoever comes second finds what the first made.
fn make(folder: &Path) -> Result<(), AuthorityError> {
    fs::DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(folder)
        .map_err(failed("making", folder))?;
    let lock = File::open(folder).map_err(failed("opening", folder))?;
    lock.lock().map_err(failed("locking", folder))?;
    match (folder.join(CERTIFICATE).exists(), folder.join(KEY).exists()) {
        (false, false) => {}
        (true, true) => return Ok(()),
        (true, false) | (false, true) => return Err(AuthorityError::Half(folder.to_owned())),
    }
    let name = rustix::system::uname();
    let node = name.nodename().to_string_lossy();
    let made = Authority::in_memory(&format!("Sluice {node:.40}"))?;
    write(folder, KEY, 0o600, &made.issuer.key().serialize_pem())?;
    write(folder, CERTIFICATE, 0o644, &made.pem)
}

/// Writes a file whole, or not at all.
fn write(folder: &Path, name: &str, mode: u32, text: &str) -> Result<(), AuthorityError> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let written = || -> io::Result<()> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    written().map_err(failed("writing", &path))
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(failed("reading", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/ca");
        let first = Authority::open(&path).unwrap();
        let second = Authority::open(&path).unwrap();
        assert_eq!(first.pem(), second.pem());
        let mode = fs::metadata(path.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        Authority::open(path).unwrap();
        let key = path.join(KEY);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = Authority::open(path).unwrap_err();
        assert!(
            matches!(exposed, AuthorityError::Exposed { mode: 0o640, .. }),
            "{exposed}"
        );
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path.join(CERTIFICATE), "no certificate").unwrap();
        let unusable = Authority::open(path).unwrap_err();
        assert!(
            matches!(unusable, AuthorityError::Unusable { .. }),
            "{unusable}"
        );
        fs::remove_file(path.join(CERTIFICATE)).unwrap();
        let half = Authority::open(path).unwrap_err();
        assert!(matches!(half, AuthorityError::Half(_)), "{half}");
    }
}
