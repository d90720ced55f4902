//! Reading a file to the host.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::fault::{Code, Fault};
use crate::files::check_path;
use crate::files::list::describe_open;
use crate::proto::{reply, FileRead};
use crate::wire::call::{Call, Stop, CHUNK_BYTES};

/// Most that is read of a file whose size the kernel does not tell.
const MAX_UNSIZED_BYTES: usize = 256 * 1024;

enum Source {
    File(OwnedFd),
    /// A file of /proc or /sys says 0 and has content all the same: read as a whole before its size is told.
    Content(Vec<u8>),
}

pub(crate) fn read(call: &Call, ask: &FileRead) -> Result<(), Stop> {
    let path = check_path(&ask.path)?;
    let fault = |errno| Fault::os(errno, path);
    let location = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(fault)?;
    let (mut info, kind) = describe_open(path, &location)?;
    if kind.is_dir() {
        return Err(Fault::new(Code::IsDirectory, format!("{path}: is a directory")).into());
    }
    if !kind.is_file() {
        return Err(Fault::invalid(format!("{path}: is no regular file")).into());
    }
    let source = open_source(&location, info.size).map_err(fault)?;
    if let Source::Content(content) = &source {
        info.size = content.len() as u64;
    }
    // A file that grows ends where it ended when it was opened.
    let mut left = info.size.saturating_sub(ask.offset);
    if ask.limit > 0 {
        left = left.min(ask.limit);
    }
    let mut offset = ask.offset;
    call.reply(reply::Kind::File(info))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let granted = call.take_credit(wanted)?;
        let count = source.read(buffer.get_mut(..granted).unwrap_or_default(), offset).map_err(fault)?;
        call.return_credit(granted - count);
        if count == 0 {
            break;
        }
        call.data(buffer.get(..count).unwrap_or_default())?;
        offset += count as u64;
        left -= count as u64;
    }
    Ok(())
}

/// Opens for reading what was found to be a regular file: opening the path again might meet a FIFO or a device.
fn open_source(location: &OwnedFd, size: u64) -> Result<Source, Errno> {
    let link = format!("/proc/self/fd/{}", location.as_raw_fd());
    // NONBLOCK: some files of /proc would wait for something to happen.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(link, flags, Mode::empty())?;
    if size > 0 {
        return Ok(Source::File(file));
    }
    let mut content = Vec::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    while content.len() < MAX_UNSIZED_BYTES {
        match rustix::io::read(&file, &mut *buffer) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(count) => content.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Source::Content(content))
}

impl Source {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        match self {
            Self::File(file) => loop {
                match rustix::io::pread(file, &mut *buffer, offset) {
                    Err(Errno::INTR) => {}
                    outcome => return outcome,
                }
            },
            Self::Content(content) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
                Ok(buffer.iter_mut().zip(rest).map(|(target, source)| *target = *source).count())
            }
        }
    }
}
