//! What a machine is started with: two archives, one after the other. The first is the same for
//! all kernels; the second has a kernel's modules and the plan.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    folder,
    kernel::Fetched,
    mirror::Mirror,
    report::{PLAN, Plan},
    suite::Suite,
};
use crate::{
    process::{self, Run as _},
    setup::packages::PYTHON,
    workspace,
};

/// What tests run, as agents or beside them, found as a shell would.
const PROGRAMS: &[&str] = &[
    "sh", "bash", "env", "cat", "echo", "true", "false", "sleep", "tail", "touch", "id", "ls",
    "ps", "kill", "stat", "mount", "umount", "setsid", "setpriv", "unshare", "nsenter", "ip", "ss",
    "modprobe", "dmesg", "curl", "openssl", "nginx", "chmod", "cp", "mkdir", "rm", "head", "tr",
    "grep", "sed", "readlink", "stty", "printf", "test", "dd", "mknod", "su", "mktemp", "ln", "mv",
    "seq", "perl",
];

/// Modules that tests have a use for, beside what these need; the kernel loads them by itself.
/// One that a kernel does not have is built in, or such sockets do not exist there.
const MODULES: &[&str] = &[
    "veth",
    "dummy",
    "tun",
    "sctp",
    "dccp_ipv4",
    "dccp_ipv6",
    "vsock",
    "vsock_loopback",
    "vhost_vsock",
    "vmw_vsock_virtio_transport_common",
    "l2tp_ip",
    "l2tp_ip6",
    "pppox",
    "pppoe",
    "tipc",
    "rds",
    "af_key",
    "algif_hash",
    "can",
    "can_raw",
    "smc",
    "tls",
    "tcp_diag",
    "udp_diag",
    "inet_diag",
    "unix_diag",
    "raw_diag",
    "sctp_diag",
    "mptcp_diag",
    "fou",
    "xsk_diag",
    "af_packet_diag",
    "qrtr",
    "kcm",
    "phonet",
];

/// The first archive, and the program that the kernel starts.
pub(super) struct Common {
    archive: PathBuf,
    /// xtask itself.
    pub(super) init: PathBuf,
}

/// Makes the first archive.
///
/// # Errors
/// Something that belongs into it is not there.
pub(super) fn common(suite: &Suite) -> Result<Common> {
    let init = std::env::current_exe().context("finding xtask's own executable")?;
    let mut mirror = Mirror::default();
    for (path, mode) in [
        ("/dev", 0o755),
        ("/proc", 0o555),
        ("/sys", 0o555),
        ("/run", 0o755),
        ("/root", 0o700),
        ("/var/log", 0o755),
        ("/var/lib", 0o755),
        ("/var/tmp", 0o1777),
        ("/tmp", 0o1777),
        ("/newroot", 0o755),
        ("/etc", 0o755),
        ("/vm", 0o755),
    ] {
        mirror.folder(path, mode)?;
    }
    // Before anything is mounted, a program is started with these.
    mirror.device("/dev/console", 5, 1)?;
    mirror.device("/dev/null", 1, 3)?;
    for (path, text) in [
        (
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        ("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
        (
            "/etc/hosts",
            "127.0.0.1 localhost\n127.0.1.1 vm\n::1 localhost\n",
        ),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        ),
        ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
        ("/etc/os-release", "ID=debian\n"),
    ] {
        mirror.text(path, text)?;
    }
    mirror.host(&workspace::root().join("policies"))?;
    for name in PROGRAMS {
        if let Some(path) = workspace::find_program(name) {
            mirror.program(&path)?;
        }
    }
    // By these names the kernel and scripts know them.
    for path in ["/sbin/modprobe", "/bin/sh", "/usr/bin/env"] {
        mirror.program(Path::new(path))?;
    }
    // What `openssl` does not start without.
    mirror.text(
        "/usr/lib/ssl/openssl.cnf",
        "[req]\ndistinguished_name = name\n[name]\n",
    )?;
    python(&mut mirror)?;
    perl(&mut mirror)?;
    strip(&mut mirror, &init)?;
    for program in &suite.programs {
        strip(&mut mirror, program)?;
    }
    let archive = folder()?.join("common.cpio");
    mirror.write(&archive)?;
    Ok(Common { archive, init })
}

/// The interpreter with its standard library; nobody's packages.
fn python(mirror: &mut Mirror) -> Result<()> {
    mirror.program(Path::new(PYTHON))?;
    let said = process::command(PYTHON)
        .args(["-I", "-c"])
        .arg("import sysconfig; print(sysconfig.get_path('stdlib'))")
        .read()?;
    let library = Path::new(said.trim());
    mirror.host(library)?;
    for module in fs::read_dir(library.join("lib-dynload")).context("Python's own modules")? {
        mirror.program(&module?.path())?;
    }
    Ok(())
}

/// What Debian's base packages have of Perl, which has the sockets that tests open with it.
fn perl(mirror: &mut Mirror) -> Result<()> {
    let said = process::command("perl")
        .args(["-MSocket", "-e"])
        .arg("print $INC{'Socket.pm'} =~ s{/Socket\\.pm$}{}r")
        .read()?;
    let library = Path::new(said.trim());
    mirror.host(library)?;
    mirror.program(&library.join("auto/Socket/Socket.so"))
}

/// Adds a program without symbols: in the machine, files are memory.
fn strip(mirror: &mut Mirror, program: &Path) -> Result<()> {
    let stripped = folder()?.join("stripped");
    fs::create_dir_all(&stripped).with_context(|| format!("making {}", stripped.display()))?;
    let name = program.file_name().context("a program has a name")?;
    let copy = stripped.join(name);
    let age = |path: &Path| fs::metadata(path).and_then(|about| about.modified());
    let fresh = matches!((age(&copy), age(program)), (Ok(copy), Ok(own)) if copy > own);
    if !fresh {
        process::command("strip")
            .arg("-o")
            .args([&copy, program])
            .read()?;
    }
    mirror.program_as(program, &copy)
}

/// Makes what a machine with this kernel is started with.
///
/// # Errors
/// Something cannot be read or written.
pub(super) fn whole(common: &Common, kernel: &Fetched, plan: &Plan, into: &Path) -> Result<()> {
    let mut mirror = Mirror::default();
    modules(&mut mirror, kernel)?;
    let plan = serde_json::to_string(plan).context("a plan is JSON")?;
    mirror.text(PLAN, &plan)?;
    let own = into.with_extension("own");
    mirror.write(&own)?;
    fs::copy(&common.archive, into).context("copying the archive")?;
    let mut out = OpenOptions::new().append(true).open(into)?;
    let length = out.metadata()?.len();
    // The kernel looks for the next one at a multiple of four.
    out.set_len(length.next_multiple_of(4))?;
    io::copy(&mut File::open(&own)?, &mut out).context("appending an archive")?;
    fs::remove_file(&own).context("removing a part")
}

/// Adds the modules of [`MODULES`], what they need, and the indices.
fn modules(mirror: &mut Mirror, kernel: &Fetched) -> Result<()> {
    let inside = Path::new("lib/modules").join(&kernel.release);
    let folder = kernel.modules.join(&inside);
    let there = Path::new("/usr").join(inside);
    let index = fs::read_to_string(folder.join("modules.dep")).context("reading modules.dep")?;
    let wanted = closure(&index, MODULES);
    if !wanted.iter().any(|path| path.contains("/veth.ko")) {
        bail!("no module veth, without which there is no network to test on");
    }
    for file in &wanted {
        mirror.file_as(&there.join(file), &folder.join(file))?;
    }
    for entry in fs::read_dir(&folder).context("reading modules")? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default();
        if entry.is_file() && name.to_string_lossy().starts_with("modules.") {
            mirror.file_as(&there.join(name), &entry)?;
        }
    }
    Ok(())
}

/// Files of the modules of these names and of what they depend on.
fn closure<'index>(index: &'index str, names: &[&str]) -> Vec<&'index str> {
    let mut wanted = Vec::new();
    for line in index.lines() {
        let Some((file, needs)) = line.split_once(':') else {
            continue;
        };
        let name = file.rsplit('/').next().unwrap_or_default();
        let name = name.split('.').next().unwrap_or_default().replace('-', "_");
        if names.contains(&name.as_str()) {
            // Already told in full, in the index.
            wanted.push(file);
            wanted.extend(needs.split_whitespace());
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

#[cfg(test)]
mod tests {
    use super::closure;

    #[test]
    fn a_module_brings_what_it_needs() {
        let index = "kernel/drivers/net/veth.ko.xz:\n\
                     kernel/net/sctp/sctp.ko.xz: kernel/net/udp_tunnel.ko.xz kernel/lib/crc.ko.xz\n\
                     kernel/net/other.ko.xz: kernel/lib/crc.ko.xz\n";
        assert_eq!(
            closure(index, &["veth", "sctp", "gone"]),
            [
                "kernel/drivers/net/veth.ko.xz",
                "kernel/lib/crc.ko.xz",
                "kernel/net/sctp/sctp.ko.xz",
                "kernel/net/udp_tunnel.ko.xz",
            ]
        );
    }
}
