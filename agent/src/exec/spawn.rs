//! Starting a program: one clone3 that shares memory with the agent until the exec, straight into its cgroup.
//!
//! A plain fork would copy page tables and fault on every page both sides touch; under emulation that is
//! several milliseconds. So the child borrows the agent's memory, as vfork does, on a stack of its own, while
//! the calling thread waits. Until its exec it may only make system calls.

use std::arch::asm;
use std::ffi::{c_char, c_int, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicI32;

use rustix::io::Errno;

const STACK_BYTES: usize = 32 * 1024;

/// What to run, ready for the kernel.
pub(crate) struct Program {
    /// Tried in turn until one runs; each with its argument vector.
    pub(crate) candidates: Vec<(CString, Vec<CString>)>,
    pub(crate) env: Vec<CString>,
}

/// What the child inherits.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    pub(crate) cwd: BorrowedFd<'a>,
    /// None: the child becomes a subreaper instead, so that its tree can be found while it lives.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpawnError {
    /// No process could be made.
    Clone(Errno),
    /// The process was made, and the program could not be run in it.
    Exec(Errno),
}

/// Everything the child reads, prepared beforehand: it must not allocate.
struct Plan {
    stdio: [RawFd; 3],
    cwd: RawFd,
    subreaper: bool,
    programs: Vec<(*const c_char, Vec<*const c_char>)>,
    env: Vec<*const c_char>,
    /// Written by the child, read by the parent after the child is gone or has its own memory.
    error: c_int,
}

/// Starts *program* in a new session. Returns once it runs; its pid is in `pid_slot` before that.
pub(crate) fn spawn(program: &Program, around: &Surroundings<'_>, pid_slot: &AtomicI32) -> Result<Child, SpawnError> {
    let terminated = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let mut plan = Plan {
        stdio: [around.stdin.as_raw_fd(), around.stdout.as_raw_fd(), around.stderr.as_raw_fd()],
        cwd: around.cwd.as_raw_fd(),
        subreaper: around.cgroup.is_none(),
        programs: program.candidates.iter().map(|(path, argv)| (path.as_ptr(), terminated(argv))).collect(),
        env: terminated(&program.env),
        error: 0,
    };
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID;
    let mut flags = u64::from(flags.cast_unsigned());
    let mut cgroup = 0;
    if let Some(group) = around.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    }
    let args = CloneArgs {
        flags,
        pidfd: (&raw mut pidfd).addr() as u64,
        parent_tid: pid_slot.as_ptr().addr() as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        stack: stack.as_mut_ptr().addr() as u64,
        stack_size: STACK_BYTES as u64,
        cgroup,
        ..CloneArgs::default()
    };
    // SAFETY: `args` and all it names live until the child has exec'd or exited, since CLONE_VFORK keeps this
    // thread waiting. The child runs `child` on its own 16-aligned stack and never returns from it.
    let pid = unsafe { clone3(&raw const args, &raw mut plan) };
    drop(stack);
    if pid < 0 {
        let errno = i32::try_from(-pid).unwrap_or(libc::EINVAL);
        return Err(SpawnError::Clone(Errno::from_raw_os_error(errno)));
    }
    // SAFETY: the kernel stored a new descriptor that nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).unwrap_or(i32::MAX);
    // SAFETY: reads what the child may have written through its copy of the pointer; it has left this memory.
    match unsafe { ptr::read_volatile(&raw const plan.error) } {
        0 => Ok(Child { pid, pidfd }),
        // The failed child is reaped like any orphan: nothing was recorded for its pid.
        errno => Err(SpawnError::Exec(Errno::from_raw_os_error(errno))),
    }
}

/// Linux 5.7, include/uapi/linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args`, include/uapi/linux/sched.h.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3 whose child calls `child(plan)`. Written out because a call that returns twice on a shared stack
/// cannot be expressed otherwise. Returns the pid or a negated errno.
///
/// # Safety
/// `args` must ask for `CLONE_VM` and `CLONE_VFORK` with a stack of its own; `plan` must be valid meanwhile.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: *const CloneArgs, plan: *mut Plan) -> i64 {
    let result: i64;
    // SAFETY: in the parent only the registers named are changed. The child starts behind the `syscall` with
    // the new stack, aligned as the ABI wants it before a call, and ends in `child`, which does not return.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r8") child as extern "C" fn(*mut Plan) -> !,
            in("r9") plan,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The child's whole life before its program. System calls only: the agent's other threads may hold any lock.
extern "C" fn child(plan: *mut Plan) -> ! {
    // SAFETY: `plan` outlives this function (see `spawn`); every pointer in it ends in a null and names
    // NUL-terminated strings; the calls are plain system calls that touch no lock and no allocator. errno
    // is the waiting parent thread's, which nobody reads meanwhile.
    unsafe {
        let plan = &mut *plan;
        libc::setsid();
        for (source, target) in plan.stdio.iter().zip(0..) {
            // The agent's own 0, 1 and 2 are always open, so no source is overwritten before its turn.
            if libc::dup2(*source, target) < 0 {
                give_up(plan);
            }
        }
        // A terminal becomes the session's own; nothing else can.
        libc::ioctl(0, libc::TIOCSCTTY, 0);
        if libc::fchdir(plan.cwd) < 0 {
            give_up(plan);
        }
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            libc::write(score, c"0".as_ptr().cast(), 1);
        }
        if plan.subreaper {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        // A shell that is there and cannot run (no permission, half a file) is not the last one; what is said is why.
        let mut errno = libc::ENOENT;
        for (path, argv) in &plan.programs {
            libc::execve(*path, argv.as_ptr(), plan.env.as_ptr());
            if errno == libc::ENOENT {
                errno = *libc::__errno_location();
            }
        }
        *libc::__errno_location() = errno;
        give_up(plan)
    }
}

fn give_up(plan: &mut Plan) -> ! {
    // SAFETY: reads errno and ends only this process, without running the agent's exit handlers.
    unsafe {
        plan.error = *libc::__errno_location();
        libc::_exit(127)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    fn run(paths: &[&std::path::Path]) -> Result<i32, SpawnError> {
        let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).unwrap();
        let cwd = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let around = Surroundings {
            stdin: null.as_fd(),
            stdout: null.as_fd(),
            stderr: null.as_fd(),
            cwd: cwd.as_fd(),
            cgroup: None,
        };
        let argv = || vec![c"sh".to_owned(), c"-c".to_owned(), c"exit 7".to_owned()];
        let path = |path: &&std::path::Path| CString::new(path.to_str().unwrap()).unwrap();
        let candidates = paths.iter().map(|name| (path(name), argv())).collect();
        let slot = AtomicI32::new(0);
        let outcome = spawn(&Program { candidates, env: Vec::new() }, &around, &slot);
        let pid = slot.load(Ordering::SeqCst);
        let mut status = 0;
        // SAFETY: waits for the child of this test and stores its status.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid, "the slot names the child");
        outcome.map(|_| libc::WEXITSTATUS(status))
    }

    /// A shell that is there and cannot run does not keep the next one from it, and is what an error is about.
    #[test]
    fn the_first_program_that_runs_is_run() {
        let top = tempfile::tempdir().unwrap();
        let (empty, plain) = (top.path().join("empty"), top.path().join("plain"));
        std::fs::write(&plain, "").unwrap();
        std::fs::write(&empty, "").unwrap();
        std::fs::set_permissions(&empty, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (sh, none) = (std::path::Path::new("/bin/sh"), std::path::Path::new("/no/such"));
        for paths in [&[sh][..], &[none, sh], &[&plain, sh], &[&empty, sh]] {
            assert_eq!(run(paths), Ok(7), "{paths:?}");
        }
        assert_eq!(run(&[none, none]), Err(SpawnError::Exec(Errno::NOENT)));
        assert_eq!(run(&[none, &plain]), Err(SpawnError::Exec(Errno::ACCESS)));
        assert_eq!(run(&[&plain, none]), Err(SpawnError::Exec(Errno::ACCESS)));
    }
}
