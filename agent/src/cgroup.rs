//! Cgroups of user processes: one per exec below a common one that is frozen and thawed as a whole.
//!
//! A cgroup outlives its exec while a daemon that the command left behind is in it; an empty one is used
//! again, which is quicker than making and removing one each time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::sync::lock;

/// Empty cgroups that are kept for the next exec.
const SPARE: usize = 8;
/// How long nothing may happen to a freeze before it is looked into.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(crate) struct Cgroups {
    /// Held open, and everything is reached through it: a user may unmount the path or mount something over it.
    base: OwnedFd,
    next: AtomicU64,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    spare: Vec<Group>,
    /// Their exec is over and someone still lives there.
    inhabited: Vec<Group>,
}

/// One exec's cgroup.
pub(crate) struct Group {
    name: String,
    directory: OwnedFd,
    /// It was killed once. Linux (seen on 6.12.95 and 6.18.44) also kills whatever is cloned into such a cgroup
    /// later, since the cloner's own cgroup counts fewer kills: it cannot be used again.
    spent: AtomicBool,
    /// Its command was given secrets.
    secret: bool,
}

impl Cgroups {
    /// Uses *base*, made if absent, for user processes. What an earlier agent left in it is removed where empty.
    pub(crate) fn open(base: &Path) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        for entry in fs::read_dir(base)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        let base = open_directory(rustix::fs::CWD, base)?;
        let cgroups = Self { base, next: AtomicU64::new(1), idle: Mutex::default() };
        let first = cgroups.make()?;
        lock(&cgroups.idle).spare.push(first);
        Ok(cgroups)
    }

    /// An empty cgroup: one that was used before, where there is one.
    pub(crate) fn acquire(&self) -> io::Result<Group> {
        if let Some(group) = lock(&self.idle).spare.pop() {
            return Ok(group);
        }
        self.make()
    }

    /// A new cgroup.
    pub(crate) fn make(&self) -> io::Result<Group> {
        loop {
            let name = format!("exec-{}", self.next.fetch_add(1, Ordering::Relaxed));
            match rustix::fs::mkdirat(&self.base, &*name, Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
                Ok(()) => {
                    let directory = open_directory(&self.base, &*name)?;
                    return Ok(Group { name, directory, spent: AtomicBool::new(false), secret: false });
                }
            }
        }
    }

    /// Takes a cgroup back whose exec is over, and looks after those whose last process has gone meanwhile.
    pub(crate) fn release(&self, group: Group) {
        let mut idle = lock(&self.idle);
        idle.inhabited.push(group);
        for group in std::mem::take(&mut idle.inhabited) {
            if group.is_inhabited() {
                idle.inhabited.push(group);
            } else if idle.spare.len() < SPARE && !group.spent.load(Ordering::Relaxed) {
                idle.spare.push(group);
            } else {
                let _ = rustix::fs::unlinkat(&self.base, &*group.name, AtFlags::REMOVEDIR);
            }
        }
    }

    /// What a command left behind that was given secrets lives on.
    pub(crate) fn hold_secrets(&self) -> bool {
        lock(&self.idle).inhabited.iter().any(|group| group.secret && group.is_inhabited())
    }

    /// Stops every user process. One that waits in the kernel for what does not come while others are stopped (an answer
    /// of a FUSE server) counts as stopped if `any_runs` denies that any other runs: before its program goes on, it stops.
    ///
    /// # Errors
    /// They did not all stop within *bound*: all go on.
    pub(crate) fn freeze(&self, bound: Duration, any_runs: impl Fn() -> io::Result<bool>) -> io::Result<()> {
        let outcome = self.try_freeze(bound, any_runs);
        if outcome.is_err() {
            let _ = self.thaw();
        }
        outcome
    }

    fn try_freeze(&self, bound: Duration, any_runs: impl Fn() -> io::Result<bool>) -> io::Result<()> {
        let deadline = Instant::now() + bound;
        let events = open_file(&self.base, "cgroup.events", OFlags::RDONLY)?;
        write(&self.base, "cgroup.freeze", "1")?;
        loop {
            // Reading arms the next notification, so a change after it is not missed.
            if read_flag(events.as_fd(), "frozen")? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let patience = Timespec::try_from(LOOK_AGAIN).map_err(|_| Errno::INVAL)?;
            if poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&patience))? == 0 && !any_runs()? {
                return Ok(());
            }
        }
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        write(&self.base, "cgroup.freeze", "0")
    }

    /// Text of *file* of the common cgroup, None where its controller is absent.
    pub(crate) fn read(&self, file: &str) -> Option<String> {
        read(&self.base, file).ok()
    }
}

impl Group {
    /// What `CLONE_INTO_CGROUP` takes.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Kills every process in it, forks in flight included.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.spend();
        write(&self.directory, "cgroup.kill", "1")
    }

    /// Keeps it from being used again.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }

    /// Says whether its command is given secrets.
    pub(crate) fn mark(&mut self, secret: bool) {
        self.secret = secret;
    }

    pub(crate) fn is_inhabited(&self) -> bool {
        let events = open_file(&self.directory, "cgroup.events", OFlags::RDONLY);
        events.is_ok_and(|events| read_flag(events.as_fd(), "populated").unwrap_or(true))
    }

    /// Processes killed here for want of memory since the cgroup was made; 0 without the memory controller.
    pub(crate) fn oom_kills(&self) -> u64 {
        let text = read(&self.directory, "memory.events").unwrap_or_default();
        value(&text, "oom_kill").unwrap_or(0)
    }
}

fn open_directory(from: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(from, path, flags, Mode::empty())?)
}

fn open_file(directory: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    Ok(rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

fn write(directory: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    open_file(directory, name, OFlags::WRONLY)?.write_all(text.as_bytes())
}

fn read(directory: &OwnedFd, name: &str) -> io::Result<String> {
    let mut text = String::new();
    open_file(directory, name, OFlags::RDONLY)?.read_to_string(&mut text)?;
    Ok(text)
}

/// A "key value" line's value.
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn read_flag(file: BorrowedFd<'_>, key: &str) -> io::Result<bool> {
    let mut text = [0; 256];
    let count = rustix::io::pread(file, &mut text, 0)?;
    let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
    Ok(value(&text, key) == Some(1))
}

#[cfg(test)]
mod tests {
    use super::value;

    /// A key is matched whole.
    #[test]
    fn values_are_found_by_whole_key() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(value(text, "oom_kill"), Some(2));
        assert_eq!(value(text, "oo"), None);
    }
}
