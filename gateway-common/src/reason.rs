//! Why the kernel half decided as it did: stable codes that reach the audit record.

/// Declares the codes once: number, name, label, and whether it is a refusal.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal;)*) => {
        /// Why a hook let something pass, redirected it or refused it.
        ///
        /// Codes below 32 pass, the others refuse. They are part of the ABI.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name = $code,)*
        }

        impl Reason {
            /// All of them, in order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason with this code; none if this build knows no such code.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    // Codes are a number space, not a set of variants: the rest is unknown.
                    _ => None,
                }
            }

            /// The name used in audit records and metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// To the gateway's own port, as an explicit proxy request.
    Gateway = 1, "gateway";
    /// To a local port that policy declares.
    DeclaredLoopback = 2, "declared_loopback";
    /// Rewritten to the gateway.
    Redirected = 3, "redirected";
    /// A DNS question, rewritten to the gateway's resolver.
    DnsRedirected = 4, "dns_redirected";
    /// On a connection that somebody opened to the agent, where policy allows that.
    Inbound = 5, "inbound";
    /// A socket type that cannot get past the other hooks.
    SocketAllowed = 6, "socket_allowed";
    /// To a listener of the agent's own.
    OwnLoopback = 7, "own_loopback";
    /// To a unix socket that policy names, or to one of the agent's own.
    UnixAllowed = 8, "unix_allowed";
    /// A device that every agent has, or that policy names.
    DeviceAllowed = 9, "device_allowed";
    /// Binding to an address that only this host, or nobody, can reach.
    BindAllowed = 10, "bind_allowed";
    /// On a connection to the gateway that this one took over from.
    Draining = 11, "draining";

    /// The programs carry no configuration, or one of another ABI.
    NotConfigured = 32, "not_configured";
    /// A socket type or protocol other than TCP and UDP.
    SocketType = 33, "socket_type";
    /// A direct TCP connection, in an agent whose policy says `direct = "deny"`.
    DirectConnect = 34, "direct_connect";
    /// A UDP datagram to anything but DNS.
    Datagram = 35, "datagram";
    /// The gateway's listener is gone, or the one on its port is not the gateway's.
    GatewayDown = 36, "gateway_down";
    /// A packet whose header is too short or of no known version.
    HeaderMalformed = 37, "header_malformed";
    /// An IPv4 packet with options, such as source routing.
    HeaderOptions = 38, "header_options";
    /// A fragment.
    Fragment = 39, "fragment";
    /// An IPv6 packet with an extension header, such as a routing header.
    ExtensionHeader = 40, "extension_header";
    /// A packet that leaves by another interface than loopback.
    Interface = 41, "interface";
    /// A packet to another destination than the gateway.
    Destination = 42, "destination";
    /// A packet or connection from outside to the agent.
    InboundRefused = 43, "inbound_refused";
    /// No room to remember who is on the line; the gateway will refuse the connection.
    FlowTableFull = 44, "flow_table_full";
    /// Joining a multicast group, which the kernel reports to the network on its own behalf.
    GroupMembership = 45, "group_membership";
    /// A unix socket that policy does not name.
    UnixSocket = 46, "unix_socket";
    /// Binding to an address that others could reach.
    BindAddress = 47, "bind_address";
    /// A socket option that steers packets past the gateway.
    SocketOption = 48, "socket_option";
    /// A device that is no plain file, terminal or source of randomness.
    Device = 49, "device";
    /// A network namespace in which the gateway has no listener.
    UnknownNamespace = 50, "unknown_namespace";
    /// No room in the ledger of what is let through, so it is not let through.
    LedgerFull = 51, "ledger_full";
    /// A process left the agent's cgroup; it was killed.
    LeftCgroup = 56, "left_cgroup";
    /// A socket of a family that no other hook sees.
    SocketFamily = 57, "socket_family";
    /// A socket made elsewhere, received as a descriptor.
    DescriptorReceived = 58, "descriptor_received";
    /// Reading, writing or tracing a process outside the agent's cgroup.
    ProcessAccess = 59, "process_access";
    /// A call of `bpf(2)`.
    BpfCall = 60, "bpf_call";
    /// Unmounting or mounting a file system.
    Mount = 61, "mount";
    /// Opening a file that moves processes between cgroups.
    CgroupWrite = 62, "cgroup_write";
    /// More processes than account is kept of; the one that forked was killed.
    ProcessTableFull = 63, "process_table_full";
}

/// One more than the highest code: the size of tables indexed by code.
pub const REASON_SLOTS: u32 = 64;

impl Reason {
    /// The code as it crosses the kernel boundary.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Whether this reason refuses.
    #[inline(always)]
    #[must_use]
    pub const fn refuses(self) -> bool {
        self.code() >= 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_fit_their_table() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert!(u32::from(reason.code()) < REASON_SLOTS);
            assert!(!reason.label().is_empty());
        }
        assert_eq!(Reason::from_code(0), None);
        assert_eq!(Reason::from_code(u16::MAX), None);
    }
}
