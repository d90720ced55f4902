//! Where a change happens: a directory that was opened first and checked afterwards.
//!
//! The kernel resolves the path; then it is asked where the opened directory really is. Everything after that
//! goes through the descriptor, so a symlink that is swapped in between changes nothing. Links that stay
//! within the roots work, wherever they point.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;

use crate::fault::{Code, Fault};
use crate::files::{check_path, split};

/// Links followed at the end of one path, as the kernel does within it (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// The write roots that every machine has, with their permissions.
pub(crate) const MADE_ROOTS: [(&str, u32); 2] = [("/workspace", 0o755), ("/tmp", 0o1777)];

/// The directories below which the host may change files. Real paths.
pub(crate) struct WriteRoots {
    roots: Vec<PathBuf>,
    /// Those to be made again when they are gone, with their permissions.
    made: Vec<(PathBuf, u32)>,
    default_cwd: String,
}

/// A name in a directory that lies within a write root.
pub(crate) struct Place {
    pub(crate) parent: OwnedFd,
    pub(crate) name: String,
}

impl WriteRoots {
    /// Those of a sandbox. They need not exist: /persist comes with a volume.
    pub(crate) fn standard() -> Self {
        Self {
            roots: ["/workspace", "/tmp", "/persist"].map(PathBuf::from).into(),
            made: MADE_ROOTS.map(|(path, mode)| (PathBuf::from(path), mode)).into(),
            default_cwd: "/workspace".to_owned(),
        }
    }

    /// # Errors
    /// One of them does not exist.
    pub(crate) fn new(roots: &[PathBuf]) -> std::io::Result<Self> {
        let roots = roots.iter().map(std::fs::canonicalize).collect::<Result<Vec<_>, _>>()?;
        let default_cwd = roots.first().map_or_else(|| "/".to_owned(), |root| root.to_string_lossy().into_owned());
        let made = roots.iter().map(|root| (root.clone(), 0o755)).collect();
        Ok(Self { roots, made, default_cwd })
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(PathBuf::as_path)
    }

    /// Where commands run that name no directory.
    pub(crate) fn default_cwd(&self) -> &str {
        &self.default_cwd
    }

    /// Makes the roots that are missing: a command may remove or rename them, and nothing could be written there, nor a
    /// command run that names no directory, ever after. What stands in their place is left.
    pub(crate) fn restore(&self) {
        for (path, mode) in &self.made {
            // Neither is owed: whoever asks next is told why it is not there.
            if rustix::fs::mkdir(path, Mode::RWXU).is_ok() {
                let _ = rustix::fs::chmod(path, Mode::from_raw_mode(*mode));
            }
        }
    }

    /// The place that *path* names; a link there is the place itself. With *make*, missing parents are made.
    ///
    /// # Errors
    /// `NOT_PERMITTED` outside the write roots and for a root itself.
    pub(crate) fn place(&self, path: &str, make: bool) -> Result<Place, Fault> {
        let (parent, name) = split(check_path(path)?)?;
        let parent = self.directory(parent, make)?;
        if self.roots.contains(&real_path(&parent)?.join(name)) {
            return Err(Fault::new(Code::NotPermitted, format!("{path}: a write root cannot be changed itself")));
        }
        Ok(Place { parent, name: name.to_owned() })
    }

    /// As `place`, with missing parents made, but links there are followed to where they lead.
    pub(crate) fn place_behind_links(&self, path: &str) -> Result<Place, Fault> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let place = self.place(&path, true)?;
            match place.kind() {
                Ok(FileType::Symlink) => {
                    let link = rustix::fs::readlinkat(&place.parent, &*place.name, Vec::new());
                    let link = link.map_err(|errno| Fault::os(errno, &path))?;
                    let target = real_path(&place.parent)?.join(OsStr::from_bytes(link.as_bytes()));
                    path = target
                        .into_os_string()
                        .into_string()
                        .map_err(|_| Fault::invalid(format!("{path}: links to a name that is not UTF-8")))?;
                }
                Ok(_) | Err(Errno::NOENT) => return Ok(place),
                Err(errno) => return Err(Fault::os(errno, &path)),
            }
        }
        Err(Fault::os(Errno::LOOP, &path))
    }

    /// A directory within the roots, opened as a location (`O_PATH`). With *make*, what is missing is made.
    pub(crate) fn directory(&self, path: &str, make: bool) -> Result<OwnedFd, Fault> {
        let mut missing = Vec::new();
        let mut known = check_path(path)?;
        let mut restored = false;
        let mut directory = loop {
            match open_directory(CWD, known) {
                Ok(directory) => break directory,
                Err(Errno::NOENT) if !restored => {
                    self.restore();
                    restored = true;
                }
                Err(Errno::NOENT) if make => {
                    let (parent, name) = split(known)?;
                    missing.push(name);
                    known = parent;
                }
                Err(errno) => return Err(Fault::os(errno, path)),
            }
        };
        self.check(&directory, path)?;
        while let Some(name) = missing.pop() {
            match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Fault::os(errno, path)),
            }
            // Someone may have put a link there meanwhile: hence the check at every step.
            directory = open_directory(&directory, name).map_err(|errno| Fault::os(errno, path))?;
            self.check(&directory, path)?;
        }
        Ok(directory)
    }

    fn check(&self, directory: &OwnedFd, path: &str) -> Result<(), Fault> {
        let real = real_path(directory)?;
        if self.roots.iter().any(|root| real.starts_with(root)) {
            return Ok(());
        }
        Err(Fault::new(Code::NotPermitted, format!("{path}: outside the directories that may be written")))
    }
}

impl Place {
    /// What is there now; links are not followed.
    pub(crate) fn kind(&self) -> Result<FileType, Errno> {
        let found = rustix::fs::statat(&self.parent, &*self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(found.st_mode))
    }
}

fn open_directory(from: impl std::os::fd::AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Magic links (/proc/PID/cwd, fd/N) are refused: they lead to places that have no path of their own.
    rustix::fs::openat2(from, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// Where the kernel says *directory* is now. A removed one gets a name that is in no root's reach to create.
fn real_path(directory: &OwnedFd) -> Result<PathBuf, Fault> {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let real = rustix::fs::readlink(link, Vec::new()).map_err(|errno| Fault::os(errno, "cannot locate a directory"))?;
    Ok(Path::new(OsStr::from_bytes(real.as_bytes())).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, MetadataExt};

    struct Tree {
        top: tempfile::TempDir,
        roots: WriteRoots,
    }

    /// TOP/work and TOP/other are write roots, TOP/outside is not.
    fn tree() -> Tree {
        let top = tempfile::tempdir().unwrap();
        for name in ["work", "other", "outside"] {
            std::fs::create_dir(top.path().join(name)).unwrap();
        }
        let roots = WriteRoots::new(&[top.path().join("work"), top.path().join("other")]).unwrap();
        Tree { top, roots }
    }

    impl Tree {
        fn path(&self, name: &str) -> String {
            self.top.path().join(name).to_str().unwrap().to_owned()
        }

        fn code(&self, name: &str) -> Code {
            match self.roots.place_behind_links(&self.path(name)) {
                Ok(_) => Code::Ok,
                Err(fault) => fault.code,
            }
        }
    }

    /// Lexical tricks do not leave the roots, and harmless ones do not disturb.
    #[test]
    fn dots_are_resolved_by_the_kernel() {
        let tree = tree();
        assert_eq!(tree.code("work/file"), Code::Ok);
        assert_eq!(tree.code("work/../work/./file"), Code::Ok);
        assert_eq!(tree.code("work/../outside/file"), Code::NotPermitted);
        assert_eq!(tree.code("work/.."), Code::Invalid);
        assert_eq!(tree.code("work/missing/../file"), Code::Invalid);
        assert_eq!(tree.code("workshop/file"), Code::NotPermitted);
        assert!(!tree.top.path().join("workshop").exists(), "nothing is made outside");
    }

    /// A link that leads out is refused, in the middle and at the end; one that stays within works.
    #[test]
    fn links_are_followed_only_within() {
        let tree = tree();
        symlink(tree.path("outside"), tree.path("work/out")).unwrap();
        symlink("../outside/new", tree.path("work/out-file")).unwrap();
        symlink(tree.path("other"), tree.path("work/in")).unwrap();
        symlink("../other/new", tree.path("work/in-file")).unwrap();
        symlink("loop", tree.path("work/loop")).unwrap();
        assert_eq!(tree.code("work/out/file"), Code::NotPermitted);
        assert_eq!(tree.code("work/out/deep/file"), Code::NotPermitted);
        assert_eq!(tree.code("work/out-file"), Code::NotPermitted);
        assert_eq!(tree.code("work/in/deep/file"), Code::Ok);
        assert_eq!(tree.code("work/in-file"), Code::Ok);
        assert_eq!(tree.code("work/loop"), Code::Invalid);
        assert!(!tree.top.path().join("outside/deep").exists(), "nothing is made outside");
    }

    /// A place is a directory, not a path: swapping a link in afterwards does not move it.
    #[test]
    fn a_place_survives_a_swap() {
        let tree = tree();
        std::fs::create_dir(tree.path("work/dir")).unwrap();
        let place = tree.roots.place(&tree.path("work/dir/file"), false).unwrap();
        std::fs::rename(tree.path("work/dir"), tree.path("work/moved")).unwrap();
        symlink(tree.path("outside"), tree.path("work/dir")).unwrap();
        rustix::fs::mkdirat(&place.parent, &*place.name, Mode::RWXU).unwrap();
        assert!(tree.top.path().join("work/moved/file").is_dir());
        assert!(!tree.top.path().join("outside/file").exists());
    }

    /// A root that a command removed or renamed is there again when it is wanted, with its permissions.
    #[test]
    fn missing_roots_are_made_again() {
        let tree = tree();
        std::fs::remove_dir(tree.path("work")).unwrap();
        std::fs::rename(tree.path("other"), tree.path("renamed")).unwrap();
        assert_eq!(tree.code("work/deep/file"), Code::Ok);
        assert!(tree.roots.directory(&tree.path("other"), true).is_ok());
        assert_eq!(std::fs::metadata(tree.path("work")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(tree.code("renamed/file"), Code::NotPermitted);
    }

    /// A root itself is no place, nor is a name reached through /proc.
    #[test]
    fn roots_and_magic_links_are_refused() {
        let tree = tree();
        assert_eq!(tree.code("work"), Code::NotPermitted);
        assert_eq!(tree.code("work/../other/"), Code::NotPermitted);
        let held = std::fs::File::open(tree.path("work")).unwrap();
        let magic = format!("/proc/self/fd/{}/file", held.as_raw_fd());
        assert_eq!(tree.roots.place(&magic, false).err().unwrap().code, Code::Invalid);
        assert_eq!(tree.roots.place("relative", false).err().unwrap().code, Code::Invalid);
        assert_eq!(tree.roots.place("/tmp/\0", false).err().unwrap().code, Code::Invalid);
    }
}
