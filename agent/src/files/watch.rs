//! What changes below a directory or to a file, told to the host as it happens (inotify).
//!
//! The kernel watches single directories: each one below is watched for itself, and one that comes later is looked
//! through for what was in it before. Where the host is behind, what would be told is kept up to a bound; beyond that,
//! and where the kernel had to drop something, OVERFLOW stands for all of it.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags, RawDir, CWD};
use rustix::io::Errno;

use crate::fault::Fault;
use crate::files::check_path;
use crate::files::events::{is_temporary, Events, MAX_QUEUE};
use crate::proto::file_event::Kind;
use crate::proto::FileWatch;
use crate::wire::call::{Bell, Call, Stop};

/// Directories watched at once (agent.proto).
const MAX_DIRECTORIES: usize = 8192;
/// The two halves of a move come together, unless the other half is not watched.
const HALF_MOVE_NS: i64 = 20_000_000;

pub(crate) fn watch(call: &Call, ask: &FileWatch) -> Result<(), Stop> {
    let path = check_path(&ask.path)?;
    let location = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let location = location.map_err(|errno| Fault::os(errno, path))?;
    let found = rustix::fs::fstat(&location).map_err(|errno| Fault::os(errno, path))?;
    // While it is open, the kernel does not tell that it was removed.
    drop(location);
    let whole = PathBuf::from(match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    });
    // A file may be replaced by another of its name: what tells of that is its directory.
    let is_dir = FileType::from_raw_mode(found.st_mode).is_dir();
    let (top, only) = match (is_dir, whole.parent(), whole.file_name()) {
        (false, Some(parent), Some(name)) => (parent.to_owned(), Some(name.to_owned())),
        _ => (whole.clone(), None),
    };
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|errno| Fault::exhausted(format!("cannot watch files: {}", Fault::os(errno, "inotify"))))?;
    let recursive = ask.recursive && only.is_none();
    let mut watch = Watch {
        call,
        inotify,
        recursive,
        device: found.st_dev,
        directories: HashMap::new(),
        half: None,
        scanned: HashSet::new(),
        events: Events::new(only),
        over: false,
    };
    watch.begin(&top)?;
    watch.events.tell(Kind::Ready, &whole, is_dir, None);
    watch.serve(&top)
}

/// A name that went away, which may be half of a move.
struct Half {
    cookie: u32,
    path: PathBuf,
    is_dir: bool,
}

/// One event of the kernel's, free of its buffer.
struct Happening {
    wd: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<OsString>,
}

struct Watch<'a> {
    call: &'a Call,
    inotify: OwnedFd,
    recursive: bool,
    /// Other file systems are not entered: /proc has no end.
    device: u64,
    directories: HashMap<i32, PathBuf>,
    half: Option<Half>,
    /// Told of by looking through a new directory; the kernel may have noted their creation as well.
    scanned: HashSet<PathBuf>,
    events: Events,
    /// The directory itself is gone.
    over: bool,
}

impl Watch<'_> {
    fn begin(&mut self, top: &Path) -> Result<(), Stop> {
        self.add(top, true)?.ok_or_else(|| Fault::os(Errno::NOENT, &top.to_string_lossy()))?;
        if self.recursive {
            self.look_through(top, false)?;
        }
        Ok(())
    }

    fn serve(&mut self, top: &Path) -> Result<(), Stop> {
        let bell = self.call.bell()?;
        loop {
            bell.silence();
            if self.call.is_lost() {
                return Err(Stop::Lost);
            }
            self.read(top)?;
            self.events.send(self.call)?;
            if self.over && self.events.is_empty() {
                return Ok(());
            }
            self.wait(&bell)?;
        }
    }

    fn wait(&mut self, bell: &Bell) -> Result<(), Stop> {
        let brief = Timespec { tv_sec: 0, tv_nsec: HALF_MOVE_NS };
        let mut waits = [PollFd::new(bell, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::IN)];
        match poll(&mut waits, self.half.as_ref().map(|_| &brief)) {
            Ok(0) => {
                if let Some(half) = self.half.take() {
                    self.gone(&half);
                }
                self.events.send(self.call)
            }
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Fault::os(errno, "cannot wait for changes").into()),
        }
    }

    /// Takes what the kernel has, to the last.
    fn read(&mut self, top: &Path) -> Result<(), Stop> {
        let mut buffer = vec![MaybeUninit::uninit(); 16 * 1024];
        let mut happenings = Vec::new();
        loop {
            let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => happenings.push(Happening {
                        wd: event.wd(),
                        flags: event.events(),
                        cookie: event.cookie(),
                        name: event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                    }),
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => break,
                    Err(errno) => return Err(Fault::os(errno, "cannot read changes").into()),
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
            if happenings.is_empty() {
                self.scanned.clear();
                return Ok(());
            }
            for happening in happenings.drain(..) {
                if self.take(&happening, top)? {
                    break; // what else was there is of watches that are no more
                }
            }
            if self.call.is_lost() {
                return Err(Stop::Lost);
            }
        }
    }

    /// True when all is watched anew, since the kernel had to drop something.
    fn take(&mut self, happening: &Happening, top: &Path) -> Result<bool, Stop> {
        let flags = happening.flags;
        if self
            .half
            .as_ref()
            .is_some_and(|half| half.cookie != happening.cookie || !flags.contains(ReadFlags::MOVED_TO))
        {
            if let Some(half) = self.half.take() {
                self.gone(&half);
            }
        }
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.events.overflow();
            self.directories.clear();
            self.inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .map_err(|errno| Fault::os(errno, "cannot watch files"))?;
            self.begin(top)?;
            return Ok(true);
        }
        let Some(directory) = self.directories.get(&happening.wd).cloned() else {
            return Ok(false);
        };
        if flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&happening.wd);
        }
        let Some(name) = &happening.name else {
            let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
            if directory == top && flags.intersects(ends) && !self.over {
                self.over = true;
                let lost = self.events.only.clone().map_or_else(|| top.to_owned(), |name| top.join(name));
                self.events.tell(Kind::Removed, &lost, self.events.only.is_none(), None);
            }
            return Ok(false);
        };
        let is_dir = flags.contains(ReadFlags::ISDIR);
        self.change(happening, &directory.join(name), is_dir)?;
        Ok(false)
    }

    /// What happened to a name in a directory.
    fn change(&mut self, happening: &Happening, path: &Path, is_dir: bool) -> Result<(), Stop> {
        let flags = happening.flags;
        if flags.contains(ReadFlags::CREATE) {
            if !self.scanned.remove(path) {
                self.events.tell(Kind::Created, path, is_dir, None);
                self.enter(path, is_dir)?;
            }
        } else if flags.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB) {
            self.events.tell(Kind::Modified, path, is_dir, None);
        } else if flags.contains(ReadFlags::DELETE) {
            self.scanned.remove(path);
            self.events.tell(Kind::Removed, path, is_dir, None);
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            self.scanned.remove(path);
            self.half = Some(Half { cookie: happening.cookie, path: path.to_owned(), is_dir });
        } else if flags.contains(ReadFlags::MOVED_TO) {
            match self.half.take() {
                Some(half) if !is_temporary(&half.path) => {
                    self.rename(&half.path, path);
                    self.events.tell(Kind::Moved, path, is_dir, Some(&half.path));
                }
                _ if self.scanned.remove(path) => {}
                _ => {
                    self.events.tell(Kind::Created, path, is_dir, None);
                    self.enter(path, is_dir)?;
                }
            }
        }
        Ok(())
    }

    /// The other half of that move is not watched.
    fn gone(&mut self, half: &Half) {
        self.events.tell(Kind::Removed, &half.path, half.is_dir, None);
        if half.is_dir {
            let below = |path: &Path| path.starts_with(&half.path);
            let left: Vec<i32> = self.directories.iter().filter(|(_, path)| below(path)).map(|(wd, _)| *wd).collect();
            for wd in left {
                self.directories.remove(&wd);
                let _ = inotify::remove_watch(&self.inotify, wd);
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        for path in self.directories.values_mut() {
            if let Ok(rest) = path.strip_prefix(from) {
                // Joining an empty rest would leave a slash behind.
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }

    /// Watches a directory that came, and tells what was in it by then.
    fn enter(&mut self, path: &Path, is_dir: bool) -> Result<(), Stop> {
        if is_dir && self.recursive && self.add(path, false)?.is_some() {
            self.look_through(path, true)?;
        }
        Ok(())
    }

    /// Watches one directory; None when it is none any more or lies on another file system.
    fn add(&mut self, path: &Path, follow: bool) -> Result<Option<i32>, Stop> {
        if self.directories.len() >= MAX_DIRECTORIES {
            return Err(too_many().into());
        }
        let mut flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        if !follow {
            flags |= WatchFlags::DONT_FOLLOW;
            let found = rustix::fs::lstat(path);
            if found.map_or(true, |found| found.st_dev != self.device) {
                return Ok(None);
            }
        }
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(wd) => {
                self.directories.insert(wd, path.to_owned());
                Ok(Some(wd))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
            // What the kernel allows one user.
            Err(Errno::NOSPC) => Err(too_many().into()),
            Err(errno) => Err(Fault::os(errno, &path.to_string_lossy()).into()),
        }
    }

    /// Watches all directories below; with *telling*, all that is there is told of as created.
    fn look_through(&mut self, top: &Path, telling: bool) -> Result<(), Stop> {
        let mut left = vec![top.to_owned()];
        let mut buffer = vec![MaybeUninit::uninit(); 16 * 1024];
        while let Some(path) = left.pop() {
            if self.call.is_lost() {
                return Err(Stop::Lost);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let Ok(directory) = rustix::fs::openat(CWD, &path, flags, Mode::empty()) else {
                continue;
            };
            let mut entries = RawDir::new(&directory, &mut buffer);
            while let Some(Ok(entry)) = entries.next() {
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let found = path.join(OsStr::from_bytes(name));
                let is_dir = entry.file_type().is_dir();
                if telling {
                    self.events.tell(Kind::Created, &found, is_dir, None);
                    if self.scanned.len() < MAX_QUEUE {
                        self.scanned.insert(found.clone());
                    }
                }
                if is_dir && self.add(&found, false)?.is_some() {
                    left.push(found);
                }
            }
        }
        Ok(())
    }
}

fn too_many() -> Fault {
    Fault::exhausted(format!("more than {MAX_DIRECTORIES} directories to watch; watch fewer, or without `recursive`"))
}
