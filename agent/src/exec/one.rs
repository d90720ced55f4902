//! One exec: process, pipes, output, readers and deadlines. `flow` is what comes out of it, `feed` what goes in, `end` its end.

mod end;
mod feed;
mod flow;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::cgroup::Group;
use crate::exec::input::Input;
use crate::exec::log::Log;
use crate::exec::output::Output;
use crate::exec::ring::Stream;
use crate::exec::streams::Ours;
use crate::exec::watch::Poller;
use crate::proto::{ExecEntry, ExecExited};
use crate::sync::lock;
use crate::wire::call::Call;

/// An exited exec can be attached for this long (agent.proto).
pub(crate) const ATTACHABLE_FOR: Duration = Duration::from_mins(1);
/// How long output is awaited once the main process has ended (agent.proto).
const DRAIN: Duration = Duration::from_millis(500);

/// How long a command is held back for a reader, and its stdin kept open for a sender, whose session has ended
/// (agent.proto): a host that was restarted, or that goes on behind a snapshot, comes back within that.
const RETURN: Duration = Duration::from_secs(10);

/// How long what was killed is expected to be still on its way out.
pub(crate) const GOING: Duration = Duration::from_secs(2);

/// What the watching thread is told about a ready pipe: the exec's key, and which of its pipes.
pub(crate) const TOKEN_STDOUT: u64 = 0;
pub(crate) const TOKEN_STDERR: u64 = 1;
pub(crate) const TOKEN_STDIN: u64 = 2;
pub(crate) const TOKEN_BITS: u32 = 2;

pub(crate) struct Exec {
    id: String,
    key: u64,
    pid: i32,
    pidfd: OwnedFd,
    started: Instant,
    poller: Arc<Poller>,
    /// Says when there is output: to the watching thread, or to the one that writes logs.
    output_poller: Arc<Poller>,
    listed: Option<Listed>,
    given_secrets: bool,
    /// With all that was in its cgroup.
    killed: AtomicBool,
    state: Mutex<State>,
    /// The command has read, or will never again.
    room: Condvar,
}

/// What is told of a command that stays in the list of commands.
pub(crate) struct Listed {
    pub(crate) command: String,
    /// Wall clock, since the Unix epoch.
    pub(crate) started_ns: i64,
    pub(crate) pty: bool,
}

/// A freshly started process and all that belongs to it.
pub(crate) struct Parts {
    pub(crate) id: String,
    pub(crate) key: u64,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) poller: Arc<Poller>,
    pub(crate) output_poller: Arc<Poller>,
    pub(crate) streams: Ours,
    pub(crate) listed: Option<Listed>,
    pub(crate) given_secrets: bool,
    pub(crate) group: Option<Group>,
    /// Of a cgroup that was used before.
    pub(crate) oom_kills: u64,
}

enum Phase {
    Running,
    Draining { until: Instant, left_bytes: usize, exited: ExecExited },
    Exited { at: Instant, exited: ExecExited },
}

struct Pipe {
    /// Shared with the thread that reads it, where that takes long over what it read.
    end: Arc<OwnedFd>,
    /// In the poller. An output pipe that is not, though open, waits for a reader: the command is held back.
    watched: bool,
}

struct Reader {
    call: Arc<Call>,
    /// Of the next byte it wants.
    offset: u64,
}

/// A place in the output, kept for whoever had it when its session ended.
struct Kept {
    offset: u64,
    until: Instant,
}

struct State {
    phase: Phase,
    output: Output,
    /// The thread that writes logs is at this one.
    logging: bool,
    stdout: Option<Pipe>,
    /// None also where it goes the way of stdout.
    stderr: Option<Pipe>,
    stdin: Input,
    has_stdin: bool,
    /// Whose data is the command's stdin.
    sender: Option<Arc<Call>>,
    /// The sender's session has ended: stdin is closed then unless another goes on with it.
    close_stdin_at: Option<Instant>,
    readers: Vec<Reader>,
    kept: Option<Kept>,
    group: Option<Group>,
    oom_kills: u64,
    timeout_at: Option<Instant>,
    kill_at: Option<Instant>,
    hang_up_at: Option<Instant>,
    timed_out: bool,
}

/// What an attached call gets next.
pub(crate) enum Next {
    Output(Stream, u64, Vec<u8>),
    Exited(ExecExited),
    /// Nothing for now, or nothing that the credit allows.
    Wait,
}

impl Exec {
    pub(crate) fn new(parts: Parts) -> Self {
        let pipe = |end| Pipe { end: Arc::new(end), watched: false };
        Self {
            id: parts.id,
            key: parts.key,
            pid: parts.pid,
            pidfd: parts.pidfd,
            started: parts.started,
            poller: parts.poller,
            output_poller: parts.output_poller,
            listed: parts.listed,
            given_secrets: parts.given_secrets,
            killed: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Running,
                output: parts.streams.output,
                logging: false,
                stdout: Some(pipe(parts.streams.stdout)),
                stderr: parts.streams.stderr.map(pipe),
                has_stdin: parts.streams.stdin.is_some(),
                stdin: Input::new(parts.streams.stdin),
                sender: None,
                close_stdin_at: None,
                readers: Vec::new(),
                kept: None,
                group: parts.group,
                oom_kills: parts.oom_kills,
                timeout_at: parts.timeout.and_then(|timeout| parts.started.checked_add(timeout)),
                kill_at: None,
                hang_up_at: None,
                timed_out: false,
            }),
            room: Condvar::new(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// It was given secrets, and it or something in its cgroup runs.
    pub(crate) fn holds_secrets(&self) -> bool {
        if !self.given_secrets {
            return false;
        }
        let state = lock(&self.state);
        !matches!(state.phase, Phase::Exited { .. }) || state.group.as_ref().is_some_and(Group::is_inhabited)
    }

    /// It was given secrets and is on its way out at *now*: killed, or ended with nobody left in its cgroup and its last
    /// output still being read.
    pub(crate) fn gives_up_secrets(&self, now: Instant) -> bool {
        let state = lock(&self.state);
        let killed = self.killed.load(Ordering::Relaxed);
        self.given_secrets
            && match state.phase {
                Phase::Running => killed,
                Phase::Draining { .. } => killed || !state.group.as_ref().is_some_and(Group::is_inhabited),
                // Its cgroup may be with the others that still have someone in them.
                Phase::Exited { at, .. } => killed && now.saturating_duration_since(at) < GOING,
            }
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.listed.is_some()
    }

    fn is_terminal(&self) -> bool {
        self.listed.as_ref().is_some_and(|listed| listed.pty)
    }

    /// None for what is not listed.
    pub(crate) fn entry(&self) -> Option<ExecEntry> {
        let listed = self.listed.as_ref()?;
        Some(ExecEntry {
            exec_id: self.id.clone(),
            command: listed.command.clone(),
            pid: self.pid.unsigned_abs(),
            started_ns: listed.started_ns,
            pty: listed.pty,
            exited: self.exited(),
        })
    }

    pub(crate) fn exited(&self) -> Option<ExecExited> {
        lock(&self.state).exited()
    }

    pub(crate) fn log(&self) -> Option<Arc<Log>> {
        match &lock(&self.state).output {
            Output::Log(log) => Some(log.clone()),
            Output::Ring(_) => None,
        }
    }

    /// Of a background command that has exited: when, and its log.
    pub(crate) fn exited_log(&self) -> Option<(Instant, Arc<Log>)> {
        let state = lock(&self.state);
        match (&state.phase, &state.output) {
            (Phase::Exited { at, .. }, Output::Log(log)) => Some((*at, log.clone())),
            _ => None,
        }
    }

    /// Its timeout has passed, and nothing was done about it yet.
    pub(crate) fn is_late(&self) -> bool {
        lock(&self.state).timeout_at.is_some_and(|at| at <= Instant::now())
    }

    /// When it exited, once nothing is left to be done for it but to be remembered.
    pub(crate) fn settled_at(&self) -> Option<Instant> {
        let state = lock(&self.state);
        match state.phase {
            Phase::Exited { at, .. } if state.kill_at.is_none() && state.hang_up_at.is_none() => Some(at),
            _ => None,
        }
    }
}

impl State {
    fn pipe(&mut self, stream: Stream) -> &mut Option<Pipe> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn exited(&self) -> Option<ExecExited> {
        match self.phase {
            Phase::Exited { exited, .. } => Some(exited),
            _ => None,
        }
    }

    /// Of the next byte that *call* wants; None for who is not attached.
    fn offset_of(&self, call: &Arc<Call>) -> Option<u64> {
        self.readers.iter().find(|reader| Arc::ptr_eq(&reader.call, call)).map(|reader| reader.offset)
    }

    fn make_room(&mut self) -> bool {
        let Output::Ring(ring) = &mut self.output else { return true };
        let kept = self.kept.as_ref().map(|kept| kept.offset);
        let unread = self.readers.iter().map(|reader| reader.offset).chain(kept).min();
        ring.make_room(unread.unwrap_or(u64::MAX))
    }

    /// The time for its last output is over at *now*, and nothing of it waits for us.
    fn is_drained(&self, now: Instant) -> bool {
        let Phase::Draining { until, .. } = self.phase else { return false };
        if until > now || self.is_held_back() {
            return false;
        }
        let Output::Log(_) = self.output else { return true };
        // The thread that writes logs may be busy with others'.
        let waits = |pipe: &Pipe| pipe.watched && rustix::io::ioctl_fionread(&*pipe.end).is_ok_and(|size| size > 0);
        !self.stdout.as_ref().is_some_and(waits)
    }

    /// Its pipes wait for a reader who is behind, or who may come back, or for a disk.
    fn is_held_back(&self) -> bool {
        if let Output::Log(_) = self.output {
            return self.logging;
        }
        let is_wanted = self.kept.is_some() || !self.readers.is_empty();
        is_wanted && [&self.stdout, &self.stderr].into_iter().flatten().any(|pipe| !pipe.watched)
    }

    fn is_sender(&self, call: &Arc<Call>) -> bool {
        self.sender.as_ref().is_some_and(|sender| Arc::ptr_eq(sender, call))
    }

    fn poke_readers(&self) {
        for reader in &self.readers {
            reader.call.poke();
        }
    }
}
