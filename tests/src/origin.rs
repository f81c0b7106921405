//! What answers at the origin: a real nginx, with certificates of an authority made for it, and
//! a Git repository among its files.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::signal, unistd::Pid};

use crate::{
    deadline::{wait_for, wait_for_exit},
    world::{ORIGIN4, ORIGIN6, World},
};

/// The name that policies of the tests allow.
pub const ALLOWED: &str = "allowed.test";
/// A name that resolves just as well and that they do not.
pub const REFUSED: &str = "refused.test";

/// The part of a policy that leads both names to the origin, and allows one, on ports 80 and
/// 443.
#[must_use]
pub fn rules() -> String {
    format!(
        r#"
[[egress]]
id = "origin"
hosts = ["{ALLOWED}"]
private = true

[upstream]
resolve = {{ "{ALLOWED}" = ["{ORIGIN4}", "{ORIGIN6}"], "{REFUSED}" = ["{ORIGIN4}", "{ORIGIN6}"] }}
"#
    )
}

/// nginx on ports 80 and 443 of the origin. Dropped, it ends.
#[derive(Debug)]
pub struct Origin {
    nginx: Child,
    folder: PathBuf,
}

impl Origin {
    /// Starts it. Its files are in the world's folder.
    ///
    /// # Errors
    /// If certificates cannot be made or nginx does not come up; the error has what it said.
    pub fn start(world: &World, nginx: &Path) -> Result<Self> {
        let folder = world.scratch().join("origin");
        fs::create_dir_all(folder.join("files"))?;
        certificates(&folder)?;
        fs::write(folder.join("files/hello"), "hello from the origin\n")?;
        fs::write(folder.join("nginx.conf"), CONFIGURATION)?;
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(&folder)
            .args(["-e", "error.log", "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("stderr"))?);
        let nginx = world.origin.run(|| command.spawn());
        let mut origin = Self {
            nginx: nginx.context("starting nginx")?,
            folder,
        };
        origin.wait_until_up(world)?;
        Ok(origin)
    }

    fn wait_until_up(&mut self, world: &World) -> Result<()> {
        wait_for("nginx", || {
            if let Some(status) = self.nginx.try_wait()? {
                let said = fs::read_to_string(self.folder.join("stderr"))?;
                anyhow::bail!("nginx ended with {status}: {said}");
            }
            let up = world.origin.run(|| {
                [ORIGIN4.into(), ORIGIN6.into()]
                    .map(|address| listens(SocketAddr::new(address, 443)))
            });
            Ok((up == [true, true]).then_some(()))
        })
    }

    /// The authority's certificate, which clients must trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Makes a repository at `/repository.git` with one commit of one file, `README`, with this
    /// text.
    ///
    /// # Errors
    /// If `git` fails.
    pub fn add_repository(&self, readme: &str) -> Result<()> {
        let work = self.folder.join("work");
        fs::create_dir(&work)?;
        fs::write(work.join("README"), readme)?;
        let git = |arguments: &[&str]| {
            run(Command::new("/usr/bin/git")
                .current_dir(&work)
                .env("HOME", &self.folder)
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .args(["-c", "user.name=test", "-c", "user.email=test@invalid"])
                .args(arguments))
        };
        git(&["init", "--quiet", "--initial-branch=main"])?;
        git(&["add", "README"])?;
        git(&["commit", "--quiet", "--message=first"])?;
        git(&["clone", "--quiet", "--bare", ".", "../files/repository.git"])?;
        // What a server without Git of its own needs to serve it.
        git(&["-C", "../files/repository.git", "update-server-info"])?;
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(&self.folder))
    }

    /// Where the files lie that it serves.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// The certificate that it shows, with its key.
    #[must_use]
    pub fn certificate(&self) -> [PathBuf; 2] {
        ["server.pem", "server.key"].map(|name| self.folder.join(name))
    }

    /// In which protocol nginx was asked so far: lines of `HTTP/2.0 /path`.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn protocols(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.folder.join("spoken.log"))?;
        Ok(log.lines().map(str::to_owned).collect())
    }

    /// What nginx was asked so far: lines of `METHOD scheme://host/path address`.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn requests(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.folder.join("access.log"))?;
        Ok(log.lines().map(str::to_owned).collect())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // The master ends its workers.
        let pid = i32::try_from(self.nginx.id()).map(Pid::from_raw);
        if let Ok(Err(error)) = pid.map(|pid| signal::kill(pid, signal::Signal::SIGTERM)) {
            eprintln!("ending nginx: {error}");
        }
        if wait_for_exit(&mut self.nginx).is_err() {
            drop(self.nginx.kill());
        }
    }
}

/// Whether something accepts connections there.
fn listens(address: SocketAddr) -> bool {
    let domain = socket2::Domain::for_address(address);
    socket2::Socket::new(domain, socket2::Type::STREAM, None)
        .and_then(|socket| socket.connect(&address.into()))
        .is_ok()
}

const CONFIGURATION: &str = r#"daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events { worker_connections 2048; }
http {
    log_format witness '$request_method $scheme://$host$request_uri $server_addr';
    log_format spoken '$server_protocol $request_uri';
    access_log spoken.log spoken;
    access_log access.log witness;
    default_type application/octet-stream;
    types { text/html html; application/json json; }
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 10000;
    server {
        listen 80 backlog=2048;
        listen [::]:80 backlog=2048;
        listen 443 ssl http2 backlog=2048;
        listen [::]:443 ssl http2 backlog=2048;
        ssl_certificate server.pem;
        ssl_certificate_key server.key;
        root files;
        location /pid/ { return 200 "pid\n"; }
    }
}
"#;

/// An authority, and a certificate of it for both names.
fn certificates(folder: &Path) -> Result<()> {
    fs::write(
        folder.join("extensions"),
        format!("subjectAltName = DNS:{ALLOWED}, DNS:{REFUSED}\n"),
    )?;
    let steps = [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
         -subj /CN=test-authority -addext basicConstraints=critical,CA:TRUE \
         -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem",
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
         -subj /CN=test-origin -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile extensions -out server.pem",
    ];
    for step in steps {
        run(Command::new("openssl")
            .current_dir(folder)
            .args(step.split_whitespace()))?;
    }
    let readable = fs::Permissions::from_mode(0o644);
    fs::set_permissions(folder.join("ca.pem"), readable).context("publishing the authority")
}

/// Runs a command; an error has what it said.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
