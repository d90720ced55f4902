//! Looking at files: stat and list.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use prost::Message;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, CWD};
use rustix::io::Errno;

use crate::fault::Fault;
use crate::files::check_path;
use crate::proto::{reply, FileEntries, FileInfo, FileList, FileStat};
use crate::wire::call::{Call, Stop};

/// Bounds of agent.proto, and one that keeps a message of long names within a frame.
const MAX_ENTRIES: usize = 100_000;
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 48 * 1024;

pub(crate) fn stat(ask: &FileStat) -> Result<FileInfo, Fault> {
    let path = check_path(&ask.path)?;
    let flags = if ask.follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let found = rustix::fs::statat(CWD, path, flags).map_err(|errno| Fault::os(errno, path))?;
    Ok(describe(last_component(path), &found))
}

/// Entries come as the kernel keeps them, in no order; `.` and `..` are left out, links not followed.
pub(crate) fn list(call: &Call, ask: &FileList) -> Result<(), Stop> {
    let path = check_path(&ask.path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Fault::os(errno, path))?;
    let mut batch = FileEntries::default();
    let (mut total, mut bytes) = (0, 0);
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| Fault::os(errno, path))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let printed = name.to_string_lossy().into_owned();
        let info = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => describe(printed, &found),
            // Gone since it was read.
            Err(Errno::NOENT) => continue,
            // Such as a mount point whose FUSE server has died: that must not hide what lies beside it.
            Err(_) => FileInfo {
                name: printed,
                is_dir: entry.file_type().is_dir(),
                is_symlink: entry.file_type().is_symlink(),
                ..FileInfo::default()
            },
        };
        total += 1;
        if total > MAX_ENTRIES {
            return Err(Fault::exhausted(format!("{path}: more than {MAX_ENTRIES} entries")).into());
        }
        bytes += info.encoded_len() + 8;
        batch.entries.push(info);
        if batch.entries.len() >= BATCH_ENTRIES || bytes >= BATCH_BYTES {
            bytes = 0;
            if call.is_lost() {
                return Err(Stop::Lost);
            }
            call.reply(reply::Kind::Entries(std::mem::take(&mut batch)))?;
        }
    }
    if total == 0 || !batch.entries.is_empty() {
        call.reply(reply::Kind::Entries(batch))?;
    }
    Ok(())
}

pub(crate) fn describe_open(path: &str, file: &OwnedFd) -> Result<(FileInfo, FileType), Fault> {
    let found = rustix::fs::fstat(file).map_err(|errno| Fault::os(errno, path))?;
    Ok((describe(last_component(path), &found), FileType::from_raw_mode(found.st_mode)))
}

fn describe(name: String, found: &Stat) -> FileInfo {
    let kind = FileType::from_raw_mode(found.st_mode);
    let seconds = found.st_mtime;
    let nanoseconds = i64::try_from(found.st_mtime_nsec).unwrap_or_default();
    FileInfo {
        name,
        is_dir: kind.is_dir(),
        is_symlink: kind.is_symlink(),
        size: u64::try_from(found.st_size).unwrap_or_default(),
        mode: found.st_mode & 0o7777,
        modified_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds),
    }
}

fn last_component(path: &str) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => "/".to_owned(),
    }
}
