//! What the kernel half tells user space through the ring.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{endpoint::Endpoint, flow::Task, unix::UnixName};

/// Declares the hooks once: code, name, label.
macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal;)*) => {
        /// The hook that decided.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Hook {
            $($(#[$doc])* $name = $code,)*
        }

        impl Hook {
            /// All of them, in order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The hook with this code; none if this build knows no such code.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    // Codes are a number space, not a set of variants: the rest is unknown.
                    _ => None,
                }
            }

            /// The name used in audit records.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

hooks! {
    /// `socket(2)` of an INET family.
    SockCreate = 1, "sock_create";
    /// `connect(2)`, IPv4.
    Connect4 = 2, "connect4";
    /// `connect(2)`, IPv6.
    Connect6 = 3, "connect6";
    /// `sendmsg(2)` on an unconnected UDP socket, IPv4.
    Sendmsg4 = 4, "sendmsg4";
    /// `sendmsg(2)` on an unconnected UDP socket, IPv6.
    Sendmsg6 = 5, "sendmsg6";
    /// A packet leaves.
    Egress = 6, "egress";
    /// A packet arrives.
    Ingress = 7, "ingress";
    /// TCP state changes of the agent's sockets.
    AgentOps = 8, "agent_ops";
    /// `setsockopt(2)`.
    Setsockopt = 9, "setsockopt";
    /// `bind(2)`, IPv4.
    Bind4 = 10, "bind4";
    /// `bind(2)`, IPv6.
    Bind6 = 11, "bind6";
    /// `connect(2)` on a unix socket.
    UnixConnect = 12, "unix_connect";
    /// `sendmsg(2)` on an unconnected unix socket.
    UnixSendmsg = 13, "unix_sendmsg";
    /// Opening or making a device node.
    Device = 14, "device";
    /// A task moved to another cgroup.
    CgroupAttachTask = 20, "cgroup_attach_task";
    /// LSM: `socket(2)` of any family.
    LsmSocketCreate = 21, "lsm_socket_create";
    /// LSM: a descriptor arrives over a unix socket.
    LsmFileReceive = 22, "lsm_file_receive";
    /// LSM: access to another process.
    LsmPtrace = 23, "lsm_ptrace_access_check";
    /// LSM: `bpf(2)`.
    LsmBpf = 24, "lsm_bpf";
    /// LSM: unmounting.
    LsmUmount = 25, "lsm_sb_umount";
    /// LSM: connecting a unix stream socket.
    LsmUnixConnect = 26, "lsm_unix_stream_connect";
    /// LSM: a unix datagram.
    LsmUnixSend = 27, "lsm_unix_may_send";
    /// LSM: opening a file.
    LsmFileOpen = 28, "lsm_file_open";
    /// A process forked.
    ProcessFork = 30, "process_fork";
    /// LSM: mounting.
    LsmMount = 31, "lsm_sb_mount";
}

/// Set in [`Event::flags`] when the refusal was recorded but not carried out.
pub const FLAG_OBSERVED: u8 = 1;

/// One refusal.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Event {
    /// [`crate::ABI_VERSION`].
    pub abi: u32,
    /// CPU that wrote the event.
    pub cpu: u32,
    /// Per-CPU number, counted up also when the ring had no room: a gap is the exact loss.
    pub sequence: u64,
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// Refusals of this reason on this CPU so far, this one included: what lies between two
    /// events was folded or lost, and is counted all the same.
    pub total: u64,
    /// Socket cookie, 0 where the hook has none.
    pub cookie: u64,
    /// Who called; for packets, who made the socket.
    pub task: Task,
    /// Where it came from, as far as known.
    pub source: Endpoint,
    /// Where it was to go.
    pub destination: Endpoint,
    /// Number of the agent on this node.
    pub agent: u32,
    /// Code of the [`Hook`].
    pub hook: u16,
    /// Code of the [`crate::reason::Reason`].
    pub reason: u16,
    /// Address family of the socket where the hook knows it, else 0.
    pub family: u16,
    /// Socket type where the hook knows it, else 0.
    pub socket_type: u16,
    /// IP protocol number where the hook knows it, else 0.
    pub protocol: u16,
    /// [`FLAG_OBSERVED`].
    pub flags: u8,
    /// Always zero.
    pub zero: u8,
}

/// One refusal that has to do with a unix socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NamedEvent {
    /// What every refusal has.
    pub event: Event,
    /// Name of the socket, as far as known.
    pub name: UnixName,
}

/// How often one reason came up on one CPU, and how many of them may still be reported.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Fold {
    /// Refusals in all, reported or not. Only ever counted up atomically.
    pub total: u64,
    /// Reports that may still be made at once.
    pub tokens: u64,
    /// When `tokens` was last topped up, nanoseconds since boot; 0 before the first refusal.
    pub topped_ns: u64,
}

impl Fold {
    /// Whether a refusal at `now_ns` is to be reported singly.
    ///
    /// A softirq may come in between on the same CPU: then one report more or less is made,
    /// while the total stays exact.
    #[inline(always)]
    pub const fn admit(&mut self, now_ns: u64) -> bool {
        if self.topped_ns == 0 {
            self.tokens = crate::EVENT_BURST;
            self.topped_ns = now_ns;
        } else {
            let earned = now_ns.saturating_sub(self.topped_ns) / crate::EVENT_REFILL_NS;
            if earned > 0 {
                let tokens = self.tokens.saturating_add(earned);
                self.tokens = if tokens > crate::EVENT_BURST {
                    crate::EVENT_BURST
                } else {
                    tokens
                };
                self.topped_ns = now_ns;
            }
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EVENT_BURST, EVENT_REFILL_NS};

    #[test]
    fn a_burst_is_reported_and_then_folded() {
        let mut fold = Fold {
            total: 0,
            tokens: 0,
            topped_ns: 0,
        };
        let reported = (0..EVENT_BURST + 10).filter(|_| fold.admit(1)).count();
        assert_eq!(reported as u64, EVENT_BURST);
        assert!(fold.admit(1 + EVENT_REFILL_NS));
        assert!(!fold.admit(1 + EVENT_REFILL_NS));
    }

    #[test]
    fn hook_codes_round_trip() {
        for &hook in Hook::ALL {
            assert_eq!(Hook::from_code(hook as u16), Some(hook));
        }
        assert_eq!(Hook::from_code(0), None);
    }
}
