//! The memory of a machine's process: where it maps the base, and which of its pages are its own.
//!
//! A monitor maps the base privately, so a page that was written to is anonymous and one that was not is the file's.
//! Page numbers are offsets in the base, whatever addresses the process has them at.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use crate::fault::{Code, Fault, Step};
use crate::image::{Run, PAGE};
use crate::sys::{self, PageRegion, Remote};

/// How /proc/PID/maps names a file: device and inode, as written there. On btrfs and overlayfs they are not what
/// stat(2) says.
#[derive(Debug, PartialEq)]
struct Identity(String);

/// The file that machines start from.
pub struct Base {
    pub file: File,
    pub bytes: u64,
    identity: Identity,
}

impl Base {
    pub fn open(fd: i32) -> Result<Self, Fault> {
        let file = sys::inherited(fd).step("take the base")?;
        let bytes = file.metadata().step("look at the base")?.len();
        if bytes == 0 || bytes % PAGE as u64 != 0 {
            return Err(Fault::invalid(format!(
                "a base of {bytes} bytes is not whole pages"
            )));
        }
        let find = |address| {
            let maps = fs::read_to_string("/proc/self/maps")?;
            let found = maps
                .lines()
                .filter_map(Mapping::parse)
                .find(|m| m.start == address);
            found
                .map(|m| m.identity)
                .ok_or(io::Error::other("it is not in /proc/self/maps"))
        };
        let identity = sys::with_page_mapped(&file, find).and_then(|found| found);
        Ok(Self {
            file,
            bytes,
            identity: identity.step("find the base's name")?,
        })
    }

    pub fn pages(&self) -> u64 {
        self.bytes / PAGE as u64
    }
}

/// One line of /proc/PID/maps.
struct Mapping {
    start: u64,
    end: u64,
    private: bool,
    offset: u64,
    identity: Identity,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let rights = words.next()?;
        let offset = words.next()?;
        let (device, inode) = (words.next()?, words.next()?);
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            private: rights.ends_with('p'),
            offset: u64::from_str_radix(offset, 16).ok()?,
            identity: Identity(format!("{device} {inode}")),
        })
    }
}

/// Pages that lie one after the other in the base and in the process.
#[derive(Debug, PartialEq)]
struct Stretch {
    address: u64,
    page: u64,
    count: u64,
}

/// Guest memory of one process.
#[derive(Debug)]
pub struct Machine {
    pid: i32,
    stretches: Vec<Stretch>,
}

impl Machine {
    /// Finds where the process maps the base, all of it, once and privately.
    pub fn find(pid: i32, base: &Base) -> Result<Self, Fault> {
        let maps = match fs::read_to_string(format!("/proc/{pid}/maps")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Fault::new(Code::Gone, format!("no process has pid {pid}")));
            }
            read => read.step("read the process's mappings")?,
        };
        let stretches = stretches(&maps, &base.identity, base.pages())?;
        Ok(Self { pid, stretches })
    }

    /// Where a run is in the process.
    pub fn locate(&self, run: Run, into: &mut Vec<Remote>) -> Result<(), Fault> {
        let (mut page, end) = (run.page, run.page + run.count as u64);
        while page < end {
            let after = self.stretches.partition_point(|s| s.page <= page);
            let inside = |s: &&Stretch| page < s.page + s.count;
            let stretch = after
                .checked_sub(1)
                .and_then(|at| self.stretches.get(at))
                .filter(inside);
            let stretch = stretch
                .ok_or_else(|| Fault::invalid(format!("page {page} is not in the machine")))?;
            let count = (end - page).min(stretch.page + stretch.count - page);
            into.push(Remote {
                address: stretch.address + (page - stretch.page) * PAGE as u64,
                length: usize::try_from(count).unwrap_or(0) * PAGE,
            });
            page += count;
        }
        Ok(())
    }

    pub fn read(&self, ranges: &[Remote], into: &mut [u8]) -> Result<(), Fault> {
        sys::read_memory(self.pid, ranges, into).step("read the machine's memory")
    }

    pub fn write(&self, ranges: &[Remote], from: &[u8]) -> Result<(), Fault> {
        sys::write_memory(self.pid, ranges, from).step("write to the machine's memory")
    }

    pub fn pagemap(&self) -> Result<File, Fault> {
        File::open(format!("/proc/{}/pagemap", self.pid)).step("open the process's page map")
    }

    /// The pages that are the process's own, in their order.
    pub fn own_pages(&self, pagemap: &File) -> Result<Vec<Run>, Fault> {
        let mut runs = Vec::new();
        for stretch in &self.stretches {
            let end = stretch.address + stretch.count * PAGE as u64;
            let found = match scan(pagemap, stretch.address, end) {
                Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                    read_words(pagemap, stretch.address, end)
                }
                found => found,
            };
            for (from, to) in found.step("read the process's page map")? {
                runs.push(Run {
                    page: stretch.page + (from - stretch.address) / PAGE as u64,
                    count: usize::try_from((to - from) / PAGE as u64).unwrap_or(0),
                });
            }
        }
        Ok(runs)
    }
}

fn stretches(maps: &str, base: &Identity, pages: u64) -> Result<Vec<Stretch>, Fault> {
    let mut found = Vec::new();
    for mapping in maps.lines().filter_map(Mapping::parse) {
        if mapping.identity != *base {
            continue;
        }
        if !mapping.private {
            return Err(Fault::invalid("the process writes through to the base"));
        }
        found.push(Stretch {
            address: mapping.start,
            page: mapping.offset / PAGE as u64,
            count: (mapping.end - mapping.start) / PAGE as u64,
        });
    }
    found.sort_by_key(|stretch| stretch.page);
    let mut next = 0;
    for stretch in &found {
        if stretch.page != next {
            break;
        }
        next += stretch.count;
    }
    if next == pages && found.iter().map(|s| s.count).sum::<u64>() == pages {
        Ok(found)
    } else {
        Err(Fault::invalid(format!(
            "the process does not map all {pages} pages of the base once: {} stretches",
            found.len()
        )))
    }
}

/// Address ranges of the pages that are private, from `start` to below `end`.
fn scan(pagemap: &File, mut start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut buffer = vec![PageRegion::default(); 1024];
    let mut ranges = Vec::new();
    while start < end {
        let (count, next) = sys::scan_pages(pagemap, start, end, &mut buffer)?;
        for region in &buffer[..count] {
            join(&mut ranges, region.start, region.end);
        }
        if next <= start {
            return Err(io::Error::other("the scan does not proceed"));
        }
        start = next;
    }
    Ok(ranges)
}

/// The same by the page map's words, for kernels before 6.7 (`proc_pid_pagemap(5)`).
fn read_words(pagemap: &File, start: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    const WORDS: u64 = 64 * 1024;
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    let page_bytes = PAGE as u64;
    let mut ranges = Vec::new();
    let mut buffer = Vec::new();
    let mut page = start / page_bytes;
    while page < end / page_bytes {
        let count = WORDS.min(end / page_bytes - page);
        buffer.resize(usize::try_from(count * 8).unwrap_or(0), 0);
        pagemap.read_exact_at(&mut buffer, page * 8)?;
        for bytes in buffer.chunks_exact(8) {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            let word = u64::from_ne_bytes(word);
            if word & (PRESENT | SWAPPED) != 0 && word & FILE == 0 {
                join(&mut ranges, page * page_bytes, (page + 1) * page_bytes);
            }
            page += 1;
        }
    }
    Ok(ranges)
}

/// Appends a range, as part of the last one where it begins at its end.
fn join(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    match ranges.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => ranges.push((start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 8;

    fn base() -> Identity {
        Identity("fe:00 77".into())
    }

    fn machine(maps: &str) -> Result<Machine, Fault> {
        stretches(maps, &base(), PAGES).map(|stretches| Machine { pid: 1, stretches })
    }

    /// Memory that is mapped in two pieces, out of order and among others, is found by offset.
    #[test]
    fn pieces() {
        let machine = machine(
            "7000-8000 r-xp 00000000 fe:00 78 /bin/x\n\
             20000-25000 rw-p 00003000 fe:00 77                         /base (deleted)\n\
             30000-31000 rw-p 00000000 00:00 0 [heap]\n\
             40000-43000 rw-p 00000000 fe:00 77 /base\n",
        )
        .unwrap();
        let mut found = Vec::new();

        machine
            .locate(Run { page: 2, count: 3 }, &mut found)
            .unwrap();

        let found: Vec<_> = found.iter().map(|r| (r.address, r.length)).collect();
        assert_eq!(found, [(0x42000, PAGE), (0x20000, 2 * PAGE)]);
        assert!(machine
            .locate(Run { page: 7, count: 2 }, &mut Vec::new())
            .is_err());
    }

    /// A base that is shared, mapped in part, with a gap or twice is refused.
    #[test]
    fn refused() {
        for maps in [
            "",
            "10000-18000 rw-s 00000000 fe:00 77 /base",
            "10000-17000 rw-p 00000000 fe:00 77 /base",
            "10000-18000 rw-p 00000000 fe:00 78 /base",
            "10000-12000 rw-p 00000000 fe:00 77 /base\n20000-25000 rw-p 00003000 fe:00 77 /base",
            "10000-18000 rw-p 00000000 fe:00 77 /base\n20000-28000 rw-p 00000000 fe:00 77 /base",
        ] {
            assert_eq!(machine(maps).unwrap_err().code, Code::Invalid, "{maps}");
        }
    }

    /// Both ways to find a process's own pages agree, on this process's own heap and program.
    #[test]
    fn scan_and_words_agree() {
        let mut dirtied = vec![0_u8; 64 * PAGE];
        for page in [0, 1, 5, 40, 41, 63] {
            dirtied[page * PAGE] = 1;
        }
        let start = (dirtied.as_ptr() as u64).next_multiple_of(PAGE as u64);
        let pagemap = File::open("/proc/self/pagemap").unwrap();

        let scanned = scan(&pagemap, start, start + 63 * PAGE as u64);

        match scanned {
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY)),
            Ok(scanned) => {
                assert!(!scanned.is_empty());
                assert_eq!(
                    scanned,
                    read_words(&pagemap, start, start + 63 * PAGE as u64).unwrap()
                );
            }
        }
    }
}
