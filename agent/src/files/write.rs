//! Writing a file from the host: into a temporary one beside it, which takes its name when all is there.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::fault::{Code, Fault};
use crate::files::place::{Place, WriteRoots};
use crate::proto::{reply, FileWrite, FileWritten};
use crate::wire::call::{Call, Stop};

/// What a machine that died in the middle leaves behind begins so.
pub(crate) const TEMPORARY_PREFIX: &str = ".terp-write-";

/// A file under construction; removed unless it was put in place.
struct Temporary<'a> {
    place: &'a Place,
    name: String,
    file: OwnedFd,
    in_place: bool,
}

pub(crate) fn write(roots: &WriteRoots, call: &Call, ask: &FileWrite) -> Result<(), Stop> {
    if ask.mode > 0o7777 {
        return Err(Fault::invalid(format!("mode: must be 0 to 0o7777: {:#o}", ask.mode)).into());
    }
    let path = &ask.path;
    let place = roots.place_behind_links(path)?;
    if place.kind().is_ok_and(FileType::is_dir) {
        return Err(Fault::new(Code::IsDirectory, format!("{path}: is a directory")).into());
    }
    let mut temporary = Temporary::create(&place).map_err(|errno| Fault::os(errno, path))?;
    let mut size = 0;
    while let Some(data) = call.next_data()? {
        temporary.append(&data).map_err(|errno| Fault::os(errno, path))?;
        size += data.len() as u64;
    }
    temporary.put_in_place(ask.mode).map_err(|errno| Fault::os(errno, path))?;
    call.reply(reply::Kind::Written(FileWritten { size, ..FileWritten::default() }))
}

impl<'a> Temporary<'a> {
    fn create(place: &'a Place) -> Result<Self, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, GetRandomFlags::INSECURE)?;
            let name = format!("{TEMPORARY_PREFIX}{:016x}", u64::from_ne_bytes(random));
            match rustix::fs::openat(&place.parent, &*name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(Self { place, name, file, in_place: false }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn append(&self, mut data: &[u8]) -> Result<(), Errno> {
        while !data.is_empty() {
            match rustix::io::write(&self.file, data) {
                Ok(count) => data = data.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn put_in_place(&mut self, mode: u32) -> Result<(), Errno> {
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode))?;
        let parent = &self.place.parent;
        rustix::fs::renameat(parent, &*self.name, parent, &*self.place.name)?;
        self.in_place = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.in_place {
            let _ = rustix::fs::unlinkat(&self.place.parent, &*self.name, AtFlags::empty());
        }
    }
}
