//! Where this kernel keeps what the tracepoints and LSM programs read.

use gateway_common::process::KernelLayout;

use super::btf::{BtfError, Types};

/// The layout of the running kernel for an agent whose cgroup lies `level` deep.
///
/// # Errors
/// If the kernel gives no type information or lacks a field.
pub(super) fn of_kernel(level: u32, unix_by_lsm: bool) -> Result<KernelLayout, BtfError> {
    let types = Types::of_kernel()?;
    let at = |of, field| types.offset(of, field);
    Ok(KernelLayout {
        present: 1,
        level,
        task_tgid: at("task_struct", "tgid")?,
        task_pid: at("task_struct", "pid")?,
        task_comm: at("task_struct", "comm")?,
        task_start: at("task_struct", "start_boottime")?,
        task_leader: at("task_struct", "group_leader")?,
        task_signal: at("task_struct", "signal")?,
        task_cgroups: at("task_struct", "cgroups")?,
        task_cred: at("task_struct", "cred")?,
        task_mm: at("task_struct", "mm")?,
        mm_exe: at("mm_struct", "exe_file")?,
        signal_live: at("signal_struct", "live")?,
        cred_uid: at("cred", "euid")?,
        cred_gid: at("cred", "egid")?,
        css_cgroup: at("css_set", "dfl_cgrp")?,
        cgroup_node: at("cgroup", "kn")?,
        cgroup_level: at("cgroup", "level")?,
        cgroup_root: at("cgroup", "root")?,
        cgroup_ancestors: at("cgroup", "ancestors")?,
        root_hierarchy: at("cgroup_root", "hierarchy_id")?,
        node_id: at("kernfs_node", "id")?,
        binprm_file: at("linux_binprm", "file")?,
        binprm_name: at("linux_binprm", "filename")?,
        file_inode: at("file", "f_inode")?,
        file_mode: at("file", "f_mode")?,
        inode_number: at("inode", "i_ino")?,
        inode_super: at("inode", "i_sb")?,
        inode_mode: at("inode", "i_mode")?,
        super_device: at("super_block", "s_dev")?,
        super_magic: at("super_block", "s_magic")?,
        file_private: at("file", "private_data")?,
        socket_sock: at("socket", "sk")?,
        sock_cgroup: at("sock", "sk_cgrp_data.cgroup")?,
        sock_family: at("sock", "__sk_common.skc_family")?,
        unix_address: at("unix_sock", "addr")?,
        address_length: at("unix_address", "len")?,
        address_name: at("unix_address", "name")?,
        unix_by_lsm: u32::from(unix_by_lsm),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_all_of_it() {
        if !super::super::probe::has_btf() {
            return;
        }
        let layout = of_kernel(2, false).expect("every supported kernel has these fields");
        assert_eq!((layout.present, layout.level), (1, 2));
        assert_ne!(layout.task_tgid, layout.task_pid);
    }
}
