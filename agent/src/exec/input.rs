//! A command's stdin: what the host sent and the pipe has not taken yet.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use crate::exec::watch::Poller;
use crate::wire::call::CHUNK_BYTES;

pub(crate) struct Input {
    /// None: closed by us behind the last byte, or by the command.
    end: Option<OwnedFd>,
    queue: VecDeque<Vec<u8>>,
    /// Written bytes of the first piece.
    written: usize,
    /// Close the pipe when the queue is empty.
    ending: bool,
    /// In the poller, which says when the pipe takes more.
    watched: bool,
    /// Bytes the queue got rid of since they were last asked for.
    consumed: usize,
    /// Bytes in the queue of a sender who is gone: nobody is told that they were consumed.
    orphaned: usize,
    received: u64,
}

impl Input {
    /// *end* is the pipe's, which never blocks. None: there is no stdin, and what comes for it is thrown away.
    pub(crate) fn new(end: Option<OwnedFd>) -> Self {
        Self {
            end,
            queue: VecDeque::new(),
            written: 0,
            ending: false,
            watched: false,
            consumed: 0,
            orphaned: 0,
            received: 0,
        }
    }

    /// Queues *pieces*; *ended* closes the pipe behind them. Bounded by the starting stream's credit.
    pub(crate) fn push(&mut self, pieces: VecDeque<Vec<u8>>, ended: bool) {
        self.received += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        for piece in pieces {
            match self.queue.back_mut() {
                // Small pieces become one: each would cost more to keep than it holds.
                Some(last) if last.len() + piece.len() <= CHUNK_BYTES => last.extend_from_slice(&piece),
                _ => self.queue.push_back(piece),
            }
        }
        self.ending |= ended;
    }

    /// What comes for it is not thrown away.
    pub(crate) fn is_open(&self) -> bool {
        self.end.is_some() && !self.ending
    }

    /// It is closed, or will be behind what is queued.
    pub(crate) fn is_ended(&self) -> bool {
        self.ending
    }

    /// Bytes that were queued so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes the queue got rid of since the last call.
    pub(crate) fn take_consumed(&mut self) -> usize {
        let consumed = std::mem::take(&mut self.consumed);
        let orphaned = consumed.min(self.orphaned);
        self.orphaned -= orphaned;
        consumed - orphaned
    }

    /// From here on another sender queues.
    pub(crate) fn change_sender(&mut self) {
        self.consumed = 0;
        self.orphaned = self.queued();
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.iter().map(Vec::len).sum::<usize>() - self.written
    }

    /// Writes as far as the pipe takes it, and has *poller* say *token* when it takes more. True when bytes went.
    pub(crate) fn feed(&mut self, poller: &Poller, token: EventData) -> bool {
        let before = self.consumed;
        let Some(end) = &self.end else {
            self.close(poller);
            return self.consumed > before;
        };
        let waiting = loop {
            let Some(piece) = self.queue.front() else { break false };
            match rustix::io::write(end, piece.get(self.written..).unwrap_or_default()) {
                Ok(count) => {
                    self.consumed += count;
                    self.written += count;
                    if self.written >= piece.len() {
                        self.queue.pop_front();
                        self.written = 0;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break true,
                Err(_) => {
                    // The command closed it.
                    self.close(poller);
                    return true;
                }
            }
        };
        if waiting && !self.watched {
            self.watched = epoll::add(&poller.epoll, end, token, EventFlags::OUT).is_ok();
        } else if !waiting && self.watched {
            let _ = epoll::delete(&poller.epoll, end);
            self.watched = false;
        }
        if !waiting && self.ending {
            self.close(poller);
        }
        self.consumed > before
    }

    /// Closes the pipe; what is queued is read by nobody.
    pub(crate) fn close(&mut self, poller: &Poller) {
        if let (Some(end), true) = (self.end.take(), std::mem::take(&mut self.watched)) {
            // A terminal would stay in the poller as long as our other descriptor of it.
            let _ = epoll::delete(&poller.epoll, end);
        }
        self.consumed += self.queued();
        self.queue.clear();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{pipe_with, PipeFlags};

    fn pieces(sizes: &[usize]) -> VecDeque<Vec<u8>> {
        sizes.iter().map(|size| vec![b'x'; *size]).collect()
    }

    fn token() -> EventData {
        EventData::new_u64(0)
    }

    /// Every queued byte is given back exactly once, whether the pipe took it or was closed over it.
    #[test]
    fn all_that_was_queued_is_consumed() {
        let poller = Poller::new().unwrap();
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(Some(ours));
        input.push(pieces(&[50_000, 50_000]), false);
        assert!(input.feed(&poller, token()));
        let taken = input.take_consumed();
        assert!((1..100_000).contains(&taken), "{taken}");
        assert!(!input.feed(&poller, token()), "the pipe is full");
        drop(theirs);
        assert!(input.feed(&poller, token()));
        assert_eq!(taken + input.take_consumed(), 100_000);
        input.push(pieces(&[7]), true);
        assert!(input.feed(&poller, token()), "nobody reads it any more");
        assert_eq!(input.take_consumed(), 7);
    }

    /// A second sender is told of its own bytes only, though the first one's go before them.
    #[test]
    fn senders_take_over_from_each_other() {
        let poller = Poller::new().unwrap();
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(Some(ours));
        input.push(pieces(&[100_000]), false);
        assert!(input.feed(&poller, token()));
        assert_eq!(input.received(), 100_000);
        input.change_sender();
        input.push(pieces(&[7]), true);
        drop(theirs);
        assert!(input.feed(&poller, token()));
        assert_eq!(input.take_consumed(), 7);
        assert_eq!(input.received(), 100_007);
    }

    /// The end comes behind the last byte and not before.
    #[test]
    fn the_pipe_is_closed_behind_the_last_byte() {
        let poller = Poller::new().unwrap();
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(Some(ours));
        input.push(pieces(&[100_000]), true);
        let (mut read, mut buffer) = (0, vec![0; 10_000]);
        loop {
            input.feed(&poller, token());
            match rustix::io::read(&theirs, &mut *buffer).unwrap() {
                0 => break,
                count => read += count,
            }
        }
        assert_eq!(read, 100_000);
    }
}
