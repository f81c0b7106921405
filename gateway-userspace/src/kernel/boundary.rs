//! The boundary around one agent: programs loaded, attached and pinned, or not at all.

use std::{fs, io, os::fd::AsRawFd, sync::Arc};

use aya::{
    Btf, Ebpf, EbpfError,
    maps::{Array, HashMap, MapData, MapError, SkStorage},
    programs::{
        Program, ProgramError,
        links::{LinkError, PinnedLink},
    },
};
use gateway_common::{LISTENER_MARK, process::KernelLayout};

use super::{
    abi::Wire,
    attach::{self, Place},
    bpffs::{BpffsError, Pins},
    cgroup::{Cgroup, CgroupError},
    devices,
    held::KernelHeld,
    layout,
    leavers::Watch,
    lsm::{self, LSM_PROGRAMS},
    object,
    processes::{Members, Names, Processes},
    spec::{AgentSpec, Tells},
    tenure::Tenure,
    unix,
};

/// The programs on an agent's cgroup. Without any one of them the agent does not start.
pub const AGENT_PROGRAMS: [&str; 16] = [
    "sock_create",
    "bind4",
    "bind6",
    "device",
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

/// Programs on an agent's cgroup that older kernels lack: unix sockets stay open there, and the
/// boundary says so in [`Boundary::held`].
pub const OPTIONAL_PROGRAMS: [&str; 2] = ["unix_connect", "unix_sendmsg"];

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
    /// A program that aya has no type for could not be linked.
    #[error("linking program {program}")]
    Link {
        /// The program.
        program: &'static str,
        /// What did not fit.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refused the code of a program that aya has no type for.
    #[error("verifying program {program}")]
    Verify {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody else's program is on the hook and suffers no other beside it.
    #[error(
        "attaching program {program}: BPF program {id} of somebody else is on the same hook of \
         this cgroup, or of one above it, and suffers no other beside it; find out whose it is \
         with `bpftool cgroup tree`, and have it attached with BPF_F_ALLOW_MULTI"
    )]
    InTheWay {
        /// Ours.
        program: &'static str,
        /// The id of the other.
        id: u32,
    },
    /// Policy names unix sockets, and the kernel shows no names.
    #[error(
        "policy names the unix socket {0}, and this kernel does not let a program read names \
         (it takes the kernel's type information, and no lockdown for confidentiality); write \
         `unix = []` or `unix = [\"any\"]`"
    )]
    UnixNames(String),
    /// Policy allows the agent's own unix sockets, and nothing tells them from others.
    #[error(
        "policy says `unix = [\"self\"]`, and nothing here tells the agent's own unix sockets from \
         others: that takes `bpf` among the active security modules; name the sockets instead"
    )]
    UnixOwn,
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
    /// What was just attached cannot be asked after.
    #[error("asking which program is attached")]
    Tenure(#[source] io::Error),
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
    /// Policy allows the agent's own unix sockets, which only the LSM programs can tell.
    unix_own: bool,
    unix_by_lsm: bool,
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
        Self::replace(spec, agent, gateway, pins, None, false)
    }

    /// The same, in place of a boundary whose pins are `before`: program by program, each
    /// exchanged at once, and never without one. The pins move over. On an error what was there
    /// before stays, whether exchanged by then or not.
    ///
    /// `inherits` says that the gateway's sockets move over too. They stay of the cgroup that they
    /// were made in, so the program on that one is exchanged as well, and who is on the line
    /// remains known.
    ///
    /// # Errors
    /// As [`Self::raise`].
    pub fn replace(
        spec: &AgentSpec,
        agent: &Cgroup,
        gateway: &Cgroup,
        pins: Pins,
        before: Option<&Pins>,
        inherits: bool,
    ) -> Result<Self, BoundaryError> {
        let support = unix::support();
        tells_apart(&spec.tells, support)?;
        let unix_by_lsm = spec.tells.unix_own || !support.hooks;
        let layout = layout::of_kernel(agent.level()?, unix_by_lsm).unwrap_or_else(|error| {
            tracing::warn!(%error, "nobody keeps account of the agent's processes");
            KernelLayout::UNKNOWN
        });
        if let Some(before) = before.filter(|_| inherits) {
            pins.share(before, &object::SHARED_MAPS)?;
        }
        let mut ebpf = object::load(spec, layout, Some(&pins))?;
        unix::fill(&mut ebpf, &spec.tells.unix_names)?;
        devices::fill(&mut ebpf, &spec.devices)?;
        let mut boundary = Self {
            ebpf,
            links: Vec::new(),
            pins,
            held: KernelHeld::default(),
            processes: None,
            watch: None,
            unix_own: false,
            unix_by_lsm: false,
        };
        let attached = boundary.attach_all(agent, gateway, before, inherits, support);
        if attached.is_ok() && layout.present == 1 {
            boundary.attach_processes(agent);
            boundary.attach_lsm(agent, before);
        }
        boundary.unix_own = spec.tells.unix_own;
        boundary.unix_by_lsm = unix_by_lsm;
        let attached = attached.and_then(|()| boundary.check_own());
        match attached {
            Ok(()) => Ok(boundary),
            // Whatever holds is better than nothing: the agent may be there already.
            Err(error) if before.is_some() => Err(error),
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
        before: Option<&Pins>,
        inherits: bool,
        support: unix::Support,
    ) -> Result<(), BoundaryError> {
        // Exchanging them takes no time then, and what is refused is so before any is exchanged.
        for name in [GATEWAY_PROGRAM].iter().chain(&AGENT_PROGRAMS) {
            attach::verify(name, self.program(name)?)?;
        }
        let opened = gateway.open()?;
        let theirs = before.filter(|_| inherits);
        let id = match theirs {
            Some(before) => before
                .cgroup_of(GATEWAY_PROGRAM)
                .ok_or(BoundaryError::Missing(GATEWAY_PROGRAM))?,
            None => gateway.id()?,
        };
        self.attach(GATEWAY_PROGRAM, &opened, id, theirs)?;
        let (opened, id) = (agent.open()?, agent.id()?);
        AGENT_PROGRAMS
            .iter()
            .try_for_each(|program| self.attach(program, &opened, id, before))?;
        if support.hooks {
            self.attach_unix(&opened, id, before)?;
            self.held.unix = true;
            self.held.unix_paths = support.offsets.is_some();
        }
        Ok(())
    }

    /// Attaches the LSM programs where they can hold. Without them the boundary is lower, not
    /// down.
    fn attach_lsm(&mut self, agent: &Cgroup, before: Option<&Pins>) {
        if !lsm::may_hold() {
            return;
        }
        let links = self.links.len();
        match self.try_lsm(agent, before) {
            Ok(()) => self.held.lsm = true,
            Err(error) => {
                self.unlink(links);
                let error = anyhow::Error::from(error);
                tracing::info!("no LSM programs: {error:#}");
            }
        }
    }

    fn try_lsm(&mut self, agent: &Cgroup, before: Option<&Pins>) -> Result<(), BoundaryError> {
        let types = Btf::from_sys_fs().map_err(|source| BoundaryError::Load {
            source: Box::new(EbpfError::BtfError(source)),
        })?;
        let (cgroup, id) = (agent.open()?, agent.id()?);
        for name in LSM_PROGRAMS {
            let before = before.map(|pins| pins.link(name));
            let place = Place {
                cgroup: &cgroup,
                id,
                before: before.as_deref(),
            };
            let link = lsm::attach(name, &mut self.ebpf, &types, place)?;
            let pin = self.pins.link(name);
            self.links.push(link.pin(name, &pin, place.before)?);
        }
        Ok(())
    }

    /// Takes back links: some of a set without the others would tell what is not so.
    fn unlink(&mut self, from: usize) {
        for link in self.links.drain(from..) {
            if let Err(error) = link.unpin() {
                tracing::warn!(%error, "removing a pin");
            }
        }
    }

    /// Policy may rest on the LSM programs alone.
    const fn check_own(&self) -> Result<(), BoundaryError> {
        if self.unix_own && !self.held.lsm {
            return Err(BoundaryError::UnixOwn);
        }
        Ok(())
    }

    /// Whether the LSM programs were seen to refuse, which alone shows that they do anything.
    ///
    /// # Errors
    /// If they were not, and policy rests on them.
    pub fn lsm_seen(&mut self, refuses: bool) -> Result<(), BoundaryError> {
        self.held.lsm &= refuses;
        // Where the kernel has no hooks on unix sockets, they stand in.
        self.held.unix |= self.held.lsm && self.unix_by_lsm;
        self.check_own()
    }

    /// From here on nothing is mounted and unmounted inside: the launcher is done.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn arm(&mut self) -> Result<(), BoundaryError> {
        const MAP: &str = "ARMED";
        let map = self.ebpf.map_mut(MAP).ok_or(BoundaryError::Missing(MAP))?;
        let mut armed = Array::<_, u32>::try_from(map).map_err(map_error(MAP))?;
        armed.set(0, 1, 0).map_err(map_error(MAP))
    }

    /// Attaches what keeps account of processes. Without it the boundary is lower, not down.
    fn attach_processes(&mut self, agent: &Cgroup) {
        let before = self.links.len();
        match self.try_processes(agent) {
            Ok(()) => self.held.leavers = true,
            Err(error) => {
                self.unlink(before);
                let error = anyhow::Error::from(error);
                tracing::warn!("processes that leave are not killed: {error:#}");
            }
        }
    }

    fn try_processes(&mut self, agent: &Cgroup) -> Result<(), BoundaryError> {
        for name in PROCESS_PROGRAMS {
            let pin = self.pins.link(name);
            let link = attach::trace(name, self.program(name)?, &pin)?;
            self.links.push(link);
        }
        let processes = Processes::new(self.take_map("PROCESSES")?)?;
        let mut members: Members = self.take_map("MEMBERS")?;
        // From here on the programs see every process that comes; these were there before.
        processes.adopt(agent, &mut members)?;
        let orders = self.take_map("LEAVERS")?;
        let watch = Watch::start(orders, members, Arc::clone(&processes), agent.path())?;
        self.watch = Some(watch);
        self.processes = Some(processes);
        Ok(())
    }

    /// Attaches the programs on unix sockets, which aya cannot.
    fn attach_unix(
        &mut self,
        cgroup: &fs::File,
        id: u64,
        before: Option<&Pins>,
    ) -> Result<(), BoundaryError> {
        for (name, attach_type) in unix::PROGRAMS {
            let before = before.map(|pins| pins.link(name));
            let place = Place {
                cgroup,
                id,
                before: before.as_deref(),
            };
            let link = unix::attach(name, attach_type, object::OBJECT, &self.ebpf, place)?;
            let pin = self.pins.link(name);
            self.links.push(link.pin(name, &pin, place.before)?);
        }
        Ok(())
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, BoundaryError> {
        self.ebpf
            .program_mut(name)
            .ok_or(BoundaryError::Missing(name))
    }

    /// Attaches one program by a link, and pins the link.
    fn attach(
        &mut self,
        name: &'static str,
        cgroup: &fs::File,
        id: u64,
        before: Option<&Pins>,
    ) -> Result<(), BoundaryError> {
        let before = before.map(|pins| pins.link(name));
        let place = Place {
            cgroup,
            id,
            before: before.as_deref(),
        };
        let link = attach::attach(name, self.program(name)?, place)?;
        let pin = self.pins.link(name);
        self.links.push(link.pin(name, &pin, place.before)?);
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

    /// Says that the gateway listens in these network namespaces, given by their cookies.
    ///
    /// # Errors
    /// If there are more than [`gateway_common::NAMESPACES_MAX`].
    pub fn serve_namespaces(
        &mut self,
        cookies: impl IntoIterator<Item = u64>,
    ) -> Result<(), BoundaryError> {
        const MAP: &str = "NAMESPACES";
        let map = self.ebpf.map_mut(MAP).ok_or(BoundaryError::Missing(MAP))?;
        let mut served = HashMap::<_, u64, u32>::try_from(map).map_err(map_error(MAP))?;
        cookies
            .into_iter()
            .try_for_each(|cookie| served.insert(cookie, 1, 0))
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

    /// Tells whether the programs are still those of this boundary.
    pub(super) fn tenure(&self) -> Result<Tenure, BoundaryError> {
        Tenure::begin(&self.pins).map_err(BoundaryError::Tenure)
    }

    /// Its pins.
    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
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

/// Checks that this kernel can tell apart what policy tells apart. Without the hooks everything
/// on unix sockets is open, and what policy names with it.
fn tells_apart(tells: &Tells, support: unix::Support) -> Result<(), BoundaryError> {
    match tells.unix_names.first() {
        Some(name) if support.hooks && support.offsets.is_none() => {
            Err(BoundaryError::UnixNames(name.clone()))
        }
        Some(_) | None => Ok(()),
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
