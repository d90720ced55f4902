//! What the agent is in: its life as a clone, and the parts that calls act on.
//!
//! ```text
//! booted ── Freeze ──► frozen ── Wake ──► awake ── Freeze ──► frozen
//!    └──────────────── Wake ──────────────►┘
//! ```
//! Execs and files are served in booted (a template is being prepared) and awake.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::rand::GetRandomFlags;

use crate::cgroup::Cgroups;
use crate::exec::Execs;
use crate::fault::{Code, Fault};
use crate::files::WriteRoots;
use crate::proto::{ExecStart, Hello, HelloReply};
use crate::service;
use crate::sync::{lock, wait, wait_while};

/// Generation of the wire this agent speaks.
const WIRE_VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Booted,
    Frozen,
    Awake,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Booted => "booted",
            Self::Frozen => "frozen",
            Self::Awake => "awake",
        }
    }
}

pub(crate) struct Life {
    pub(crate) phase: Phase,
    /// The sandbox's environment: here and in the processes it is given to, never on disk.
    pub(crate) env: BTreeMap<String, String>,
    /// What was set since, over that and the same way.
    pub(crate) ephemeral: BTreeMap<String, String>,
    /// How often a Wake replaced or cleared that.
    pub(crate) replaced: u64,
    /// A Wake brought certificates.
    pub(crate) trusts: bool,
    /// The execs that are being started, or refused.
    starting: Vec<Birthplace>,
}

/// Of an exec that is being started.
#[derive(Clone, PartialEq, Eq)]
struct Birthplace {
    id: String,
    given_secrets: bool,
}

pub(crate) struct Agent {
    /// The machine is ours: clock, names and entropy are set. False off PID 1, where they are someone else's.
    pub(crate) owns_machine: bool,
    /// Never held over anything that may take long, such as the start of a program: every call looks at it.
    pub(crate) life: Mutex<Life>,
    /// An exec has started, or has failed to.
    started: Condvar,
    /// Held by Freeze and Wake: one at a time.
    pub(crate) transition: Mutex<()>,
    pub(crate) execs: Arc<Execs>,
    /// None only off PID 1.
    pub(crate) cgroups: Option<Arc<Cgroups>>,
    pub(crate) roots: WriteRoots,
    /// Where programs listen for `Connect`.
    pub(crate) services: PathBuf,
    /// Size in bytes of the volume that is mounted.
    pub(crate) volume: Mutex<Option<u64>>,
    /// What the template gives every command.
    pub(crate) image_env: BTreeMap<String, String>,
    /// Held open, since a user may remove them or put anything in their place.
    pub(crate) null: OwnedFd,
    pub(crate) random: OwnedFd,
    pub(crate) proc: OwnedFd,
    /// The directory with the device that makes terminals.
    pub(crate) terminals: OwnedFd,
    /// A directory of the file system that takes the logs of commands.
    pub(crate) disk: OwnedFd,
    boot_id: [u8; 16],
}

impl Agent {
    /// # Errors
    /// A device is missing, or the kernel refused what the watching of execs needs.
    pub(crate) fn new(
        owns_machine: bool,
        cgroups: Option<Cgroups>,
        roots: WriteRoots,
        image_env: BTreeMap<String, String>,
        disk: &Path,
    ) -> std::io::Result<Self> {
        let mut boot_id = [0; 16];
        // Never waits for the pool to fill: this names a boot, it protects nothing.
        rustix::rand::getrandom(&mut boot_id, GetRandomFlags::INSECURE)?;
        let device = |path: &str| rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroups = cgroups.map(Arc::new);
        Ok(Self {
            owns_machine,
            life: Mutex::new(Life {
                phase: Phase::Booted,
                env: BTreeMap::new(),
                ephemeral: BTreeMap::new(),
                replaced: 0,
                trusts: false,
                starting: Vec::new(),
            }),
            started: Condvar::new(),
            transition: Mutex::new(()),
            execs: Arc::new(Execs::new(cgroups.clone())?),
            cgroups,
            roots,
            services: PathBuf::from(service::DIRECTORY),
            volume: Mutex::new(None),
            image_env,
            null: device("/dev/null")?,
            random: device("/dev/urandom")?,
            proc: rustix::fs::open("/proc", directory, Mode::empty())?,
            terminals: rustix::fs::open(if owns_machine { "/dev/pts" } else { "/dev" }, directory, Mode::empty())?,
            disk: rustix::fs::open(disk, directory, Mode::empty())?,
            boot_id,
        })
    }

    pub(crate) fn hello(&self, hello: Hello) -> Result<HelloReply, Fault> {
        if hello.wire_version == 0 {
            return Err(Fault::invalid("wire_version must be at least 1: 0"));
        }
        Ok(HelloReply {
            wire_version: hello.wire_version.min(WIRE_VERSION),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            state: lock(&self.life).phase.name().to_owned(),
            boot_id: self.boot_id.to_vec(),
        })
    }

    /// # Errors
    /// UNAVAILABLE while frozen.
    pub(crate) fn check_awake(&self) -> Result<(), Fault> {
        lock(&self.life).check_awake()
    }

    /// Begins the start of an exec. Freeze waits for its end.
    ///
    /// # Errors
    /// UNAVAILABLE while frozen.
    pub(crate) fn begin_start(self: &Arc<Self>, ask: &ExecStart) -> Result<Starting, Fault> {
        let mut life = lock(&self.life);
        life.check_awake()?;
        let place = Birthplace { id: ask.exec_id.clone(), given_secrets: !ask.secrets.is_empty() };
        life.starting.push(place.clone());
        Ok(Starting { agent: self.clone(), place })
    }

    /// Waits until no exec of that id is being started, which `Birth` bounds.
    pub(crate) fn await_start(&self, id: &str) {
        let mut life = lock(&self.life);
        while life.starting.iter().any(|starting| starting.id == id) {
            life = wait(&self.started, life);
        }
    }

    /// An exec that is given secrets is being started, or refused.
    pub(crate) fn starts_with_secrets(&self) -> bool {
        lock(&self.life).starting.iter().any(|starting| starting.given_secrets)
    }

    /// Lets no exec start any more, and waits for those that are being started, at most for *bound*: one that waits for
    /// something that does not come (an answer of a FUSE server) goes on with its start when all go on. Returns the phase
    /// before.
    pub(crate) fn stop_starts(&self, bound: Duration) -> Phase {
        let mut life = lock(&self.life);
        let before = std::mem::replace(&mut life.phase, Phase::Frozen);
        drop(wait_while(&self.started, life, bound, |life| !life.starting.is_empty()));
        before
    }
}

/// The start of an exec that is under way.
pub(crate) struct Starting {
    agent: Arc<Agent>,
    place: Birthplace,
}

impl Drop for Starting {
    fn drop(&mut self) {
        let starting = &mut lock(&self.agent.life).starting;
        if let Some(index) = starting.iter().position(|starting| *starting == self.place) {
            starting.swap_remove(index);
        }
        self.agent.started.notify_all();
    }
}

impl Life {
    /// # Errors
    /// UNAVAILABLE while frozen.
    pub(crate) fn check_awake(&self) -> Result<(), Fault> {
        if self.phase == Phase::Frozen {
            return Err(Fault::new(Code::Unavailable, "the guest is frozen: Wake comes first"));
        }
        Ok(())
    }
}
