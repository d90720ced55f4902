//! The thread that moves everything execs need: output and input of pipes, reaping, deadlines. Output that goes to a log
//! has one of its own, since a disk may be slow.
//!
//! One thread for all execs: it needs no new one per command, so it serves on under a fork bomb.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{eventfd, EventfdFlags, Timespec};

use crate::exec::one::TOKEN_BITS;
use crate::exec::Execs;
use crate::wire::call::CHUNK_BYTES;

const TOKEN_CHILDREN: u64 = u64::MAX;
const TOKEN_ALARM: u64 = u64::MAX - 1;
/// Zombies reaped before pipes get their turn again.
const REAPED_AT_ONCE: usize = 256;
const EVENTS_AT_ONCE: usize = 64;
/// All that a pipe holds by default.
const LOG_CHUNK_BYTES: usize = 64 * 1024;
const STACK_BYTES: usize = 256 * 1024;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    /// 0 to 255; 128+signal when killed.
    pub(crate) exit_code: i32,
    /// 0: it exited by itself.
    pub(crate) signal: i32,
}

/// What the thread waits on: pipes, children, the alarm.
pub(crate) struct Poller {
    pub(crate) epoll: OwnedFd,
    /// Written when something is due that may be nearer than what is being waited for.
    alarm: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let poller = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            alarm: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        epoll::add(&poller.epoll, &poller.alarm, EventData::new_u64(TOKEN_ALARM), EventFlags::IN)?;
        Ok(poller)
    }

    /// Makes the thread look at all deadlines again.
    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.alarm, &1u64.to_ne_bytes());
    }
}

/// Blocks SIGCHLD for this thread and those it starts, and ignores SIGPIPE. Call before any thread is started.
///
/// # Errors
/// The kernel refused.
pub(crate) fn prepare_process() -> io::Result<()> {
    let children = children_signal();
    // SAFETY: `children` is an initialised set; no handler is installed.
    let blocked = unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const children, std::ptr::null_mut())
    };
    if blocked == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn children_signal() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, sigaddset works on an initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        set.assume_init()
    }
}

/// Starts the threads.
///
/// # Errors
/// The kernel has no thread or descriptor left.
pub(crate) fn start(execs: Arc<Execs>) -> io::Result<()> {
    let set = children_signal();
    // SAFETY: asks for a new descriptor with an initialised set.
    let raw = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it and nothing else owns it.
    let children = unsafe { OwnedFd::from_raw_fd(raw) };
    epoll::add(&execs.poller.epoll, &children, EventData::new_u64(TOKEN_CHILDREN), EventFlags::IN)?;
    let logs = execs.clone();
    thread::Builder::new().stack_size(STACK_BYTES).spawn(move || write_logs(&logs))?;
    thread::Builder::new().stack_size(STACK_BYTES).spawn(move || watch(&execs, &children)).map(drop)
}

fn write_logs(execs: &Execs) {
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_AT_ONCE);
    let mut buffer = vec![0; LOG_CHUNK_BYTES];
    loop {
        events.clear();
        let _ = epoll::wait(&execs.log_poller.epoll, rustix::buffer::spare_capacity(&mut events), None);
        for event in &events {
            if event.data.u64() == TOKEN_ALARM {
                clear(&execs.log_poller.alarm);
                execs.tidy_logs();
            } else if let Some(exec) = execs.by_key(event.data.u64() >> TOKEN_BITS) {
                exec.log_ready(&mut buffer);
            }
        }
    }
}

fn watch(execs: &Execs, children: &OwnedFd) {
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_AT_ONCE);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut zombies_left = false;
    let mut due: Option<Instant> = None;
    loop {
        let patience = if zombies_left { Some(Timespec::default()) } else { due.map(until) };
        events.clear();
        let _ = epoll::wait(&execs.poller.epoll, rustix::buffer::spare_capacity(&mut events), patience.as_ref());
        let mut reap = zombies_left;
        for event in &events {
            match event.data.u64() {
                TOKEN_CHILDREN => {
                    clear(children);
                    reap = true;
                }
                TOKEN_ALARM => clear(&execs.poller.alarm),
                token => {
                    // The exec may be forgotten by now; its pipes left the poller when they were closed.
                    if let Some(exec) = execs.by_key(token >> TOKEN_BITS) {
                        exec.pipe_ready(token & ((1 << TOKEN_BITS) - 1), &mut buffer);
                    }
                }
            }
        }
        if reap {
            zombies_left = reap_some(execs);
        }
        due = execs.tend(Instant::now());
    }
}

/// Until *instant*, rounded up so that it has passed on return.
fn until(instant: Instant) -> Timespec {
    let left = instant.saturating_duration_since(Instant::now());
    Timespec::try_from(left + std::time::Duration::from_millis(1)).unwrap_or_default()
}

/// Empties an eventfd or signalfd. Children are counted by `wait`, not by signals: those coalesce.
fn clear(descriptor: &OwnedFd) {
    let mut sink = [0u8; 512];
    // SAFETY: reads into a buffer of the length given.
    unsafe { libc::read(descriptor.as_raw_fd(), sink.as_mut_ptr().cast(), sink.len()) };
}

/// Reaps a bounded number of children, of execs and orphans. True when there may be more.
fn reap_some(execs: &Execs) -> bool {
    for _ in 0..REAPED_AT_ONCE {
        // Looked up before it is reaped: from then on the kernel may give its pid to a new child.
        let Some((pid, ending)) = wait(libc::P_ALL, 0, libc::WNOWAIT) else {
            return false;
        };
        let exec = execs.take_ended(pid, ending);
        let _ = wait(libc::P_PID, pid.unsigned_abs(), 0);
        if let Some(exec) = exec {
            exec.main_ended(ending);
        }
    }
    true
}

/// A child that has ended, without waiting for one.
fn wait(whom: libc::idtype_t, id: libc::id_t, flags: i32) -> Option<(i32, Ending)> {
    // SAFETY: all zeros is a valid siginfo_t, waitid fills it, and the fields read are those of SIGCHLD.
    unsafe {
        let mut found: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(whom, id, &raw mut found, libc::WEXITED | libc::WNOHANG | flags) != 0 || found.si_pid() == 0 {
            return None;
        }
        let status = found.si_status();
        let ending = if found.si_code == libc::CLD_EXITED {
            Ending { exit_code: status, signal: 0 }
        } else {
            Ending { exit_code: 128 + status, signal: status }
        };
        Some((found.si_pid(), ending))
    }
}
