//! One call: its stream's two directions, with credit.
//!
//! The reading thread delivers what the host sends; the thread that serves the call takes it, waits for credit
//! and replies. Every delivery also wakes `Call::wait`, where a served exec waits for output, input, credit
//! and the end at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};

use prost::Message;
use rustix::event::{eventfd, EventfdFlags};

use crate::fault::{Code, Fault};
use crate::proto::{reply, Reply, Status};
use crate::sync::{lock, wait};
use crate::wire::frame::{encode, Kind, MAX_PAYLOAD_BYTES};
use crate::wire::outlet::{Outlet, SessionOver};

/// Credit each direction starts with, in bytes (FRAMING.md).
pub(crate) const INITIAL_CREDIT: u32 = 262_144;
/// Consumed bytes are given back in pieces of at least this size, so that small ones do not cost a frame each.
const GRANT_BYTES: u32 = 65_536;
/// Largest DATA payload the agent sends: small enough that calls take turns on the channel.
pub(crate) const CHUNK_BYTES: usize = 32_768;

/// Why serving a call stops early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Said to the host in END.
    Fault(Fault),
    /// The host cancelled the call or its session is over; what was half done is undone.
    Lost,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<SessionOver> for Stop {
    fn from(_: SessionOver) -> Self {
        Self::Lost
    }
}

/// The host sent more than it had credit for, or after its end of data, or gave more credit than was used.
#[derive(Debug)]
pub(crate) struct Overrun;

struct State {
    inbound: VecDeque<Vec<u8>>,
    /// The host sent its empty DATA frame.
    ended: bool,
    /// What the host may still send.
    window: u32,
    /// Consumed and not yet given back.
    owed: u32,
    /// What we may still send.
    credit: u64,
    lost: Option<Loss>,
    poked: bool,
    /// Rung with every poke, for who waits for more than this call.
    bell: Option<Arc<OwnedFd>>,
}

/// An end of a call's bell, readable when something was delivered since it was silenced.
pub(crate) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why nobody listens any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Cancelled,
    Session,
}

pub(crate) struct Call {
    stream: u32,
    session: u64,
    outlet: Arc<Outlet>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Call {
    pub(crate) fn new(stream: u32, session: u64, outlet: Arc<Outlet>) -> Self {
        Self {
            stream,
            session,
            outlet,
            state: Mutex::new(State {
                inbound: VecDeque::new(),
                ended: false,
                window: INITIAL_CREDIT,
                owed: 0,
                credit: u64::from(INITIAL_CREDIT),
                lost: None,
                poked: false,
                bell: None,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn stream(&self) -> u32 {
        self.stream
    }

    // ---- the reading thread's side ----

    pub(crate) fn deliver(&self, data: Vec<u8>) -> Result<(), Overrun> {
        let mut state = lock(&self.state);
        let size = u32::try_from(data.len()).map_err(|_| Overrun)?;
        if state.ended {
            return Err(Overrun);
        }
        state.window = state.window.checked_sub(size).ok_or(Overrun)?;
        if data.is_empty() {
            state.ended = true;
        } else {
            match state.inbound.back_mut() {
                // Small pieces become one: each would cost more to keep than it holds.
                Some(last) if last.len() + data.len() <= MAX_PAYLOAD_BYTES => last.extend_from_slice(&data),
                _ => state.inbound.push_back(data),
            }
        }
        self.poke_locked(state);
        Ok(())
    }

    pub(crate) fn add_credit(&self, bytes: u32) -> Result<(), Overrun> {
        let mut state = lock(&self.state);
        let credit = state.credit + u64::from(bytes);
        if credit > u64::from(INITIAL_CREDIT) {
            return Err(Overrun);
        }
        state.credit = credit;
        self.poke_locked(state);
        Ok(())
    }

    /// The host has lost interest.
    pub(crate) fn cancel(&self) {
        self.lose_by(Loss::Cancelled);
    }

    /// The session is over.
    pub(crate) fn lose(&self) {
        self.lose_by(Loss::Session);
    }

    fn lose_by(&self, loss: Loss) {
        let mut state = lock(&self.state);
        state.lost.get_or_insert(loss);
        self.poke_locked(state);
    }

    // ---- the serving thread's side ----

    /// Makes the next `wait` return.
    pub(crate) fn poke(&self) {
        self.poke_locked(lock(&self.state));
    }

    fn poke_locked(&self, mut state: std::sync::MutexGuard<'_, State>) {
        state.poked = true;
        if let Some(bell) = &state.bell {
            let _ = rustix::io::write(&**bell, &1u64.to_ne_bytes());
        }
        drop(state);
        self.changed.notify_all();
    }

    /// For waiting for other things as well. What came before rings too: look first, then wait.
    pub(crate) fn bell(&self) -> Result<Bell, Stop> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Fault::os(errno, "cannot wait for the host"))?;
        let bell = Arc::new(bell);
        lock(&self.state).bell = Some(bell.clone());
        Ok(Bell(bell))
    }

    /// Waits until something was delivered or poked since the last wait.
    pub(crate) fn wait(&self) -> Result<(), Stop> {
        let mut state = lock(&self.state);
        while !state.poked {
            state = wait(&self.changed, state);
        }
        state.poked = false;
        if state.lost.is_some() {
            Err(Stop::Lost)
        } else {
            Ok(())
        }
    }

    /// Data that came and waits, without blocking: the pieces, and whether the host's data has ended behind them.
    pub(crate) fn take_inbound(&self) -> (VecDeque<Vec<u8>>, bool) {
        let mut state = lock(&self.state);
        (std::mem::take(&mut state.inbound), state.ended)
    }

    /// The next piece of the host's data, or None at its end. Gives credit back for it.
    pub(crate) fn next_data(&self) -> Result<Option<Vec<u8>>, Stop> {
        let mut state = lock(&self.state);
        loop {
            if state.lost.is_some() {
                return Err(Stop::Lost);
            }
            if let Some(data) = state.inbound.pop_front() {
                drop(state);
                self.consumed(data.len())?;
                return Ok(Some(data));
            }
            if state.ended {
                return Ok(None);
            }
            state = wait(&self.changed, state);
        }
    }

    /// Gives the host credit for *bytes* that were consumed.
    pub(crate) fn consumed(&self, bytes: usize) -> Result<(), Stop> {
        let grant = {
            let mut state = lock(&self.state);
            state.owed = state.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
            if state.owed < GRANT_BYTES || state.ended {
                return Ok(());
            }
            let grant = std::mem::take(&mut state.owed);
            state.window = state.window.saturating_add(grant);
            grant
        };
        let frame = encode(Kind::Credit, self.stream, |out| out.extend_from_slice(&grant.to_be_bytes()));
        Ok(self.outlet.send(self.session, &frame)?)
    }

    /// How much of *wanted* the credit covers now; 0 means none is left. `spend` takes it.
    pub(crate) fn credit(&self, wanted: usize) -> Result<usize, Stop> {
        let state = lock(&self.state);
        if state.lost.is_some() {
            return Err(Stop::Lost);
        }
        Ok(usize::try_from(state.credit).unwrap_or(usize::MAX).min(wanted))
    }

    pub(crate) fn spend(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.credit = state.credit.saturating_sub(bytes as u64);
    }

    /// Waits for credit, at most *wanted* bytes and at least one, and takes it.
    pub(crate) fn take_credit(&self, wanted: usize) -> Result<usize, Stop> {
        let mut state = lock(&self.state);
        loop {
            if state.lost.is_some() {
                return Err(Stop::Lost);
            }
            if state.credit > 0 {
                let taken = usize::try_from(state.credit).unwrap_or(usize::MAX).min(wanted);
                state.credit -= taken as u64;
                return Ok(taken);
            }
            state = wait(&self.changed, state);
        }
    }

    /// Gives back credit that was taken and not used.
    pub(crate) fn return_credit(&self, bytes: usize) {
        lock(&self.state).credit += bytes as u64;
    }

    pub(crate) fn is_lost(&self) -> bool {
        lock(&self.state).lost.is_some()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        lock(&self.state).lost == Some(Loss::Cancelled)
    }

    pub(crate) fn reply(&self, kind: reply::Kind) -> Result<(), Stop> {
        let reply = Reply { kind: Some(kind) };
        let frame = encode(Kind::Message, self.stream, |out| reply.encode_raw(out));
        Ok(self.outlet.send(self.session, &frame)?)
    }

    /// As `reply`, unless *stop* holds once it is this frame's turn. False: it was not sent.
    pub(crate) fn reply_unless(&self, stop: &AtomicBool, kind: reply::Kind) -> Result<bool, Stop> {
        let reply = Reply { kind: Some(kind) };
        let frame = encode(Kind::Message, self.stream, |out| reply.encode_raw(out));
        Ok(self.outlet.send_unless(stop, self.session, &frame)?)
    }

    /// Sends DATA for which credit was taken; at most `CHUNK_BYTES`.
    pub(crate) fn data(&self, bytes: &[u8]) -> Result<(), Stop> {
        let frame = encode(Kind::Data, self.stream, |out| out.extend_from_slice(bytes));
        Ok(self.outlet.send(self.session, &frame)?)
    }

    /// Sends END. The caller has already taken the stream out of the session's table.
    pub(crate) fn end(&self, outcome: Result<(), Stop>) {
        let status = match outcome {
            Ok(()) => Status::default(),
            Err(Stop::Fault(fault)) => fault.into_status(),
            Err(Stop::Lost) => Fault::new(Code::Unavailable, "the call was cancelled").into_status(),
        };
        let frame = encode(Kind::End, self.stream, |out| status.encode_raw(out));
        let _ = self.outlet.send(self.session, &frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came in many small pieces waits as few large ones, in order, and its end behind it.
    #[test]
    fn small_pieces_are_kept_together() {
        let call = Call::new(1, 1, Arc::new(Outlet::new().unwrap()));
        let sent: Vec<u8> = (0..100_000u32).map(|index| index.to_le_bytes()[0]).collect();
        for byte in &sent {
            call.deliver(vec![*byte]).unwrap();
        }
        call.deliver(Vec::new()).unwrap();
        let (pieces, ended) = call.take_inbound();
        assert_eq!(pieces.len(), 2);
        assert!(ended && Vec::from(pieces).concat() == sent);
    }
}
