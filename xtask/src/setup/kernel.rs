//! What the running kernel must offer. Nothing here is installed: a person decides on these.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

use super::{Look, Scope, Step};
use crate::{process, workspace};

/// Root, or a way to become it.
pub(super) const PRIVILEGE: Step = Step {
    name: "privilege",
    scope: Scope::Build,
    look: || {
        Ok(if process::is_root() {
            Look::Present("root".to_owned())
        } else if workspace::find_program("sudo").is_some() {
            Look::Present("sudo, for what needs root".to_owned())
        } else if std::env::var_os("CI").is_some() {
            Look::Missing("neither root nor sudo".to_owned())
        } else {
            Look::Present("none: builds, but cannot confine anything".to_owned())
        })
    },
    install: || bail!("attaching programs to a cgroup takes root"),
    by_hand: || "run this as root, or install sudo".to_owned(),
};

/// The cgroup tree that programs are attached to, wherever it is mounted.
pub(super) const CGROUP2: Step = Step {
    name: "cgroup v2",
    scope: Scope::Build,
    look: || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
        Ok(cgroup2_mount(&mounts).map_or_else(
            || Look::Missing("not mounted".to_owned()),
            |place| Look::Present(format!("at {place}")),
        ))
    },
    install: || bail!("mounts are left to the administrator"),
    by_hand: || {
        "sudo mkdir -p /sys/fs/cgroup/unified && sudo mount -t cgroup2 none /sys/fs/cgroup/unified"
            .to_owned()
    },
};

/// The file system that keeps programs attached; `sluice` mounts it where it is not.
pub(super) const BPFFS: Step = Step {
    name: "bpffs",
    scope: Scope::Build,
    look: || {
        let known = fs::read_to_string("/proc/filesystems").context("reading file systems")?;
        Ok(if known.lines().any(|line| line.ends_with("\tbpf")) {
            Look::Present("the kernel has it".to_owned())
        } else {
            Look::Missing("the kernel has none".to_owned())
        })
    },
    install: || bail!("this kernel was built without CONFIG_BPF_SYSCALL"),
    by_hand: || "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF".to_owned(),
};

/// The kernel's own types: socket storage, which attribution rests on, needs them.
pub(super) const BTF: Step = Step {
    name: "kernel types (BTF)",
    scope: Scope::Build,
    look: || {
        Ok(if Path::new("/sys/kernel/btf/vmlinux").exists() {
            Look::Present("/sys/kernel/btf/vmlinux".to_owned())
        } else {
            Look::Missing("no /sys/kernel/btf/vmlinux".to_owned())
        })
    },
    install: || bail!("this kernel was built without CONFIG_DEBUG_INFO_BTF"),
    by_hand: || "boot a kernel with CONFIG_DEBUG_INFO_BTF, and mount /sys".to_owned(),
};

/// Where cgroup v2 is mounted, out of `/proc/self/mountinfo`.
fn cgroup2_mount(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        (kind.split_whitespace().next()? == "cgroup2").then(|| place.split_whitespace().nth(4))?
    })
}

#[cfg(test)]
mod tests {
    use super::cgroup2_mount;

    #[test]
    fn cgroup_v2_is_found_beside_v1() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn optional_fields_do_not_shift_the_place() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup"));
    }

    #[test]
    fn v1_alone_does_not_count() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_mount(mounts), None);
    }
}
