//! Freeze and Wake: before a snapshot, and behind every restore.
//!
//! Wake is the first thing a clone does, and under emulation its code is translated as it runs: so it is short,
//! and what it needs of the file system is done in place.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, CWD};
use rustix::io::Errno;
use rustix::time::{clock_gettime, clock_settime, ClockId, Timespec};

use crate::agent::{Agent, Life, Phase};
use crate::environment::{self, Taken};
use crate::exec::command::check_env;
use crate::fault::{Code, Fault};
use crate::forked;
use crate::log;
use crate::processes;
use crate::proto::{Freeze, Wake, WakeReply};
use crate::sync::lock;
use crate::trust;

/// How long commands may take to start that are being started.
const START_BOUND: Duration = Duration::from_secs(2);
/// How long user processes may take to stop. One in the middle of disk I/O takes the longest.
const FREEZE_BOUND: Duration = Duration::from_secs(5);
/// An /etc/hosts above this is someone's block list: left alone.
const MAX_HOSTS_BYTES: u64 = 64 * 1024;
/// The address Debian gives a host's own name.
const OWN_ADDRESS: &str = "127.0.1.1";
const MAX_TRUST_BYTES: usize = 64 * 1024;
const ENTROPY_BYTES: std::ops::RangeInclusive<usize> = 32..=64;

/// Makes the guest its own and lets user processes run.
///
/// # Errors
/// Whatever failed; nothing was thawed then, and Wake may be asked again.
pub(crate) fn wake(agent: &Agent, ask: Wake) -> Result<WakeReply, Fault> {
    check(&ask)?;
    let _one = lock(&agent.transition);
    let clock_step_ns = if agent.owns_machine { become_own(agent, &ask)? } else { clock_offset(ask.unix_time_ns) };
    if ask.forked {
        forked::tell_processes(&agent.proc).map_err(|errno| Fault::os(errno, "cannot tell programs of the fork"))?;
    }
    let mut life = lock(&agent.life);
    if agent.owns_machine {
        trust(&mut life, &ask);
    }
    if !ask.keep_env {
        life.env.clear();
        life.ephemeral.clear();
        life.replaced += 1;
    }
    life.env.extend(ask.env);
    if !ask.ephemeral_env.is_empty() {
        life.replaced += 1;
        life.ephemeral = ask.ephemeral_env;
    }
    if let Some(cgroups) = &agent.cgroups {
        cgroups.thaw().map_err(|error| Fault::io(&error, "cannot thaw"))?;
    }
    life.phase = Phase::Awake;
    drop(life);
    agent.execs.wake();
    Ok(WakeReply { clock_step_ns })
}

/// Trust ends when the guest becomes another's. One that goes on as the same keeps it, unless it is given other.
fn trust(life: &mut Life, ask: &Wake) {
    let other = ask.forked || !ask.keep_env;
    if !ask.trust.is_empty() || (life.trusts && other) {
        trust::replace(&ask.trust, life.trusts);
        life.trusts = !ask.trust.is_empty();
    }
}

fn check(ask: &Wake) -> Result<(), Fault> {
    if !ENTROPY_BYTES.contains(&ask.entropy.len()) {
        return Err(Fault::invalid(format!("entropy: must be 32 to 64 bytes: {}", ask.entropy.len())));
    }
    if ask.unix_time_ns <= 0 {
        return Err(Fault::invalid("unix_time_ns: must be positive"));
    }
    if !matches!(ask.machine_id.len(), 0 | 16) {
        return Err(Fault::invalid(format!("machine_id: must be 16 bytes: {}", ask.machine_id.len())));
    }
    let is_label = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if ask.hostname.len() > 64 || !ask.hostname.bytes().all(is_label) {
        return Err(Fault::invalid("hostname: must be at most 64 of [A-Za-z0-9.-]"));
    }
    if ask.trust.len() > MAX_TRUST_BYTES {
        return Err(Fault::invalid(format!("trust: must be at most {MAX_TRUST_BYTES} bytes: {}", ask.trust.len())));
    }
    environment::check(&ask.ephemeral_env)?;
    check_env(&ask.env)
}

fn become_own(agent: &Agent, ask: &Wake) -> Result<i64, Fault> {
    // Entropy first: from here on no two clones draw the same numbers.
    reseed(&agent.random, &ask.entropy).map_err(|errno| Fault::os(errno, "cannot reseed the kernel"))?;
    let clock_step_ns = clock_offset(ask.unix_time_ns);
    let now = Timespec { tv_sec: ask.unix_time_ns / NS_PER_S, tv_nsec: ask.unix_time_ns % NS_PER_S };
    clock_settime(ClockId::Realtime, now).map_err(|errno| Fault::os(errno, "cannot set the clock"))?;
    if !ask.machine_id.is_empty() {
        let text: String = ask.machine_id.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
        // A full disk does not keep it from that. One that a user made read-only does: no two guests go by one name.
        replace_text("/etc/machine-id", text.as_bytes())
            .map_err(|errno| Fault::os(errno, "cannot give /etc/machine-id a new content"))?;
    }
    if !ask.hostname.is_empty() {
        rustix::system::sethostname(ask.hostname.as_bytes())
            .map_err(|errno| Fault::os(errno, "cannot set the host name"))?;
        // The kernel's name is what counts. A full disk must not keep a sandbox from waking over a copy of it.
        if name_in_files(&ask.hostname).is_err() {
            log::line("the host name could not be written below /etc");
        }
    }
    Ok(clock_step_ns)
}

const NS_PER_S: i64 = 1_000_000_000;

fn clock_offset(unix_time_ns: i64) -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    unix_time_ns.saturating_sub(now.tv_sec.saturating_mul(NS_PER_S).saturating_add(now.tv_nsec))
}

/// `struct rand_pool_info` with room for the most that Wake brings, include/uapi/linux/random.h.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    bytes: i32,
    buffer: [u8; 64],
}

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Feeds the pool and makes the generator take from it now. Writing to the device would only do the former.
fn reseed(device: &OwnedFd, entropy: &[u8]) -> Result<(), Errno> {
    let mut info = PoolInfo { entropy_bits: 0, bytes: 0, buffer: [0; 64] };
    for (target, source) in info.buffer.iter_mut().zip(entropy) {
        *target = *source;
        info.bytes += 1;
        info.entropy_bits += 8;
    }
    // SAFETY: the kernel reads at most `bytes` of the buffer behind the two counts; the second call has no argument.
    let refused = unsafe {
        libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) < 0
            || libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) < 0
    };
    if refused {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

fn name_in_files(hostname: &str) -> Result<(), Errno> {
    replace_text("/etc/hostname", format!("{hostname}\n").as_bytes())?;
    match hosts_before(Path::new("/etc/hosts")) {
        Some(before) => replace_text("/etc/hosts", hosts_with(&before, hostname).as_bytes()),
        None => Ok(()),
    }
}

/// What stands in the file, nothing where it is absent. None for what is not ours to change or might block the thread
/// that reads the channel: too large, no text, a link, no regular file.
fn hosts_before(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Some(String::new()),
        Err(_) => return None,
    };
    let found = file.metadata().ok()?;
    let mut text = String::new();
    (found.is_file() && found.len() <= MAX_HOSTS_BYTES).then_some(())?;
    file.take(MAX_HOSTS_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn hosts_with(before: &str, hostname: &str) -> String {
    let kept = before.lines().filter(|line| line.split_ascii_whitespace().next() != Some(OWN_ADDRESS));
    let mut after: String = kept.flat_map(|line| [line, "\n"]).collect();
    if before.is_empty() {
        after.push_str("127.0.0.1\tlocalhost\n");
    }
    after + OWN_ADDRESS + "\t" + hostname + "\n"
}

/// Overwrites a small file in place: no new blocks where the length stays, so a full disk does not matter.
/// What is there and is no regular file (a user's link, a FIFO that would block us) is replaced.
pub(crate) fn replace_text(path: impl AsRef<Path>, text: &[u8]) -> Result<(), Errno> {
    let path = path.as_ref();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::from_raw_mode(0o644));
    let size_of = |file: &OwnedFd| {
        let found = rustix::fs::fstat(file)?;
        Ok(FileType::from_raw_mode(found.st_mode).is_file().then_some(found.st_size))
    };
    let opened = open().and_then(|file| size_of(&file).map(|size| (file, size)));
    let (file, size) = match opened {
        Ok((file, Some(size))) => (file, size),
        Ok((_, None)) | Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => {
            rustix::fs::unlink(path)?;
            (open()?, 0)
        }
        Err(errno) => return Err(errno),
    };
    let count = rustix::io::pwrite(&file, text, 0)?;
    if count < text.len() {
        return Err(Errno::NOSPC);
    }
    // Not otherwise: under emulation a truncation alone costs milliseconds.
    if u64::try_from(size).is_ok_and(|size| size > text.len() as u64) {
        rustix::fs::ftruncate(&file, text.len() as u64)?;
    }
    Ok(())
}

/// Stops user processes and brings their data to disk. Returns what the host is to keep, where it asked for that.
///
/// # Errors
/// They did not stop in time, or a file system failed, or (with `withhold_secrets`) secrets are in use: they run on, and the
/// state is what it was.
pub(crate) fn freeze(agent: &Agent, ask: Freeze) -> Result<Option<Taken>, Fault> {
    let Some(cgroups) = &agent.cgroups else {
        return Err(Fault::new(Code::Unavailable, "there is no cgroup to freeze"));
    };
    let _one = lock(&agent.transition);
    if ask.withhold_secrets && agent.execs.hold_secrets() {
        return Err(environment::secrets_in_use());
    }
    let before = agent.stop_starts(START_BOUND);
    // Once more: now nothing starts any more.
    if ask.withhold_secrets && (agent.starts_with_secrets() || agent.execs.hold_secrets()) {
        lock(&agent.life).phase = before;
        return Err(environment::secrets_in_use());
    }
    agent.execs.freeze();
    let outcome = cgroups
        .freeze(FREEZE_BOUND, || Ok(processes::any_runs(&agent.proc)?))
        .map_err(|error| Fault::new(Code::Unavailable, format!("user processes did not stop: {error}")))
        .and_then(|()| {
            settle(agent, ask.drop_page_cache).map_err(|error| Fault::io(&error, "cannot write out file systems"))
        });
    if outcome.is_err() && before != Phase::Frozen {
        let _ = cgroups.thaw();
        lock(&agent.life).phase = before;
        agent.execs.wake();
    }
    outcome.map(|()| ask.withhold_secrets.then(|| Taken::from(&mut lock(&agent.life))))
}

/// Writes out the file systems the host knows of, one by one: a sync of all would wait for a user's FUSE mount,
/// whose server is frozen.
fn settle(agent: &Agent, drop_page_cache: bool) -> std::io::Result<()> {
    for path in [Path::new("/")].into_iter().chain(agent.roots.paths()) {
        if !is_on_disk(path) {
            continue;
        }
        if let Ok(directory) = File::open(path) {
            rustix::fs::syncfs(&directory)?;
        }
    }
    if drop_page_cache && agent.owns_machine {
        std::fs::write("/proc/sys/vm/drop_caches", "1")?;
    }
    Ok(())
}

/// Whether *path* is a directory of a file system on a block device, found out without asking a FUSE server, which
/// would never answer: a user may have mounted one right here. Links are not followed, since they may lead into one.
pub(crate) fn is_on_disk(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(place) = rustix::fs::openat(CWD, path, flags, Mode::empty()) else {
        return false;
    };
    let look = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    // Without a block device a file system has an anonymous device number, of major 0.
    rustix::fs::statx(place.as_fd(), "", look, StatxFlags::TYPE).is_ok_and(|found| found.stx_dev_major != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The own name is replaced, everything else kept.
    #[test]
    fn hosts_keeps_what_is_not_ours() {
        assert_eq!(hosts_with("", "a"), "127.0.0.1\tlocalhost\n127.0.1.1\ta\n");
        assert_eq!(hosts_with("::1 x\n127.0.1.1 old\n10.0.0.9 db", "new"), "::1 x\n10.0.0.9 db\n127.0.1.1\tnew\n");
    }

    /// A hosts file is read where it is a plain one, and never waited for.
    #[test]
    fn only_plain_hosts_files_are_read() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("hosts");
        assert_eq!(hosts_before(&path).as_deref(), Some(""));
        std::fs::write(&path, "::1 x\n").unwrap();
        assert_eq!(hosts_before(&path).as_deref(), Some("::1 x\n"));
        let (link, fifo) = (top.path().join("link"), top.path().join("fifo"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for odd in [&link, &fifo, top.path()] {
            assert_eq!(hosts_before(odd), None, "{odd:?}");
        }
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert_eq!(hosts_before(&path), None);
    }

    /// What has no disk is not written out, nor is a link followed to it.
    #[test]
    fn only_disks_are_written_out() {
        let top = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", top.path().join("link")).unwrap();
        for path in [Path::new("/proc"), &top.path().join("link"), &top.path().join("none")] {
            assert!(!is_on_disk(path), "{path:?}");
        }
    }

    /// A torn or foolish Wake is refused before anything is touched.
    #[test]
    fn wakes_are_checked() {
        let good = Wake { entropy: vec![1; 32], unix_time_ns: 1, hostname: "sbx-1".into(), ..Wake::default() };
        assert!(check(&good).is_ok());
        for bad in [
            Wake { entropy: vec![1; 31], ..good.clone() },
            Wake { unix_time_ns: 0, ..good.clone() },
            Wake { machine_id: vec![0; 15], ..good.clone() },
            Wake { trust: vec![b'a'; 64 * 1024 + 1], ..good.clone() },
            Wake { hostname: "a b".into(), ..good.clone() },
            Wake { env: [("A=".to_owned(), String::new())].into(), ..good.clone() },
        ] {
            assert_eq!(check(&bad).err().map(|fault| fault.code), Some(Code::Invalid), "{bad:?}");
        }
    }

    /// Whatever a user put in the way of a file of ours, it is a regular file afterwards.
    #[test]
    fn text_replaces_links_and_fifos() {
        let top = tempfile::tempdir().unwrap();
        let kept = top.path().join("kept");
        std::fs::write(&kept, "kept").unwrap();
        let path = top.path().join("file");
        let text = path.to_str().unwrap();
        let set_ups: [&dyn Fn(); 4] = [
            &|| (),
            &|| std::fs::write(&path, "something longer").unwrap(),
            &|| std::os::unix::fs::symlink(&kept, &path).unwrap(),
            &|| rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
        ];
        for set_up in set_ups {
            let _ = std::fs::remove_file(&path);
            set_up();
            replace_text(text, b"new\n").unwrap();
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
        }
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "kept");
    }
}
