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
    /// By its main thread.
    pub(crate) blocked: u64,
}

impl Status {
    /// None when there is no such process any more. *proc* is the directory.
    pub(crate) fn read(proc: &OwnedFd, pid: i32) -> Option<Self> {
        Self::parse(&read(proc, &format!("{pid}/status"))?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let signals = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self { parent: field("PPid:")?.parse().ok()?, caught: signals("SigCgt:")?, blocked: signals("SigBlk:")? })
    }
}

/// All processes below this one: in a machine, all but the kernel's threads, which are many and not looked at. There are
/// no more of them than the kernel was told to allow.
///
/// # Errors
/// The kernel does not tell who is whose child (`CONFIG_PROC_CHILDREN`).
pub(crate) fn below_us(proc: &OwnedFd) -> Result<BTreeMap<i32, Status>, Errno> {
    let mut found = BTreeMap::new();
    let mut left = children_of(proc, getpid().as_raw_nonzero().get())?;
    while let Some(pid) = left.pop() {
        if let (false, Some(status)) = (found.contains_key(&pid), Status::read(proc, pid)) {
            found.insert(pid, status);
            // Gone meanwhile: then it has none.
            left.extend(children_of(proc, pid).unwrap_or_default());
        }
    }
    Ok(found)
}

fn children_of(proc: &OwnedFd, pid: i32) -> Result<Vec<i32>, Errno> {
    let tasks = open_directory(proc, &format!("{pid}/task"))?;
    // A thread may end meanwhile, but not all of them.
    let texts: Vec<_> =
        numbers_in(&tasks)?.into_iter().filter_map(|thread| read(&tasks, &format!("{thread}/children"))).collect();
    if texts.is_empty() {
        return Err(Errno::NOENT);
    }
    Ok(texts.iter().flat_map(|text| text.split_ascii_whitespace()).filter_map(|word| word.parse().ok()).collect())
}

/// Whether a thread of a process below this one runs, or could.
///
/// # Errors
/// *proc* cannot be read.
pub(crate) fn any_runs(proc: &OwnedFd) -> Result<bool, Errno> {
    for pid in below_us(proc)?.into_keys() {
        // Gone meanwhile, or about to be.
        let Ok(tasks) = open_directory(proc, &format!("{pid}/task")) else { continue };
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

fn open_directory(from: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(from, path, flags, Mode::empty())
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
        let text = "Name:\tSigCgt:\\nPPid: 1\nState:\tS (sleeping)\nPPid:\t7\nSigBlk:\t1\nSigIgn:\t0\nSigCgt:\t4000000000000002\n";
        assert_eq!(Status::parse(text), Some(Status { parent: 7, caught: 0x4000_0000_0000_0002, blocked: 1 }));
        assert_eq!(Status::parse("Name:\tx\nPPid:\t1\nSigCgt:\tx\n"), None);
        assert_eq!(Status::parse("Name:\tx\n"), None);
        assert_eq!(state_of("12 (a) R 1 (b) D 7 12 12"), Some("D"));
        assert_eq!(state_of(""), None);
    }

    /// Children and theirs are found, and seen to run or not; nobody else is.
    #[test]
    fn descendants_are_seen() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sh").args(["-c", "(while :; do :; done) & wait"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let grandchild = loop {
            let found = below_us(&proc).unwrap();
            assert_eq!(found.get(&pid).map(|status| status.parent), Some(us));
            assert!(!found.contains_key(&1) && !found.contains_key(&us));
            if let Some((grandchild, _)) = found.into_iter().find(|(_, status)| status.parent == pid) {
                break grandchild;
            }
        };
        assert!(any_runs(&proc).unwrap());
        // SAFETY: no memory is passed; both are of this test.
        unsafe { libc::kill(grandchild, libc::SIGKILL) };
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!below_us(&proc).unwrap().contains_key(&pid));
    }
}
