//! What comes out of an exec, and who reads it.

use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use crate::exec::log::Span;
use crate::exec::one::{
    Exec, Kept, Next, Phase, Pipe, Reader, State, DRAIN, RETURN, TOKEN_BITS, TOKEN_STDERR, TOKEN_STDIN, TOKEN_STDOUT,
};
use crate::exec::output::Output;
use crate::exec::ring::Stream;
use crate::fault::Fault;
use crate::sync::lock;
use crate::wire::call::Call;

impl Exec {
    /// Lets the watching thread read the output pipes that are open and not held back any more.
    pub(crate) fn watch_output(&self) {
        self.resume(&mut lock(&self.state));
    }

    pub(super) fn resume(&self, state: &mut State) {
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

    pub(super) fn data(&self, token: u64) -> EventData {
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
    pub(super) fn took(&self, state: &mut State, stream: Stream, outcome: Result<usize, Errno>) {
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
    pub(super) fn close(&self, pipe: Option<Pipe>) {
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
        let (output, at_end) = match &state.output {
            Output::Ring(ring) => (ring.read(offset, most), offset >= ring.end()),
            Output::Log(log) => {
                let log = log.clone();
                drop(state);
                let piece = log.read(offset, most).map_err(|errno| Fault::os(errno, "cannot read the log"))?;
                let Span { first, end } = log.span();
                // A log that kept nothing, or was cleared, has nothing to come either, wherever the reader is.
                (piece.map(|(offset, data)| (Stream::Stdout, offset, data)), offset.max(first) >= end)
            }
        };
        Ok(match (output, exited) {
            (Some((stream, offset, data)), _) => Next::Output(stream, offset, data),
            (None, Some(exited)) if at_end => Next::Exited(exited),
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
}
