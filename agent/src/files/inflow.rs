//! A tar stream from the host, in the pieces that reading it takes.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::fault::Fault;
use crate::files::tar::{Block, Entry, Kind, BLOCK_BYTES};
use crate::wire::call::{Call, Stop};

/// Longest records or name that stand before an entry. Linux has no paths above 4 KiB.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// The host's bytes, taken as they are needed.
pub(crate) struct Inflow<'a> {
    call: &'a Call,
    piece: Vec<u8>,
    /// Taken of the piece.
    at: usize,
}

impl<'a> Inflow<'a> {
    pub(crate) fn new(call: &'a Call) -> Self {
        Self { call, piece: Vec::new(), at: 0 }
    }

    /// Some bytes, at least one and at most *most*.
    fn some(&mut self, most: u64) -> Result<&[u8], Stop> {
        if self.at >= self.piece.len() {
            let ended = || Fault::invalid("the tar stream ends early");
            self.piece = self.call.next_data()?.ok_or_else(ended)?;
            self.at = 0;
        }
        let start = self.at;
        let left = self.piece.len() - start;
        self.at += usize::try_from(most).unwrap_or(left).min(left);
        Ok(self.piece.get(start..self.at).unwrap_or_default())
    }

    pub(crate) fn block(&mut self) -> Result<Block, Stop> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let some = self.some((BLOCK_BYTES - filled) as u64)?;
            for (target, byte) in block.iter_mut().skip(filled).zip(some) {
                *target = *byte;
            }
            filled += some.len();
        }
        Ok(block)
    }

    /// The content of an entry that is about another one.
    pub(crate) fn record(&mut self, entry: &Entry) -> Result<Vec<u8>, Stop> {
        if entry.size > MAX_RECORD_BYTES {
            return Err(Fault::invalid("the tar stream has a name or header that is too long").into());
        }
        let mut record = Vec::new();
        let mut left = entry.size;
        while left > 0 {
            let some = self.some(left)?;
            left -= some.len() as u64;
            record.extend_from_slice(some);
        }
        self.pass(padding(entry.size))?;
        Ok(record)
    }

    pub(crate) fn skip(&mut self, entry: &Entry) -> Result<(), Stop> {
        // Links may tell the size of what they link to, and have no content all the same.
        if matches!(entry.kind, Kind::HardLink | Kind::Symlink | Kind::Directory) {
            return Ok(());
        }
        self.pass(entry.size)?;
        self.pass(padding(entry.size))
    }

    fn pass(&mut self, mut left: u64) -> Result<(), Stop> {
        while left > 0 {
            left -= self.some(left)?.len() as u64;
        }
        Ok(())
    }

    /// Writes an entry's content to *file*; returns its size.
    pub(crate) fn copy(&mut self, entry: &Entry, file: &OwnedFd, shown: &str) -> Result<u64, Stop> {
        let mut left = entry.size;
        while left > 0 {
            let mut some = self.some(left)?;
            left -= some.len() as u64;
            while !some.is_empty() {
                match rustix::io::write(file, some) {
                    Ok(count) => some = some.get(count..).unwrap_or_default(),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(Fault::os(errno, shown).into()),
                }
            }
        }
        self.pass(padding(entry.size))?;
        Ok(entry.size)
    }
}

fn padding(size: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    (block - size % block) % block
}
