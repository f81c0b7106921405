//! The boundary around one agent: programs loaded, attached and pinned, or not at all.

use std::{fs, io, os::fd::AsRawFd, sync::Arc};

use aya::{
    Ebpf, EbpfError,
    maps::{MapData, MapError, SkStorage},
    programs::{
        ProgramError,
        links::{LinkError, PinnedLink},
    },
};
use gateway_common::{LISTENER_MARK, process::KernelLayout};

use super::{
    abi::Wire,
    attach,
    bpffs::{BpffsError, Pins},
    cgroup::{Cgroup, CgroupError},
    held::KernelHeld,
    layout,
    leavers::Watch,
    object,
    processes::{Names, Processes},
    spec::AgentSpec,
};

/// The programs on an agent's cgroup. Without any one of them the agent does not start.
pub const AGENT_PROGRAMS: [&str; 13] = [
    "sock_create",
    "setsockopt",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "egress",
    "ingress",
    "agent_ops",
];

/// The programs that keep account of the agent's processes and let none of them leave. They are
/// attached together or not at all, and need the kernel's type information.
pub const PROCESS_PROGRAMS: [&str; 4] = [
    "process_exec",
    "process_fork",
    "process_exit",
    "process_move",
];

/// The program on the gateway's cgroup.
pub const GATEWAY_PROGRAM: &str = "gateway_ops";

/// Why the boundary could not be raised.
#[derive(Debug, thiserror::Error)]
pub enum BoundaryError {
    /// The object was refused.
    #[error("loading the BPF object")]
    Load {
        /// What the kernel or aya said.
        #[source]
        source: Box<EbpfError>,
    },
    /// A program was refused.
    #[error("{action} program {program}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// The program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel gave no link for a program that aya has no link for.
    #[error("attaching program {program}")]
    Attach {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A link was pinned and cannot be opened again.
    #[error("opening the pinned link of {program}")]
    Reopen {
        /// The program.
        program: &'static str,
        /// What aya said.
        #[source]
        source: LinkError,
    },
    /// The object lacks a program or map of this name.
    #[error("the BPF object has no {0} of the expected kind; was it built from these sources?")]
    Missing(&'static str),
    /// The kernel gave no link, which alone outlives this process.
    #[error("program {program} was not attached by a link")]
    NoLink {
        /// The program.
        program: &'static str,
        /// What aya said.
        #[source]
        source: LinkError,
    },
    /// A link could not be pinned.
    #[error("pinning the link of {program}")]
    Pin {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: aya::pin::PinError,
    },
    /// A map could not be used.
    #[error("map {map}")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
    /// A cgroup could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Pins could not be had.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A ring cannot be polled.
    #[error("polling a ring of the kernel half")]
    Poll(#[source] io::Error),
}

/// The raised boundary. While it, or its pins, are there, the agent is shut in.
#[derive(Debug)]
pub struct Boundary {
    ebpf: Ebpf,
    links: Vec<PinnedLink>,
    pins: Pins,
    held: KernelHeld,
    processes: Option<Arc<Processes>>,
    watch: Option<Watch>,
}

impl Boundary {
    /// Loads, attaches and pins every program. On an error nothing stays attached.
    ///
    /// # Errors
    /// [`BoundaryError`] names the program or map and what the kernel said.
    pub fn raise(
        spec: &AgentSpec,
        agent: &Cgroup,
        gateway: &Cgroup,
        pins: Pins,
    ) -> Result<Self, BoundaryError> {
        let layout = layout::of_kernel(agent.level()?).unwrap_or_else(|error| {
            tracing::warn!(%error, "nobody keeps account of the agent's processes");
            KernelLayout::UNKNOWN
        });
        let ebpf = object::load(spec.config, &spec.loopback, layout)?;
        let mut boundary = Self {
            ebpf,
            links: Vec::new(),
            pins,
            held: KernelHeld::default(),
            processes: None,
            watch: None,
        };
        match boundary.attach_all(agent, gateway, layout) {
            Ok(()) => Ok(boundary),
            Err(error) => {
                // The first error is the one to tell; what could not be removed, the next run
                // sweeps.
                if let Err(second) = boundary.lower() {
                    tracing::warn!(%second, "removing a half-raised boundary");
                }
                Err(error)
            }
        }
    }

    fn attach_all(
        &mut self,
        agent: &Cgroup,
        gateway: &Cgroup,
        layout: KernelLayout,
    ) -> Result<(), BoundaryError> {
        let gateway = gateway.open()?;
        self.attach(GATEWAY_PROGRAM, &gateway)?;
        let folder = agent.open()?;
        AGENT_PROGRAMS
            .iter()
            .try_for_each(|program| self.attach(program, &folder))?;
        if layout.present == 1 {
            self.attach_processes(agent, &folder);
        }
        Ok(())
    }

    /// Attaches what keeps account of processes. Without it the boundary is lower, not down.
    fn attach_processes(&mut self, agent: &Cgroup, folder: &fs::File) {
        let before = self.links.len();
        let attached = PROCESS_PROGRAMS
            .iter()
            .try_for_each(|program| self.attach(program, folder))
            .and_then(|()| {
                let processes = Processes::new(self.take_map("PROCESSES")?)?;
                self.watch = Some(Watch::start(self, Arc::clone(&processes), agent.path())?);
                self.processes = Some(processes);
                Ok(())
            });
        match attached {
            Ok(()) => self.held.leavers = true,
            Err(error) => {
                // Some of them without the others would tell what is not so.
                for link in self.links.drain(before..) {
                    drop(link.unpin());
                }
                let error = anyhow::Error::from(error);
                tracing::warn!("processes that leave are not killed: {error:#}");
            }
        }
    }

    /// Verifies one program, attaches it by a link, and pins the link.
    fn attach(&mut self, name: &'static str, cgroup: &fs::File) -> Result<(), BoundaryError> {
        let program = self
            .ebpf
            .program_mut(name)
            .ok_or(BoundaryError::Missing(name))?;
        let link = attach::attach(name, program, cgroup)?;
        self.links.push(link.pin(name, &self.pins.link(name))?);
        Ok(())
    }

    /// Marks a socket as the gateway's. Only a marked socket is a way out.
    ///
    /// # Errors
    /// If the kernel refuses the mark.
    pub fn mark_listener(&mut self, socket: &impl AsRawFd) -> Result<(), BoundaryError> {
        const MAP: &str = "LISTENERS";
        let map = self.ebpf.map_mut(MAP).ok_or(BoundaryError::Missing(MAP))?;
        let mut storage = SkStorage::<_, u32>::try_from(map).map_err(map_error(MAP))?;
        storage
            .insert(socket, LISTENER_MARK, 0)
            .map_err(map_error(MAP))
    }

    /// Takes a map out of the object, to give it to the task that reads it.
    pub(super) fn take_map<M>(&mut self, name: &'static str) -> Result<M, BoundaryError>
    where
        M: TryFrom<aya::maps::Map, Error = MapError>,
    {
        let map = self
            .ebpf
            .take_map(name)
            .ok_or(BoundaryError::Missing(name))?;
        M::try_from(map).map_err(map_error(name))
    }

    /// The object, for the log reader.
    pub(super) const fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// What is attached beside the programs without which there is no boundary.
    #[must_use]
    pub const fn held(&self) -> KernelHeld {
        self.held
    }

    /// Takes back that leavers are killed: one was seen to live.
    pub const fn leavers_live(&mut self) {
        self.held.leavers = false;
    }

    /// What names the agent's tasks; `cgroup` is the path of its cgroup within the hierarchy.
    pub(super) fn names(&self, cgroup: String) -> Names {
        Names::new(self.processes.clone(), cgroup)
    }

    /// Takes the boundary down: the agent must be gone by now.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn lower(self) -> Result<(), BoundaryError> {
        let Self {
            ebpf,
            links,
            pins,
            watch,
            ..
        } = self;
        pins.remove()?;
        drop(watch);
        drop(links);
        drop(ebpf);
        Ok(())
    }
}

/// How a map's error is told.
pub(super) fn map_error(map: &'static str) -> impl FnOnce(MapError) -> BoundaryError {
    move |source| BoundaryError::Map {
        map,
        source: Box::new(source),
    }
}

/// A map owned by this process.
pub(super) type Storage<V> = SkStorage<MapData, Wire<V>>;
