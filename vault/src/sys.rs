//! System calls, each behind a safe function. The only place with `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;

use crate::image::PAGE;

fn checked(result: impl Into<i64>) -> io::Result<usize> {
    usize::try_from(result.into()).map_err(|_| io::Error::last_os_error())
}

/// A range of addresses of another process.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    pub address: u64,
    pub length: usize,
}

impl Remote {
    fn list(ranges: &[Self]) -> Vec<libc::iovec> {
        #[allow(clippy::cast_possible_truncation)]
        // addresses have 64 bits wherever there is a machine to save
        let vector = |range: &Self| libc::iovec {
            // An address over there: never followed here.
            iov_base: ptr::without_provenance_mut(range.address as usize),
            iov_len: range.length,
        };
        ranges.iter().map(vector).collect()
    }
}

/// Fills `local` from at most 1024 ranges of the process.
pub fn read_memory(pid: i32, ranges: &[Remote], local: &mut [u8]) -> io::Result<()> {
    let here = libc::iovec {
        iov_base: local.as_mut_ptr().cast(),
        iov_len: local.len(),
    };
    let there = Remote::list(ranges);
    // SAFETY: `here` is all of `local`, borrowed for the call; `there` is only addresses of the other process.
    let read = checked(unsafe {
        libc::process_vm_readv(pid, &raw const here, 1, there.as_ptr(), there.len() as _, 0)
    } as i64)?;
    whole(read, local.len())
}

/// Writes `local` to at most 1024 ranges of the process.
pub fn write_memory(pid: i32, ranges: &[Remote], local: &[u8]) -> io::Result<()> {
    let here = libc::iovec {
        iov_base: local.as_ptr().cast_mut().cast(),
        iov_len: local.len(),
    };
    let there = Remote::list(ranges);
    // SAFETY: `here` is all of `local`, which the call only reads; `there` is only addresses of the other process.
    let written = checked(unsafe {
        libc::process_vm_writev(pid, &raw const here, 1, there.as_ptr(), there.len() as _, 0)
    } as i64)?;
    whole(written, local.len())
}

/// Less than all: a page in between cannot be reached.
fn whole(done: usize, wanted: usize) -> io::Result<()> {
    if done == wanted {
        Ok(())
    } else {
        Err(io::Error::other(format!("{done} of {wanted} bytes only")))
    }
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRegion {
    pub start: u64,
    pub end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Finds private pages (present or swapped, and not of a file) from `start` to below `end`: fills `found` and returns
/// how many regions it holds now and where to go on. Fails with ENOTTY where the kernel is older than 6.7.
pub fn scan_pages(
    pagemap: &File,
    start: u64,
    end: u64,
    found: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610; // _IOWR('f', 16, struct pm_scan_arg)
    const FILE: u64 = 1 << 2;
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: found.as_mut_ptr() as u64,
        vec_len: found.len() as u64,
        max_pages: 0,
        category_inverted: FILE,
        category_mask: FILE,
        category_anyof_mask: PRESENT | SWAPPED,
        // None: the regions' kinds are not asked for, so that neighbours become one.
        return_mask: 0,
    };
    // SAFETY: the argument has the kernel's layout and says so by its size; the vector is `found`, borrowed for the call.
    let count =
        checked(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) })?;
    Ok((count, argument.walk_end))
}

/// Where one page of the file appears in this process while `look` runs.
pub fn with_page_mapped<T>(file: &File, look: impl FnOnce(u64) -> T) -> io::Result<T> {
    // SAFETY: a new mapping at a place of the kernel's choice, which nobody reads.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let seen = look(page as u64);
    // SAFETY: the mapping made above, to which no reference exists.
    checked(unsafe { libc::munmap(page, PAGE) })?;
    Ok(seen)
}

/// Zeroed memory that stays until the process ends, in huge pages where there are; its first `touched` bytes are
/// backed already.
pub fn allocate(length: usize, touched: usize) -> io::Result<&'static mut [u8]> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Both only make it faster. Where the kernel cannot (before 5.14), pages come as they are touched.
    // SAFETY: the range is within the mapping made above, whose content neither changes.
    unsafe { libc::madvise(start, length, libc::MADV_HUGEPAGE) };
    // SAFETY: as above.
    unsafe { libc::madvise(start, touched.min(length), libc::MADV_POPULATE_WRITE) };
    // SAFETY: the mapping is readable, writable, zeroed, this long, known to nobody else and never unmapped.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), length) })
}

/// Lets the kernel begin to write what was written to the file from `offset` on.
pub fn begin_writeback(file: &File, offset: u64, length: u64) {
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: no memory is involved. A failure is no matter: fsync follows, and reports.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset.cast_signed(),
            length.cast_signed(),
            flags,
        )
    };
}

/// Lets the kernel read ahead of us.
pub fn will_read_on(file: &File) {
    // SAFETY: no memory is involved. It is advice only.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_SEQUENTIAL) };
}

/// Takes over a descriptor that the caller passed on.
pub fn inherited(fd: i32) -> io::Result<File> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and nothing in this process has it: the command line names each once.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Keeps memory, which holds keys and guests' pages, out of core dumps and from other processes of this user.
pub fn hide_memory() -> io::Result<()> {
    let no: libc::c_ulong = 0;
    // SAFETY: this option takes no pointer.
    checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, no, no, no, no) }).map(drop)
}
