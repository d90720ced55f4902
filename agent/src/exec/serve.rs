//! The calls on execs: start, attach, signal.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{clock_gettime, ClockId};

use crate::agent::{Agent, Starting};
use crate::cgroup::Group;
use crate::exec::birth::Birth;
use crate::exec::command;
use crate::exec::logged::MAX_SHOWN_BYTES;
use crate::exec::one::{Exec, Listed, Next, Parts};
use crate::exec::ring::Stream;
use crate::exec::spawn::{spawn, Child, Program, SpawnError, Surroundings};
use crate::exec::{streams, terminal, Execs};
use crate::fault::Fault;
use crate::proto::exec_output::Stream as WireStream;
use crate::proto::{reply, ExecAttach, ExecOutput, ExecSignal, ExecStart, ExecStarted};
use crate::sync::lock;
use crate::wire::call::{Call, Stop, CHUNK_BYTES};

/// Highest signal number of Linux.
const MAX_SIGNAL: u32 = 64;

/// *starting* lasts until the program runs.
pub(crate) fn start(agent: &Agent, call: &Arc<Call>, ask: ExecStart, starting: Option<Starting>) -> Result<(), Stop> {
    let (stdin, is_followed) = (ask.stdin, !ask.background && ask.pty.is_none());
    let exec = launch(agent, &ask)?;
    // The command has its secrets, and nobody else from here on.
    drop(ask);
    if !is_followed {
        return call.reply(reply::Kind::ExecStarted(ExecStarted { pid: exec.pid().unsigned_abs(), stdin_offset: 0 }));
    }
    // Attached before a Freeze goes on: what it writes from here on is for this call.
    let follower = Follower::attach(&agent.execs, exec, call, 0, stdin);
    drop(starting);
    follower.follow()
}

pub(crate) fn attach(agent: &Agent, call: &Arc<Call>, ask: &ExecAttach) -> Result<(), Stop> {
    agent.await_start(&ask.exec_id);
    let exec = agent.execs.find(&ask.exec_id)?;
    if ask.stdin && exec.is_listed() {
        return Err(Fault::invalid("stdin: what a background command or a terminal reads is typed (ExecInput)").into());
    }
    Follower::attach(&agent.execs, exec, call, ask.offset, ask.stdin).follow()
}

pub(crate) fn signal(agent: &Agent, ask: &ExecSignal) -> Result<(), Fault> {
    agent.check_awake()?;
    let signal = i32::try_from(ask.signal).unwrap_or(0);
    if ask.signal == 0 || ask.signal > MAX_SIGNAL {
        return Err(Fault::invalid(format!("signal: must be 1 to {MAX_SIGNAL}: {}", ask.signal)));
    }
    agent.execs.signal(&ask.exec_id, signal)
}

fn launch(agent: &Agent, ask: &ExecStart) -> Result<Arc<Exec>, Fault> {
    let id = ask.exec_id.clone();
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
        return Err(Fault::invalid("exec_id: must be 1 to 64 of [A-Za-z0-9_-]"));
    }
    let cwd = if ask.cwd.is_empty() { agent.roots.default_cwd() } else { &ask.cwd };
    let cwd = command::working_directory(cwd).or_else(|_| {
        // A command may have removed it, and the next could not even make it again.
        agent.roots.restore();
        command::working_directory(cwd)
    })?;
    let (streams, theirs) = streams::open(agent, ask)?;
    let listed = (ask.background || ask.pty.is_some()).then(|| listed(ask));
    let term = ask.pty.map(|_| terminal::TERM).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let term = term.into_iter().collect();
    let env = {
        let life = lock(&agent.life);
        command::merge_env(&[&term, &agent.image_env, &life.env, &life.ephemeral, &ask.env, &ask.secrets])?
    };
    let given_secrets = !ask.secrets.is_empty();
    let program = command::program(&ask.command, &ask.argv, &env)?;
    let execs = &agent.execs;
    let timeout = (ask.timeout_ms > 0).then(|| Duration::from_millis(ask.timeout_ms));
    execs.add(&id, timeout, listed.is_some(), |key, birth| {
        let around = Surroundings {
            stdin: theirs.stdin.as_ref().unwrap_or(&agent.null).as_fd(),
            stdout: theirs.stdout.as_fd(),
            stderr: theirs.stderr(),
            cwd: cwd.as_fd(),
            cgroup: None,
        };
        let (child, mut group) = spawn_grouped(agent, &program, around, birth, &ask.argv)?;
        if let Some(group) = &mut group {
            group.mark(given_secrets);
        }
        let oom_kills = group.as_ref().map_or(0, Group::oom_kills);
        Ok(Exec::new(Parts {
            id: id.clone(),
            key,
            pid: child.pid,
            pidfd: child.pidfd,
            started: birth.started,
            timeout,
            poller: execs.poller.clone(),
            output_poller: execs.poller_for(&streams.output),
            streams,
            listed,
            given_secrets,
            group,
            oom_kills,
        }))
    })
}

/// What the list of commands tells of it.
fn listed(ask: &ExecStart) -> Listed {
    let now = clock_gettime(ClockId::Realtime);
    let mut command = if ask.argv.is_empty() { ask.command.clone() } else { ask.argv.join(" ") };
    let end = (0..=MAX_SHOWN_BYTES.min(command.len())).rev().find(|end| command.is_char_boundary(*end));
    command.truncate(end.unwrap_or(0));
    Listed {
        command,
        started_ns: now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec),
        pty: ask.pty.is_some(),
    }
}

/// Spawns into a cgroup of its own, where there are any.
fn spawn_grouped(
    agent: &Agent,
    program: &Program,
    around: Surroundings<'_>,
    birth: &Birth,
    argv: &[String],
) -> Result<(Child, Option<Group>), Fault> {
    let no_group = |error: std::io::Error| Fault::io(&error, "cannot make a cgroup");
    let Some(cgroups) = &agent.cgroups else {
        let child = spawn(program, &around, birth.pid_slot()).map_err(|error| explain(error, argv))?;
        return Ok((child, None));
    };
    let mut group = cgroups.acquire().map_err(no_group)?;
    let into =
        |group: &Group| spawn(program, &Surroundings { cgroup: Some(group.directory()), ..around }, birth.pid_slot());
    let mut outcome = into(&group);
    if let Err(SpawnError::Clone(_)) = outcome {
        // A user may have removed it meanwhile, or given it children and controllers: it takes no process any more.
        group.spend();
        cgroups.release(group);
        group = cgroups.make().map_err(no_group)?;
        outcome = into(&group);
    }
    match outcome {
        Ok(child) => Ok((child, Some(group))),
        Err(error) => {
            cgroups.release(group);
            Err(explain(error, argv))
        }
    }
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

/// One call that is attached to an exec.
struct Follower<'a> {
    execs: &'a Execs,
    exec: Arc<Exec>,
    call: &'a Arc<Call>,
    stdin_offset: u64,
}

impl<'a> Follower<'a> {
    /// With `sends`, what the host sends goes to the command.
    fn attach(execs: &'a Execs, exec: Arc<Exec>, call: &'a Arc<Call>, offset: u64, sends: bool) -> Self {
        let stdin_offset = exec.attach(call, offset, sends);
        Self { execs, exec, call, stdin_offset }
    }

    /// Sends output until the exec has exited, then detaches.
    fn follow(self) -> Result<(), Stop> {
        let outcome = self.send_all();
        let lost_session = matches!(outcome, Err(Stop::Lost)) && !self.call.is_cancelled();
        self.exec.detach(self.call, lost_session);
        outcome
    }

    fn send_all(&self) -> Result<(), Stop> {
        let Self { exec, call, .. } = self;
        let pid = exec.pid().unsigned_abs();
        call.reply(reply::Kind::ExecStarted(ExecStarted { pid, stdin_offset: self.stdin_offset }))?;
        loop {
            call.consumed(exec.take_input(call))?;
            match exec.next(call, call.credit(CHUNK_BYTES)?)? {
                Next::Output(stream, offset, data) => {
                    let size = data.len();
                    let stream = match stream {
                        Stream::Stdout => WireStream::Stdout,
                        Stream::Stderr => WireStream::Stderr,
                    };
                    let output = ExecOutput { stream: stream.into(), data, offset };
                    // Before it is sent: the host may give it back at once.
                    call.spend(size);
                    if self.send(reply::Kind::ExecOutput(output))? {
                        exec.sent(call, offset + size as u64);
                    } else {
                        call.return_credit(size);
                    }
                }
                Next::Exited(exited) => {
                    if self.send(reply::Kind::ExecExited(exited))? {
                        return Ok(());
                    }
                }
                Next::Wait => call.wait()?,
            }
        }
    }

    /// False while the guest is frozen, once it has waited for that to change.
    fn send(&self, kind: reply::Kind) -> Result<bool, Stop> {
        let sent = self.call.reply_unless(self.execs.frozen(), kind)?;
        if !sent {
            self.call.wait()?;
        }
        Ok(sent)
    }
}
