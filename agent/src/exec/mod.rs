//! Execs: commands the host started. Each lives independently of the calls that look at it.
//!
//! ```text
//! Running ── main process reaped ──► Draining ── pipes closed, or 500 ms ──► Exited ── 60 s ──► forgotten
//! ```
//! `Execs` is the table, `Exec` one command; `watch` is the thread that moves pipes and time, `serve` the calls,
//! `spawn` and `command` the start, `ring` the output, `tree` killing where there is no cgroup.
//!
//! Locks are taken in the order life, table, exec, call.

pub(crate) mod command;
pub(crate) mod one;
pub(crate) mod ring;
pub(crate) mod serve;
pub(crate) mod spawn;
pub(crate) mod tree;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::cgroup::Cgroups;
use crate::exec::one::Exec;
use crate::exec::ring::Budget;
use crate::exec::watch::Poller;
use crate::fault::{Code, Fault};
use crate::sync::lock;

/// Execs that run at once.
const MAX_RUNNING: usize = 512;
/// Exited execs that stay attachable (agent.proto).
const MAX_EXITED: usize = 64;

#[derive(Default)]
struct Table {
    by_key: BTreeMap<u64, Arc<Exec>>,
    by_id: BTreeMap<String, u64>,
    /// Main processes not yet reaped.
    by_pid: BTreeMap<i32, u64>,
    next_key: u64,
}

pub(crate) struct Execs {
    table: Mutex<Table>,
    poller: Arc<Poller>,
    budget: Budget,
    cgroups: Option<Arc<Cgroups>>,
}

impl Execs {
    pub(crate) fn new(cgroups: Option<Arc<Cgroups>>) -> std::io::Result<Self> {
        Ok(Self { table: Mutex::default(), poller: Arc::new(Poller::new()?), budget: Budget::default(), cgroups })
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Exec>, Fault> {
        let table = lock(&self.table);
        let key = table.by_id.get(id).and_then(|key| table.by_key.get(key));
        key.cloned().ok_or_else(|| Fault::new(Code::NotFound, format!("no such exec: {id}")))
    }

    fn by_key(&self, key: u64) -> Option<Arc<Exec>> {
        lock(&self.table).by_key.get(&key).cloned()
    }

    pub(crate) fn count_running(&self) -> usize {
        lock(&self.table).by_pid.len()
    }

    /// Starts a process with *start* and records it. The table is locked meanwhile, so that a process that
    /// ends at once is not reaped before its pid is known.
    pub(crate) fn add(&self, id: &str, start: impl FnOnce(u64) -> Result<Exec, Fault>) -> Result<Arc<Exec>, Fault> {
        let mut table = lock(&self.table);
        if table.by_id.contains_key(id) {
            return Err(Fault::new(Code::Exists, format!("an exec of this id exists: {id}")));
        }
        if table.by_pid.len() >= MAX_RUNNING {
            return Err(Fault::exhausted(format!("too many commands at once: {MAX_RUNNING}")));
        }
        let key = table.next_key;
        table.next_key += 1;
        let exec = Arc::new(start(key)?);
        table.by_id.insert(id.to_owned(), key);
        table.by_pid.insert(exec.pid(), key);
        table.by_key.insert(key, exec.clone());
        drop(table);
        exec.watch_output();
        if exec.has_timeout() {
            self.poller.ring();
        }
        Ok(exec)
    }

    /// A child was reaped: an exec's main process, or an orphan nobody asks about.
    fn reaped(&self, pid: i32, status: rustix::process::WaitStatus) {
        let exec = {
            let mut table = lock(&self.table);
            let key = table.by_pid.remove(&pid);
            key.and_then(|key| table.by_key.get(&key).cloned())
        };
        if let Some(exec) = exec {
            exec.main_ended(status);
        }
    }

    /// Does what is due at *now*. Returns the next instant at which something will be.
    fn tend(&self, now: Instant) -> Option<Instant> {
        let execs: Vec<_> = lock(&self.table).by_key.values().cloned().collect();
        let next = execs.iter().filter_map(|exec| exec.tend(now, self.cgroups.as_deref())).min();
        let mut exited: Vec<_> = execs.iter().filter_map(|exec| Some((exec.settled_at()?, exec))).collect();
        exited.sort_by_key(|(at, _)| *at);
        let surplus = exited.len().saturating_sub(MAX_EXITED);
        for (index, (at, exec)) in exited.into_iter().enumerate() {
            if index < surplus || now.saturating_duration_since(at) >= one::ATTACHABLE_FOR {
                let mut table = lock(&self.table);
                table.by_key.remove(&exec.key());
                table.by_id.remove(exec.id());
            }
        }
        next
    }
}
