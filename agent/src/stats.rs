//! Figures of the guest. What the kernel does not account here (no cgroup controller) is 0.

use rustix::time::{clock_gettime, ClockId};

use crate::agent::Agent;
use crate::cgroup::value;
use crate::proto::StatsReply;

pub(crate) fn collect(agent: &Agent) -> StatsReply {
    let group = |file: &str| agent.cgroups.as_ref().and_then(|cgroups| cgroups.read(file)).unwrap_or_default();
    let number = |file: &str| group(file).trim().parse::<u64>().unwrap_or(0);
    let uptime = clock_gettime(ClockId::Boottime);
    let uptime_ms = uptime.tv_sec.saturating_mul(1000).saturating_add(uptime.tv_nsec / 1_000_000);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    // File pages nobody touched lately are given up at once when memory is wanted.
    let used = number("memory.current").saturating_sub(value(&group("memory.stat"), "inactive_file").unwrap_or(0));
    let (disk_total_bytes, disk_used_bytes) = disk();
    StatsReply {
        uptime_ms: u64::try_from(uptime_ms).unwrap_or_default(),
        cpu_usage_us: value(&group("cpu.stat"), "usage_usec").unwrap_or(0),
        memory_total_bytes: memory_total(&memory),
        memory_used_bytes: used,
        disk_total_bytes,
        disk_used_bytes,
        processes: u32::try_from(number("pids.current")).unwrap_or(u32::MAX),
        execs: u32::try_from(agent.execs.count_running()).unwrap_or(u32::MAX),
    }
}

/// Bytes of memory the kernel manages; 0 where *meminfo* does not say.
pub(crate) fn memory_total(meminfo: &str) -> u64 {
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.unwrap_or(0u64).saturating_mul(1024)
}

fn disk() -> (u64, u64) {
    match rustix::fs::statvfs("/") {
        Ok(found) => (
            found.f_blocks.saturating_mul(found.f_frsize),
            found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(found.f_frsize),
        ),
        Err(_) => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::memory_total;

    /// The total is found wherever it stands, and missing is 0.
    #[test]
    fn totals_are_read_from_meminfo() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:         498 kB\n"), 498 * 1024);
        assert_eq!(memory_total(""), 0);
    }
}
