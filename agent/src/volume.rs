//! The volume: what the host puts behind the machine's second disk, mounted at /persist.
//!
//! That disk is there in the template already, with nothing behind it, so that a machine which waits in a pool can be given
//! a volume. The driver is not told when that happens: it is made to take the device anew, by which it learns the size.
//! The host never looks at the file system; it is checked and mounted here.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{pidfd_send_signal, Signal};

use crate::agent::Agent;
use crate::exec::spawn::{spawn, Program, SpawnError, Surroundings};
use crate::fault::{Code, Fault};
use crate::log;
use crate::proto::VolumeAttach;
use crate::sync::lock;
use crate::wake::is_on_disk;

const MOUNT_POINT: &str = "/persist";
/// By which the slot is known among the disks.
const SERIAL: &str = "terp-volume";
const DISKS: &str = "/sys/block";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";
/// /sys counts in these, whatever the disk's own blocks are.
const SECTOR_BYTES: u64 = 512;
const CHECKERS: [&str; 2] = ["/usr/sbin/e2fsck", "/sbin/e2fsck"];
/// For all checks of one attach together. The host waits longer.
const CHECK_BOUND: Duration = Duration::from_secs(90);
/// `noinit_itable`: the tables of a new file system are zeros already; writing them would make the volume grow for nothing.
const OPTIONS: &std::ffi::CStr = c"discard,noinit_itable";

/// Brings the volume behind the slot to /persist.
///
/// # Errors
/// There is no slot, what is behind it has another size, or its file system cannot be mounted.
pub(crate) fn attach(agent: &Agent, ask: VolumeAttach) -> Result<(), Fault> {
    if !agent.owns_machine {
        return Err(Fault::new(Code::Unavailable, "this agent has no machine of its own"));
    }
    let mut attached = lock(&agent.volume);
    match *attached {
        Some(size) if size == ask.size_bytes => return Ok(()),
        Some(_) => return Err(Fault::new(Code::Busy, "another volume is mounted")),
        None => {}
    }
    let disk = take_anew(Path::new(DISKS), ask.size_bytes)?;
    if let Err(errno) = rustix::fs::mkdir(MOUNT_POINT, Mode::from_raw_mode(0o755)) {
        if errno != Errno::EXIST {
            return Err(Fault::os(errno, "cannot make the mount point"));
        }
    }
    let deadline = Instant::now() + CHECK_BOUND;
    if !is_clean(&disk)? {
        repair(agent, &disk, &["-p"], deadline)?;
        if !is_clean(&disk)? {
            repair(agent, &disk, &["-y"], deadline)?;
        }
    }
    if let Err(errno) = mount_disk(&disk) {
        log::line(&format!("the volume's file system cannot be mounted: {errno}"));
        repair(agent, &disk, &["-f", "-y"], deadline)?;
        mount_disk(&disk).map_err(|errno| Fault::os(errno, "cannot mount the volume"))?;
    }
    *attached = Some(ask.size_bytes);
    Ok(())
}

/// Writes the volume out and takes it away. Who still has files open there keeps them, and the next attach finds a
/// journal.
///
/// # Errors
/// It could not be written out.
pub(crate) fn detach(agent: &Agent) -> Result<(), Fault> {
    let mut attached = lock(&agent.volume);
    if attached.is_none() {
        return Ok(());
    }
    if is_on_disk(Path::new(MOUNT_POINT)) {
        let top = File::open(MOUNT_POINT).map_err(|error| Fault::io(&error, "cannot open the volume"))?;
        rustix::fs::syncfs(&top).map_err(|errno| Fault::os(errno, "cannot write the volume out"))?;
    }
    match unmount(MOUNT_POINT, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => unmount(MOUNT_POINT, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
        outcome => outcome,
    }
    // EINVAL: a user has unmounted it.
    .or_else(|errno| if errno == Errno::INVAL { Ok(()) } else { Err(errno) })
    .map_err(|errno| Fault::os(errno, "cannot unmount the volume"))?;
    *attached = None;
    Ok(())
}

fn mount_disk(disk: &Path) -> Result<(), Errno> {
    mount(disk, MOUNT_POINT, c"ext4", MountFlags::NOATIME, OPTIONS)
}

// ---- the slot ----

/// Makes the driver look at the slot's device again. Returns the path of its disk.
fn take_anew(disks: &Path, size_bytes: u64) -> Result<PathBuf, Fault> {
    let missing = || Fault::new(Code::Unavailable, "this machine has no slot for a volume");
    let name = find_slot(disks).ok_or_else(missing)?;
    if size_of(disks, &name) != Some(size_bytes) {
        let device = fs::canonicalize(disks.join(&name).join("device"))
            .map_err(|error| Fault::io(&error, "cannot find the slot's device"))?;
        let device = device.file_name().ok_or_else(missing)?.as_encoded_bytes().to_owned();
        for act in ["unbind", "bind"] {
            // It returns when the driver has done it.
            fs::write(Path::new(DRIVER).join(act), &device)
                .map_err(|error| Fault::io(&error, "the driver does not take the slot's device anew"))?;
        }
    }
    let name = find_slot(disks).ok_or_else(missing)?;
    let found = size_of(disks, &name).unwrap_or_default();
    if found != size_bytes {
        return Err(Fault::invalid(format!("the volume has {found} bytes and not {size_bytes}")));
    }
    Ok(Path::new("/dev").join(name))
}

fn find_slot(disks: &Path) -> Option<String> {
    let names = fs::read_dir(disks).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.into_iter().find(|name| {
        fs::read_to_string(disks.join(name).join("serial")).is_ok_and(|serial| serial.trim_end() == SERIAL)
    })
}

fn size_of(disks: &Path, name: &str) -> Option<u64> {
    let sectors: u64 = fs::read_to_string(disks.join(name).join("size")).ok()?.trim().parse().ok()?;
    sectors.checked_mul(SECTOR_BYTES)
}

// ---- its file system ----

/// Where the superblock lies and what of it is looked at (Documentation/filesystems/ext4/super.rst).
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC_AT: usize = 0x38;
const MAGIC: u16 = 0xef53;
const STATE_AT: usize = 0x3a;
/// Unmounted cleanly, and no error seen.
const STATE_CLEAN: u16 = 1;
const INCOMPATIBLE_AT: usize = 0x60;
const NEEDS_RECOVERY: u16 = 4;

fn is_clean(disk: &Path) -> Result<bool, Fault> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    File::open(disk)
        .and_then(|file| file.read_exact_at(&mut superblock, SUPERBLOCK_AT))
        .map_err(|error| Fault::io(&error, "cannot read the volume"))?;
    says_clean(&superblock).ok_or_else(|| Fault::new(Code::Internal, "there is no file system on the volume"))
}

/// None for what is no ext file system.
fn says_clean(superblock: &[u8]) -> Option<bool> {
    let number = |at: usize| Some(u16::from_le_bytes(superblock.get(at..at + 2)?.try_into().ok()?));
    if number(MAGIC_AT)? != MAGIC {
        return None;
    }
    Some(number(STATE_AT)? == STATE_CLEAN && number(INCOMPATIBLE_AT)? & NEEDS_RECOVERY == 0)
}

/// Runs the template's e2fsck to its end. Whether that helped shows in the superblock, and when it is mounted. A template
/// without one leaves it to the kernel, which replays the journal.
///
/// # Errors
/// It could not be run, or took too long.
fn repair(agent: &Agent, disk: &Path, options: &[&str], deadline: Instant) -> Result<(), Fault> {
    let cannot = |errno: Errno| Fault::os(errno, "cannot check the volume's file system");
    let nul = |_| Fault::invalid("a path with NUL");
    let disk = CString::new(disk.as_os_str().as_encoded_bytes()).map_err(nul)?;
    let mut argv = vec![c"e2fsck".to_owned()];
    for option in options {
        argv.push(CString::new(*option).map_err(nul)?);
    }
    argv.push(disk);
    let candidates = CHECKERS.iter().filter_map(|path| Some((CString::new(*path).ok()?, argv.clone()))).collect();
    let program = Program { candidates, env: vec![c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()] };
    let (output, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(cannot)?;
    let cwd =
        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
    let around = Surroundings {
        stdin: agent.null.as_fd(),
        stdout: theirs.as_fd(),
        stderr: theirs.as_fd(),
        cwd: cwd.as_fd(),
        cgroup: None,
    };
    // Reaped with the orphans; its end is that of its output.
    let child = match spawn(&program, &around, &AtomicI32::new(0)) {
        Ok(child) => child,
        Err(SpawnError::Exec(Errno::NOENT)) => {
            log::line("the template has no e2fsck: the volume's journal is replayed and no more");
            return Ok(());
        }
        Err(SpawnError::Clone(errno) | SpawnError::Exec(errno)) => return Err(cannot(errno)),
    };
    drop(theirs);
    let said = read_to_end(output, deadline);
    if said.is_none() {
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        return Err(Fault::new(Code::Internal, "the check of the volume's file system took too long"));
    }
    log::line(&format!("e2fsck {}: {}", options.join(" "), said.unwrap_or_default()));
    Ok(())
}

/// The first line of what it says, once it has ended; None at the deadline.
fn read_to_end(output: OwnedFd, deadline: Instant) -> Option<String> {
    let mut output = File::from(output);
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let left = Timespec::try_from(deadline.checked_duration_since(Instant::now())?).ok()?;
        let mut waiting = [PollFd::new(&output, PollFlags::IN)];
        match poll(&mut waiting, Some(&left)) {
            Ok(0) => return None,
            Err(Errno::INTR) => continue,
            Ok(_) | Err(_) => {}
        }
        let count = output.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            return Some(String::from_utf8_lossy(&kept).lines().next().unwrap_or_default().to_owned());
        }
        if kept.len() < buffer.len() {
            kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(state: u16, incompatible: u16) -> Vec<u8> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        for (at, value) in [(MAGIC_AT, MAGIC), (STATE_AT, state), (INCOMPATIBLE_AT, incompatible)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// A journal to replay, an error that was seen and a missing mark of the end are each a reason to check.
    #[test]
    fn a_superblock_tells_whether_it_was_unmounted() {
        assert_eq!(says_clean(&superblock(1, 0x02c2)), Some(true));
        assert_eq!(says_clean(&superblock(1, 0x02c6)), Some(false), "a journal to replay");
        assert_eq!(says_clean(&superblock(3, 0x02c2)), Some(false), "an error was seen");
        assert_eq!(says_clean(&superblock(0, 0x02c2)), Some(false), "mounted without journal");
        assert_eq!(says_clean(&vec![0; SUPERBLOCK_BYTES]), None, "no file system");
    }

    /// The slot is found by its serial number, and a disk of another size is not taken for the volume.
    #[test]
    fn the_slot_is_known_by_its_serial_number() {
        let top = tempfile::tempdir().unwrap();
        for (name, serial, sectors) in [("vda", "", "2048\n"), ("vdb", "terp-volume", "4096\n")] {
            fs::create_dir(top.path().join(name)).unwrap();
            fs::write(top.path().join(name).join("serial"), serial).unwrap();
            fs::write(top.path().join(name).join("size"), sectors).unwrap();
        }
        assert_eq!(find_slot(top.path()).as_deref(), Some("vdb"));
        assert_eq!(take_anew(top.path(), 4096 * 512).unwrap(), Path::new("/dev/vdb"));
        fs::remove_dir_all(top.path().join("vdb")).unwrap();
        assert_eq!(take_anew(top.path(), 4096 * 512).unwrap_err().code, Code::Unavailable);
    }

    /// A program that does not end is not waited for.
    #[test]
    fn a_check_is_bounded() {
        let (output, _theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        assert_eq!(read_to_end(output, Instant::now() + Duration::from_millis(20)), None);
        let (output, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&theirs, b"clean, 11/65536 files\nmore\n").unwrap();
        drop(theirs);
        let said = read_to_end(output, Instant::now() + Duration::from_secs(20));
        assert_eq!(said.as_deref(), Some("clean, 11/65536 files"));
    }
}
