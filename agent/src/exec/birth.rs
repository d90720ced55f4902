//! The start of a command, from the clone until its program runs.
//!
//! Mostly a millisecond. But what the kernel reads for it may lie on a FUSE mount, or a user may have frozen the cgroup
//! it is born into: so nothing else waits for a birth, and one that does not get on is given up.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::exec::watch::Ending;
use crate::sync::lock;

/// How long a program may take to begin. A busy host, emulation and a guest short of memory take seconds.
const BOUND: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(10);

pub(crate) struct Birth {
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) listed: bool,
    /// 0 until the kernel stores it, which is before the child can run, and so before it can end.
    pid: AtomicI32,
    /// The child was reaped before it was known to have started.
    ending: Mutex<Option<Ending>>,
    /// Asked for meanwhile, each once, as the kernel keeps them.
    signals: Mutex<BTreeSet<i32>>,
}

impl Birth {
    pub(crate) fn new(timeout: Option<Duration>, listed: bool) -> Self {
        Self {
            started: Instant::now(),
            timeout,
            listed,
            pid: AtomicI32::new(0),
            ending: Mutex::default(),
            signals: Mutex::default(),
        }
    }

    /// Where the kernel is to store the child's pid.
    pub(crate) fn pid_slot(&self) -> &AtomicI32 {
        &self.pid
    }

    pub(crate) fn is_of(&self, pid: i32) -> bool {
        self.pid.load(Ordering::SeqCst) == pid && self.ending().is_none()
    }

    pub(crate) fn end(&self, ending: Ending) {
        *lock(&self.ending) = Some(ending);
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        *lock(&self.ending)
    }

    /// Keeps *signal* for what is born; `tend` does not wait for that with SIGKILL.
    pub(crate) fn signal(&self, signal: i32) {
        lock(&self.signals).insert(signal);
    }

    pub(crate) fn take_signals(&self) -> BTreeSet<i32> {
        std::mem::take(&mut *lock(&self.signals))
    }

    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.started + BOUND <= now
    }

    /// Kills the child that is overdue at *now* or to be killed; the start then counts as one of a program that was
    /// killed. The table is locked, so the child is not reaped meanwhile. Returns when something is due next, the timeout
    /// of what is born included.
    pub(crate) fn tend(&self, now: Instant) -> Option<Instant> {
        let is_unwanted = lock(&self.signals).contains(&libc::SIGKILL) || self.is_overdue(now);
        let pid = self.pid.load(Ordering::SeqCst);
        if is_unwanted && pid > 0 && self.ending().is_none() {
            // SAFETY: no memory is passed; the pid is our child's, which is not reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let times_out_at = self.timeout.and_then(|timeout| self.started.checked_add(timeout));
        // A child that is still being made has no pid to kill it by.
        let again_at = (is_unwanted && pid == 0).then(|| now + AGAIN);
        [Some(self.started + BOUND), times_out_at, again_at].into_iter().flatten().filter(|at| *at > now).min()
    }
}
