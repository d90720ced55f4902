//! The calls on execs: start, attach, signal.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{pipe_with, PipeFlags};

use crate::agent::Agent;
use crate::exec::command;
use crate::exec::one::{Exec, Next, Parts};
use crate::exec::ring::{Ring, Stream};
use crate::exec::spawn::{spawn, SpawnError, Surroundings};
use crate::fault::Fault;
use crate::proto::exec_output::Stream as WireStream;
use crate::proto::{reply, ExecAttach, ExecOutput, ExecSignal, ExecStart, ExecStarted};
use crate::sync::lock;
use crate::wire::call::{Call, Stop, CHUNK_BYTES};

/// Highest signal number of Linux.
const MAX_SIGNAL: u32 = 64;

pub(crate) fn start(agent: &Arc<Agent>, call: &Arc<Call>, ask: ExecStart) -> Result<(), Stop> {
    let stdin = ask.stdin;
    let exec = launch(agent, ask)?;
    stream(&exec, call, 0, stdin)
}

pub(crate) fn attach(agent: &Agent, call: &Arc<Call>, ask: &ExecAttach) -> Result<(), Stop> {
    let exec = agent.execs.find(&ask.exec_id)?;
    stream(&exec, call, ask.offset, false)
}

pub(crate) fn signal(agent: &Agent, ask: &ExecSignal) -> Result<(), Fault> {
    agent.check_awake()?;
    let signal = i32::try_from(ask.signal).unwrap_or(0);
    if ask.signal == 0 || ask.signal > MAX_SIGNAL {
        return Err(Fault::invalid(format!("signal: must be 1 to {MAX_SIGNAL}: {}", ask.signal)));
    }
    agent.execs.find(&ask.exec_id)?.signal(signal)
}

fn launch(agent: &Agent, ask: ExecStart) -> Result<Arc<Exec>, Fault> {
    let id = ask.exec_id;
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
        return Err(Fault::invalid("exec_id: must be 1 to 64 of [A-Za-z0-9_-]"));
    }
    let default_cwd = agent.roots.default_cwd();
    let cwd = command::working_directory(if ask.cwd.is_empty() { default_cwd } else { &ask.cwd })?;
    let (stdout, stdout_theirs) = output_pipe()?;
    let (stderr, stderr_theirs) = output_pipe()?;
    let (stdin, stdin_theirs) = if ask.stdin { input_pipe()? } else { (None, null()?) };
    let execs = &agent.execs;

    // Held over the spawn: Freeze waits for it, and no process is born into a frozen cgroup, where it would
    // stop before its exec and the waiting parent with it.
    let life = lock(&agent.life);
    life.check_awake()?;
    let env = command::merge_env([&agent.image_env, &life.env, &ask.env])?;
    let program = command::program(&ask.command, &ask.argv, &env)?;
    execs.add(&id, |key| {
        let group = match &agent.cgroups {
            Some(cgroups) => Some(cgroups.acquire().map_err(|error| Fault::io(&error, "cannot make a cgroup"))?),
            None => None,
        };
        let started = Instant::now();
        let around = Surroundings {
            stdin: stdin_theirs.as_fd(),
            stdout: stdout_theirs.as_fd(),
            stderr: stderr_theirs.as_fd(),
            cwd: cwd.as_fd(),
            cgroup: group.as_ref().map(crate::cgroup::Group::directory),
        };
        let child = match spawn(&program, &around) {
            Ok(child) => child,
            Err(error) => {
                if let (Some(group), Some(cgroups)) = (group, &agent.cgroups) {
                    cgroups.release(group);
                }
                return Err(explain(error, &ask.argv));
            }
        };
        let oom_kills = group.as_ref().map_or(0, crate::cgroup::Group::oom_kills);
        Ok(Exec::new(Parts {
            id: id.clone(),
            key,
            pid: child.pid,
            pidfd: child.pidfd,
            started,
            timeout: (ask.timeout_ms > 0).then(|| Duration::from_millis(ask.timeout_ms)),
            poller: execs.poller.clone(),
            ring: Ring::new(execs.budget.clone()),
            stdin,
            stdout,
            stderr,
            group,
            oom_kills,
        }))
    })
}

fn explain(error: SpawnError, argv: &[String]) -> Fault {
    match error {
        SpawnError::Clone(errno) => Fault::os(errno, "cannot start a process"),
        SpawnError::Exec(errno) => {
            let program = argv.first().map_or("the shell", String::as_str);
            let fault = Fault::os(errno, &format!("cannot run {program}"));
            match errno {
                Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE => fault,
                _ => Fault::invalid(fault.message),
            }
        }
    }
}

/// Our end, which never blocks, and the command's.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    let (ours, theirs) = open_pipe()?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| Fault::os(errno, "cannot prepare a pipe"))?;
    Ok((ours, theirs))
}

fn input_pipe() -> Result<(Option<OwnedFd>, OwnedFd), Fault> {
    let (theirs, ours) = open_pipe()?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| Fault::os(errno, "cannot prepare a pipe"))?;
    Ok((Some(ours), theirs))
}

fn open_pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Fault::os(errno, "cannot open a pipe"))
}

fn null() -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty()).map_err(|errno| Fault::os(errno, "cannot open /dev/null"))
}

/// Sends output until the exec has exited. With `owns_stdin`, what the host sends goes to the command.
fn stream(exec: &Arc<Exec>, call: &Arc<Call>, offset: u64, owns_stdin: bool) -> Result<(), Stop> {
    exec.attach(call, offset);
    let outcome = follow(exec, call, owns_stdin);
    exec.detach(call);
    if owns_stdin {
        // Nobody else can ever write it: a command that reads on sees the end instead of waiting for ever.
        exec.push_input(call.take_inbound().0, true);
    }
    outcome
}

fn follow(exec: &Arc<Exec>, call: &Arc<Call>, owns_stdin: bool) -> Result<(), Stop> {
    let pid = exec.pid().unsigned_abs();
    call.reply(reply::Kind::ExecStarted(ExecStarted { pid }))?;
    loop {
        if owns_stdin {
            let (pieces, ended) = call.take_inbound();
            if ended || !pieces.is_empty() {
                exec.push_input(pieces, ended);
            }
            call.consumed(exec.take_consumed())?;
        }
        match exec.next(call, call.credit(CHUNK_BYTES)?) {
            Next::Output(stream, offset, data) => {
                call.spend(data.len());
                let stream = match stream {
                    Stream::Stdout => WireStream::Stdout,
                    Stream::Stderr => WireStream::Stderr,
                };
                call.reply(reply::Kind::ExecOutput(ExecOutput { stream: stream.into(), data, offset }))?;
            }
            Next::Exited(exited) => return call.reply(reply::Kind::ExecExited(exited)),
            Next::Wait => call.wait()?,
        }
    }
}
