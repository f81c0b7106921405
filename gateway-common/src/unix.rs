//! Unix sockets: how the kernel half names them, and which of them an agent may reach.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Unix sockets that a policy may name for one agent.
pub const UNIX_NAMES_MAX: usize = 32;

/// Most bytes of a socket's name: the size of `sun_path`, without room for a NUL.
pub const UNIX_NAME_MAX: usize = 107;

/// Sockets that are named may be reached, and no others.
pub const UNIX_NAMED: u32 = 1;
/// Every unix socket may be reached.
pub const UNIX_ANY: u32 = 2;
/// The agent's own and those that are named: the cgroup's hooks let all pass, and the LSM programs
/// decide. Never loaded where those do not hold.
pub const UNIX_OWN: u32 = 3;

/// Name of a unix socket as it lies in `sun_path`: a path, or, behind a NUL, an abstract name.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UnixName {
    /// The name, and zeroes to the end. With `length` it makes a power of two, so that the verifier
    /// can be shown by one mask that a copy stays inside.
    pub bytes: [u8; 126],
    /// Bytes of the name; for an abstract one the first NUL counts. 0 where nothing is known.
    pub length: u16,
}

impl UnixName {
    /// Nothing is known.
    pub const NONE: Self = Self {
        bytes: [0; 126],
        length: 0,
    };

    /// The name of a path, or of an abstract socket written with an `@` in front; none if it is
    /// empty, longer than [`UNIX_NAME_MAX`], or has a NUL.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let given = text.as_bytes();
        let rest = given.strip_prefix(b"@").unwrap_or(given);
        if rest.is_empty() || given.len() > UNIX_NAME_MAX || given.contains(&0) {
            return None;
        }
        let mut name = Self::NONE;
        name.bytes.get_mut(..given.len())?.copy_from_slice(given);
        if let [first @ b'@', ..] = &mut name.bytes {
            *first = 0;
        }
        name.length = given.len() as u16;
        Some(name)
    }

    /// The bytes of the name: a path, or an abstract name with its NUL in front.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&[])
    }
}

/// Which unix sockets one agent may reach, but for their names, which are in a map, and where the
/// kernel keeps the name that a call gives. All zeroes allows none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UnixConfig {
    /// [`UNIX_NAMED`] or [`UNIX_ANY`].
    pub mode: u32,
    /// 1 if policy names any socket, else 0.
    pub has_names: u32,
    /// Offset of `uaddr` in the kernel's `bpf_sock_addr_kern`; 0 where names cannot be read.
    pub address_offset: u32,
    /// Offset of `uaddrlen` there.
    pub length_offset: u32,
}

impl UnixConfig {
    /// None may be reached.
    pub const SHUT: Self = Self {
        mode: 0,
        has_names: 0,
        address_offset: 0,
        length_offset: 0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_at_their_limits() {
        let name = |text: &str| UnixName::parse(text).map(|name| name.length);
        assert_eq!(name("/run/a.sock"), Some(11));
        assert_eq!(name("@a"), Some(2));
        for none in ["", "@", "/a\0b"] {
            assert_eq!(name(none), None, "{none:?}");
        }
        let abstract_name = UnixName::parse("@a").expect("a name");
        assert_eq!(abstract_name.as_bytes(), b"\0a");
        let longest = [b'/'; UNIX_NAME_MAX + 1];
        let longest = core::str::from_utf8(&longest).expect("ASCII");
        assert!(UnixName::parse(&longest[1..]).is_some());
        assert!(UnixName::parse(longest).is_none());
    }
}
