//! One exec: process, pipes, output, readers and deadlines.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::termios::Winsize;

use crate::cgroup::{Cgroups, Group};
use crate::exec::input::Input;
use crate::exec::log::Log;
use crate::exec::output::Output;
use crate::exec::ring::Stream;
use crate::exec::streams::Ours;
use crate::exec::terminal;
use crate::exec::tree;
use crate::exec::typing::{Typed, MAX_WAITING_BYTES, ROOM_BOUND};
use crate::exec::watch::{Ending, Poller};
use crate::fault::{Code, Fault};
use crate::proto::{ExecEntry, ExecExited};
use crate::sync::{lock, wait_while};
use crate::wire::call::Call;

/// An exited exec can be attached for this long (agent.proto).
pub(crate) const ATTACHABLE_FOR: Duration = Duration::from_mins(1);
/// From SIGTERM at the timeout to the kill (agent.proto).
const GRACE: Duration = Duration::from_secs(2);
/// How long output is awaited once the main process has ended (agent.proto).
const DRAIN: Duration = Duration::from_millis(500);
/// How long until it is looked again whether a log has all that its command wrote.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How much of it (agent.proto): what its two pipes can hold at their largest (/proc/sys/fs/pipe-max-size). Time alone is
/// no bound for what is left behind and writes without end, since waiting for a slow reader does not count.
const DRAIN_BYTES: usize = 2 << 20;
/// From the end of a command to the SIGHUP for what it left (agent.proto): `setsid x &` and `nohup x &` are children of
/// the shell first, and a shell that has nothing else to do ends before they have made themselves safe.
const HANG_UP_AFTER: Duration = Duration::from_secs(2);

/// How long a command is held back for a reader, and its stdin kept open for a sender, whose session has ended
/// (agent.proto): a host that was restarted, or that goes on behind a snapshot, comes back within that.
const RETURN: Duration = Duration::from_secs(10);

/// Asks whether anybody is left in a group (kill(2)).
const NO_SIGNAL: i32 = 0;

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

    // ---- output ----

    /// Lets the watching thread read the output pipes that are open and not held back any more.
    pub(crate) fn watch_output(&self) {
        self.resume(&mut lock(&self.state));
    }

    fn resume(&self, state: &mut State) {
        let idle = |pipe: &Option<Pipe>| pipe.as_ref().is_some_and(|pipe| !pipe.watched);
        if !(idle(&state.stdout) || idle(&state.stderr)) || !state.make_room() {
            return;
        }
        for (pipe, token) in [(&mut state.stdout, TOKEN_STDOUT), (&mut state.stderr, TOKEN_STDERR)] {
            if let Some(pipe) = pipe.as_mut().filter(|pipe| !pipe.watched) {
                pipe.watched =
                    epoll::add(&self.output_poller.epoll, &*pipe.end, self.data(token), EventFlags::IN).is_ok();
            }
        }
        if let Phase::Draining { until, .. } = &mut state.phase {
            // The time its output was held back is not the command's.
            *until = Instant::now() + DRAIN;
            self.poller.ring();
        }
    }

    fn data(&self, token: u64) -> EventData {
        EventData::new_u64(self.key << TOKEN_BITS | token)
    }

    /// The poller says that a pipe is ready.
    pub(crate) fn pipe_ready(&self, token: u64, buffer: &mut [u8]) {
        let mut state = lock(&self.state);
        match token {
            TOKEN_STDIN => self.feed(&mut state),
            TOKEN_STDOUT => self.drain(&mut state, Stream::Stdout, buffer),
            _ => self.drain(&mut state, Stream::Stderr, buffer),
        }
    }

    fn drain(&self, state: &mut State, stream: Stream, buffer: &mut [u8]) {
        let room = state.make_room();
        let Some(pipe) = state.pipe(stream) else { return };
        if !room {
            // Level-triggered, and a hang-up cannot be masked: only leaving the poller stops the events.
            let _ = epoll::delete(&self.output_poller.epoll, &*pipe.end);
            pipe.watched = false;
            return;
        }
        let outcome = rustix::io::read(&*pipe.end, &mut *buffer);
        if let (Ok(count @ 1..), Output::Ring(ring)) = (outcome, &mut state.output) {
            ring.push(stream, buffer.get(..count).unwrap_or_default());
        }
        self.took(state, stream, outcome);
    }

    /// The poller of the thread that writes logs says that there is output for one. Others may look at the command while
    /// the disk takes it.
    pub(crate) fn log_ready(&self, buffer: &mut [u8]) {
        let (end, log) = {
            let mut state = lock(&self.state);
            let (Some(pipe), Output::Log(log)) = (&state.stdout, &state.output) else { return };
            let found = (pipe.end.clone(), log.clone());
            state.logging = true;
            found
        };
        let outcome = rustix::io::read(&*end, &mut *buffer);
        if let Ok(count) = outcome {
            log.append(buffer.get(..count).unwrap_or_default());
        }
        let mut state = lock(&self.state);
        state.logging = false;
        self.took(&mut state, Stream::Stdout, outcome);
        if matches!(state.phase, Phase::Draining { .. }) {
            self.poller.ring();
        }
    }

    /// What a read of an output pipe gave is where it belongs, or was the pipe's end.
    fn took(&self, state: &mut State, stream: Stream, outcome: Result<usize, Errno>) {
        match outcome {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(0) | Err(_) => {
                let pipe = state.pipe(stream).take();
                self.close(pipe);
                self.finish_if_drained(state);
            }
            Ok(count) => {
                state.poke_readers();
                if let Phase::Draining { left_bytes, .. } = &mut state.phase {
                    *left_bytes = left_bytes.saturating_sub(count);
                    if *left_bytes == 0 {
                        self.finish(state);
                    }
                }
            }
        }
    }

    /// Takes it out of the poller first: there it stays as long as another descriptor of it is open.
    fn close(&self, pipe: Option<Pipe>) {
        if let Some(Pipe { end, watched: true }) = pipe {
            let _ = epoll::delete(&self.output_poller.epoll, &*end);
        }
    }

    // ---- readers ----

    /// Attaches *call* from *offset* on, and with `sends` takes its data for stdin, in place of another sender's.
    /// Returns how much of stdin there is already.
    pub(crate) fn attach(&self, call: &Arc<Call>, offset: u64, sends: bool) -> u64 {
        let mut state = lock(&self.state);
        // An offset ahead of the output waits for it.
        state.readers.push(Reader { call: call.clone(), offset });
        if state.kept.as_ref().is_some_and(|kept| offset <= kept.offset) {
            state.kept = None;
        }
        if sends {
            self.pull_input(&mut state);
            state.sender = Some(call.clone());
            state.close_stdin_at = None;
            state.stdin.change_sender();
        }
        state.stdin.received()
    }

    /// Nobody may be left who holds the command back, so it may go on. With `returns`, the session was lost and not the
    /// interest in the command: its place is kept.
    pub(crate) fn detach(&self, call: &Arc<Call>, returns: bool) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let until = Instant::now() + RETURN;
        if state.is_sender(call) {
            self.pull_input(state);
            state.sender = None;
            if returns {
                state.close_stdin_at = Some(until);
            } else {
                self.end_input(state);
            }
        }
        if let Some(index) = state.readers.iter().position(|reader| Arc::ptr_eq(&reader.call, call)) {
            let reader = state.readers.swap_remove(index);
            if returns && matches!(state.output, Output::Ring(_)) {
                let offset = state.kept.as_ref().map_or(reader.offset, |kept| kept.offset.min(reader.offset));
                state.kept = Some(Kept { offset, until });
            }
        }
        if returns {
            self.poller.ring();
        }
        self.resume(state);
    }

    /// Counts the time for who may come back from *now*.
    pub(crate) fn renew(&self, now: Instant) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let kept = state.kept.as_mut().map(|kept| &mut kept.until);
        for until in kept.into_iter().chain(state.close_stdin_at.as_mut()) {
            *until = now + RETURN;
        }
    }

    /// Makes readers look again.
    pub(crate) fn poke(&self) {
        lock(&self.state).poke_readers();
    }

    /// What *call* gets next; at most *most* bytes. `sent` says that it has got it.
    ///
    /// # Errors
    /// A log cannot be read.
    pub(crate) fn next(&self, call: &Arc<Call>, most: usize) -> Result<Next, Fault> {
        let state = lock(&self.state);
        let Some(offset) = state.offset_of(call) else { return Ok(Next::Wait) };
        // Known before the output is looked at: what has exited writes no more.
        let exited = state.exited();
        let (output, end) = match &state.output {
            Output::Ring(ring) => (ring.read(offset, most), ring.end()),
            Output::Log(log) => {
                let log = log.clone();
                drop(state);
                let piece = log.read(offset, most).map_err(|errno| Fault::os(errno, "cannot read the log"))?;
                (piece.map(|(offset, data)| (Stream::Stdout, offset, data)), log.span().end)
            }
        };
        Ok(match (output, exited) {
            (Some((stream, offset, data)), _) => Next::Output(stream, offset, data),
            (None, Some(exited)) if offset >= end => Next::Exited(exited),
            _ => Next::Wait,
        })
    }

    /// *call* has got everything before *offset*.
    pub(crate) fn sent(&self, call: &Arc<Call>, offset: u64) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(reader) = state.readers.iter_mut().find(|reader| Arc::ptr_eq(&reader.call, call)) {
            reader.offset = offset;
            self.resume(state);
        }
    }

    // ---- input ----

    /// Moves what *call* was sent for stdin to the command, if it is the sender. Returns how much the command has taken
    /// since the last time. What waits is bounded by the sender's credit.
    pub(crate) fn take_input(&self, call: &Arc<Call>) -> usize {
        let mut state = lock(&self.state);
        if !state.is_sender(call) {
            return 0;
        }
        self.pull_input(&mut state);
        state.stdin.take_consumed()
    }

    fn pull_input(&self, state: &mut State) {
        let Some(sender) = &state.sender else { return };
        let (pieces, ended) = sender.take_inbound();
        if ended || !pieces.is_empty() {
            state.stdin.push(pieces, ended);
            self.feed(state);
        }
    }

    /// Closes stdin behind what is queued: nobody else can ever write it, and a command that reads on sees the end.
    fn end_input(&self, state: &mut State) {
        state.stdin.push(VecDeque::new(), true);
        self.feed(state);
    }

    fn feed(&self, state: &mut State) {
        if state.stdin.feed(&self.poller, self.data(TOKEN_STDIN)) {
            state.poke_readers();
            self.room.notify_all();
        }
    }

    /// Types what of it is not there yet, whole or not at all. Returns how much of stdin there is then.
    ///
    /// # Errors
    /// INVALID: the command reads nothing that is typed, or no more, or not there yet. EXHAUSTED: it has not read what is
    /// there. UNAVAILABLE: frozen.
    pub(crate) fn type_in(&self, mut typed: Typed<'_>) -> Result<u64, Fault> {
        let mut state = lock(&self.state);
        if !self.is_listed() || !state.has_stdin {
            return Err(Fault::invalid("exec_id: neither a terminal nor a background command with stdin"));
        }
        let closes = typed.close && !self.is_terminal();
        if let (true, true, Some(pipe)) = (typed.close, self.is_terminal(), &state.stdout) {
            typed.data.push(terminal::end_of_file(&*pipe.end));
        }
        let received = state.stdin.received();
        if typed.offset.is_some_and(|offset| offset > received) {
            return Err(Fault::invalid(format!("offset: beyond the {received} bytes there are")));
        }
        // The count only grows, also while room is waited for.
        let there = |state: &State| typed.offset.map_or(0, |offset| state.stdin.received() - offset);
        let missing = |state: &State| (typed.data.len() as u64).saturating_sub(there(state));
        let lacks_room = |state: &State| state.stdin.queued() as u64 + missing(state) > MAX_WAITING_BYTES as u64;
        let is_frozen = || typed.frozen.load(Ordering::SeqCst);
        state = wait_while(&self.room, state, ROOM_BOUND, |state| {
            state.stdin.is_open() && missing(state) > 0 && lacks_room(state) && !is_frozen()
        });
        let skipped = usize::try_from(there(&state)).unwrap_or(usize::MAX);
        let rest = typed.data.get(skipped..).unwrap_or_default();
        if rest.is_empty() && (!closes || state.stdin.is_ended()) {
            return Ok(state.stdin.received());
        }
        if is_frozen() {
            return Err(Fault::new(Code::Unavailable, "the guest is frozen: Wake comes first"));
        }
        if !state.stdin.is_open() {
            return Err(Fault::invalid("the command reads no more: its stdin is closed"));
        }
        if !rest.is_empty() && lacks_room(&state) {
            return Err(Fault::exhausted(format!("the command does not read: {} bytes wait", state.stdin.queued())));
        }
        state.stdin.push([rest.to_vec()].into(), closes);
        self.feed(&mut state);
        Ok(state.stdin.received())
    }

    /// Makes those who wait for room look again.
    pub(crate) fn poke_typists(&self) {
        // Locked, so that none is between its look and its wait.
        let _state = lock(&self.state);
        self.room.notify_all();
    }

    /// # Errors
    /// INVALID: it has no terminal.
    pub(crate) fn resize(&self, size: Winsize) -> Result<(), Fault> {
        if !self.is_terminal() {
            return Err(Fault::invalid("exec_id: not a terminal"));
        }
        match &lock(&self.state).stdout {
            Some(pipe) => terminal::resize(&*pipe.end, size),
            None => Ok(()),
        }
    }

    // ---- end ----

    /// Signals the process group; 9 everything the command started. Nothing to do once it has exited.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), Fault> {
        let state = lock(&self.state);
        if matches!(state.phase, Phase::Exited { .. }) {
            if signal == libc::SIGKILL {
                // What it left in its group, and that ignored being hung up on. The cgroup may be another's by now.
                let _ = self.signal_group(&state, signal);
            }
            return Ok(());
        }
        if signal == libc::SIGKILL {
            self.kill(&state);
            return Ok(());
        }
        match self.signal_group(&state, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(Fault::os(errno, "cannot signal the command")),
        }
    }

    /// By pidfd, which names the group even when its leader was reaped and the number given to another.
    fn signal_group(&self, state: &State, signal: i32) -> Result<(), Errno> {
        // SAFETY: a system call on a descriptor we own; no memory is passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                PIDFD_SIGNAL_PROCESS_GROUP,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        // Before Linux 6.9 the flag is unknown. While the leader is not reaped its number is still its own.
        if errno != Errno::INVAL || !matches!(state.phase, Phase::Running) {
            return Err(errno);
        }
        // SAFETY: as above.
        match unsafe { libc::kill(-self.pid, signal) } {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }

    fn kill(&self, state: &State) {
        match &state.group {
            Some(group) => {
                let _ = group.kill();
            }
            None if matches!(state.phase, Phase::Running) => tree::kill(self.pid),
            None => {}
        }
        let _ = self.signal_group(state, libc::SIGKILL);
    }

    /// The main process was reaped.
    pub(crate) fn main_ended(&self, ending: Ending) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let Ending { exit_code, signal } = ending;
        let oom_killed =
            exit_code != 0 && state.group.as_ref().is_some_and(|group| group.oom_kills() > state.oom_kills);
        if let (libc::SIGKILL, Some(group)) = (signal, &state.group) {
            // Perhaps a user killed the cgroup, theirs to write: as bad for its next user as when we do it.
            group.spend();
        }
        let exited = ExecExited {
            exit_code,
            signal: signal.unsigned_abs(),
            timed_out: state.timed_out,
            duration_ms: u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX),
            oom_killed,
        };
        state.phase = Phase::Draining { until: now + DRAIN, left_bytes: DRAIN_BYTES, exited };
        state.timeout_at = None;
        state.close_stdin_at = None;
        state.stdin.close(&self.poller);
        self.room.notify_all();
        self.finish_if_drained(&mut state);
    }

    fn finish_if_drained(&self, state: &mut State) {
        if state.stdout.is_none() && state.stderr.is_none() {
            self.finish(state);
        }
    }

    /// Closes what is open and tells the readers.
    fn finish(&self, state: &mut State) {
        let Phase::Draining { exited, .. } = state.phase else { return };
        for pipe in [state.stdout.take(), state.stderr.take()] {
            self.close(pipe);
        }
        let now = Instant::now();
        if self.signal_group(state, NO_SIGNAL).is_ok() {
            state.hang_up_at = Some(now + HANG_UP_AFTER);
        }
        state.phase = Phase::Exited { at: now, exited };
        if let Output::Log(_) = state.output {
            self.output_poller.ring();
        }
        state.poke_readers();
    }

    /// Does what is due at *now*; returns when something is due next. While the guest is `frozen` nobody can come back.
    pub(crate) fn tend(&self, now: Instant, frozen: bool, cgroups: Option<&Cgroups>) -> Option<Instant> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if !frozen && state.kept.as_ref().is_some_and(|kept| kept.until <= now) {
            state.kept = None;
            self.resume(state);
        }
        if !frozen && state.close_stdin_at.is_some_and(|at| at <= now) {
            state.close_stdin_at = None;
            self.end_input(state);
        }
        if state.timeout_at.is_some_and(|at| at <= now) {
            state.timeout_at = None;
            state.timed_out = true;
            state.kill_at = Some(now + GRACE);
            let _ = self.signal_group(state, libc::SIGTERM);
        }
        if state.kill_at.is_some_and(|at| at <= now) {
            state.kill_at = None;
            self.kill(state);
        }
        if state.hang_up_at.is_some_and(|at| at <= now) {
            state.hang_up_at = None;
            // As when a terminal closes: what moved to a session of its own, or ignores SIGHUP (nohup), lives on.
            let _ = self.signal_group(state, libc::SIGHUP);
        }
        if state.is_drained(now) {
            self.finish(state);
        }
        let due = match state.phase {
            Phase::Running => None,
            Phase::Draining { .. } if state.is_held_back() => None,
            Phase::Draining { until, .. } => Some(if until > now { until } else { now + LOOK_AGAIN }),
            Phase::Exited { at, .. } => {
                if state.kill_at.is_none() {
                    if let (Some(group), Some(cgroups)) = (state.group.take(), cgroups) {
                        cgroups.release(group);
                    }
                }
                let over_at = at + ATTACHABLE_FOR;
                if let (Output::Ring(ring), true) = (&mut state.output, over_at <= now && state.readers.is_empty()) {
                    // Of a terminal that stays in the list only the end is kept.
                    ring.shrink();
                }
                (!self.is_listed() || over_at > now).then_some(over_at)
            }
        };
        let returns = [state.kept.as_ref().map(|kept| kept.until), state.close_stdin_at];
        let returns = returns.into_iter().flatten().filter(|_| !frozen);
        [due, state.timeout_at, state.kill_at, state.hang_up_at].into_iter().flatten().chain(returns).min()
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

/// Linux 6.9, include/uapi/linux/pidfd.h.
const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
