//! System calls, each behind a safe function that turns -1 into an error. The only place with `unsafe`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn done(result: impl Into<libc::c_long>) -> io::Result<()> {
    checked(result.into()).map(drop)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// ---- descriptors ---------------------------------------------------------------------------------

/// Closes every descriptor above 2 but those of `kept`.
pub fn close_all_but(kept: &[i32]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = from.max(fd + 1);
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is involved. Callers close before they open anything, or name all they hold.
    done(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

pub fn duplicate(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: no memory is involved; `to` is a standard stream, which nothing here owns.
    done(unsafe { libc::dup2(from, to) })
}

pub fn close_on_exec(fd: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })
}

pub fn open_path(path: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `path` ends with a zero byte and lives through the call.
    owned(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }.into())
}

/// Makes an empty file that must not be there yet.
pub fn make_file(path: &CStr) -> io::Result<()> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: `path` ends with a zero byte and lives through the call.
    owned(unsafe { libc::open(path.as_ptr(), flags, 0o444) }.into()).map(drop)
}

/// Writes `text` in one piece to an existing file below an open directory.
pub fn write_at(directory: &File, path: &CStr, text: &str) -> io::Result<()> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: `path` ends with a zero byte and lives through the call.
    let fd = owned(unsafe { libc::openat(directory.as_raw_fd(), path.as_ptr(), flags) }.into())?;
    File::from(fd).write_all(text.as_bytes())
}

pub fn require_regular(file: &OwnedFd) -> io::Result<()> {
    // SAFETY: all zeroes is a valid stat, and fstat fills it.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a stat that lives through the call.
    done(unsafe { libc::fstat(file.as_raw_fd(), &raw mut found) })?;
    if found.st_mode & libc::S_IFMT == libc::S_IFREG {
        Ok(())
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

// ---- mounts --------------------------------------------------------------------------------------

/// Attributes of a mount, to be added to those it has.
#[derive(Clone, Copy)]
pub struct Attributes(u64);

impl Attributes {
    pub const READ_ONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    pub const NO_EXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    pub const NO_SUID_NO_DEVICES: Self = Self(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);

    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

pub fn make_private(path: &CStr) -> io::Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: `path` ends with a zero byte; the kernel ignores the rest for a change of propagation.
    done(unsafe { libc::mount(ptr::null(), path.as_ptr(), ptr::null(), flags, ptr::null()) })
}

/// A detached bind mount of `path`, which must not be a symbolic link itself.
pub fn clone_mount(path: &CStr) -> io::Result<OwnedFd> {
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
    // SAFETY: `path` ends with a zero byte and lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

pub fn restrict(mount: &OwnedFd, attributes: Attributes) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: attributes.0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty string, `change` lives through the call and its size is given.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// Puts a detached mount at `target`.
pub fn attach(mount: &OwnedFd, target: &CStr) -> io::Result<()> {
    // SAFETY: both paths end with a zero byte and live through the call.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

pub fn mount_tmpfs(target: &CStr, options: &CStr) -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let kind = c"tmpfs".as_ptr();
    // SAFETY: all strings end with a zero byte and live through the call.
    done(unsafe { libc::mount(kind, target.as_ptr(), kind, flags, options.as_ptr().cast()) })
}

pub fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` ends with a zero byte and lives through the call.
    done(unsafe { libc::chdir(path.as_ptr()) })
}

pub fn pivot_root(new: &CStr, old: &CStr) -> io::Result<()> {
    // SAFETY: both paths end with a zero byte and live through the call.
    done(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) })
}

pub fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` ends with a zero byte and lives through the call.
    done(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })
}

// ---- identity and rights -------------------------------------------------------------------------

pub fn unshare(namespaces: i32) -> io::Result<()> {
    // SAFETY: no memory is involved, and this process has one thread.
    done(unsafe { libc::unshare(namespaces) })
}

pub fn ids() -> (u32, u32) {
    // SAFETY: these always succeed and touch no memory.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

pub fn setgroups_none() -> io::Result<()> {
    // SAFETY: a count of zero reads nothing.
    done(unsafe { libc::setgroups(0, ptr::null()) })
}

pub fn setresgid(gid: u32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::setresgid(gid, gid, gid) })
}

pub fn setresuid(uid: u32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::setresuid(uid, uid, uid) })
}

fn prctl(option: i32, first: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    done(unsafe { libc::prctl(option, first, zero, zero, zero) })
}

pub fn set_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 1)
}

pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

pub fn clear_ambient() -> io::Result<()> {
    #[allow(clippy::cast_sign_loss)] // a constant, 4
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
    )
}

pub fn drop_bounding(capability: libc::c_ulong) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability)
}

/// Empties the effective, permitted and inheritable sets.
pub fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522; // linux/capability.h, _LINUX_CAPABILITY_VERSION_3
    let header = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: version 3 reads a header of two words and two data records of three words each.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })
}

pub fn setrlimit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    // SAFETY: all zeroes is a valid rlimit, and getrlimit fills it.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: `limit` lives through the call.
    done(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    // Only ever lowered: raising needs a capability that a rootless launcher lacks.
    let most = most.min(limit.rlim_max);
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: `limit` lives through the call.
    done(unsafe { libc::setrlimit(resource, &raw const limit) })
}

pub fn umask(mask: libc::mode_t) {
    // SAFETY: always succeeds and touches no memory.
    unsafe { libc::umask(mask) };
}

pub fn default_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of this process. It fails for SIGKILL, SIGSTOP and the two that
        // the C library keeps for itself, all of which have their default action already.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: all zeroes is a valid set, and sigemptyset makes it the empty one.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` lives through both calls; the old mask is not asked for.
    done(unsafe { libc::sigemptyset(&raw mut none) })?;
    // SAFETY: as above.
    done(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) })
}

pub fn sethostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are of one string that lives through the call.
    done(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })
}

// ---- processes -----------------------------------------------------------------------------------

/// Returns 0 in the child, and in the parent the child's pid as the parent's namespace counts.
pub fn fork() -> io::Result<i32> {
    // SAFETY: this process has one thread, so the child may go on to allocate and lock.
    let pid = unsafe { libc::fork() };
    done(pid)?;
    Ok(pid)
}

pub fn setsid() -> io::Result<()> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::setsid() })
}

pub fn wait(pid: i32) -> io::Result<()> {
    // SAFETY: the status is not asked for.
    done(unsafe { libc::waitpid(pid, ptr::null_mut(), 0) })
}

/// Replaces this process by the program, with an empty environment. Returns only if that failed.
pub fn exec(argv: &[CString]) -> io::Error {
    let Some(program) = argv.first() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|word| word.as_ptr()).collect();
    pointers.push(ptr::null());
    let no_environment = [ptr::null()];
    // SAFETY: both arrays end with a null pointer and hold strings that live through the call.
    unsafe { libc::execve(program.as_ptr(), pointers.as_ptr(), no_environment.as_ptr()) };
    io::Error::last_os_error()
}
