//! Making directories, moving and removing.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::fault::{Code, Fault};
use crate::files::place::WriteRoots;
use crate::proto::{FileMkdir, FileMove, FileRemove};
use crate::wire::call::{Call, Stop};

/// Directories open at once while a tree is removed; a deeper one is refused.
const MAX_DEPTH: usize = 512;

pub(crate) fn mkdir(roots: &WriteRoots, ask: &FileMkdir) -> Result<(), Fault> {
    if ask.parents {
        return roots.directory(&ask.path, true).map(drop);
    }
    let place = roots.place(&ask.path, false)?;
    rustix::fs::mkdirat(&place.parent, &*place.name, Mode::from_raw_mode(0o755))
        .map_err(|errno| Fault::os(errno, &ask.path))
}

pub(crate) fn rename(roots: &WriteRoots, ask: &FileMove) -> Result<(), Fault> {
    let source = roots.place(&ask.source, false)?;
    // Asked first, so that a missing source does not leave new parents behind.
    source.kind().map_err(|errno| Fault::os(errno, &ask.source))?;
    let target = roots.place(&ask.destination, true)?;
    rustix::fs::renameat(&source.parent, &*source.name, &target.parent, &*target.name).map_err(|errno| match errno {
        Errno::XDEV => Fault::invalid(format!("{}: is on another file system than {}", ask.destination, ask.source)),
        Errno::INVAL => Fault::invalid(format!("{}: lies within {}", ask.destination, ask.source)),
        errno => Fault::os(errno, &ask.destination),
    })
}

pub(crate) fn remove(roots: &WriteRoots, call: &Call, ask: &FileRemove) -> Result<(), Stop> {
    let place = roots.place(&ask.path, false)?;
    let name = CString::new(place.name).map_err(|_| Fault::invalid("path: holds a NUL"))?;
    match rustix::fs::unlinkat(&place.parent, &*name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::ISDIR) if ask.recursive => remove_tree(&place.parent, name, &ask.path, &|| call.is_lost()),
        Err(Errno::ISDIR) => {
            Err(Fault::new(Code::IsDirectory, format!("{}: is a directory; removing it takes `recursive`", ask.path))
                .into())
        }
        Err(errno) => Err(Fault::os(errno, &ask.path).into()),
    }
}

/// Removes a directory and all below it. Neither follows links nor enters another file system.
fn remove_tree(parent: &OwnedFd, name: CString, path: &str, cancelled: &dyn Fn() -> bool) -> Result<(), Stop> {
    let fault = |errno| Stop::Fault(Fault::os(errno, path));
    let mut open = vec![(enter(parent, &name).map_err(fault)?, name)];
    while let Some((directory, _)) = open.last() {
        if cancelled() {
            return Err(Stop::Lost);
        }
        if let Some(name) = empty_of_files(directory).map_err(fault)? {
            if open.len() >= MAX_DEPTH {
                return Err(Fault::exhausted(format!("{path}: more than {MAX_DEPTH} directories deep")).into());
            }
            let below = enter(directory, &name).map_err(fault)?;
            open.push((below, name));
        } else if let Some((_, name)) = open.pop() {
            let above = open.last().map_or(parent, |(directory, _)| directory);
            rustix::fs::unlinkat(above, &*name, AtFlags::REMOVEDIR).map_err(fault)?;
        }
    }
    Ok(())
}

fn enter(parent: &OwnedFd, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, &**name, flags, Mode::empty(), resolve)
}

/// Unlinks what is no directory. Returns the first directory met, None when there is none.
fn empty_of_files(directory: &OwnedFd) -> Result<Option<CString>, Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn remove_below(top: &std::path::Path) -> Result<(), Stop> {
        let parent = rustix::fs::open(top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        remove_tree(&parent, c"tree".to_owned(), "tree", &|| false)
    }

    /// A tree goes with everything in it, and what its links point to stays.
    #[test]
    fn trees_are_removed_without_following_links() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("tree/a/b/c")).unwrap();
        std::fs::create_dir_all(top.path().join("tree/d")).unwrap();
        std::fs::create_dir(top.path().join("kept")).unwrap();
        std::fs::write(top.path().join("kept/file"), "x").unwrap();
        std::fs::write(top.path().join("tree/a/file"), "x").unwrap();
        symlink(top.path().join("kept"), top.path().join("tree/a/b/link")).unwrap();
        assert!(remove_below(top.path()).is_ok());
        assert!(!top.path().join("tree").exists());
        assert!(top.path().join("kept/file").exists());
    }

    /// A tree of hostile depth is refused before descriptors run out.
    #[test]
    fn depth_is_bounded() {
        let top = tempfile::tempdir().unwrap();
        let mut deepest = rustix::fs::open(top.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&deepest, "tree", Mode::RWXU).unwrap();
        deepest = enter(&deepest, &c"tree".to_owned()).unwrap();
        for _ in 0..MAX_DEPTH {
            rustix::fs::mkdirat(&deepest, "d", Mode::RWXU).unwrap();
            deepest = enter(&deepest, &c"d".to_owned()).unwrap();
        }
        assert!(matches!(remove_below(top.path()), Err(Stop::Fault(Fault { code: Code::Exhausted, .. }))));
    }
}
