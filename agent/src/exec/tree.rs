//! Killing a command's process tree where there is no cgroup.
//!
//! Every main process is a subreaper then, so whoever forked twice is still below it, for as long as it lives.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{kill_process, Pid, Signal};

/// Rounds of looking and killing: a tree that forks faster than this only gets away without a cgroup.
const ROUNDS: usize = 16;

/// Kills all descendants of *root*, then *root*, which must not have been reaped.
pub(crate) fn kill(root: i32) {
    for _ in 0..ROUNDS {
        let below = descendants(root);
        if below.is_empty() {
            break;
        }
        for pid in below {
            kill_one(pid);
        }
    }
    kill_one(root);
}

fn kill_one(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Living descendants of *root*.
pub(crate) fn descendants(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = living_parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// Parent pid of a /proc/PID/stat line, unless it is a zombie. The name, in parentheses, may hold anything.
fn living_parent(stat: &str) -> Option<i32> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::living_parent;

    /// A process cannot hide behind its name.
    #[test]
    fn parents_are_read_behind_hostile_names() {
        assert_eq!(living_parent("12 (a) S 1 (b) S 7 12 12"), Some(7));
        assert_eq!(living_parent("12 (x) Z 7 12"), None);
        assert_eq!(living_parent(""), None);
    }
}
