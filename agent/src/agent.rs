//! What the agent is in: its life as a clone, and the parts that calls act on.
//!
//! ```text
//! booted ── Freeze ──► frozen ── Wake ──► awake ── Freeze ──► frozen
//!    └──────────────── Wake ──────────────►┘
//! ```
//! Execs and files are served in booted (a template is being prepared) and awake.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rustix::rand::GetRandomFlags;

use crate::cgroup::Cgroups;
use crate::exec::Execs;
use crate::fault::{Code, Fault};
use crate::files::WriteRoots;
use crate::proto::{Hello, HelloReply};
use crate::sync::lock;

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
}

pub(crate) struct Agent {
    /// The machine is ours: clock, names and entropy are set. False off PID 1, where they are someone else's.
    pub(crate) owns_machine: bool,
    /// Held while an exec is spawned, so that none slips into a cgroup that is being frozen.
    pub(crate) life: Mutex<Life>,
    /// Held by Freeze and Wake: one at a time.
    pub(crate) transition: Mutex<()>,
    pub(crate) execs: Arc<Execs>,
    /// None only off PID 1.
    pub(crate) cgroups: Option<Arc<Cgroups>>,
    pub(crate) roots: WriteRoots,
    /// What the template gives every command.
    pub(crate) image_env: BTreeMap<String, String>,
    boot_id: [u8; 16],
}

impl Agent {
    /// # Errors
    /// The kernel refused what the watching of execs needs.
    pub(crate) fn new(
        owns_machine: bool,
        cgroups: Option<Cgroups>,
        roots: WriteRoots,
        image_env: BTreeMap<String, String>,
    ) -> std::io::Result<Self> {
        let mut boot_id = [0; 16];
        // Never waits for the pool to fill: this names a boot, it protects nothing.
        rustix::rand::getrandom(&mut boot_id, GetRandomFlags::INSECURE)?;
        let cgroups = cgroups.map(Arc::new);
        Ok(Self {
            owns_machine,
            life: Mutex::new(Life { phase: Phase::Booted, env: BTreeMap::new() }),
            transition: Mutex::new(()),
            execs: Arc::new(Execs::new(cgroups.clone())?),
            cgroups,
            roots,
            image_env,
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
}

impl Life {
    pub(crate) fn check_awake(&self) -> Result<(), Fault> {
        if self.phase == Phase::Frozen {
            return Err(Fault::new(Code::Unavailable, "the guest is frozen: Wake comes first"));
        }
        Ok(())
    }
}
