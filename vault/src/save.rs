//! `save`: what a stopped machine's memory holds that the base does not, sealed into a file.
//!
//! ```text
//! reader ── slots of 1 MiB ──► sealer 0, sealer 1 ── chunks ──► writer
//!    ▲                              │
//!    └──────── free slots ──────────┘
//! ```
//!
//! The machine stands still only for the reader. With slots for all changed pages it never waits, and sealing begins
//! when all is read, so that it does not take the processors from reading; with fewer, sealing begins when they are
//! used up. Batch n goes to sealer n mod 2 and the writer takes from them in turn: chunks are in order, and all queues
//! bounded.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use ring::rand::{SecureRandom, SystemRandom};

use crate::args;
use crate::fault::{Code, Fault, Step};
use crate::image::{Cipher, Header, Record, Run, CHUNK_PAGES, PAGE};
use crate::machine::{Base, Machine};
use crate::{sys, talk};

const SEALERS: usize = 2;
const SLOT_BYTES: usize = CHUNK_PAGES * PAGE; // 1 MiB
/// Without a buffer: enough that nobody waits for a moment's delay of another.
const FEWEST_SLOTS: usize = 8;
/// Sealed chunks that wait for the writer, for each sealer.
const WAITING_CHUNKS: usize = 2;
/// The disk is set to work in pieces of this size, so that less is left for the sync at the end.
const WRITEBACK_BYTES: u64 = 8 << 20;

type Slot = &'static mut [u8];

/// Pages as they were read from the machine; they fill the slot from its beginning.
struct Batch {
    runs: Vec<Run>,
    slot: Slot,
}

/// What one sealer made of one batch.
struct Chunk {
    sealed: Vec<u8>,
    data_pages: usize,
    zero_pages: usize,
}

/// Of the finished file.
struct Written {
    size: u64,
    digest: blake3::Hash,
    data_pages: usize,
    zero_pages: usize,
}

pub fn run(options: &args::Save) -> Result<(), Fault> {
    let key = talk::secret()?;
    let base = Base::open(options.base)?;
    let out = sys::inherited(options.out).step("take the target")?;
    let machine = Machine::find(options.pid, &base)?;
    let pagemap = machine.pagemap()?;
    let header = new_header(base.bytes)?;
    let cipher = Cipher::new(&key, &header, &options.context)?;
    let slots = slots(options.buffer_mib, &machine.own_pages(&pagemap)?)?;
    talk::say("ready", &[])?;
    if talk::line()? != "copy" {
        return Err(Fault::invalid("the line must be: copy"));
    }

    let batches = batches(&machine.own_pages(&pagemap)?);
    let written = thread::scope(|scope| {
        let (give_back, free) = mpsc::channel();
        let (mut feeds, mut chunks) = (Vec::new(), Vec::new());
        for _ in 0..SEALERS {
            let (feed, batches) = mpsc::channel();
            let (deliver, delivered) = mpsc::sync_channel(WAITING_CHUNKS);
            let (give_back, cipher, base) = (give_back.clone(), &cipher, &base.file);
            let first = feeds.len();
            scope.spawn(move || {
                or_end(seal(cipher, base, first, &batches, &give_back, &deliver));
            });
            feeds.push(feed);
            chunks.push(delivered);
        }
        let count = batches.len();
        let (cipher, header, out) = (&cipher, &header, &out);
        let writer = scope.spawn(move || or_end(write(out, header, cipher, count, &chunks)));
        or_end(read(&machine, batches, slots, &free, &feeds));
        drop(feeds);
        writer.join()
    })
    .map_err(|_| Fault::new(Code::Failed, "the writer broke off"))?;
    let dirty = (written.data_pages + written.zero_pages) * PAGE;
    talk::say(
        "done",
        &[
            ("size", written.size.into()),
            ("digest", written.digest.to_hex().as_str().into()),
            ("dirty_bytes", (dirty as u64).into()),
            ("data_pages", (written.data_pages as u64).into()),
            ("zero_pages", (written.zero_pages as u64).into()),
        ],
    )
}

/// A fault in one thread would leave the others waiting for it for ever: it ends the process.
fn or_end<T>(result: Result<T, Fault>) -> T {
    result.unwrap_or_else(|fault| talk::end(&fault))
}

fn new_header(base_bytes: u64) -> Result<Header, Fault> {
    let mut file_id = [0; 32];
    SystemRandom::new()
        .fill(&mut file_id)
        .map_err(|_| Fault::new(Code::Failed, "there are no random bytes"))?;
    Ok(Header {
        base_bytes,
        file_id,
    })
}

/// Memory for `buffer_mib`, backed already for what has changed so far and a quarter more: being given pages takes
/// longer than copying, and the machine runs still.
fn slots(buffer_mib: usize, changed: &[Run]) -> Result<Vec<Slot>, Fault> {
    let changed: usize = changed.iter().map(|run| run.count * PAGE).sum();
    let bytes = buffer_mib.max(FEWEST_SLOTS) * SLOT_BYTES;
    let memory = sys::allocate(bytes, changed + changed / 4 + FEWEST_SLOTS * SLOT_BYTES)
        .step("allocate the buffer")?;
    Ok(memory.chunks_exact_mut(SLOT_BYTES).rev().collect())
}

/// Cuts runs into batches of at most one chunk.
fn batches(runs: &[Run]) -> Vec<Vec<Run>> {
    let mut batches = Vec::new();
    let (mut batch, mut room) = (Vec::new(), CHUNK_PAGES);
    for run in runs {
        let mut rest = *run;
        while rest.count > 0 {
            let count = rest.count.min(room);
            batch.push(Run { count, ..rest });
            rest.page += count as u64;
            rest.count -= count;
            room -= count;
            if room == 0 {
                batches.push(std::mem::take(&mut batch));
                room = CHUNK_PAGES;
            }
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Reads all batches, says so, and lets the sealers begin at the end or when there is no slot left.
fn read(
    machine: &Machine,
    batches: Vec<Vec<Run>>,
    mut slots: Vec<Slot>,
    free: &Receiver<Slot>,
    feeds: &[Sender<Batch>],
) -> Result<(), Fault> {
    let gone = || Fault::new(Code::Failed, "a sealer has gone");
    let feed =
        |(index, batch): (usize, Batch)| feeds[index % SEALERS].send(batch).map_err(|_| gone());
    let mut held = Vec::new();
    let mut pages = 0;
    let mut ranges = Vec::with_capacity(CHUNK_PAGES);
    for (index, runs) in batches.into_iter().enumerate() {
        let slot = if let Some(slot) = slots.pop() {
            slot
        } else {
            held.drain(..).try_for_each(feed)?;
            free.recv().map_err(|_| gone())?
        };
        ranges.clear();
        for run in &runs {
            machine.locate(*run, &mut ranges)?;
            pages += run.count;
        }
        machine.read(&ranges, &mut slot[..count(&runs) * PAGE])?;
        held.push((index, Batch { runs, slot }));
    }
    talk::say("copied", &[("pages", (pages as u64).into())])?;
    held.into_iter().try_for_each(feed)
}

fn count(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.count).sum()
}

/// Seals every batch that is fed: numbers `first`, `first + SEALERS` and so on.
fn seal(
    cipher: &Cipher,
    base: &File,
    first: usize,
    batches: &Receiver<Batch>,
    give_back: &Sender<Slot>,
    deliver: &SyncSender<Chunk>,
) -> Result<(), Fault> {
    let mut original = vec![0; SLOT_BYTES];
    for (index, batch) in (first..).step_by(SEALERS).zip(batches) {
        let length = count(&batch.runs) * PAGE;
        read_runs(base, &batch.runs, &mut original[..length]).step("read the base")?;
        let (records, length) = sift(&batch.runs, &original, batch.slot);
        let mut sealed = Vec::with_capacity(SLOT_BYTES + SLOT_BYTES / 64);
        cipher.seal(
            index as u64,
            false,
            &records,
            &batch.slot[..length],
            &mut sealed,
        )?;
        let zero_pages = records.iter().filter(|r| r.zero).map(|r| r.run.count).sum();
        let data_pages = length / PAGE;
        // Nobody may want it any more: the reader has finished.
        let _ = give_back.send(batch.slot);
        deliver
            .send(Chunk {
                sealed,
                data_pages,
                zero_pages,
            })
            .map_err(|_| Fault::new(Code::Failed, "the writer has gone"))?;
    }
    Ok(())
}

/// By reading and not by a mapping: that would give a base on tmpfs a page for every hole that is compared.
fn read_runs(base: &File, runs: &[Run], mut into: &mut [u8]) -> std::io::Result<()> {
    for run in runs {
        let (part, rest) = into.split_at_mut(run.count * PAGE);
        base.read_exact_at(part, run.page * PAGE as u64)?;
        into = rest;
    }
    Ok(())
}

/// Drops the pages that equal the base's and moves those with data together at the beginning of `pages`. Returns what
/// is left, and the length of the data.
///
/// A page of zeros where the base has others is kept, as a record without data: it must be zero again.
fn sift(runs: &[Run], original: &[u8], pages: &mut [u8]) -> (Vec<Record>, usize) {
    const ZEROS: [u8; PAGE] = [0; PAGE];
    let mut records: Vec<Record> = Vec::new();
    let (mut from, mut length) = (0, 0);
    for run in runs {
        for page in run.page..run.page + run.count as u64 {
            let content = &pages[from..from + PAGE];
            let kept = content != &original[from..from + PAGE];
            let zero = kept && content == ZEROS;
            if kept && !zero {
                pages.copy_within(from..from + PAGE, length);
                length += PAGE;
            }
            from += PAGE;
            if !kept {
                continue;
            }
            match records.last_mut() {
                Some(last)
                    if last.zero == zero && last.run.page + last.run.count as u64 == page =>
                {
                    last.run.count += 1;
                }
                _ => records.push(Record {
                    run: Run { page, count: 1 },
                    zero,
                }),
            }
        }
    }
    (records, length)
}

/// Writes header, `count` chunks and the last, empty one, and syncs the file.
fn write(
    mut out: &File,
    header: &Header,
    cipher: &Cipher,
    count: usize,
    chunks: &[Receiver<Chunk>],
) -> Result<Written, Fault> {
    let mut written = Written {
        size: 0,
        digest: blake3::hash(&[]),
        data_pages: 0,
        zero_pages: 0,
    };
    let mut digest = blake3::Hasher::new();
    let mut begun = 0;
    let mut append = |written: &mut Written, bytes: &[u8]| {
        out.write_all(bytes).step("write the image")?;
        digest.update(bytes);
        written.size += bytes.len() as u64;
        if written.size - begun >= WRITEBACK_BYTES {
            sys::begin_writeback(out, begun, written.size - begun);
            begun = written.size;
        }
        Ok(())
    };
    append(&mut written, &header.encode())?;
    for index in 0..count {
        let chunk = chunks[index % SEALERS]
            .recv()
            .map_err(|_| Fault::new(Code::Failed, "a sealer has gone"))?;
        append(&mut written, &chunk.sealed)?;
        written.data_pages += chunk.data_pages;
        written.zero_pages += chunk.zero_pages;
    }
    let mut last = Vec::new();
    cipher.seal(count as u64, true, &[], &[], &mut last)?;
    append(&mut written, &last)?;
    out.sync_all().step("sync the image")?;
    written.digest = digest.finalize();
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs are cut at a chunk's end, and short ones share a chunk.
    #[test]
    fn cut_into_batches() {
        let run = |page, count| Run { page, count };

        let cut = batches(&[run(0, 2), run(10, 300), run(400, 1), run(500, 209)]);

        assert_eq!(
            cut,
            [
                vec![run(0, 2), run(10, 254)],
                vec![run(264, 46), run(400, 1), run(500, 209)]
            ]
        );
        assert!(batches(&[]).is_empty());
    }

    /// Equal pages go, zeroed ones stay without data, and data moves together.
    #[test]
    fn sifted() {
        let page = |byte: u8| vec![byte; PAGE];
        let original = [page(1), page(1), page(0), page(1), page(1), page(0)].concat();
        let mut pages = [page(1), page(2), page(0), page(0), page(3), page(4)].concat();
        let runs = [Run { page: 7, count: 4 }, Run { page: 11, count: 2 }];

        let (records, length) = sift(&runs, &original, &mut pages);

        let record = |page, count, zero| Record {
            run: Run { page, count },
            zero,
        };
        assert_eq!(
            records,
            [
                record(8, 1, false),
                record(10, 1, true),
                record(11, 2, false)
            ]
        );
        assert_eq!(pages[..length], [page(2), page(3), page(4)].concat());
    }
}
