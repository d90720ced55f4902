//! How an exec ends: signals, deadlines, its last output.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::cgroup::Cgroups;
use crate::exec::one::{Exec, Phase, State, ATTACHABLE_FOR, DRAIN};
use crate::exec::output::Output;
use crate::exec::tree;
use crate::exec::watch::Ending;
use crate::fault::Fault;
use crate::proto::ExecExited;
use crate::sync::lock;

/// From SIGTERM at the timeout to the kill (agent.proto).
const GRACE: Duration = Duration::from_secs(2);
/// How much output is awaited (agent.proto), besides how long (`DRAIN`): what its two pipes can hold at their largest (/proc/sys/fs/pipe-max-size). Time alone is
/// no bound for what is left behind and writes without end, since waiting for a slow reader does not count.
const DRAIN_BYTES: usize = 2 << 20;
/// How long until it is looked again whether a log has all that its command wrote.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// From the end of a command to the SIGHUP for what it left (agent.proto): `setsid x &` and `nohup x &` are children of
/// the shell first, and a shell that has nothing else to do ends before they have made themselves safe.
const HANG_UP_AFTER: Duration = Duration::from_secs(2);
/// Asks whether anybody is left in a group (kill(2)).
const NO_SIGNAL: i32 = 0;
/// Linux 6.9, include/uapi/linux/pidfd.h.
const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

impl Exec {
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
        self.killed.store(true, Ordering::Relaxed);
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

    pub(super) fn finish_if_drained(&self, state: &mut State) {
        if state.stdout.is_none() && state.stderr.is_none() {
            self.finish(state);
        }
    }

    /// Closes what is open and tells the readers.
    pub(super) fn finish(&self, state: &mut State) {
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
