//! What changes among files, as it is told over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{Agent, Host, Outcome};
use std::path::Path;
use terp_agent::proto::file_event::Kind;
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, FileEvent, FileWatch};
use terp_agent::wire::frame::Kind as Frame;

struct Watch<'a> {
    host: &'a mut Host,
    stream: u32,
    outcome: Outcome,
}

impl<'a> Watch<'a> {
    fn begin(host: &'a mut Host, path: String, recursive: bool) -> Self {
        let stream = host.open(Call::FileWatch(FileWatch { path, recursive }));
        let mut watch = Self { host, stream, outcome: Outcome::default() };
        assert_eq!(watch.next().kind(), Kind::Ready);
        watch
    }

    fn next(&mut self) -> FileEvent {
        while self.outcome.replies.is_empty() {
            assert!(!self.host.step(self.stream, &mut self.outcome), "{:?}", self.outcome.status);
        }
        match self.outcome.replies.remove(0) {
            reply::Kind::FileEvent(event) => {
                let cost = u32::try_from(256 + event.path.len() + event.moved_from.len()).unwrap();
                self.host.send(Frame::Credit, self.stream, &cost.to_be_bytes());
                event
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next event that is of that kind and path; MODIFIED ones of anything may come before it.
    fn expect(&mut self, kind: Kind, path: &str) -> FileEvent {
        loop {
            let event = self.next();
            if (event.kind(), event.path.as_str()) == (kind, path) {
                return event;
            }
            assert_eq!(event.kind(), Kind::Modified, "{event:?} in place of {kind:?} {path}");
        }
    }
}

/// Files and directories come, change, move and go, below directories that come later as well.
#[test]
fn changes_are_told() {
    let agent = Agent::start();
    let path = |name: &str| agent.path(name);
    std::fs::create_dir_all(path("work/a/b")).unwrap();
    let mut host = agent.connect();
    let mut watch = Watch::begin(&mut host, path("work"), true);
    std::fs::write(path("work/a/b/file"), "1").unwrap();
    assert!(!watch.expect(Kind::Created, &path("work/a/b/file")).is_dir);
    watch.expect(Kind::Modified, &path("work/a/b/file"));
    std::fs::rename(path("work/a/b"), path("work/c")).unwrap();
    let moved = watch.expect(Kind::Moved, &path("work/c"));
    assert_eq!((moved.moved_from, moved.is_dir), (path("work/a/b"), true));
    std::fs::write(path("work/c/file"), "2").unwrap();
    watch.expect(Kind::Modified, &path("work/c/file"));
    std::fs::create_dir(path("work/new")).unwrap();
    assert!(watch.expect(Kind::Created, &path("work/new")).is_dir);
    std::fs::write(path("work/new/deep"), "").unwrap();
    watch.expect(Kind::Created, &path("work/new/deep"));
    std::fs::rename(path("work/new"), path("other/new")).unwrap();
    watch.expect(Kind::Removed, &path("work/new"));
    std::fs::write(path("other/new/unseen"), "").unwrap();
    std::fs::rename(path("other/new"), path("work/back")).unwrap();
    watch.expect(Kind::Created, &path("work/back"));
    let mut found = [watch.next().path, watch.next().path];
    found.sort();
    assert_eq!(found, [path("work/back/deep"), path("work/back/unseen")]);
    std::fs::remove_dir_all(path("work/back")).unwrap();
    let mut gone = [watch.next(), watch.next(), watch.next()];
    gone.sort_by(|one, two| one.path.cmp(&two.path));
    assert!(gone.iter().all(|event| event.kind() == Kind::Removed));
    assert_eq!(gone[0].path, path("work/back"));
}

/// Without `recursive` only what is right in the directory counts; its end is the end of the stream.
#[test]
fn one_directory_until_it_is_gone() {
    let agent = Agent::start();
    std::fs::create_dir_all(agent.path("work/top/below")).unwrap();
    let mut host = agent.connect();
    let mut watch = Watch::begin(&mut host, agent.path("work/top"), false);
    std::fs::write(agent.path("work/top/below/unseen"), "").unwrap();
    std::fs::remove_dir_all(agent.path("work/top")).unwrap();
    watch.expect(Kind::Removed, &agent.path("work/top/below"));
    assert!(watch.expect(Kind::Removed, &agent.path("work/top")).is_dir);
    assert!(watch.host.step(watch.stream, &mut watch.outcome));
    assert_eq!(watch.outcome.code(), Code::Ok);
}

/// A file is followed through replacements, and nothing beside it is told; a write of the host shows no halves.
#[test]
fn one_file_however_it_changes() {
    let agent = Agent::start();
    let path = agent.path("work/file");
    std::fs::write(&path, "1").unwrap();
    let mut host = agent.connect();
    let mut watch = Watch::begin(&mut host, path.clone(), true);
    std::fs::write(agent.path("work/beside"), "").unwrap();
    std::fs::write(&path, "22").unwrap();
    watch.expect(Kind::Modified, &path);
    // As FileWrite does; a call beside this one would take its events for its own.
    std::fs::write(agent.path("work/.terp-write-0"), "whole").unwrap();
    std::fs::rename(agent.path("work/.terp-write-0"), &path).unwrap();
    watch.expect(Kind::Created, &path);
    std::fs::rename(&path, agent.path("work/away")).unwrap();
    watch.expect(Kind::Removed, &path);
    std::fs::rename(agent.path("work/away"), &path).unwrap();
    assert_eq!(watch.expect(Kind::Moved, &path).moved_from, agent.path("work/away"));
}

/// A host that does not read is told, when it does, that there was more; and what comes after that.
#[test]
fn too_much_is_one_overflow() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let mut watch = Watch::begin(&mut host, agent.path("work"), true);
    // Far above the credit and the queue behind it.
    for index in 0..6_000 {
        std::fs::write(agent.path(&format!("work/{index}")), "").unwrap();
    }
    let mut told = 0;
    let last = loop {
        let event = watch.next();
        told += 1;
        if event.kind() == Kind::Overflow {
            break told;
        }
    };
    assert!(last < 6_000);
    std::fs::create_dir(agent.path("work/directory")).unwrap();
    while watch.next().path != agent.path("work/directory") {}
    std::fs::write(agent.path("work/directory/file"), "").unwrap();
    while watch.next().path != agent.path("work/directory/file") {}
}

/// Too many directories, no directory at all, a call that is given up.
#[test]
fn bounds_and_ends() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let watch = |path: String| Call::FileWatch(FileWatch { path, recursive: true });
    assert_eq!(host.call(watch(agent.path("work/none"))).code(), Code::NotFound);
    assert_eq!(host.call(watch("relative".to_owned())).code(), Code::Invalid);
    for index in 0..8192 {
        std::fs::create_dir(Path::new(&agent.path("other")).join(index.to_string())).unwrap();
    }
    assert_eq!(host.call(watch(agent.path("other"))).code(), Code::Exhausted);
    let watching = Watch::begin(&mut host, agent.path("work"), true);
    let stream = watching.stream;
    host.send(Frame::Cancel, stream, b"");
    assert_eq!(host.finish(stream).code(), Code::Unavailable);
}
