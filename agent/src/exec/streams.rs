//! The two ends of a command's standard streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::pipe::{pipe_with, PipeFlags};
use rustix::termios::Winsize;

use crate::agent::Agent;
use crate::exec::log::Log;
use crate::exec::output::Output;
use crate::exec::ring::Ring;
use crate::exec::terminal;
use crate::fault::Fault;
use crate::proto::ExecStart;

/// Ours; none of them blocks.
pub(crate) struct Ours {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    /// None: it goes the way of stdout.
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) output: Output,
}

/// The command's.
pub(crate) struct Theirs {
    /// None: /dev/null.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    /// None: the same as stdout.
    stderr: Option<OwnedFd>,
}

impl Theirs {
    pub(crate) fn stderr(&self) -> BorrowedFd<'_> {
        self.stderr.as_ref().unwrap_or(&self.stdout).as_fd()
    }
}

pub(crate) fn open(agent: &Agent, ask: &ExecStart) -> Result<(Ours, Theirs), Fault> {
    match ask.pty {
        Some(_) if ask.background => Err(Fault::invalid("pty: not of a background command")),
        Some(size) => open_terminal(agent, terminal::check_size(size)?),
        None => open_pipes(agent, ask),
    }
}

fn open_terminal(agent: &Agent, size: Winsize) -> Result<(Ours, Theirs), Fault> {
    let (stdout, theirs) = terminal::open(&agent.terminals, size)?;
    // Output and input are closed each in its time.
    let stdin = duplicate(&stdout)?;
    let stdin_theirs = duplicate(&theirs)?;
    let output = Output::Ring(Ring::new(agent.execs.budget()));
    let ours = Ours { stdin: Some(stdin), stdout, stderr: None, output };
    Ok((ours, Theirs { stdin: Some(stdin_theirs), stdout: theirs, stderr: None }))
}

fn open_pipes(agent: &Agent, ask: &ExecStart) -> Result<(Ours, Theirs), Fault> {
    let (stdout, stdout_theirs) = output_pipe()?;
    let (stdin, stdin_theirs) = if ask.stdin { input_pipe().map(split)? } else { (None, None) };
    let (stderr, stderr_theirs) = if ask.background { (None, None) } else { output_pipe().map(split)? };
    let output = if ask.background {
        Output::Log(Arc::new(Log::create(&agent.disk)))
    } else {
        Output::Ring(Ring::new(agent.execs.budget()))
    };
    let theirs = Theirs { stdin: stdin_theirs, stdout: stdout_theirs, stderr: stderr_theirs };
    Ok((Ours { stdin, stdout, stderr, output }, theirs))
}

fn duplicate(end: &OwnedFd) -> Result<OwnedFd, Fault> {
    rustix::io::fcntl_dupfd_cloexec(end, 3).map_err(|errno| Fault::os(errno, "cannot open a terminal twice"))
}

fn split((ours, theirs): (OwnedFd, OwnedFd)) -> (Option<OwnedFd>, Option<OwnedFd>) {
    (Some(ours), Some(theirs))
}

/// Our end, which never blocks, and the command's.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    let (ours, theirs) = open_pipe()?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| Fault::os(errno, "cannot prepare a pipe"))?;
    Ok((ours, theirs))
}

/// As `output_pipe`, the other way.
fn input_pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    let (theirs, ours) = open_pipe()?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| Fault::os(errno, "cannot prepare a pipe"))?;
    Ok((ours, theirs))
}

fn open_pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Fault::os(errno, "cannot open a pipe"))
}
