//! What a command has written lately: records of one stream each, numbered by bytes since the start.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::wire::call::CHUNK_BYTES;

/// What one exec may keep while memory is plenty, in bytes.
const LARGE_BYTES: usize = 256 * 1024;
/// What it may keep once all rings together hold more than `SHARED_BYTES`.
const SMALL_BYTES: usize = 16 * 1024;
const SHARED_BYTES: usize = 16 * 1024 * 1024;
/// What a record costs besides its bytes: a flood of one-byte writes that alternate streams is bounded too.
const RECORD_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

struct Record {
    stream: Stream,
    offset: u64,
    data: Vec<u8>,
}

impl Record {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// Bytes that all rings hold together.
pub(crate) type Budget = Arc<AtomicUsize>;

pub(crate) struct Ring {
    records: VecDeque<Record>,
    /// Offset of the next byte.
    end: u64,
    cost: usize,
    budget: Budget,
}

impl Ring {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { records: VecDeque::new(), end: 0, cost: 0, budget }
    }

    /// Drops what is oldest until one more chunk may be added, but nothing at or behind *unread*.
    /// False when that does not suffice: the command has to wait.
    pub(crate) fn make_room(&mut self, unread: u64) -> bool {
        while self.cost >= self.bound() {
            if self.records.front().is_none_or(|oldest| oldest.end() > unread) {
                return false;
            }
            if let Some(oldest) = self.records.pop_front() {
                self.charge(-(cost_of(&oldest).cast_signed()));
            }
        }
        true
    }

    /// Keeps no more than a ring may when memory is short.
    pub(crate) fn shrink(&mut self) {
        while self.cost > SMALL_BYTES {
            let Some(oldest) = self.records.pop_front() else { break };
            self.charge(-(cost_of(&oldest).cast_signed()));
        }
    }

    fn bound(&self) -> usize {
        if self.budget.load(Ordering::Relaxed) > SHARED_BYTES {
            SMALL_BYTES
        } else {
            LARGE_BYTES
        }
    }

    /// Appends what was read from one pipe; at most `CHUNK_BYTES`.
    pub(crate) fn push(&mut self, stream: Stream, data: &[u8]) {
        match self.records.back_mut() {
            Some(last) if last.stream == stream && last.data.len() + data.len() <= CHUNK_BYTES => {
                last.data.extend_from_slice(data);
                self.charge(data.len().cast_signed());
            }
            _ => {
                let record = Record { stream, offset: self.end, data: data.to_vec() };
                self.charge(cost_of(&record).cast_signed());
                self.records.push_back(record);
            }
        }
        self.end += data.len() as u64;
    }

    /// At most *most* bytes of one stream from *offset* on, or from the oldest byte kept where that is later:
    /// the stream, the offset of the first byte, the bytes. None when there is nothing behind *offset*.
    pub(crate) fn read(&self, offset: u64, most: usize) -> Option<(Stream, u64, Vec<u8>)> {
        let index = self.records.partition_point(|record| record.end() <= offset);
        let record = self.records.get(index)?;
        let offset = offset.max(record.offset);
        let skip = usize::try_from(offset - record.offset).ok()?;
        let rest = record.data.get(skip..)?;
        let piece = rest.get(..most).unwrap_or(rest);
        (!piece.is_empty()).then(|| (record.stream, offset, piece.to_vec()))
    }

    /// Offset behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    fn charge(&mut self, change: isize) {
        self.cost = self.cost.wrapping_add_signed(change);
        self.budget.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

fn cost_of(record: &Record) -> usize {
    record.data.len() + RECORD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: u64 = u64::MAX;

    fn fill(ring: &mut Ring, chunks: usize, unread: u64) -> usize {
        (0..chunks)
            .take_while(|_| {
                ring.make_room(unread).then(|| ring.push(Stream::Stdout, &vec![b'x'; CHUNK_BYTES])).is_some()
            })
            .count()
    }

    /// Streams keep their order and every byte its offset.
    #[test]
    fn reads_return_records_in_order() {
        let mut ring = Ring::new(Budget::default());
        ring.push(Stream::Stdout, b"one");
        ring.push(Stream::Stdout, b"two");
        ring.push(Stream::Stderr, b"err");
        assert_eq!(ring.read(0, 100), Some((Stream::Stdout, 0, b"onetwo".to_vec())));
        assert_eq!(ring.read(4, 1), Some((Stream::Stdout, 4, b"w".to_vec())));
        assert_eq!(ring.read(6, 100), Some((Stream::Stderr, 6, b"err".to_vec())));
        assert_eq!(ring.read(9, 100), None);
        assert_eq!(ring.read(u64::MAX, 100), None);
        assert_eq!(ring.read(0, 0), None);
    }

    /// With nobody attached the oldest output goes, and a late reader starts at what is left.
    #[test]
    fn oldest_output_is_dropped_when_nobody_reads() {
        let mut ring = Ring::new(Budget::default());
        assert_eq!(fill(&mut ring, 100, NOBODY), 100);
        assert!(ring.cost <= LARGE_BYTES + CHUNK_BYTES + RECORD_BYTES);
        let (_, offset, _) = ring.read(0, 1).unwrap();
        assert!(offset > 0);
        assert_eq!(ring.end(), 100 * CHUNK_BYTES as u64);
    }

    /// What a reader has not had is never dropped: the command waits.
    #[test]
    fn unread_output_holds_the_command_back() {
        let mut ring = Ring::new(Budget::default());
        assert!(fill(&mut ring, 100, 0) < 10);
        assert!(ring.make_room(CHUNK_BYTES as u64), "read output makes room");
    }

    /// One-byte writes that alternate streams cannot make a ring hold more than its bound.
    #[test]
    fn tiny_records_count_their_overhead() {
        let mut ring = Ring::new(Budget::default());
        for index in 0..100_000 {
            assert!(ring.make_room(NOBODY));
            ring.push(if index % 2 == 0 { Stream::Stdout } else { Stream::Stderr }, b".");
        }
        assert!(ring.records.len() * RECORD_BYTES <= LARGE_BYTES + RECORD_BYTES);
    }

    /// A ring that nobody waits for is made small; its end stays.
    #[test]
    fn rings_are_shrunk() {
        let mut ring = Ring::new(Budget::default());
        fill(&mut ring, 8, NOBODY);
        ring.push(Stream::Stdout, b"end");
        ring.shrink();
        assert!(ring.cost <= SMALL_BYTES);
        assert_eq!(ring.read(0, 100), Some((Stream::Stdout, 8 * CHUNK_BYTES as u64, b"end".to_vec())));
    }

    /// Many full rings shrink, and a dropped ring gives its share back.
    #[test]
    fn rings_share_a_bound() {
        let budget = Budget::default();
        let mut rings: Vec<_> = (0..100).map(|_| Ring::new(budget.clone())).collect();
        for ring in &mut rings {
            fill(ring, 10, NOBODY);
        }
        assert!(budget.load(Ordering::Relaxed) < SHARED_BYTES + 100 * (SMALL_BYTES + 2 * CHUNK_BYTES));
        drop(rings);
        assert_eq!(budget.load(Ordering::Relaxed), 0);
    }
}
