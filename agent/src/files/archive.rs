//! A tree to the host as a tar stream, written as it is read: nothing of it is kept but the directories on the way.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::fault::Fault;
use crate::files::check_path;
use crate::files::tar::{self, Entry, Kind, BLOCK_BYTES};
use crate::proto::FileArchive;
use crate::wire::call::{Call, Stop, CHUNK_BYTES};

/// Directories open at once; a deeper tree is refused.
const MAX_DEPTH: usize = 512;

pub(crate) fn archive(call: &Call, ask: &FileArchive) -> Result<(), Stop> {
    let path = check_path(&ask.path)?;
    let fault = |errno| Stop::Fault(Fault::os(errno, path));
    let location = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(fault)?;
    let found = rustix::fs::fstat(&location).map_err(fault)?;
    let mut outflow = Outflow { call, buffer: Vec::with_capacity(CHUNK_BYTES) };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => tree(&mut outflow, &location, &found, path)?,
        FileType::RegularFile => {
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = rustix::fs::open(path, flags, Mode::empty()).map_err(fault)?;
            content(&mut outflow, &file, name.as_bytes().to_vec()).map_err(|stop| stop.at(path))?;
        }
        _ => return Err(Fault::invalid(format!("{path}: is neither a directory nor a regular file")).into()),
    }
    outflow.push(&[0; 2 * BLOCK_BYTES])?;
    outflow.flush()
}

/// Why an entry was not written.
enum Trouble {
    Kernel(Errno),
    Stop(Stop),
}

impl Trouble {
    fn at(self, path: &str) -> Stop {
        match self {
            Self::Kernel(errno) => Fault::os(errno, path).into(),
            Self::Stop(stop) => stop,
        }
    }
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// Parents come before what is in them. Other file systems are left out, as directories without content.
fn tree(outflow: &mut Outflow<'_>, top: &OwnedFd, found: &Stat, path: &str) -> Result<(), Stop> {
    let mut name = Vec::new();
    let printed = |name: &[u8]| format!("{path}/{}", String::from_utf8_lossy(name));
    let opened = enter(top, c".").and_then(Dir::new).map_err(|errno| Fault::os(errno, path))?;
    // With the length of its own name among all that lead to it.
    let mut open = vec![(opened, 0)];
    while let Some((directory, parent)) = open.last_mut() {
        name.truncate(*parent);
        let Some(item) = directory.read() else {
            open.pop();
            continue;
        };
        let item = item.map_err(|errno| Fault::os(errno, &printed(&name)))?;
        if matches!(item.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        name.extend_from_slice(item.file_name().to_bytes());
        match one(outflow, directory, item.file_name(), &mut name, found.st_dev) {
            Ok(Some(_)) if open.len() >= MAX_DEPTH => {
                return Err(Fault::exhausted(format!("{path}: more than {MAX_DEPTH} directories deep")).into());
            }
            Ok(Some(below)) => {
                let below = Dir::new(below).map_err(|errno| Fault::os(errno, &printed(&name)))?;
                open.push((below, name.len()));
            }
            // Gone, or something else, since its name was read.
            Ok(None) | Err(Trouble::Kernel(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => {}
            Err(trouble) => return Err(trouble.at(&printed(&name))),
        }
    }
    Ok(())
}

/// Writes what *item* of *parent* is, under *name*. Returns a directory that is to be entered, its name with a slash.
fn one(
    outflow: &mut Outflow<'_>,
    parent: &Dir,
    item: &CStr,
    name: &mut Vec<u8>,
    device: u64,
) -> Result<Option<OwnedFd>, Trouble> {
    let parent = parent.fd()?;
    let found = rustix::fs::statat(parent, item, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            let below = if found.st_dev == device { Some(enter(parent, item)?) } else { None };
            name.push(b'/');
            outflow.push(&tar::header(&entry(Kind::Directory, name.clone(), Vec::new(), &found)))?;
            Ok(below)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = rustix::fs::openat(parent, item, flags, Mode::empty())?;
            content(outflow, &file, name.clone())?;
            Ok(None)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(parent, item, Vec::new())?.into_bytes();
            outflow.push(&tar::header(&entry(Kind::Symlink, name.clone(), target, &found)))?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn enter(parent: impl std::os::fd::AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

/// A file as it is now: what it grows by is left out, and what is cut off it meanwhile reads as zeros.
fn content(outflow: &mut Outflow<'_>, file: &OwnedFd, name: Vec<u8>) -> Result<(), Trouble> {
    let found = rustix::fs::fstat(file)?;
    if !FileType::from_raw_mode(found.st_mode).is_file() {
        return Ok(());
    }
    let entry = entry(Kind::File, name, Vec::new(), &found);
    let mut left = entry.size;
    outflow.push(&tar::header(&entry))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let count = match rustix::io::read(file, buffer.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => {
                buffer.fill(0);
                wanted
            }
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        outflow.push(buffer.get(..count).unwrap_or_default())?;
        left -= count as u64;
    }
    let over = usize::try_from(entry.size % BLOCK_BYTES as u64).unwrap_or_default();
    if over > 0 {
        outflow.push([0; BLOCK_BYTES].get(over..).unwrap_or_default())?;
    }
    Ok(())
}

fn entry(kind: Kind, name: Vec<u8>, link: Vec<u8>, found: &Stat) -> Entry {
    let size = if kind == Kind::File { u64::try_from(found.st_size).unwrap_or_default() } else { 0 };
    Entry { kind, name, link, size, mode: found.st_mode & 0o7777, modified: found.st_mtime }
}

/// Bytes on their way to the host, in pieces of `CHUNK_BYTES`.
struct Outflow<'a> {
    call: &'a Call,
    buffer: Vec<u8>,
}

impl Outflow<'_> {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let granted = self.call.take_credit(rest.len())?;
            let (now, later) = rest.split_at(granted);
            self.call.data(now)?;
            rest = later;
        }
        self.buffer.clear();
        Ok(())
    }
}
