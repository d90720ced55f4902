//! Threads for calls that may block: kept for reuse, since making one costs under emulation, and bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::sync::{lock, wait};

/// Calls run in little stack; what is large lives on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// Threads that are kept when idle.
const KEPT: usize = 8;
/// Threads in all, the ones stuck on behalf of sessions long gone included (a hostile FUSE mount can hold them).
const MOST: usize = 512;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    waiting: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

/// Runs jobs, each at once on a thread of its own. The caller bounds how many there are.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl Pool {
    /// Starts *job*. False when the kernel has no thread left: the job was not and will not be run.
    pub(crate) fn run(&self, job: Job) -> bool {
        let (state, ready) = &*self.shared;
        {
            let mut shared = lock(state);
            if shared.idle > shared.waiting.len() {
                shared.waiting.push_back(job);
                ready.notify_one();
                return true;
            }
            if shared.threads >= MOST {
                return false;
            }
            shared.threads += 1;
        }
        let pool = self.clone();
        let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || pool.work(job)).is_ok();
        if !started {
            lock(state).threads -= 1;
        }
        started
    }

    fn work(&self, first: Job) {
        first();
        let (state, ready) = &*self.shared;
        loop {
            let mut shared = lock(state);
            if shared.idle >= KEPT && shared.waiting.is_empty() {
                shared.threads -= 1;
                return;
            }
            shared.idle += 1;
            while shared.waiting.is_empty() {
                shared = wait(ready, shared);
            }
            shared.idle -= 1;
            let job = shared.waiting.pop_front();
            drop(shared);
            if let Some(job) = job {
                job();
            }
        }
    }
}
