//! What a hook answers.

use crate::reason::Reason;

/// The answer of a hook, with its reason.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Goes on as it is.
    Pass(Reason),
    /// Goes on to the gateway instead.
    Redirect(Reason),
    /// Does not go on.
    Refuse(Reason),
}

impl Verdict {
    /// The reason, whatever the answer.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Redirect(reason) | Self::Refuse(reason) => reason,
        }
    }
}

/// `EPERM`: no policy can allow this to an agent.
pub const EPERM: i32 = 1;
/// `EACCES`: policy refuses this destination.
pub const EACCES: i32 = 13;
/// `EPROTONOSUPPORT`: an agent has no such socket type.
pub const EPROTONOSUPPORT: i32 = 93;
/// `EAFNOSUPPORT`: an agent has no such address family.
pub const EAFNOSUPPORT: i32 = 97;
/// `ENETDOWN`: the gateway is not there, and there is no other way out.
pub const ENETDOWN: i32 = 100;

/// The errno that a refused system call fails with.
#[inline(always)]
#[must_use]
pub const fn errno(reason: Reason) -> i32 {
    match reason {
        Reason::SocketType => EPROTONOSUPPORT,
        Reason::GatewayDown | Reason::NotConfigured | Reason::UnknownNamespace => ENETDOWN,
        Reason::SocketFamily => EAFNOSUPPORT,
        Reason::Device
        | Reason::ProcessAccess
        | Reason::BpfCall
        | Reason::Mount
        | Reason::DescriptorReceived
        | Reason::ProcessTableFull
        | Reason::LeftCgroup => EPERM,
        Reason::Gateway
        | Reason::DeclaredLoopback
        | Reason::Redirected
        | Reason::DnsRedirected
        | Reason::Inbound
        | Reason::SocketAllowed
        | Reason::OwnLoopback
        | Reason::Draining
        | Reason::UnixAllowed
        | Reason::DeviceAllowed
        | Reason::BindAllowed
        | Reason::DirectConnect
        | Reason::Datagram
        | Reason::HeaderMalformed
        | Reason::HeaderOptions
        | Reason::Fragment
        | Reason::ExtensionHeader
        | Reason::Interface
        | Reason::Destination
        | Reason::InboundRefused
        | Reason::FlowTableFull
        | Reason::LedgerFull
        | Reason::GroupMembership
        | Reason::UnixSocket
        | Reason::BindAddress
        | Reason::SocketOption
        | Reason::CgroupWrite => EACCES,
    }
}
