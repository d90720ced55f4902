//! `terp-jail`: an empty room for the monitor of one machine.
//!
//! ```text
//! launcher (host)                                          program (PID 1 of its own pid namespace)
//!   close what was not given
//!   root:     own mounts, build the room, drop to the uid, own namespaces
//!   rootless: own namespaces, build the room
//!   fork ───────────────────────────────────────────────►  new session, limits, no capabilities
//!   print the program's pid as the host sees it
//!   "go" ────────────────────────────────────────────────►  execve
//!   wait for the exec, exit 0                               runs on, whoever dies
//! ```
//!
//! The program execs only after its pid was printed, and ends by itself if the launcher dies before that: a crash at
//! any line leaves nothing. Whoever reads the pid puts the program into its cgroup. Exit codes: 0 the program runs; 1 nothing runs, and one line on standard
//! error says which step failed; 2 the same for the command line.
//!
//! Standard input is to be /dev/null: it becomes the program's standard input and output.

mod args;
mod rights;
mod room;
mod sys;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use args::Spec;

/// A step that failed, and why.
#[derive(Debug)]
pub struct Fault {
    step: String,
    source: io::Error,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.step, self.source)
    }
}

/// Names the step that a failure belongs to.
pub trait Step<T> {
    /// # Errors
    /// What `self` failed with, named.
    fn step(self, step: impl Into<String>) -> Result<T, Fault>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Fault> {
        self.map_err(|source| Fault {
            step: step.into(),
            source,
        })
    }
}

fn main() -> ExitCode {
    let spec = match args::parse(std::env::args_os().skip(1)) {
        Ok(spec) => spec,
        Err(wrong) => {
            eprintln!("terp-jail: {wrong}");
            return ExitCode::from(2);
        }
    };
    match launch(&spec) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("terp-jail: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn launch(spec: &Spec) -> Result<(), Fault> {
    let mut kept = spec.fds.clone();
    kept.extend(spec.stderr);
    sys::close_all_but(&kept).step("close descriptors")?;
    // Held open, for the room has no /proc and the id maps are written after the room is built.
    let proc = File::open("/proc").step("open /proc")?;
    if let Some(ids) = spec.ids {
        sys::unshare(libc::CLONE_NEWNS).step("unshare the mounts")?;
        room::enter(spec)?;
        rights::become_user(ids)?;
        rights::isolate(&proc, libc::CLONE_NEWUSER | rights::NAMESPACES)?;
    } else {
        rights::isolate(
            &proc,
            libc::CLONE_NEWUSER | libc::CLONE_NEWNS | rights::NAMESPACES,
        )?;
        room::enter(spec)?;
    }
    sys::sethostname(&spec.name).step("set the host name")?;
    start(spec, &kept)
}

fn start(spec: &Spec, kept: &[i32]) -> Result<(), Fault> {
    let (mut ours, theirs) = UnixStream::pair().step("make a socket pair")?;
    let pid = sys::fork().step("fork")?;
    if pid == 0 {
        drop(ours);
        become_program(spec, kept, theirs);
    }
    drop(theirs);
    let mut out = io::stdout().lock();
    writeln!(out, "{pid}")
        .and_then(|()| out.flush())
        .step("print the pid")?;
    ours.write_all(b"g").step("release the program")?;
    let mut complaint = String::new();
    // Ends when the program's end closes: at its exec, or at its death.
    ours.take(4096)
        .read_to_string(&mut complaint)
        .step("wait for the exec")?;
    if complaint.is_empty() {
        return Ok(());
    }
    sys::wait(pid).step("wait for the failed program")?;
    Err(Fault {
        step: "start the program".into(),
        source: io::Error::other(complaint),
    })
}

/// Runs in the child. Returns only by exiting the process.
fn become_program(spec: &Spec, kept: &[i32], mut launcher: UnixStream) -> ! {
    let fault = match prepare(spec, kept, &mut launcher) {
        Ok(true) => Fault {
            step: format!("exec {}", spec.argv[0].to_string_lossy()),
            source: sys::exec(&spec.argv),
        },
        // The launcher died before anybody learned our pid.
        Ok(false) => std::process::exit(1),
        Err(fault) => fault,
    };
    // If the launcher is gone too, nobody is left to tell.
    let _ = write!(launcher, "{fault}");
    std::process::exit(1);
}

/// Whether the launcher said "go".
fn prepare(spec: &Spec, kept: &[i32], launcher: &mut UnixStream) -> Result<bool, Fault> {
    sys::setsid().step("start a session")?;
    rights::limit(spec.ids.is_some())?;
    rights::drop_all()?;
    rights::reset_signals()?;
    let mut keep = kept.to_vec();
    keep.push(launcher.as_raw_fd());
    sys::close_all_but(&keep).step("close descriptors")?;
    sys::duplicate(0, 1).step("set standard output")?;
    sys::duplicate(spec.stderr.unwrap_or(0), 2).step("set standard error")?;
    if let Some(fd) = spec.stderr {
        sys::close_on_exec(fd).step("set standard error")?;
    }
    let mut go = [0];
    Ok(launcher.read(&mut go).step("wait for the launcher")? == 1)
}
