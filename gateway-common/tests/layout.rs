//! The golden layout: `abi.txt` is what crosses the kernel boundary, byte by byte.
//!
//! A difference means that [`gateway_common::ABI_VERSION`] goes up. `SLUICE_BLESS=1` writes the
//! file anew.

use std::{fmt::Write as _, mem};

use gateway_common::{
    ABI_VERSION, DENIALS_RING_BYTES, LISTENER_MARK, LOOPBACK_PORTS_MAX, PASSAGES_RING_BYTES,
    TUPLES_MAX,
    agent::{AgentConfig, DEVICES_MAX, Device, LoopbackPorts},
    endpoint::Endpoint,
    event::{Event, Fold, Hook, NamedEvent},
    flow::{Flow, Task, Tuple},
    passage::Passage,
    process::{
        EXEC_NAME_MAX, KernelLayout, LEAVERS_RING_BYTES, Leaver, MEMBERS_MAX, Member,
        PROCESSES_RING_BYTES, ProcessEvent,
    },
    reason::Reason,
    unix::{UNIX_NAME_MAX, UNIX_NAMES_MAX, UnixConfig, UnixName},
};

/// Appends a struct's size, alignment, and each field's offset and size.
macro_rules! layout {
    ($text:ident, $type:ident, $zero:expr, [$($field:ident),* $(,)?]) => {{
        let zero: $type = $zero;
        let (size, align) = (size_of::<$type>(), align_of::<$type>());
        writeln!($text, "struct {} size {size} align {align}", stringify!($type)).expect("a String takes it all");
        // A field that is missing here does not compile.
        let $type { $($field: _),* } = zero;
        $(writeln!(
            $text,
            "  {:>3} {:>2} {}",
            mem::offset_of!($type, $field),
            size_of_val(&zero.$field),
            stringify!($field)
        )
        .expect("a String takes it all");)*
    }};
}

fn dump() -> String {
    use zerocopy::FromZeros as _;
    let mut text = String::new();
    writeln!(text, "abi {ABI_VERSION}").expect("a String takes it all");
    writeln!(text, "tuples {TUPLES_MAX}").expect("a String takes it all");
    writeln!(text, "denials_ring_bytes {DENIALS_RING_BYTES}").expect("a String takes it all");
    writeln!(text, "passages_ring_bytes {PASSAGES_RING_BYTES}").expect("a String takes it all");
    writeln!(text, "members {MEMBERS_MAX}").expect("a String takes it all");
    writeln!(text, "processes_ring_bytes {PROCESSES_RING_BYTES}").expect("a String takes it all");
    writeln!(text, "leavers_ring_bytes {LEAVERS_RING_BYTES}").expect("a String takes it all");
    writeln!(text, "exec_name {EXEC_NAME_MAX}").expect("a String takes it all");
    writeln!(text, "loopback_ports {LOOPBACK_PORTS_MAX}").expect("a String takes it all");
    writeln!(text, "loopback_ports_size {}", size_of::<LoopbackPorts>())
        .expect("a String takes it all");
    writeln!(text, "devices {DEVICES_MAX}").expect("a String takes it all");
    writeln!(text, "unix_names {UNIX_NAMES_MAX} of {UNIX_NAME_MAX}")
        .expect("a String takes it all");
    writeln!(text, "listener_mark {LISTENER_MARK:#x}").expect("a String takes it all");
    layout!(
        text,
        AgentConfig,
        AgentConfig::new_zeroed(),
        [
            cgroup,
            abi,
            agent,
            mode,
            direct,
            dns,
            inbound,
            gateway_port,
            has_loopback,
            features,
            draining_port,
            zero,
        ]
    );
    layout!(
        text,
        Endpoint,
        Endpoint::new_zeroed(),
        [address, port, zero]
    );
    layout!(
        text,
        Task,
        Task::new_zeroed(),
        [cgroup, since_ns, tgid, pid, uid, gid, comm]
    );
    layout!(
        text,
        Member,
        Member::new_zeroed(),
        [since_ns, started_ns, state, zero]
    );
    layout!(
        text,
        ProcessEvent,
        ProcessEvent::new_zeroed(),
        [
            abi,
            cpu,
            sequence,
            since_ns,
            started_ns,
            parent_since_ns,
            inode,
            device,
            kind,
            tgid,
            parent_tgid,
            name
        ]
    );
    layout!(
        text,
        Leaver,
        Leaver::new_zeroed(),
        [abi, kind, started_ns, tgid, zero]
    );
    layout!(
        text,
        KernelLayout,
        KernelLayout::new_zeroed(),
        [
            present,
            level,
            task_tgid,
            task_pid,
            task_comm,
            task_start,
            task_leader,
            task_signal,
            task_cgroups,
            task_cred,
            task_mm,
            mm_exe,
            signal_live,
            cred_uid,
            cred_gid,
            css_cgroup,
            cgroup_node,
            cgroup_level,
            cgroup_root,
            cgroup_ancestors,
            root_hierarchy,
            node_id,
            binprm_file,
            binprm_name,
            file_inode,
            file_mode,
            inode_number,
            inode_super,
            inode_mode,
            super_device,
            super_magic,
            file_private,
            socket_sock,
            sock_cgroup,
            sock_family,
            unix_address,
            address_length,
            address_name,
            unix_by_lsm
        ]
    );
    layout!(
        text,
        Flow,
        Flow::new_zeroed(),
        [
            time_ns, cookie, netns, task, original, agent, kind, protocol, zero,
        ]
    );
    layout!(
        text,
        Passage,
        Passage::new_zeroed(),
        [abi, cpu, sequence, flow, token, zero]
    );
    layout!(
        text,
        Tuple,
        Tuple::new_zeroed(),
        [netns, agent, gateway, token, protocol, zero]
    );
    layout!(
        text,
        Event,
        Event::new_zeroed(),
        [
            abi,
            cpu,
            sequence,
            time_ns,
            total,
            cookie,
            task,
            source,
            destination,
            agent,
            hook,
            reason,
            family,
            socket_type,
            protocol,
            flags,
            zero,
        ]
    );
    layout!(text, NamedEvent, NamedEvent::new_zeroed(), [event, name]);
    layout!(text, Device, Device::new_zeroed(), [kind, major, minor]);
    layout!(text, UnixName, UnixName::new_zeroed(), [bytes, length]);
    layout!(
        text,
        UnixConfig,
        UnixConfig::new_zeroed(),
        [mode, has_names, address_offset, length_offset]
    );
    layout!(text, Fold, Fold::new_zeroed(), [total, tokens, topped_ns]);
    for reason in Reason::ALL {
        writeln!(text, "reason {:>2} {}", reason.code(), reason.label())
            .expect("a String takes it all");
    }
    for hook in Hook::ALL {
        writeln!(text, "hook {:>2} {}", *hook as u16, hook.label()).expect("a String takes it all");
    }
    text
}

#[test]
fn the_layout_is_the_golden_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/abi.txt");
    let dump = dump();
    if std::env::var_os("SLUICE_BLESS").is_some() {
        std::fs::write(path, &dump).expect("abi.txt is writable");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        dump, golden,
        "the kernel boundary changed: raise ABI_VERSION, then `cargo xtask abi --bless`"
    );
}
