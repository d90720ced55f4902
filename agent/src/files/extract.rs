//! A tar stream from the host, made into files below a directory. No name in it leads out of that: the kernel resolves
//! each one beneath it (openat2), whatever links an earlier entry, or a program of the guest meanwhile, has put there.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::fault::Fault;
use crate::files::inflow::Inflow;
use crate::files::place::WriteRoots;
use crate::files::tar::{self, Entry, Kind, BLOCK_BYTES};
use crate::proto::{reply, FileExtract, FileWritten};
use crate::wire::call::{Call, Stop};

/// Directories whose times are set when all is there; those of more are when they were made.
const MAX_TIMED: usize = 16_384;
/// What is in the way of an entry is removed; a program that puts it there again and again wins.
const ATTEMPTS: usize = 8;

pub(crate) fn extract(roots: &WriteRoots, call: &Call, ask: &FileExtract) -> Result<(), Stop> {
    let base = Arc::new(roots.directory(&ask.path, true)?);
    let mut inflow = Inflow::new(call);
    let mut target = Target { base, parent: None, timed: Vec::new(), files: 0, size: 0 };
    while let Some(entry) = next_entry(&mut inflow)? {
        target.make(&mut inflow, &entry)?;
    }
    // Behind the end, writers fill up to whatever they write at once.
    while call.next_data()?.is_some() {}
    target.set_times();
    call.reply(reply::Kind::Written(FileWritten { size: target.size, files: target.files }))
}

/// The next entry with all that stands about it, content to follow; None at the end of the archive.
fn next_entry(inflow: &mut Inflow<'_>) -> Result<Option<Entry>, Stop> {
    let (mut name, mut link, mut records) = (None, None, Vec::new());
    loop {
        let block = inflow.block()?;
        if block == [0; BLOCK_BYTES] {
            return Ok(None);
        }
        let mut entry = tar::parse(&block).map_err(|_| Fault::invalid("this is no tar stream, or it is damaged"))?;
        match entry.kind {
            Kind::LongName => name = Some(tar::text(&inflow.record(&entry)?).to_vec()),
            Kind::LongLink => link = Some(tar::text(&inflow.record(&entry)?).to_vec()),
            Kind::Pax => records = inflow.record(&entry)?,
            Kind::Other => inflow.skip(&entry)?,
            _ => {
                entry.name = name.unwrap_or(entry.name);
                entry.link = link.unwrap_or(entry.link);
                tar::amend(&mut entry, &records)
                    .map_err(|_| Fault::invalid("the tar stream has a header that cannot be understood"))?;
                return Ok(Some(entry));
            }
        }
    }
}

/// Where entries are made.
struct Target {
    base: Arc<OwnedFd>,
    /// The directory that the last entry was made in, by its name: most have the same as the one before.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    timed: Vec<(Vec<u8>, i64)>,
    files: u64,
    size: u64,
}

impl Target {
    fn make(&mut self, inflow: &mut Inflow<'_>, entry: &Entry) -> Result<(), Stop> {
        let parts = parts(&entry.name)?;
        let Some((last, parents)) = parts.split_last() else {
            // The directory itself.
            return inflow.skip(entry);
        };
        let shown = shown(&entry.name);
        let parents = parents.join(&b'/');
        let parent = &*self.directory(parents, &shown)?;
        let name = OsStr::from_bytes(last);
        let fault = |errno| Stop::Fault(Fault::os(errno, &shown));
        match entry.kind {
            Kind::File => {
                let file = file(parent, name).map_err(fault)?;
                self.size += inflow.copy(entry, &file, &shown)?;
                finish(&file, entry).map_err(fault)?;
            }
            Kind::Directory => {
                let made = directory(parent, name).map_err(fault)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(entry.mode)).map_err(fault)?;
                if self.timed.len() < MAX_TIMED {
                    self.timed.push((parts.join(&b'/'), entry.modified));
                }
                inflow.skip(entry)?;
            }
            Kind::Symlink => {
                replacing(parent, name, || rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name))
                    .map_err(fault)?;
                let _ = rustix::fs::utimensat(parent, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW);
                inflow.skip(entry)?;
            }
            Kind::HardLink => {
                link(&self.base, parent, name, entry, &shown)?;
                inflow.skip(entry)?;
            }
            Kind::LongName | Kind::LongLink | Kind::Pax | Kind::Other => return inflow.skip(entry),
        }
        self.files += 1;
        Ok(())
    }

    /// The directory of that name, made with its parents where it is missing.
    fn directory(&mut self, name: Vec<u8>, shown: &str) -> Result<Arc<OwnedFd>, Fault> {
        if let Some((known, found)) = &self.parent {
            if *known == name {
                return Ok(found.clone());
            }
        }
        let found = Arc::new(self.find_directory(&name, shown)?);
        self.parent = Some((name, found.clone()));
        Ok(found)
    }

    fn find_directory(&self, name: &[u8], shown: &str) -> Result<OwnedFd, Fault> {
        match beneath(&self.base, name) {
            Err(Errno::NOENT) => {}
            found => return found.map_err(|errno| leads_out(errno, shown)),
        }
        let mut ends: Vec<usize> =
            name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).collect();
        ends.push(name.len());
        let mut parent = beneath(&self.base, b"").map_err(|errno| Fault::os(errno, shown))?;
        let mut start = 0;
        for end in ends {
            let step = OsStr::from_bytes(name.get(start..end).unwrap_or_default());
            match rustix::fs::mkdirat(&parent, step, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Fault::os(errno, shown)),
            }
            // A link may be there: hence from the base again.
            parent =
                beneath(&self.base, name.get(..end).unwrap_or_default()).map_err(|errno| leads_out(errno, shown))?;
            start = end + 1;
        }
        Ok(parent)
    }

    /// Of directories, which changed with what was made in them. None is owed.
    fn set_times(&self) {
        for (name, modified) in self.timed.iter().rev() {
            if let Ok(directory) = beneath(&self.base, name) {
                let _ = rustix::fs::utimensat(&directory, "", &times(*modified), AtFlags::EMPTY_PATH);
            }
        }
    }
}

/// The components of a name, without `.` and empty ones.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    let out = name.first() == Some(&b'/') || name.split(|byte| *byte == b'/').any(|part| part == b"..");
    if out || name.is_empty() || name.contains(&0) {
        return Err(Fault::invalid(format!(
            "the tar stream has a name that leads out of the directory: {}",
            shown(name)
        )));
    }
    Ok(name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect())
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..name.len().min(256)).unwrap_or_default()).into_owned()
}

fn leads_out(errno: Errno, shown: &str) -> Fault {
    match errno {
        Errno::XDEV => Fault::invalid(format!("{shown}: a link on the way leads out of the directory")),
        errno => Fault::os(errno, shown),
    }
}

/// A directory below *base*, as a location; *base* itself without a name.
fn beneath(base: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let name = if name.is_empty() { b"." } else { name };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(base, OsStr::from_bytes(name), flags, Mode::empty(), resolve)
}

/// Does *make*, removing what has the name already and is no directory.
fn replacing<T>(parent: &OwnedFd, name: &OsStr, mut make: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..ATTEMPTS {
        match make() {
            Err(Errno::EXIST) => match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            },
            outcome => return outcome,
        }
    }
    Err(Errno::EXIST)
}

/// A new file, open for writing and nobody else's to read yet.
fn file(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    replacing(parent, name, || rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR))
}

fn finish(file: &OwnedFd, entry: &Entry) -> Result<(), Errno> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    rustix::fs::futimens(file, &times(entry.modified))
}

/// A directory that is there or is made. Another thing of that name, a link too, gives way.
fn directory(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
    replacing(parent, name, || match open() {
        Ok(found) => Ok(found),
        Err(Errno::NOENT) => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).and_then(|()| open()),
        Err(Errno::NOTDIR | Errno::LOOP) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    })
}

/// Another name of a file that is below *base* already.
fn link(base: &OwnedFd, parent: &OwnedFd, name: &OsStr, entry: &Entry, shown: &str) -> Result<(), Fault> {
    let parts = parts(&entry.link)?;
    let Some((last, parents)) = parts.split_last() else {
        return Err(Fault::invalid(format!("{shown}: is a link to a directory")));
    };
    let from = beneath(base, &parents.join(&b'/')).map_err(|errno| leads_out(errno, shown))?;
    let old = OsStr::from_bytes(last);
    let fault = |errno| Fault::os(errno, shown);
    let found = rustix::fs::statat(&from, old, AtFlags::SYMLINK_NOFOLLOW).map_err(fault)?;
    if !FileType::from_raw_mode(found.st_mode).is_file() {
        return Err(Fault::invalid(format!("{shown}: is a link to what is no file")));
    }
    if let Ok(there) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino) {
            return Ok(());
        }
    }
    replacing(parent, name, || rustix::fs::linkat(&from, old, parent, name, AtFlags::empty())).map_err(fault)
}

fn times(modified: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified, tv_nsec: 0 },
    }
}
