//! What the program may do: as whom it runs, in which namespaces, with which limits. Capabilities: none.

use std::fs::File;
use std::io;

use crate::sys;
use crate::{Fault, Step};

/// Besides user and mount namespaces, which are entered at different points.
pub const NAMESPACES: i32 = libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Threads of the program's uid. QEMU: 64 workers at most, one thread a vCPU, a few more; the cgroup is tighter.
const MAX_THREADS: u64 = 256;
/// QEMU holds about 40 and one for each open image.
const MAX_FILES: u64 = 1024;
/// What `io_uring` may pin on kernels before 5.12 (`RLIMIT_MEMLOCK` in getrlimit(2): the kernel's old default).
const MAX_LOCKED_BYTES: u64 = 64 * 1024;

/// Becomes (uid, gid) with no other groups, for good.
///
/// # Errors
/// The step that failed.
pub fn become_user((uid, gid): (u32, u32)) -> Result<(), Fault> {
    sys::setgroups_none().step("leave all groups")?;
    sys::setresgid(gid).step(format!("become group {gid}"))?;
    sys::setresuid(uid).step(format!("become user {uid}"))?;
    // A change of uid gives /proc/self to root; the id maps are written there by the user (prctl(2)).
    sys::set_dumpable().step("own /proc/self")
}

/// Enters new namespaces; the one id that exists there is the caller's own.
///
/// # Errors
/// The step that failed.
pub fn isolate(proc: &File, namespaces: i32) -> Result<(), Fault> {
    let (uid, gid) = sys::ids();
    sys::unshare(namespaces).step("unshare the namespaces")?;
    // In this order: without it an unprivileged user may not map a group (user_namespaces(7)).
    sys::write_at(proc, c"self/setgroups", "deny").step("deny setgroups")?;
    sys::write_at(proc, c"self/uid_map", &format!("{uid} {uid} 1")).step("map the uid")?;
    sys::write_at(proc, c"self/gid_map", &format!("{gid} {gid} 1")).step("map the gid")?;
    // A user namespace inside this one would give a program that broke out all the kernel's privileged doors to try.
    sys::write_at(proc, c"sys/user/max_user_namespaces", "0").step("forbid user namespaces")
}

/// Sets limits and the umask. `own_uid`: no other process of the host runs under this uid.
///
/// # Errors
/// The step that failed.
pub fn limit(own_uid: bool) -> Result<(), Fault> {
    sys::umask(0o077);
    sys::setrlimit(libc::RLIMIT_CORE, 0).step("limit core dumps")?;
    sys::setrlimit(libc::RLIMIT_NOFILE, MAX_FILES).step("limit open files")?;
    sys::setrlimit(libc::RLIMIT_MEMLOCK, MAX_LOCKED_BYTES).step("limit locked memory")?;
    if own_uid {
        sys::setrlimit(libc::RLIMIT_NPROC, MAX_THREADS).step("limit threads")?;
    }
    Ok(())
}

/// Drops every capability from every set, and the way to get any by an exec.
///
/// # Errors
/// The step that failed.
pub fn drop_all() -> Result<(), Fault> {
    sys::no_new_privileges().step("forbid new privileges")?;
    sys::clear_ambient().step("drop ambient capabilities")?;
    for capability in 0..64 {
        match sys::drop_bounding(capability) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(error) if capability > 0 && error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error).step(format!("drop capability {capability}")),
        }
    }
    sys::drop_capabilities().step("drop capabilities")
}

/// Unblocks all signals and gives each its default action; Rust's runtime ignores SIGPIPE, a parent may ignore others.
///
/// # Errors
/// The step that failed.
pub fn reset_signals() -> Result<(), Fault> {
    sys::default_signals().step("reset signals")
}
