//! What runs in the guest, as /proc tells it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::getpid;

/// /proc/PID/status has some 1500 bytes, and a user's words (name, groups) may make them more.
const MAX_TEXT_BYTES: u64 = 256 * 1024;

/// What /proc/PID/status says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) parent: i32,
    /// Bit n-1 is signal n.
    pub(crate) caught: u64,
}

impl Status {
    /// None when there is no such process any more. *proc* is the directory.
    pub(crate) fn read(proc: &OwnedFd, pid: i32) -> Option<Self> {
        Self::parse(&read(proc, &format!("{pid}/status"))?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Self { parent: field("PPid:")?.parse().ok()?, caught: u64::from_str_radix(field("SigCgt:")?, 16).ok()? })
    }
}

/// All processes below this one: in a machine, all but the kernel's threads. There are no more of them than the kernel was
/// told to allow.
///
/// # Errors
/// *proc* cannot be read.
pub(crate) fn below_us(proc: &OwnedFd) -> Result<BTreeMap<i32, Status>, Errno> {
    let mut all = BTreeMap::new();
    for pid in numbers_in(proc)? {
        if let Some(status) = Status::read(proc, pid) {
            all.insert(pid, status);
        }
    }
    let us = getpid().as_raw_nonzero().get();
    Ok(all.iter().filter(|(pid, _)| is_below(us, &all, **pid)).map(|(pid, status)| (*pid, *status)).collect())
}

fn is_below(us: i32, all: &BTreeMap<i32, Status>, pid: i32) -> bool {
    let mut at = pid;
    // No chain is longer than there are processes; what was read while it changed might be a ring.
    for _ in 0..all.len() {
        match all.get(&at) {
            Some(status) if status.parent == us => return true,
            Some(status) => at = status.parent,
            None => return false,
        }
    }
    false
}

/// Whether a thread of a process below this one runs, or could.
///
/// # Errors
/// *proc* cannot be read.
pub(crate) fn any_runs(proc: &OwnedFd) -> Result<bool, Errno> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for pid in below_us(proc)?.into_keys() {
        // Gone meanwhile, or about to be.
        let Ok(tasks) = rustix::fs::openat(proc, format!("{pid}/task"), directory, Mode::empty()) else { continue };
        for thread in numbers_in(&tasks).unwrap_or_default() {
            if read(&tasks, &format!("{thread}/stat")).is_some_and(|stat| state_of(&stat) == Some("R")) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The name before it, in parentheses, may hold anything.
fn state_of(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().next()
}

fn numbers_in(directory: &OwnedFd) -> Result<Vec<i32>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        found.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(found)
}

fn read(directory: &OwnedFd, path: &str) -> Option<String> {
    let file = rustix::fs::openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_TEXT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields are read wherever they stand, whatever a process calls itself.
    #[test]
    fn statuses_are_read_behind_hostile_names() {
        let text = "Name:\tSigCgt:\\nPPid: 1\nState:\tS (sleeping)\nPPid:\t7\nSigIgn:\t0\nSigCgt:\t4000000000000002\n";
        assert_eq!(Status::parse(text), Some(Status { parent: 7, caught: 0x4000_0000_0000_0002 }));
        assert_eq!(Status::parse("Name:\tx\nPPid:\t1\nSigCgt:\tx\n"), None);
        assert_eq!(Status::parse("Name:\tx\n"), None);
        assert_eq!(state_of("12 (a) R 1 (b) D 7 12 12"), Some("D"));
        assert_eq!(state_of(""), None);
    }

    /// A process that is nowhere below this one is left alone, and a ring of parents ends.
    #[test]
    fn only_what_is_below_counts() {
        let status = |parent| Status { parent, caught: 0 };
        let all =
            [(2, status(1)), (3, status(2)), (4, status(5)), (5, status(4)), (6, status(0)), (7, status(6))].into();
        let below: Vec<_> = (2..=8).filter(|pid| is_below(1, &all, *pid)).collect();
        assert_eq!(below, [2, 3]);
    }

    /// A child of this process is found, and seen to run or not.
    #[test]
    fn children_are_seen() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).unwrap();
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(
            below_us(&proc).unwrap().get(&pid).map(|status| status.parent),
            Some(i32::try_from(std::process::id()).unwrap())
        );
        assert!(any_runs(&proc).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!below_us(&proc).unwrap().contains_key(&pid));
    }
}
