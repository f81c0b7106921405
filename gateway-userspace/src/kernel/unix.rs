//! The programs on unix sockets (kernel ≥ 6.7). aya has no type for them: their code is linked
//! against the maps that aya made, and given to the kernel as what it is.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use aya::{Ebpf, maps::Map};
use aya_obj::Object;
use gateway_common::unix::{UNIX_ANY, UNIX_NAMED, UNIX_OWN, UnixConfig, UnixName};

use super::{
    BoundaryError,
    abi::{self, Wire},
    attach::{Attached, Place, attach_loaded},
    boundary::map_error,
    btf::Types,
};
use crate::policy::UnixSockets;

/// The programs, each with its attach type: `BPF_CGROUP_UNIX_CONNECT` and
/// `BPF_CGROUP_UNIX_SENDMSG`.
pub(super) const PROGRAMS: [(&str, u32); 2] = [("unix_connect", 49), ("unix_sendmsg", 50)];

/// What this kernel can do about unix sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Support {
    /// It has the hooks.
    pub(super) hooks: bool,
    /// Offsets of `uaddr` and `uaddrlen` in its `bpf_sock_addr_kern`, where it lets a program read
    /// them.
    pub(super) offsets: Option<(u32, u32)>,
}

/// Finds out by trying, once.
pub(super) fn support() -> Support {
    static SUPPORT: OnceLock<Support> = OnceLock::new();
    *SUPPORT.get_or_init(|| {
        let (_, attach_type) = PROGRAMS[0];
        let loads = |code: &[u64]| abi::load_sock_addr("probe", code, attach_type).is_ok();
        let hooks = loads(&PASSES);
        Support {
            hooks,
            offsets: (hooks && loads(&READS)).then(offsets).flatten(),
        }
    })
}

/// `return 1`.
const PASSES: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
/// `bpf_probe_read_kernel(stack, 8, ctx + 8); return 1`: a kernel that is locked down for
/// confidentiality has no such helper.
const READS: [u64; 8] = [
    // r3 = r1; r3 += 8
    0x0000_0000_0000_13bf,
    0x0000_0008_0000_0307,
    // r1 = r10; r1 += -8
    0x0000_0000_0000_a1bf,
    0xffff_fff8_0000_0107,
    // r2 = 8; call 113
    0x0000_0008_0000_02b7,
    0x0000_0071_0000_0085,
    PASSES[0],
    PASSES[1],
];

fn offsets() -> Option<(u32, u32)> {
    const CONTEXT: &str = "bpf_sock_addr_kern";
    let types = Types::of_kernel().ok()?;
    // 0 stands for "unknown", and is where the socket is.
    let address = types
        .offset(CONTEXT, "uaddr")
        .ok()
        .filter(|offset| *offset != 0)?;
    Some((address, types.offset(CONTEXT, "uaddrlen").ok()?))
}

/// The constants of an agent under this policy, on a kernel with these abilities.
pub(super) fn config(sockets: &UnixSockets, support: Support) -> UnixConfig {
    let mut config = UnixConfig::SHUT;
    config.mode = if sockets.any {
        UNIX_ANY
    } else if sockets.own {
        UNIX_OWN
    } else {
        UNIX_NAMED
    };
    if let Some((address, length)) = support.offsets {
        config.address_offset = address;
        config.length_offset = length;
    }
    config.has_names = u32::from(!sockets.names.is_empty());
    config
}

/// Fills the map of names, before any program is attached.
pub(super) fn fill(ebpf: &mut Ebpf, names: &[String]) -> Result<(), BoundaryError> {
    const MAP: &str = "UNIX_NAMES";
    let map = ebpf.map_mut(MAP).ok_or(BoundaryError::Missing(MAP))?;
    let mut map =
        aya::maps::HashMap::<_, Wire<UnixName>, u32>::try_from(map).map_err(map_error(MAP))?;
    let names = names.iter().filter_map(|name| UnixName::parse(name));
    names
        .into_iter()
        .try_for_each(|name| map.insert(Wire(name), 1, 0))
        .map_err(map_error(MAP))
}

/// Constants under which every branch is alive.
pub(super) fn widest(support: Support) -> UnixConfig {
    let sockets = UnixSockets {
        any: false,
        own: false,
        names: vec!["@probe".to_owned()],
    };
    config(&sockets, support)
}

/// Links one program against the maps of `ebpf`, and attaches it.
pub(super) fn attach(
    name: &'static str,
    attach_type: u32,
    object: &[u8],
    ebpf: &Ebpf,
    place: Place<'_>,
) -> Result<Attached, BoundaryError> {
    let program = load(name, attach_type, object, ebpf)?;
    attach_loaded(name, program.as_fd(), place, attach_type)
}

fn load(
    name: &'static str,
    attach_type: u32,
    object: &[u8],
    ebpf: &Ebpf,
) -> Result<OwnedFd, BoundaryError> {
    let mut object = Object::parse(object).map_err(|error| linking(name, error))?;
    let functions = object.functions.keys().map(|(section, _)| *section);
    let sections = functions.collect();
    let maps: HashMap<_, _> = std::mem::take(&mut object.maps);
    let made = maps.iter().filter_map(|(map, parsed)| {
        let descriptor = descriptor(ebpf.map(map)?)?;
        Some((map.as_str(), descriptor.as_raw_fd(), parsed))
    });
    object
        .relocate_maps(made, &sections)
        .map_err(|error| linking(name, error))?;
    object
        .relocate_calls(&sections)
        .map_err(|error| linking(name, error))?;
    let function = object
        .programs
        .get(name)
        .and_then(|program| object.functions.get(&program.function_key()))
        .ok_or(BoundaryError::Missing(name))?;
    abi::load_sock_addr(name, &function.instructions, attach_type).map_err(|source| {
        BoundaryError::Verify {
            program: name,
            source,
        }
    })
}

fn linking(
    program: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> BoundaryError {
    BoundaryError::Link {
        program,
        source: Box::new(error),
    }
}

/// The descriptor of a map, whatever its kind.
fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data) => data,
        // The object has no others; a program that uses one is not linked.
        _ => return None,
    };
    Some(data.fd().as_fd())
}

/// Why a socket that policy names cannot be told from others.
#[derive(Debug, thiserror::Error)]
pub enum UnixPathError {
    /// The agent could put something else there.
    #[error(
        "unix socket {socket}: the agent can write {folder}, and so put a link to any other socket \
         there; name a socket in a folder that the agent's user cannot write, such as /run"
    )]
    Writable {
        /// As policy names it.
        socket: String,
        /// The folder.
        folder: PathBuf,
    },
    /// The path leads elsewhere.
    #[error("unix socket {socket}: {link} is a link; name the path that it leads to")]
    Link {
        /// As policy names it.
        socket: String,
        /// The link.
        link: PathBuf,
    },
    /// Something else is there.
    #[error("unix socket {socket}: {place} is no {expected}")]
    Kind {
        /// As policy names it.
        socket: String,
        /// What is something else.
        place: PathBuf,
        /// What it ought to be.
        expected: &'static str,
    },
    /// Nobody can say what is there.
    #[error("unix socket {socket}: looking at {place}")]
    Look {
        /// As policy names it.
        socket: String,
        /// What cannot be looked at.
        place: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Checks that an agent of this user cannot decide what is found under a path that policy names:
/// the kernel half compares names, and what a name leads to is for the file system to say.
///
/// What does not exist yet is fine, as long as the agent cannot make it.
///
/// # Errors
/// [`UnixPathError`] names the socket, the place and the mend.
pub fn check_paths(sockets: &UnixSockets, uid: u32, gid: u32) -> Result<(), UnixPathError> {
    let mut paths = sockets.names.iter().filter(|name| name.starts_with('/'));
    paths.try_for_each(|socket| check_path(socket, uid, gid))
}

/// Whether this user may write a folder. An access list is not read: where there is one that lets
/// anybody but the owner write, it counts as one that lets the agent.
fn may_write(folder: &Path, metadata: &fs::Metadata, uid: u32, gid: u32) -> bool {
    let has_list = || {
        let list = rustix::fs::getxattr(folder, "system.posix_acl_access", &mut [0_u8; 0][..]);
        list.is_ok_and(|size| size > 0)
    };
    let by_group = metadata.mode() & 0o020 != 0 && (metadata.gid() == gid || has_list());
    // A sticky folder does not help: where nothing is yet, anybody may be first.
    uid == 0 || metadata.uid() == uid || by_group || metadata.mode() & 0o002 != 0
}

fn check_path(socket: &str, uid: u32, gid: u32) -> Result<(), UnixPathError> {
    let path = Path::new(socket);
    let mut chain: Vec<&Path> = path.ancestors().collect();
    chain.reverse();
    for place in chain {
        let metadata = match fs::symlink_metadata(place) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(UnixPathError::Look {
                    socket: socket.to_owned(),
                    place: place.to_owned(),
                    source,
                });
            }
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            return Err(UnixPathError::Link {
                socket: socket.to_owned(),
                link: place.to_owned(),
            });
        }
        let is_last = place == path;
        let (fits, expected) = if is_last {
            (kind.is_socket(), "socket")
        } else {
            (kind.is_dir(), "folder")
        };
        if !fits {
            return Err(UnixPathError::Kind {
                socket: socket.to_owned(),
                place: place.to_owned(),
                expected,
            });
        }
        if !is_last && may_write(place, &metadata, uid, gid) {
            return Err(UnixPathError::Writable {
                socket: socket.to_owned(),
                folder: place.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> UnixSockets {
        UnixSockets {
            any: false,
            own: false,
            names: vec![name.to_owned()],
        }
    }

    #[test]
    fn only_what_the_agent_cannot_change_may_be_named() {
        let check_paths = |sockets: &UnixSockets| check_paths(sockets, 65_534, 65_534);
        assert!(check_paths(&named("@whatever")).is_ok());
        assert!(check_paths(&named("/nowhere-at-all/a.sock")).is_ok());
        let writable = check_paths(&named("/tmp/a.sock"));
        assert!(matches!(writable, Err(UnixPathError::Writable { .. })));
        let kind = check_paths(&named("/etc/passwd"));
        assert!(matches!(kind, Err(UnixPathError::Kind { .. })), "{kind:?}");
        let link = check_paths(&named("/proc/self/a.sock"));
        assert!(matches!(link, Err(UnixPathError::Link { .. })), "{link:?}");
    }

    #[test]
    fn owner_group_and_root_are_told() {
        let folder = tempfile::Builder::new()
            .prefix("names-")
            .tempdir_in("/var")
            .expect("a folder");
        let metadata = fs::metadata(folder.path()).expect("its metadata");
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let may = |mode: u32, uid, gid| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("a mode");
            let metadata = fs::metadata(folder.path()).expect("its metadata");
            may_write(folder.path(), &metadata, uid, gid)
        };
        assert!(!may(0o755, uid + 1, gid + 1));
        assert!(!may(0o775, uid + 1, gid + 1));
        assert!(may(0o775, uid + 1, gid));
        assert!(may(0o1777, uid + 1, gid + 1));
        assert!(may(0o700, uid, gid));
        assert!(may(0o700, 0, 0));
    }

    #[test]
    fn the_constants_say_whether_there_are_names() {
        let support = Support {
            hooks: true,
            offsets: Some((8, 32)),
        };
        let shut = config(&UnixSockets::default(), support);
        assert_eq!((shut.mode, shut.has_names), (UNIX_NAMED, 0));
        let one = config(&named("@a"), support);
        assert_eq!(one.has_names, 1);
        assert_eq!((one.address_offset, one.length_offset), (8, 32));
    }
}
