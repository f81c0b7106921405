//! Which process is which: what the tracepoints keep and tell of the tasks of an agent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Processes of one agent that the kernel half keeps account of at once. The fork of one more
/// ends the process that forked.
pub const MEMBERS_MAX: u32 = 8192;

/// Bytes in the ring that tells user space of processes. A power of two, page-aligned.
pub const PROCESSES_RING_BYTES: u32 = 1 << 18;

/// Bytes in the ring that tells user space whom to kill. A power of two, page-aligned. What finds
/// no room is found in the table of members.
pub const LEAVERS_RING_BYTES: u32 = 1 << 14;

/// Most bytes of the name that a program was executed by, its NUL included.
pub const EXEC_NAME_MAX: usize = 256;

/// The process is where it belongs.
pub const MEMBER_INSIDE: u32 = 1;
/// The process left the agent's cgroup and has to die, wherever it is by now.
pub const MEMBER_LEFT: u32 = 2;

/// One process of the agent. Removed when its last thread ends, never before.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Member {
    /// When its last exec was, or its fork if there was none since: nanoseconds since boot. With
    /// the process id it names what runs there.
    pub since_ns: u64,
    /// When the process began, nanoseconds since boot, as `/proc` has it.
    pub started_ns: u64,
    /// [`MEMBER_INSIDE`] or [`MEMBER_LEFT`].
    pub state: u32,
    /// Always zero.
    pub zero: u32,
}

/// A process executed a program.
pub const PROCESS_EXEC: u32 = 1;
/// A process was forked.
pub const PROCESS_FORK: u32 = 2;
/// The last thread of a process ended.
pub const PROCESS_EXIT: u32 = 3;
/// A process that runs already was moved into the agent's cgroup.
pub const PROCESS_ENTER: u32 = 4;

/// One step in the life of a process.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessEvent {
    /// [`crate::ABI_VERSION`].
    pub abi: u32,
    /// CPU that wrote the event.
    pub cpu: u32,
    /// Per-CPU number, counted up also when the ring had no room: a gap is the exact loss.
    pub sequence: u64,
    /// [`Member::since_ns`] from this event on.
    pub since_ns: u64,
    /// [`Member::started_ns`].
    pub started_ns: u64,
    /// [`Member::since_ns`] of the parent at a fork; 0 where the parent is no process of the
    /// agent.
    pub parent_since_ns: u64,
    /// Inode of the executable; 0 where it is not known.
    pub inode: u64,
    /// Device of the executable, as the kernel writes it.
    pub device: u32,
    /// One of the `PROCESS_` constants.
    pub kind: u32,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Process id of the one that forked; 0 but at a fork.
    pub parent_tgid: u32,
    /// The name that was given to `execve(2)`, ended by a NUL; relative where that was. Nothing
    /// behind the NUL means anything.
    pub name: [u8; EXEC_NAME_MAX],
}

/// A process left.
pub const LEAVER_LEFT: u32 = 1;
/// A process could not be kept account of: all of the agent has to end.
pub const LEAVER_UNKNOWN: u32 = 2;

/// A process that user space has to kill at once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Leaver {
    /// [`crate::ABI_VERSION`].
    pub abi: u32,
    /// [`LEAVER_LEFT`] or [`LEAVER_UNKNOWN`].
    pub kind: u32,
    /// When the process began, nanoseconds since boot.
    pub started_ns: u64,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Always zero.
    pub zero: u32,
}

/// Where the kernel keeps what the tracepoints and LSM programs read: offsets in bytes, from its
/// own type information, and the depth of the agent's cgroup.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct KernelLayout {
    /// 1 if the rest was found; with anything else the programs do nothing and are not attached.
    pub present: u32,
    /// Depth of the agent's cgroup; the root is 0.
    pub level: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.pid`.
    pub task_pid: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `task_struct.start_boottime`.
    pub task_start: u32,
    /// `task_struct.group_leader`.
    pub task_leader: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `task_struct.cgroups`.
    pub task_cgroups: u32,
    /// `task_struct.cred`.
    pub task_cred: u32,
    /// `task_struct.mm`.
    pub task_mm: u32,
    /// `mm_struct.exe_file`.
    pub mm_exe: u32,
    /// `signal_struct.live`.
    pub signal_live: u32,
    /// `cred.euid`.
    pub cred_uid: u32,
    /// `cred.egid`.
    pub cred_gid: u32,
    /// `css_set.dfl_cgrp`.
    pub css_cgroup: u32,
    /// `cgroup.kn`.
    pub cgroup_node: u32,
    /// `cgroup.level`.
    pub cgroup_level: u32,
    /// `cgroup.root`.
    pub cgroup_root: u32,
    /// `cgroup.ancestors`.
    pub cgroup_ancestors: u32,
    /// `cgroup_root.hierarchy_id`.
    pub root_hierarchy: u32,
    /// `kernfs_node.id`.
    pub node_id: u32,
    /// `linux_binprm.file`.
    pub binprm_file: u32,
    /// `linux_binprm.filename`.
    pub binprm_name: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `file.f_mode`.
    pub file_mode: u32,
    /// `inode.i_ino`.
    pub inode_number: u32,
    /// `inode.i_sb`.
    pub inode_super: u32,
    /// `inode.i_mode`.
    pub inode_mode: u32,
    /// `super_block.s_dev`.
    pub super_device: u32,
    /// `super_block.s_magic`.
    pub super_magic: u32,
    /// `file.private_data`.
    pub file_private: u32,
    /// `socket.sk`.
    pub socket_sock: u32,
    /// `sock.sk_cgrp_data.cgroup`.
    pub sock_cgroup: u32,
    /// `sock.__sk_common.skc_family`.
    pub sock_family: u32,
    /// `unix_sock.addr`.
    pub unix_address: u32,
    /// `unix_address.len`.
    pub address_length: u32,
    /// `unix_address.name`.
    pub address_name: u32,
    /// 1 if the LSM programs say which unix sockets may be reached, not the cgroup's hooks.
    pub unix_by_lsm: u32,
}

impl KernelLayout {
    /// Nothing is known: the state of an object that nobody configured.
    pub const UNKNOWN: Self = Self {
        present: 0,
        level: 0,
        task_tgid: 0,
        task_pid: 0,
        task_comm: 0,
        task_start: 0,
        task_leader: 0,
        task_signal: 0,
        task_cgroups: 0,
        task_cred: 0,
        task_mm: 0,
        mm_exe: 0,
        signal_live: 0,
        cred_uid: 0,
        cred_gid: 0,
        css_cgroup: 0,
        cgroup_node: 0,
        cgroup_level: 0,
        cgroup_root: 0,
        cgroup_ancestors: 0,
        root_hierarchy: 0,
        node_id: 0,
        binprm_file: 0,
        binprm_name: 0,
        file_inode: 0,
        file_mode: 0,
        inode_number: 0,
        inode_super: 0,
        inode_mode: 0,
        super_device: 0,
        super_magic: 0,
        file_private: 0,
        socket_sock: 0,
        sock_cgroup: 0,
        sock_family: 0,
        unix_address: 0,
        address_length: 0,
        address_name: 0,
        unix_by_lsm: 0,
    };
}
