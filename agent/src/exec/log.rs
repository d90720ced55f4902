//! A background command's output: its last 64 MiB, in a file of the guest's disk that has no name.
//!
//! The file is a ring: byte *n* of the output lies at *n* modulo its size, so it neither moves nor grows for ever.
//! Without a name nobody can remove it, and the file system takes it back when the agent is gone, as after a boot.
//!
//! One thread appends and any number read, without waiting for each other. What a reader got is only used if it was
//! still kept afterwards: the writer says what it gives up before it writes there.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::log;
use crate::sync::lock;

/// What is given up at once (agent.proto).
const STEP_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 1 << 20 };
/// What is kept, at least (agent.proto).
const KEPT_BYTES: u64 = 64 * STEP_BYTES;
/// A multiple of the step, so that no step wraps.
const FILE_BYTES: u64 = KEPT_BYTES + STEP_BYTES;

/// Which bytes of the output are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    /// Behind the last one: as many were written so far.
    pub(crate) end: u64,
}

pub(crate) struct Log {
    /// None: the disk would not even take an empty file, and nothing is kept.
    file: Option<OwnedFd>,
    span: Mutex<Span>,
}

impl Log {
    /// A new log on the file system of *directory*. A command runs also where it has no room.
    pub(crate) fn create(directory: &OwnedFd) -> Self {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR);
        if let Err(errno) = &file {
            log::line(&format!("no file for a command's log: {errno}"));
        }
        Self::on(file.ok())
    }

    fn on(file: Option<OwnedFd>) -> Self {
        Self { file, span: Mutex::default() }
    }

    pub(crate) fn span(&self) -> Span {
        *lock(&self.span)
    }

    /// Appends *data*, at most a step. Where the disk has no room the oldest goes for the newest; what then cannot be
    /// kept all the same is counted, and given up with all before it, so that what is kept is always in one piece.
    /// Called by one thread.
    pub(crate) fn append(&self, data: &[u8]) {
        let Span { first, end } = self.span();
        let new_end = end.saturating_add(data.len() as u64);
        if new_end - first > FILE_BYTES {
            let needed = new_end - FILE_BYTES;
            self.give_up_before(needed.next_multiple_of(STEP_BYTES).min(end));
        }
        while let Err(errno) = self.write(data, end) {
            if errno != Errno::NOSPC || !self.give_up_step() {
                self.give_up_before(new_end);
                break;
            }
        }
        lock(&self.span).end = new_end;
    }

    fn give_up_before(&self, offset: u64) {
        let mut span = lock(&self.span);
        span.first = span.first.max(offset);
    }

    /// How much is kept.
    pub(crate) fn size(&self) -> u64 {
        let Span { first, end } = self.span();
        end - first
    }

    /// Gives the disk all of it back. Not while it is appended to.
    pub(crate) fn clear(&self) {
        self.give_up_before(self.span().end);
        if let Some(file) = &self.file {
            let _ = rustix::fs::ftruncate(file, 0);
        }
    }

    /// Gives the disk its oldest step back. False when nothing is left.
    fn give_up_step(&self) -> bool {
        let Span { first, end } = self.span();
        let next = ((first / STEP_BYTES + 1) * STEP_BYTES).min(end);
        self.give_up_before(next);
        if let (Some(file), true) = (&self.file, first < next) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(file, flags, first % FILE_BYTES, next - first);
        }
        first < next
    }

    fn write(&self, mut data: &[u8], mut offset: u64) -> Result<(), Errno> {
        let file = self.file.as_ref().ok_or(Errno::IO)?;
        while !data.is_empty() {
            let place = offset % FILE_BYTES;
            let straight = usize::try_from(FILE_BYTES - place).unwrap_or(usize::MAX).min(data.len());
            match rustix::io::pwrite(file, data.get(..straight).unwrap_or_default(), place) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    data = data.get(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// At most *most* bytes from *offset* on, or from the oldest that is kept where that is later, and where they begin.
    /// None when there are none yet.
    ///
    /// # Errors
    /// The disk failed, or someone cut the file.
    pub(crate) fn read(&self, offset: u64, most: usize) -> Result<Option<(u64, Vec<u8>)>, Errno> {
        loop {
            let Span { first, end } = self.span();
            let start = first.max(offset);
            let place = start % FILE_BYTES;
            let straight = end.saturating_sub(start).min(FILE_BYTES - place);
            let size = usize::try_from(straight).unwrap_or(usize::MAX).min(most);
            let (Some(file), 1..) = (&self.file, size) else {
                return Ok(None);
            };
            let mut data = vec![0; size];
            let outcome = read_at(file.as_fd(), &mut data, place);
            if self.span().first > start {
                continue;
            }
            let count = outcome?;
            data.truncate(count);
            return Ok(Some((start, data)));
        }
    }
}

fn read_at(file: impl AsFd, data: &mut [u8], place: u64) -> Result<usize, Errno> {
    loop {
        match rustix::io::pread(&file, &mut *data, place) {
            Ok(0) => return Err(Errno::IO),
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn in_directory(path: &std::path::Path) -> Log {
        Log::create(&rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap())
    }

    fn fresh() -> Log {
        in_directory(&std::env::temp_dir())
    }

    /// Bytes of which each eight tell where they stand.
    fn counting(offset: u64, size: usize) -> Vec<u8> {
        assert!(offset.is_multiple_of(8) && size.is_multiple_of(8));
        (offset / 8..).flat_map(u64::to_be_bytes).take(size).collect()
    }

    /// What was appended is read, from anywhere in it.
    #[test]
    fn reads_return_what_was_appended() {
        let log = fresh();
        assert_eq!(log.read(0, 10), Ok(None));
        log.append(b"hello ");
        log.append(b"world");
        assert_eq!(log.span(), Span { first: 0, end: 11 });
        assert_eq!(log.read(0, 100), Ok(Some((0, b"hello world".to_vec()))));
        assert_eq!(log.read(6, 3), Ok(Some((6, b"wor".to_vec()))));
        for none in [log.read(11, 100), log.read(u64::MAX, 100), log.read(0, 0)] {
            assert_eq!(none, Ok(None));
        }
    }

    /// What is cleared is gone for readers, and counted still.
    #[test]
    fn a_cleared_log_is_empty() {
        let log = fresh();
        log.append(b"hello");
        assert_eq!(log.size(), 5);
        log.clear();
        assert_eq!((log.size(), log.span()), (0, Span { first: 5, end: 5 }));
        assert_eq!(log.read(0, 100), Ok(None));
        log.append(b"more");
        assert_eq!(log.read(0, 100), Ok(Some((5, b"more".to_vec()))));
    }

    /// At least the last 64 steps are kept and no more than a step over that, in whole steps, through several rounds.
    #[test]
    fn the_oldest_goes_in_whole_steps() {
        let log = fresh();
        let size = 5 * 1024 - 8;
        while log.span().end < 3 * FILE_BYTES {
            let end = log.span().end;
            log.append(&counting(end, size));
            let Span { first, end } = log.span();
            assert!(end - first <= FILE_BYTES && first.is_multiple_of(STEP_BYTES));
            assert!(first == 0 || end - first >= KEPT_BYTES);
        }
        let Span { first, end } = log.span();
        let mut offset = 0;
        while let Some((start, data)) = log.read(offset, 80_000).unwrap() {
            assert_eq!(start, offset.max(first));
            assert!(data == counting(start, data.len() / 8 * 8));
            offset = start + data.len() as u64 / 8 * 8;
        }
        assert_eq!(offset, end);
    }

    /// A reader never gets other bytes than were at its offset, however the writer overtakes it.
    #[test]
    fn an_overtaken_reader_gets_no_other_bytes() {
        let log = fresh();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        let Some((start, data)) = log.read(log.span().first / 8 * 8, 32_768).unwrap() else { continue };
                        assert!(start.is_multiple_of(8) && data == counting(start, data.len()));
                    }
                });
            }
            let piece = 8 * 1024;
            while log.span().end < 20 * FILE_BYTES {
                log.append(&counting(log.span().end, piece));
            }
            over.store(true, Ordering::SeqCst);
        });
    }

    /// A disk that takes nothing: all is counted, nothing is kept, and nobody waits.
    #[test]
    fn what_cannot_be_kept_is_counted() {
        let full = rustix::fs::open("/dev/full", OFlags::RDWR, Mode::empty()).unwrap();
        for log in [Log::on(Some(full)), Log::on(None)] {
            for end in [10, 20] {
                log.append(b"0123456789");
                assert_eq!(log.span(), Span { first: end, end });
                assert_eq!(log.read(0, 100), Ok(None));
            }
        }
    }

    /// On a disk that is full the newest takes the room of the oldest.
    #[test]
    fn the_oldest_makes_room_on_a_full_disk() {
        let top = tempfile::tempdir().unwrap();
        let mounted =
            rustix::mount::mount("tmpfs", top.path(), "tmpfs", rustix::mount::MountFlags::empty(), c"size=512k");
        if mounted.is_err() {
            return; // Not root.
        }
        {
            let log = in_directory(top.path());
            for _ in 0..100 {
                log.append(&counting(log.span().end, 8 * 1024));
                let Span { first, end } = log.span();
                assert!(end - first <= 512 << 10);
                assert!(end <= 400 << 10 || end - first >= 400 << 10, "{first} {end}");
                let (start, data) = log.read(0, 32_768).unwrap().unwrap();
                assert!(start == first && data == counting(start, data.len()));
            }
            std::fs::write(top.path().join("other"), vec![0; 200 << 10]).unwrap_err();
        }
        rustix::mount::unmount(top.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    }
}
