//! Tells programs that they go on in another guest than the one that was saved.
//!
//! What a program keeps in its own memory is the same in every fork of a guest: the state of its random number generator
//! above all. No kernel call renews that, so it gets a signal, behind which it renews it itself.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::processes::{self, Status};

/// SIGRTMAX-1 of glibc. Nobody sends it by accident, and who does not expect it is not sent it.
const SIGNAL: i32 = 63;
/// Sends the signal to each process below this one that expects it. They are to be frozen, so that it comes before
/// anything else they do. There are no more of them than the kernel was told to allow.
///
/// # Errors
/// The list of processes cannot be read. One that vanishes meanwhile is no error.
pub(crate) fn tell_processes(proc: &OwnedFd) -> Result<(), Errno> {
    for (pid, status) in processes::below_us(proc)? {
        if expects_signal(status) {
            tell(proc, pid, status);
        }
    }
    Ok(())
}

/// Of a program that catches this signal in particular. One that catches all of them knows nothing of it: an init or a
/// container tool passes it on to who would die of it, a Go program ignores it.
fn expects_signal(status: Status) -> bool {
    status.caught & bit(SIGNAL) != 0 && status.caught & bit(SIGNAL - 1) == 0
}

fn tell(proc: &OwnedFd, pid: i32, seen: Status) {
    // SAFETY: asks for a new descriptor.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Some(raw) = i32::try_from(raw).ok().filter(|raw| *raw >= 0) else { return };
    // SAFETY: the kernel just made it and nothing else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
    // Looked at again: the number might be another's by now, for whom the signal would be the end.
    if Status::read(proc, pid) == Some(seen) && !is_about_to_exec(pid, seen.parent) {
        // To its main thread. Of threads that are all frozen any may be the first to take what is sent to a process, and
        // an interpreter whose main thread waits would not be woken by another's. Who blocks it there waits elsewhere.
        let to_main = if seen.blocked & bit(SIGNAL) == 0 { PIDFD_SIGNAL_THREAD } else { 0 };
        // SAFETY: a system call on a descriptor we own; no memory is passed.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                SIGNAL,
                std::ptr::null::<libc::siginfo_t>(),
                to_main,
            )
        };
    }
}

/// include/uapi/linux/pidfd.h; Linux 6.9. Guests have 6.12.
const PIDFD_SIGNAL_THREAD: i32 = 1;

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A child of vfork, which has its parent's memory and handlers until it becomes another program: the signal would wait
/// until the handlers are gone, and kill it. The parent gets it anyway.
fn is_about_to_exec(pid: i32, parent: i32) -> bool {
    // SAFETY: compares two processes' memory by name; no memory of ours is passed.
    unsafe { libc::syscall(libc::SYS_kcmp, pid, parent, KCMP_VM, 0, 0) == 0 }
}

/// include/uapi/linux/kcmp.h
const KCMP_VM: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// Who catches this signal and not all of them expects it.
    #[test]
    fn the_signal_is_for_those_who_expect_it() {
        let expects = |caught| expects_signal(Status { parent: 1, caught, blocked: 0 });
        assert!(expects(0x4000_0000_0000_0002));
        assert!(!expects(0x0000_0000_0000_0002));
        assert!(!expects(0x7fff_ffff_fffb_feff), "all of them");
    }
}
