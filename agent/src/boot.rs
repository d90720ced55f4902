//! Boot, as PID 1 of the initramfs: from a bare kernel to an agent that serves.
//!
//! The agent stays the process it is: it moves the template's file system under itself instead of executing
//! anything in it, so what a user does to the disk never changes the agent.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{symlink, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{mount, mount_move, MountFlags};
use rustix::process::{setrlimit, Resource, Rlimit};
use rustix::system::RebootCommand;

use crate::agent::Agent;
use crate::cgroup::Cgroups;
use crate::exec::watch;
use crate::files::{WriteRoots, MADE_ROOTS};
use crate::log;
use crate::network;
use crate::stats::memory_total;
use crate::wire::channel::{find_port, Channel};

const PORT_NAME: &str = "terp.agent";
const ROOT_DISK: &str = "/dev/vda";
const NEW_ROOT: &str = "/newroot";
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long a device may take to appear; under emulation on a busy host seconds pass.
const DEVICE_BOUND: Duration = Duration::from_secs(30);
/// Memory user processes never get: the agent's worst case (rings, threads, calls) and the kernel's working room.
const RESERVED_BYTES: u64 = 48 << 20;
/// Most processes and threads of a user. The kernel has its own bound, by memory, and counts those of root and its own
/// in it too: a quarter stays for them and for the agent.
const MAX_PROCESSES: u64 = 16_384;
/// Largest environment file of a template.
const MAX_ENV_BYTES: u64 = 256 << 10;

/// Which step of the boot failed, and how.
pub(crate) struct BootError(String);

impl Display for BootError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn step<T, E: Display>(what: &str, outcome: Result<T, E>) -> Result<T, BootError> {
    outcome.map_err(|error| BootError(format!("boot: {what}: {error}")))
}

/// Brings the guest up.
///
/// # Errors
/// The step that failed. There is nothing to fall back to: the machine is to be restarted or given up.
pub(crate) fn boot() -> Result<(Channel, Agent), BootError> {
    mount_kernel_views()?;
    open_standard_streams()?;
    step("signals", watch::prepare_process())?;
    load_modules();
    enter_root()?;
    mount_rest()?;
    prepare_directories()?;
    let cgroups = step("cgroups", set_up_cgroups())?;
    // Children get 0 back before they run.
    step("oom score", fs::write("/proc/self/oom_score_adj", "-1000"))?;
    let files = Rlimit { current: Some(65_536), maximum: Some(1_048_576) };
    step("limits", setrlimit(Resource::Nofile, files))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    step("loopback", network::bring_loopback_up())?;
    step("network", network::configure())?;
    set_hostname();
    let agent = step("agent", Agent::new(true, Some(cgroups), WriteRoots::standard(), read_env(), Path::new("/")))?;
    let port = await_some("the agent's port", || find_port(PORT_NAME).filter(|port| port.exists()))?;
    let channel = step("the agent's port", Channel::open(&port))?;
    Ok((channel, agent))
}

/// Ends the machine: the host sees its process exit.
pub(crate) fn restart() -> ! {
    let _ = rustix::system::reboot(RebootCommand::Restart);
    loop {
        sleep(Duration::from_secs(1));
    }
}

fn mount_on(source: &str, target: &str, kind: &str, flags: MountFlags, data: &str) -> Result<(), BootError> {
    step(target, fs::create_dir_all(target))?;
    let data = std::ffi::CString::new(data).unwrap_or_default();
    step(target, mount(source, target, kind, flags, data.as_c_str()))
}

/// proc, sys and devices; the latter two move along into the root file system.
fn mount_kernel_views() -> Result<(), BootError> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_on("proc", "/proc", "proc", safe, "")?;
    mount_on("sysfs", "/sys", "sysfs", safe, "")?;
    mount_on("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=755")
}

/// 0, 1 and 2 must be open: a pipe that got one of these numbers would be overwritten in a child.
fn open_standard_streams() -> Result<(), BootError> {
    loop {
        let opened = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
            .or_else(|_| rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()));
        let opened = step("standard streams", opened)?;
        if opened.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(opened);
    }
}

/// Loads what /modules/order names, line by line, and frees the memory it took up in the initramfs.
fn load_modules() {
    let order = fs::read_to_string("/modules/order").unwrap_or_default();
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = Path::new("/modules").join(name);
        let outcome = fs::File::open(&path).map(|file| rustix::system::finit_module(&file, c"", 0));
        match outcome {
            Ok(Ok(()) | Err(Errno::EXIST)) => {}
            // Whether it was needed shows when the disk or the port does not come.
            Ok(Err(errno)) => log::line(&format!("module {name}: {errno}")),
            Err(error) => log::line(&format!("module {name}: {error}")),
        }
    }
    let _ = fs::remove_dir_all("/modules");
}

fn enter_root() -> Result<(), BootError> {
    await_some(ROOT_DISK, || is_block_device(ROOT_DISK).then_some(()))?;
    mount_on(ROOT_DISK, NEW_ROOT, "ext4", MountFlags::NOATIME, "discard")?;
    for view in ["/proc", "/sys", "/dev"] {
        let target = format!("{NEW_ROOT}{view}");
        step(&target, fs::create_dir_all(&target))?;
        step(&target, mount_move(view, target.as_str()))?;
    }
    step("enter the root", rustix::process::chdir(NEW_ROOT))?;
    step("move the root", mount_move(".", "/"))?;
    step("change the root", rustix::process::chroot("."))?;
    step("change the root", rustix::process::chdir("/"))
}

fn is_block_device(path: &str) -> bool {
    rustix::fs::stat(path).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_block_device())
}

fn await_some<T>(what: &str, look: impl Fn() -> Option<T>) -> Result<T, BootError> {
    let deadline = Instant::now() + DEVICE_BOUND;
    loop {
        match look() {
            Some(found) => return Ok(found),
            None if Instant::now() >= deadline => return Err(BootError(format!("boot: {what} did not appear"))),
            None => sleep(Duration::from_millis(2)),
        }
    }
}

fn mount_rest() -> Result<(), BootError> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount_on("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "gid=5,mode=620,ptmxmode=666")?;
    mount_on("tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777")?;
    mount_on("tmpfs", "/run", "tmpfs", safe, "mode=755")?;
    mount_on("cgroup2", CGROUPS, "cgroup2", safe | MountFlags::NOEXEC, "")?;
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        // There already on some kernels.
        let _ = symlink(format!("/proc/self/{target}"), format!("/dev/{name}"));
    }
    Ok(())
}

fn prepare_directories() -> Result<(), BootError> {
    for (path, mode) in MADE_ROOTS {
        step(path, fs::create_dir_all(path))?;
        step(path, rustix::fs::chmod(path, Mode::from_raw_mode(mode)))?;
    }
    Ok(())
}

/// `agent` for this process, `user` for everything else, with limits that leave the agent room to work.
fn set_up_cgroups() -> std::io::Result<Cgroups> {
    let root = Path::new(CGROUPS);
    let (own, user) = (root.join("agent"), root.join("user"));
    enable(root, &["cpu", "memory", "pids"]);
    fs::create_dir_all(&own)?;
    fs::create_dir_all(&user)?;
    fs::write(own.join("cgroup.procs"), "1")?;
    let total = memory_total(&fs::read_to_string("/proc/meminfo")?);
    let threads = fs::read_to_string("/proc/sys/kernel/threads-max")?;
    let threads = threads.trim().parse().unwrap_or(MAX_PROCESSES);
    let limits = [
        (own.join("cpu.weight"), 1000),
        (user.join("memory.max"), total.saturating_sub(RESERVED_BYTES).max(total / 2)),
        (user.join("pids.max"), MAX_PROCESSES.min(threads / 4 * 3)),
    ];
    for (file, value) in limits {
        if let Err(error) = fs::write(&file, value.to_string()) {
            // A kernel without the controller: the sandbox works, only less protected from itself.
            log::line(&format!("{}: {error}", file.display()));
        }
    }
    // Only memory is told apart by exec, for `oom_killed`; cpu and pids count for all together.
    enable(&user, &["memory"]);
    Cgroups::open(&user)
}

fn enable(group: &Path, controllers: &[&str]) {
    for name in controllers {
        if let Err(error) = fs::write(group.join("cgroup.subtree_control"), format!("+{name}")) {
            log::line(&format!("cgroup controller {name}: {error}"));
        }
    }
}

/// The template's name until Wake gives the sandbox its own.
fn set_hostname() {
    let text = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = match text.trim() {
        "" => "terp",
        name => name,
    };
    if let Err(errno) = rustix::system::sethostname(name.as_bytes()) {
        log::line(&format!("host name: {errno}"));
    }
}

/// The template's environment: KEY=VALUE lines.
fn read_env() -> BTreeMap<String, String> {
    let path = PathBuf::from("/etc/terp/env");
    if fs::metadata(&path).is_ok_and(|found| found.len() > MAX_ENV_BYTES) {
        log::line("/etc/terp/env is too large and not used");
        return BTreeMap::new();
    }
    parse_env(&fs::read_to_string(path).unwrap_or_default())
}

fn parse_env(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, value)| {
            !name.is_empty() && !name.starts_with('#') && !name.contains('\0') && !value.contains('\0')
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse_env;

    /// Values keep everything behind the first '='; lines that are no assignment are skipped.
    #[test]
    fn template_environments_are_lines() {
        let env = parse_env("A=1\n# B=2\nC\nD=x=y z\n=e\nF=\n");
        let pairs: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("D", "x=y z"), ("F", "")]);
    }
}
