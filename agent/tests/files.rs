//! Files, over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{eventually, Agent, Host};
use std::os::unix::fs::{symlink, PermissionsExt};
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, FileInfo, FileList, FileMkdir, FileMove, FileRead, FileRemove, FileStat, FileWrite};
use terp_agent::wire::frame::Kind;

fn write(path: String) -> Call {
    Call::FileWrite(FileWrite { path, mode: 0o640 })
}

fn read(path: String, offset: u64, limit: u64) -> Call {
    Call::FileRead(FileRead { path, offset, limit })
}

fn remove(path: String, recursive: bool) -> Call {
    Call::FileRemove(FileRemove { path, recursive })
}

fn list(host: &mut Host, path: String) -> Vec<FileInfo> {
    let outcome = host.call(Call::FileList(FileList { path }));
    assert_eq!(outcome.code(), Code::Ok, "{:?}", outcome.status);
    outcome
        .replies
        .into_iter()
        .flat_map(|reply| match reply {
            reply::Kind::Entries(entries) => entries.entries,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// What is written is read back, with its mode, in parts as asked for.
#[test]
fn files_are_written_and_read() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let path = agent.path("work/deep/er/file");
    let outcome = host.call_with(write(path.clone()), &[b"hello ", &vec![b'x'; 60_000], b" world"]);
    assert!(matches!(&outcome.replies[..], [reply::Kind::Written(written)] if written.size == 60_012));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    let outcome = host.call(read(path.clone(), 0, 0));
    assert!(matches!(&outcome.replies[..], [reply::Kind::File(file)] if file.size == 60_012 && file.name == "file"));
    assert_eq!(outcome.data.len(), 60_012);
    assert_eq!(host.call(read(path.clone(), 60_006, 0)).data, b" world");
    assert_eq!(host.call(read(path.clone(), 0, 5)).data, b"hello");
    assert_eq!(host.call(read(path, 99_999, 0)).data, b"");
}

/// Files larger than any credit come whole.
#[test]
fn large_files_flow_under_credit() {
    let agent = Agent::start();
    let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(agent.path("other/large"), &content).unwrap();
    assert!(agent.connect().call(read(agent.path("other/large"), 0, 0)).data == content);
}

/// Files of the kernel, whose size reads 0, are read; what is no regular file is refused.
#[test]
fn only_regular_files_are_read() {
    let agent = Agent::start();
    let mut host = agent.connect();
    assert!(host.call(read("/proc/uptime".into(), 0, 0)).data.len() > 3);
    assert_eq!(host.call(read("/dev/zero".into(), 0, 0)).code(), Code::Invalid);
    assert_eq!(host.call(read(agent.path("channel"), 0, 0)).code(), Code::Invalid);
    assert_eq!(host.call(read(agent.path("work"), 0, 0)).code(), Code::IsDirectory);
    assert_eq!(host.call(read(agent.path("work/none"), 0, 0)).code(), Code::NotFound);
    assert_eq!(host.call(read("work".into(), 0, 0)).code(), Code::Invalid);
}

/// A write that is cancelled, or whose host is gone, leaves what was there and nothing else.
#[test]
fn unfinished_writes_leave_nothing() {
    let agent = Agent::start();
    std::fs::write(agent.path("work/file"), "old").unwrap();
    let names = || std::fs::read_dir(agent.path("work")).unwrap().count();
    let mut host = agent.connect();
    let stream = host.open(write(agent.path("work/file")));
    host.send(Kind::Data, stream, b"new");
    eventually("it is being written", || names() == 2);
    host.send(Kind::Cancel, stream, b"");
    assert_ne!(host.finish(stream).code(), Code::Ok);
    assert_eq!(names(), 1);

    host.open(write(agent.path("work/file")));
    eventually("it is being written", || names() == 2);
    drop(host);
    eventually("it is undone", || names() == 1);
    assert_eq!(std::fs::read_to_string(agent.path("work/file")).unwrap(), "old");
}

/// No change leaves the write roots, by path or by link; a root itself stays.
#[test]
fn changes_stay_within_the_roots() {
    let agent = Agent::start();
    let mut host = agent.connect();
    std::fs::create_dir(agent.path("outside")).unwrap();
    std::fs::write(agent.path("outside/kept"), "kept").unwrap();
    symlink(agent.path("outside"), agent.path("work/dir-link")).unwrap();
    symlink(agent.path("outside/kept"), agent.path("work/link")).unwrap();
    symlink(agent.path("other/target"), agent.path("work/good-link")).unwrap();
    for path in ["outside/new", "work/dir-link/new", "work/dir-link/new/deep", "work/link", "work/../outside/new"] {
        assert_eq!(host.call_with(write(agent.path(path)), &[b"x"]).code(), Code::NotPermitted, "{path}");
    }
    let make = |path: &str| Call::FileMkdir(FileMkdir { path: agent.path(path), parents: true });
    assert_eq!(host.call(make("work/dir-link/new")).code(), Code::NotPermitted);
    let moved = |source: &str, destination: &str| {
        Call::FileMove(FileMove { source: agent.path(source), destination: agent.path(destination) })
    };
    assert_eq!(host.call(moved("outside/kept", "work/stolen")).code(), Code::NotPermitted);
    assert_eq!(host.call(moved("work/link", "outside/link")).code(), Code::NotPermitted);
    assert_eq!(host.call(moved("work", "other/work")).code(), Code::NotPermitted);
    assert_eq!(host.call(remove(agent.path("work"), true)).code(), Code::NotPermitted);
    assert_eq!(host.call(remove(agent.path("outside/kept"), false)).code(), Code::NotPermitted);
    assert_eq!(host.call(remove(agent.path("work/dir-link/kept"), false)).code(), Code::NotPermitted);
    assert_eq!(host.call_with(write(agent.path("work/good-link")), &[b"through"]).code(), Code::Ok);
    assert_eq!(std::fs::read_to_string(agent.path("other/target")).unwrap(), "through");
    assert_eq!(host.call(remove(agent.path("work/dir-link"), true)).code(), Code::Ok, "the link itself may go");
    assert_eq!(std::fs::read_to_string(agent.path("outside/kept")).unwrap(), "kept");
    assert_eq!(std::fs::read_dir(agent.path("outside")).unwrap().count(), 1);
}

/// Directories are made, listed, moved and removed, and each refusal has its code.
#[test]
fn directories_and_moves() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let make = |path: &str, parents| Call::FileMkdir(FileMkdir { path: agent.path(path), parents });
    let moved = |source: &str, destination: &str| {
        Call::FileMove(FileMove { source: agent.path(source), destination: agent.path(destination) })
    };
    assert_eq!(host.call(make("work/a/b", false)).code(), Code::NotFound);
    assert_eq!(host.call(make("work/a/b", true)).code(), Code::Ok);
    assert_eq!(host.call(make("work/a/b", true)).code(), Code::Ok);
    assert_eq!(host.call(make("work", true)).code(), Code::Ok);
    assert_eq!(host.call(make("work/a", false)).code(), Code::Exists);
    std::fs::write(agent.path("work/a/file"), "1").unwrap();
    assert_eq!(host.call(make("work/a/file/x", true)).code(), Code::NotDirectory);
    assert_eq!(host.call(moved("work/none", "work/far/away")).code(), Code::NotFound);
    assert!(!std::path::Path::new(&agent.path("work/far")).exists());
    assert_eq!(host.call(moved("work/a/file", "other/new/place")).code(), Code::Ok);
    assert_eq!(std::fs::read_to_string(agent.path("other/new/place")).unwrap(), "1");
    assert_eq!(host.call(moved("work/a", "work/a/b/c")).code(), Code::Invalid);
    assert_eq!(host.call(remove(agent.path("work/a"), false)).code(), Code::IsDirectory);
    assert_eq!(host.call(remove(agent.path("work/a"), true)).code(), Code::Ok);
    assert_eq!(host.call(remove(agent.path("work/a"), true)).code(), Code::NotFound);
    assert_eq!(list(&mut host, agent.path("work")), []);
}

/// Listings hold every entry in messages of bounded size; links are described, not followed.
#[test]
fn listings_are_complete() {
    let agent = Agent::start();
    let mut host = agent.connect();
    for index in 0..1500 {
        std::fs::write(agent.path(&format!("work/{}{index:04}", "n".repeat(200))), "").unwrap();
    }
    symlink("/etc", agent.path("work/link")).unwrap();
    std::fs::write(std::path::Path::new(&agent.path("work")).join(std::ffi::OsStr::new("x")), "abc").unwrap();
    let entries = list(&mut host, agent.path("work"));
    assert_eq!(entries.len(), 1502);
    let link = entries.iter().find(|entry| entry.name == "link").unwrap();
    assert!(link.is_symlink && !link.is_dir);

    let stat = |follow| Call::FileStat(FileStat { path: agent.path("work/link"), follow });
    let described = |host: &mut Host, call| match host.call(call).replies.pop() {
        Some(reply::Kind::File(file)) => file,
        other => panic!("{other:?}"),
    };
    assert!(described(&mut host, stat(false)).is_symlink);
    let followed = described(&mut host, stat(true));
    assert!(followed.is_dir && !followed.is_symlink && followed.modified_ns > 0);
    let missing = Call::FileStat(FileStat { path: agent.path("work/none"), follow: true });
    assert_eq!(host.call(missing).code(), Code::NotFound);
}
