//! `load`: write a saved image's pages into a new machine's memory, before it runs.
//!
//! Two workers take chunk after chunk: read, open, decompress. Until the machine is there, what they opened waits, at
//! most `AHEAD_CHUNKS`; from then on each writes what it has opened. A machine that got only a part must never run: any
//! fault, and also the death of this process, means that the caller ends it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::args;
use crate::fault::{Code, Fault, Step};
use crate::image::{self, Cipher, Header, Record, CHUNK_PAGES, HEADER_BYTES, PAGE, WORD_BYTES};
use crate::machine::{Base, Machine};
use crate::{sys, talk};

const WORKERS: usize = 2;
/// Opened chunks that wait for the machine: 64 MiB.
const AHEAD_CHUNKS: usize = 64;

pub fn run(options: &args::Load) -> Result<(), Fault> {
    let key = talk::secret()?;
    let base = Base::open(options.base)?;
    let file = sys::inherited(options.image).step("take the image")?;
    sys::will_read_on(&file);
    let mut source = Source::open(file)?;
    let header = source.header.clone();
    let cipher = Cipher::new(&key, &header, &options.context)?;
    let mut first = Pages::default();
    source.next(&mut first)?;
    first.open(&cipher, base.pages())?;
    // Not before it is known to be authentic: until then it says nothing.
    if header.base_bytes != base.bytes {
        return Err(Fault::invalid(format!(
            "the image is of a base of {} bytes, and not of {}",
            header.base_bytes, base.bytes
        )));
    }
    let desk = Desk::new(source, first);
    talk::say("ready", &[])?;
    let written = thread::scope(|scope| {
        let work = || or_end(desk.work(&cipher, base.pages()));
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        desk.give(or_end(machine(&base)));
        let broken = |_| talk::end(&Fault::new(Code::Failed, "a worker broke off"));
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(broken))
            .sum::<usize>()
    });
    talk::say("done", &[("pages", (written as u64).into())])
}

/// A fault in one thread would leave the others waiting for it for ever: it ends the process.
fn or_end<T>(result: Result<T, Fault>) -> T {
    result.unwrap_or_else(|fault| talk::end(&fault))
}

/// Waits until the caller names the process.
fn machine(base: &Base) -> Result<Machine, Fault> {
    let line = talk::line()?;
    match line.parse() {
        Ok(pid) if pid > 0 => Machine::find(pid, base),
        _ => Err(Fault::invalid("the line must be a pid")),
    }
}

/// One chunk on its way from the file to the machine; its memory is used again.
#[derive(Default)]
struct Pages {
    index: u64,
    last: bool,
    sealed: Vec<u8>,
    records: Vec<Record>,
    data: Vec<u8>,
}

impl Pages {
    fn open(&mut self, cipher: &Cipher, pages: u64) -> Result<(), Fault> {
        self.records = cipher.open(
            self.index,
            self.last,
            &mut self.sealed,
            pages,
            &mut self.data,
        )?;
        Ok(())
    }

    /// Returns how many pages were written.
    fn write(&self, machine: &Machine) -> Result<usize, Fault> {
        static ZEROS: [u8; CHUNK_PAGES * PAGE] = [0; CHUNK_PAGES * PAGE];
        let mut written = 0;
        for zero in [false, true] {
            let mut ranges = Vec::new();
            let mut length = 0;
            for record in self.records.iter().filter(|record| record.zero == zero) {
                machine.locate(record.run, &mut ranges)?;
                length += record.run.count * PAGE;
            }
            let content = if zero { &ZEROS[..length] } else { &self.data };
            if length > 0 {
                machine.write(&ranges, content)?;
            }
            written += length / PAGE;
        }
        Ok(written)
    }
}

/// The file, chunk by chunk.
struct Source {
    file: File,
    offset: u64,
    header: Header,
    next: u64,
    ended: bool,
}

impl Source {
    fn open(file: File) -> Result<Self, Fault> {
        let mut bytes = [0; HEADER_BYTES];
        read(&file, &mut bytes, 0)?;
        Ok(Self {
            file,
            offset: HEADER_BYTES as u64,
            header: Header::decode(&bytes)?,
            next: 0,
            ended: false,
        })
    }

    /// Reads the next chunk, sealed as it is. It must not have `ended`, which it does after the last chunk; nothing
    /// follows that.
    fn next(&mut self, pages: &mut Pages) -> Result<(), Fault> {
        let mut word = [0; WORD_BYTES];
        read(&self.file, &mut word, self.offset)?;
        let (length, last) = image::word(word)?;
        pages.sealed.resize(length, 0);
        read(
            &self.file,
            &mut pages.sealed,
            self.offset + WORD_BYTES as u64,
        )?;
        self.offset += (WORD_BYTES + length) as u64;
        pages.index = self.next;
        pages.last = last;
        self.next += 1;
        self.ended = last;
        if last && self.file.metadata().step("look at the image")?.len() != self.offset {
            return Err(Fault::damaged("something follows the image's end"));
        }
        Ok(())
    }
}

fn read(file: &File, into: &mut [u8], offset: u64) -> Result<(), Fault> {
    match file.read_exact_at(into, offset) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Fault::damaged("the image ends too early"))
        }
        read => read.step("read the image"),
    }
}

/// What the workers share.
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    source: Source,
    ready: VecDeque<Pages>,
    spare: Vec<Pages>,
    machine: Option<Arc<Machine>>,
}

enum Task {
    Open(Pages),
    Write(Pages, Arc<Machine>),
    Done,
}

impl Desk {
    fn new(source: Source, first: Pages) -> Self {
        let state = State {
            source,
            ready: VecDeque::from([first]),
            spare: Vec::new(),
            machine: None,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A fault ends the process, so a lock is never left poisoned to somebody.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, machine: Machine) {
        self.state().machine = Some(Arc::new(machine));
        self.changed.notify_all();
    }

    /// Opens and writes chunks until none is left. Returns how many pages this worker wrote.
    fn work(&self, cipher: &Cipher, pages: u64) -> Result<usize, Fault> {
        let mut written = 0;
        loop {
            match self.task()? {
                Task::Open(mut chunk) => {
                    chunk.open(cipher, pages)?;
                    self.state().ready.push_back(chunk);
                }
                Task::Write(chunk, machine) => {
                    written += chunk.write(&machine)?;
                    self.state().spare.push(chunk);
                }
                Task::Done => return Ok(written),
            }
        }
    }

    fn task(&self) -> Result<Task, Fault> {
        let mut state = self.state();
        loop {
            if let Some(machine) = state.machine.clone() {
                if let Some(chunk) = state.ready.pop_front() {
                    return Ok(Task::Write(chunk, machine));
                }
                if state.source.ended {
                    return Ok(Task::Done);
                }
            }
            // What the other worker has in its hands is one more.
            if !state.source.ended && state.ready.len() < AHEAD_CHUNKS {
                let mut chunk = state.spare.pop().unwrap_or_default();
                state.source.next(&mut chunk)?;
                return Ok(Task::Open(chunk));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
