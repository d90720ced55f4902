//! Execs: commands the host started. Each lives independently of the calls that look at it.
//!
//! ```text
//! Running ── main process reaped ──► Draining ── pipes closed, or 500 ms ──► Exited ── 60 s ──► forgotten
//! ```
//! `Execs` is the table, `Exec` one command; `watch` is the thread that moves pipes and time and the one that writes
//! logs, `serve`, `logged` and `typing` the calls, `birth`, `streams`, `spawn` and `command` the start, `input` stdin, `output` what
//! comes of a command, in a `ring` or a `log`, `terminal` pseudo-terminals, `tree` killing where there is no cgroup.
//!
//! What is listed stays when it has exited, until 256 others are there.
//!
//! Locks are taken in the order life, table, exec, call.

pub(crate) mod birth;
pub(crate) mod command;
pub(crate) mod input;
pub(crate) mod log;
pub(crate) mod logged;
pub(crate) mod one;
pub(crate) mod output;
pub(crate) mod ring;
pub(crate) mod serve;
pub(crate) mod spawn;
pub(crate) mod streams;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod typing;
pub(crate) mod watch;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cgroup::Cgroups;
use crate::exec::birth::Birth;
use crate::exec::one::Exec;
use crate::exec::output::Output;
use crate::exec::ring::Budget;
use crate::exec::watch::{Ending, Poller};
use crate::fault::{Code, Fault};
use crate::proto::ExecEntry;
use crate::sync::lock;

/// Execs that run at once.
const MAX_RUNNING: usize = 512;
/// Exited execs that stay attachable (agent.proto).
const MAX_EXITED: usize = 64;
/// Background commands and terminals, running ones included (agent.proto).
const MAX_LISTED: usize = 256;
/// How long until it is looked again whether secrets were given up.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Logs of exited commands together (agent.proto).
const MAX_LOGS_BYTES: u64 = 512 << 20;

#[derive(Default)]
struct Table {
    by_key: BTreeMap<u64, Arc<Exec>>,
    /// Those that are being started have theirs already.
    by_id: BTreeMap<String, u64>,
    births: BTreeMap<u64, Arc<Birth>>,
    /// Main processes not yet reaped.
    by_pid: BTreeMap<i32, u64>,
    next_key: u64,
}

pub(crate) struct Execs {
    table: Mutex<Table>,
    /// Between a Freeze that went well and Wake: nothing of an exec is sent, and no time runs out for who comes back.
    frozen: AtomicBool,
    poller: Arc<Poller>,
    /// Of output that goes to logs: a disk may be slow.
    log_poller: Arc<Poller>,
    /// Forgotten ones, whose files the thread that writes logs gives back.
    gone: Mutex<Vec<Arc<Exec>>>,
    budget: Budget,
    cgroups: Option<Arc<Cgroups>>,
}

impl Execs {
    pub(crate) fn new(cgroups: Option<Arc<Cgroups>>) -> std::io::Result<Self> {
        Ok(Self {
            table: Mutex::default(),
            frozen: AtomicBool::new(false),
            poller: Arc::new(Poller::new()?),
            log_poller: Arc::new(Poller::new()?),
            gone: Mutex::default(),
            budget: Budget::default(),
            cgroups,
        })
    }

    fn poller_for(&self, output: &Output) -> Arc<Poller> {
        match output {
            Output::Ring(_) => self.poller.clone(),
            Output::Log(_) => self.log_poller.clone(),
        }
    }

    pub(crate) fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// Background commands and terminals, oldest first.
    pub(crate) fn listed(&self) -> Vec<ExecEntry> {
        let execs: Vec<_> = lock(&self.table).by_key.values().cloned().collect();
        execs.iter().filter_map(|exec| exec.entry()).collect()
    }

    /// A command that was given secrets runs, or something that it left behind.
    pub(crate) fn hold_secrets(&self) -> bool {
        let execs: Vec<_> = lock(&self.table).by_key.values().cloned().collect();
        // In this order: a cgroup goes from its command to the others.
        execs.iter().any(|exec| exec.holds_secrets())
            || self.cgroups.as_ref().is_some_and(|groups| groups.hold_secrets())
    }

    /// Waits while all that holds secrets is on its way out, at most for `GOING`: not for what runs.
    pub(crate) fn await_secrets_given_up(&self) {
        let deadline = Instant::now() + one::GOING;
        while self.hold_secrets() && self.give_up_secrets() && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn give_up_secrets(&self) -> bool {
        let execs: Vec<_> = lock(&self.table).by_key.values().cloned().collect();
        let now = Instant::now();
        let (going, others): (Vec<_>, Vec<_>) = execs.iter().partition(|exec| exec.gives_up_secrets(now));
        !going.is_empty() && !others.iter().any(|exec| exec.holds_secrets())
    }

    pub(crate) fn frozen(&self) -> &AtomicBool {
        &self.frozen
    }

    /// Stops sending. What others send after this returns comes behind all output.
    pub(crate) fn freeze(&self) {
        // Locked, so that `tend` thaws nothing behind this.
        let execs: Vec<_> = {
            let table = lock(&self.table);
            self.frozen.store(true, Ordering::SeqCst);
            table.by_key.values().cloned().collect()
        };
        // Who waits to type does not wait for what cannot come.
        for exec in execs {
            exec.poke_typists();
        }
    }

    /// The guest goes on: places that are kept are kept from now, and readers get what was held up.
    pub(crate) fn wake(&self) {
        let execs: Vec<_> = lock(&self.table).by_key.values().cloned().collect();
        let now = Instant::now();
        for exec in &execs {
            exec.renew(now);
        }
        self.frozen.store(false, Ordering::SeqCst);
        for exec in &execs {
            exec.poke();
        }
        self.poller.ring();
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Exec>, Fault> {
        let table = lock(&self.table);
        let key = table.by_id.get(id).and_then(|key| table.by_key.get(key));
        key.cloned().ok_or_else(|| Fault::new(Code::NotFound, format!("no such exec: {id}")))
    }

    /// Signals an exec; one that is being started gets it when it has started.
    pub(crate) fn signal(&self, id: &str, signal: i32) -> Result<(), Fault> {
        {
            let table = lock(&self.table);
            if let Some(birth) = table.by_id.get(id).and_then(|key| table.births.get(key)) {
                birth.signal(signal);
                self.poller.ring();
                return Ok(());
            }
        }
        self.find(id)?.signal(signal)
    }

    fn by_key(&self, key: u64) -> Option<Arc<Exec>> {
        lock(&self.table).by_key.get(&key).cloned()
    }

    pub(crate) fn count_running(&self) -> usize {
        let table = lock(&self.table);
        table.by_pid.len() + table.births.len()
    }

    /// Starts a process with *start* and records it, perhaps to be `listed`. The table is open meanwhile: the kernel may take long over a program.
    pub(crate) fn add(
        &self,
        id: &str,
        timeout: Option<Duration>,
        listed: bool,
        start: impl FnOnce(u64, &Birth) -> Result<Exec, Fault>,
    ) -> Result<Arc<Exec>, Fault> {
        let birth = Arc::new(Birth::new(timeout, listed));
        let key = self.reserve(id, &birth)?;
        // For the birth, and for the deadline of what is born.
        self.poller.ring();
        let outcome = start(key, &birth);
        let mut table = lock(&self.table);
        table.births.remove(&key);
        let exec = match outcome {
            Ok(exec) => Arc::new(exec),
            Err(fault) => {
                table.by_id.remove(id);
                return Err(fault);
            }
        };
        table.by_key.insert(key, exec.clone());
        let ending = birth.ending();
        if ending.is_none() {
            table.by_pid.insert(exec.pid(), key);
        }
        drop(table);
        exec.watch_output();
        if let Some(ending) = ending {
            exec.main_ended(ending);
        }
        for signal in birth.take_signals() {
            let _ = exec.signal(signal);
        }
        if ending.is_some() || exec.is_late() {
            self.poller.ring();
        }
        Ok(exec)
    }

    fn reserve(&self, id: &str, birth: &Arc<Birth>) -> Result<u64, Fault> {
        let mut table = lock(&self.table);
        if table.by_id.contains_key(id) {
            return Err(Fault::new(Code::Exists, format!("an exec of this id exists: {id}")));
        }
        if table.by_pid.len() + table.births.len() >= MAX_RUNNING {
            return Err(Fault::exhausted(format!("too many commands at once: {MAX_RUNNING}")));
        }
        if birth.listed && table.count_listed() >= MAX_LISTED {
            let what = "too many background commands and terminals at once";
            return Err(Fault::exhausted(format!("{what}: {MAX_LISTED}")));
        }
        let key = table.next_key;
        table.next_key += 1;
        table.by_id.insert(id.to_owned(), key);
        table.births.insert(key, birth.clone());
        Ok(key)
    }

    /// A child ended and is about to be reaped: until then its pid is nobody else's. Returns the exec it was the main
    /// process of, to be told afterwards; a birth is told here, and an orphan nobody asks about.
    fn take_ended(&self, pid: i32, ending: Ending) -> Option<Arc<Exec>> {
        let mut table = lock(&self.table);
        if let Some(key) = table.by_pid.remove(&pid) {
            return table.by_key.get(&key).cloned();
        }
        if let Some(birth) = table.births.values().find(|birth| birth.is_of(pid)) {
            birth.end(ending);
        }
        None
    }

    /// Does what is due at *now*. Returns the next instant at which something will be.
    fn tend(&self, now: Instant) -> Option<Instant> {
        let (execs, frozen, birth_due) = {
            let table = lock(&self.table);
            let frozen = self.frozen.load(Ordering::SeqCst);
            let due = table.births.values().filter_map(|birth| birth.tend(now)).min();
            let overdue = !frozen && table.births.values().any(|birth| birth.is_overdue(now));
            if let (Some(cgroups), true) = (&self.cgroups, overdue) {
                // It was a user who froze the cgroup: nothing could be started ever after.
                let _ = cgroups.thaw();
            }
            (table.by_key.values().cloned().collect::<Vec<_>>(), frozen, due)
        };
        let due = execs.iter().filter_map(|exec| exec.tend(now, frozen, self.cgroups.as_deref()));
        let next = due.chain(birth_due).min();
        self.forget(&execs, now);
        next
    }

    /// Forgets those whose time is over at *now* and, of too many, those that exited first.
    fn forget(&self, execs: &[Arc<Exec>], now: Instant) {
        let (listed, plain): (Vec<&Arc<Exec>>, Vec<_>) = execs.iter().partition(|exec| exec.is_listed());
        let all_listed = listed.len();
        let by_exit = |execs: Vec<&Arc<Exec>>| {
            let mut exited: Vec<_> =
                execs.into_iter().filter_map(|exec| Some((exec.settled_at()?, exec.clone()))).collect();
            exited.sort_by_key(|(at, _)| *at);
            exited
        };
        let (listed, plain) = (by_exit(listed), by_exit(plain));
        let surplus = plain.len().saturating_sub(MAX_EXITED);
        let is_over =
            |index: usize, at: Instant| index < surplus || now.saturating_duration_since(at) >= one::ATTACHABLE_FOR;
        let plain = plain.into_iter().enumerate().filter(|(index, (at, _))| is_over(*index, *at)).map(|(_, one)| one);
        let listed = listed.into_iter().take(all_listed.saturating_sub(MAX_LISTED));
        for (_, exec) in plain.chain(listed) {
            let mut table = lock(&self.table);
            table.by_key.remove(&exec.key());
            table.by_id.remove(exec.id());
            drop(table);
            if exec.is_listed() {
                lock(&self.gone).push(exec);
                self.log_poller.ring();
            }
        }
    }

    /// Gives the disk back what is kept of logs beyond their bounds; it may take its time.
    fn tidy_logs(&self) {
        drop(std::mem::take(&mut *lock(&self.gone)));
        let execs: Vec<_> = lock(&self.table).by_key.values().cloned().collect();
        let mut logs: Vec<_> = execs.iter().filter_map(|exec| exec.exited_log()).collect();
        logs.sort_by_key(|(at, _)| Reverse(*at));
        let mut total = 0u64;
        for (_, log) in logs {
            let size = log.size();
            total = total.saturating_add(size);
            if total > MAX_LOGS_BYTES && size > 0 {
                log.clear();
            }
        }
    }
}

impl Table {
    /// That run, or are being started.
    fn count_listed(&self) -> usize {
        let running = self.by_pid.values().filter_map(|key| self.by_key.get(key));
        running.filter(|exec| exec.is_listed()).count() + self.births.values().filter(|birth| birth.listed).count()
    }
}
