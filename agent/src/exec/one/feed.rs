//! What goes into an exec: from the stream that feeds it, or typed.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use rustix::termios::Winsize;

use crate::exec::one::{Exec, State, TOKEN_STDIN};
use crate::exec::terminal;
use crate::exec::typing::{Typed, MAX_WAITING_BYTES, ROOM_BOUND};
use crate::fault::{Code, Fault};
use crate::sync::{lock, wait_while};
use crate::wire::call::Call;

impl Exec {
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

    pub(super) fn pull_input(&self, state: &mut State) {
        let Some(sender) = &state.sender else { return };
        let (pieces, ended) = sender.take_inbound();
        if ended || !pieces.is_empty() {
            state.stdin.push(pieces, ended);
            self.feed(state);
        }
    }

    /// Closes stdin behind what is queued: nobody else can ever write it, and a command that reads on sees the end.
    pub(super) fn end_input(&self, state: &mut State) {
        state.stdin.push(VecDeque::new(), true);
        self.feed(state);
    }

    pub(super) fn feed(&self, state: &mut State) {
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
}
