//! Trees as tar streams, over a socket: there and back, and what must not come of a hostile one.
#![allow(clippy::unwrap_used)]

mod host;

use host::{Agent, Host, Outcome};
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, FileArchive, FileExtract, FileWritten};
use terp_agent::wire::frame::Kind;

fn archive(host: &mut Host, path: String) -> Outcome {
    host.call(Call::FileArchive(FileArchive { path }))
}

/// Sends a stream of any size under the agent's credit.
fn extract(host: &mut Host, path: String, tar: &[u8]) -> Outcome {
    let stream = host.open(Call::FileExtract(FileExtract { path }));
    let mut credit = 262_144;
    let mut outcome = Outcome::default();
    for piece in tar.chunks(65_536) {
        while credit < piece.len() {
            let (kind, from, payload) = host.receive();
            assert_eq!((from, kind == 4 || kind == 5), (stream, true));
            if kind == 5 {
                outcome.status = prost::Message::decode(&payload[..]).unwrap();
                return outcome;
            }
            credit += usize::try_from(u32::from_be_bytes(payload[..].try_into().unwrap())).unwrap();
        }
        host.send(Kind::Data, stream, piece);
        credit -= piece.len();
    }
    host.send(Kind::Data, stream, &[]);
    while !host.step(stream, &mut outcome) {}
    outcome
}

fn written(outcome: &Outcome) -> FileWritten {
    match &outcome.replies[..] {
        [reply::Kind::Written(written)] => *written,
        other => panic!("{other:?}, {:?}", outcome.status),
    }
}

/// A header by hand, with a right sum.
fn header(flag: u8, name: &[u8], link: &[u8], size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..124 + size.len()].copy_from_slice(size);
    block[136..147].copy_from_slice(b"00000000001");
    block[148..156].copy_from_slice(b"        ");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn entry(flag: u8, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut blocks = header(flag, name, link, format!("{:011o}", content.len()).as_bytes());
    blocks.extend_from_slice(content);
    blocks.resize(blocks.len().next_multiple_of(512), 0);
    blocks
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn system_tar(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("tar").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().unwrap();
    let _ = feeding.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// A tree with what there is in trees; names of all lengths and kinds.
fn plant(top: &str) {
    let long = "l".repeat(200);
    std::fs::create_dir_all(format!("{top}/dir/{long}/{long}/empty")).unwrap();
    std::fs::write(format!("{top}/dir/{long}/{long}/{long}"), vec![b'x'; 100_000]).unwrap();
    std::fs::write(format!("{top}/program"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(format!("{top}/program"), std::fs::Permissions::from_mode(0o750)).unwrap();
    std::fs::write(format!("{top}/ünï"), [b'y'; 512]).unwrap();
    std::fs::write(format!("{top}/empty"), "").unwrap();
    symlink("dir", format!("{top}/link")).unwrap();
    symlink("/nowhere/".to_owned() + &long, format!("{top}/dangling")).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for name in ["program", "dir"] {
        std::fs::File::open(format!("{top}/{name}")).unwrap().set_modified(old).unwrap();
    }
}

fn check(top: &str) {
    let long = "l".repeat(200);
    assert_eq!(std::fs::read(format!("{top}/dir/{long}/{long}/{long}")).unwrap(), vec![b'x'; 100_000]);
    assert!(std::fs::metadata(format!("{top}/dir/{long}/{long}/empty")).unwrap().is_dir());
    assert_eq!(std::fs::metadata(format!("{top}/program")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::metadata(format!("{top}/program")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(std::fs::metadata(format!("{top}/dir")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(std::fs::read(format!("{top}/ünï")).unwrap(), [b'y'; 512]);
    assert_eq!(std::fs::read(format!("{top}/empty")).unwrap(), b"");
    assert_eq!(std::fs::read_link(format!("{top}/link")).unwrap().to_str(), Some("dir"));
    assert_eq!(std::fs::read_link(format!("{top}/dangling")).unwrap().to_str().unwrap().len(), 209);
}

/// What is archived is extracted again as it was, by us and by the tar of the system; and what that writes, in each of
/// its formats, is extracted too.
#[test]
fn trees_go_there_and_back() {
    let agent = Agent::start();
    let mut host = agent.connect();
    std::fs::create_dir(agent.path("tree")).unwrap();
    plant(&agent.path("tree"));
    let outcome = archive(&mut host, agent.path("tree"));
    assert_eq!((outcome.code(), outcome.data.len() % 512), (Code::Ok, 0));
    let made = written(&extract(&mut host, agent.path("work/ours"), &outcome.data));
    assert_eq!((made.files, made.size), (10, 100_522));
    check(&agent.path("work/ours"));
    std::fs::create_dir(agent.path("theirs")).unwrap();
    system_tar(&["-x", "-C", &agent.path("theirs")], &outcome.data);
    check(&agent.path("theirs"));
    for format in ["gnu", "pax"] {
        let stream = system_tar(&["-c", "--format", format, "-C", &agent.path("tree"), "."], b"");
        let target = agent.path(&format!("other/{format}/deep"));
        assert_eq!(written(&extract(&mut host, target.clone(), &stream)).files, 10);
        check(&target);
        // Over itself again.
        assert_eq!(written(&extract(&mut host, target.clone(), &stream)).files, 10);
        check(&target);
    }
}

/// A single file has its own name; what is no file or directory is refused, and what is in a tree besides is left out.
#[test]
fn archives_of_other_things() {
    let agent = Agent::start();
    let mut host = agent.connect();
    std::fs::write(agent.path("single"), "content").unwrap();
    let outcome = archive(&mut host, agent.path("single"));
    written(&extract(&mut host, agent.path("work"), &outcome.data));
    assert_eq!(std::fs::read(agent.path("work/single")).unwrap(), b"content");
    assert_eq!(archive(&mut host, "/dev/null".to_owned()).code(), Code::Invalid);
    assert_eq!(archive(&mut host, agent.path("none")).code(), Code::NotFound);
    std::fs::create_dir(agent.path("tree")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(agent.path("tree/socket")).unwrap();
    assert_eq!(archive(&mut host, agent.path("tree")).data, [0; 1024]);
}

/// Hard links share their file; a file that has the name already is replaced, also by one that comes twice.
#[test]
fn links_and_duplicates() {
    let agent = Agent::start();
    let mut host = agent.connect();
    std::fs::write(agent.path("work/one"), "old").unwrap();
    symlink(agent.path("other"), agent.path("work/dir")).unwrap();
    let stream = tar(&[
        entry(b'0', b"one", b"", b"first"),
        entry(b'0', b"one", b"", b"second"),
        entry(b'1', b"two", b"one", b""),
        entry(b'1', b"./two", b"./two", b""),
        entry(b'5', b"dir", b"", b""),
        entry(b'0', b"dir/file", b"", b"x"),
        entry(b'0', b"v7/", b"", b""),
    ]);
    assert_eq!(written(&extract(&mut host, agent.path("work"), &stream)).files, 7);
    assert_eq!(std::fs::read(agent.path("work/two")).unwrap(), b"second");
    assert_eq!(std::fs::metadata(agent.path("work/one")).unwrap().nlink(), 2);
    assert!(std::fs::symlink_metadata(agent.path("work/dir")).unwrap().is_dir(), "a link gave way");
    assert!(!std::path::Path::new(&agent.path("other/file")).exists());
    assert!(std::path::Path::new(&agent.path("work/v7")).is_dir());
}

/// Names that lead out are refused, whichever way, and nothing is made there.
#[test]
fn names_do_not_lead_out() {
    let agent = Agent::start();
    let mut host = agent.connect();
    std::fs::write(agent.path("secret"), "secret").unwrap();
    std::fs::create_dir(agent.path("work/in")).unwrap();
    let out = agent.path("outside");
    std::fs::create_dir(&out).unwrap();
    let long = [vec![b'a'; 90], b"/../../../outside/x".to_vec()].concat();
    let pax = "21 path=../outside/x\n";
    assert_eq!(pax.len(), 21);
    let hostile: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("dots", vec![entry(b'0', b"../outside/x", b"", b"x")]),
        ("dots within", vec![entry(b'0', b"a/../../outside/x", b"", b"x")]),
        ("dots at the end", vec![entry(b'5', b"a/..", b"", b"")]),
        ("absolute", vec![entry(b'0', format!("{out}/x").as_bytes(), b"", b"x")]),
        ("absolute link", vec![entry(b'2', b"l", out.as_bytes(), b""), entry(b'0', b"l/x", b"", b"x")]),
        ("relative link", vec![entry(b'2', b"l", b"../../outside", b""), entry(b'0', b"l/x", b"", b"x")]),
        (
            "link in a link",
            vec![
                entry(b'2', b"up", b"..", b""),
                entry(b'2', b"l", b"up/../outside", b""),
                entry(b'5', b"l/d", b"", b""),
            ],
        ),
        ("hard link", vec![entry(b'1', b"h", b"../../secret", b"")]),
        ("hard link, absolute", vec![entry(b'1', b"h", agent.path("secret").as_bytes(), b"")]),
        ("hard link through a link", vec![entry(b'2', b"l", b"../..", b""), entry(b'1', b"h", b"l/secret", b"")]),
        (
            "hard link to a link",
            vec![entry(b'2', b"l", agent.path("secret").as_bytes(), b""), entry(b'1', b"h", b"l", b"")],
        ),
        ("long name", vec![entry(b'L', b"././@LongLink", b"", &long), entry(b'0', b"short", b"", b"x")]),
        ("pax", vec![entry(b'x', b"p", b"", pax.as_bytes()), entry(b'0', b"short", b"", b"x")]),
        ("magic link", vec![entry(b'2', b"l", b"/proc/self/root", b""), entry(b'0', b"l/tmp/x", b"", b"x")]),
    ];
    for (what, entries) in hostile {
        let outcome = extract(&mut host, agent.path("work/in"), &tar(&entries));
        assert_eq!(outcome.code(), Code::Invalid, "{what}: {:?}", outcome.status);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "{what}");
        assert_eq!(std::fs::metadata(agent.path("secret")).unwrap().nlink(), 1, "{what}");
        std::fs::remove_dir_all(agent.path("work/in")).unwrap();
    }
    let file = tar(&[entry(b'0', b"x", b"", b"x")]);
    assert_eq!(extract(&mut host, out.clone(), &file).code(), Code::NotPermitted);
    symlink(&out, agent.path("work/out")).unwrap();
    assert_eq!(extract(&mut host, agent.path("work/out"), &file).code(), Code::NotPermitted);
}

/// A file that is written through a link that was put there does not go through it.
#[test]
fn links_in_the_way_give_way() {
    let agent = Agent::start();
    let mut host = agent.connect();
    std::fs::write(agent.path("secret"), "secret").unwrap();
    let stream = tar(&[
        entry(b'2', b"f", agent.path("secret").as_bytes(), b""),
        entry(b'0', b"f", b"", b"harmless"),
        entry(b'2', b"s", agent.path("secret").as_bytes(), b""),
        entry(b'2', b"s", b"f", b""),
    ]);
    assert_eq!(written(&extract(&mut host, agent.path("work"), &stream)).files, 4);
    assert_eq!(std::fs::read(agent.path("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read(agent.path("work/s")).unwrap(), b"harmless");
}

/// Devices and other kinds are passed over with their content, and what comes behind them is made.
#[test]
fn other_kinds_are_passed_over() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let stream = tar(&[
        entry(b'g', b"global", b"", b"10 path=x\n"),
        entry(b'3', b"device", b"", b""),
        entry(b'4', b"block", b"", b""),
        entry(b'6', b"fifo", b"", b""),
        entry(b'V', b"label", b"", b"some content"),
        entry(b'0', b"file", b"", b"x"),
    ]);
    assert_eq!(written(&extract(&mut host, agent.path("work"), &stream)).files, 1);
    assert_eq!(std::fs::read_dir(agent.path("work")).unwrap().count(), 1);
}

/// What is cut, damaged or no tar at all is said to be so, wherever it is cut; a size beyond all bounds too.
#[test]
fn streams_that_are_not_whole() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let whole = tar(&[entry(b'0', b"a", b"", &[b'x'; 700]), entry(b'2', b"l", b"a", b"")]);
    for length in [0, 1, 511, 512, 513, 1212, 1535, 1536, 2048] {
        let outcome = extract(&mut host, agent.path("work"), &whole[..length]);
        assert_eq!(outcome.code(), Code::Invalid, "{length}");
    }
    // One block of zeros is enough of an end, and what is behind it is not looked at.
    assert_eq!(extract(&mut host, agent.path("work"), &whole[..2560]).code(), Code::Ok);
    let filled = [whole.clone(), vec![7; 100_000]].concat();
    assert_eq!(extract(&mut host, agent.path("work"), &filled).code(), Code::Ok);
    let mut damaged = whole.clone();
    damaged[0] = b'b';
    assert_eq!(extract(&mut host, agent.path("work"), &damaged).code(), Code::Invalid);
    assert_eq!(extract(&mut host, agent.path("work"), &[b'#'; 4096]).code(), Code::Invalid);
    for (size, kind) in [
        (&b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"[..], b'0'),
        (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b'0'),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b'0'),
        (b"77777777777", b'L'),
        (b"77777777777", b'x'),
        (b"9999999", b'0'),
    ] {
        let stream = tar(&[header(kind, b"big", b"", size)]);
        assert_eq!(extract(&mut host, agent.path("work"), &stream).code(), Code::Invalid, "{size:?}");
    }
    let sparse = tar(&[entry(b'x', b"p", b"", b"22 GNU.sparse.major=1\n"), entry(b'0', b"s", b"", b"x")]);
    assert_eq!(extract(&mut host, agent.path("work"), &sparse).code(), Code::Invalid);
}

/// Components that are too long, files in the place of directories and directories in that of files are refused.
#[test]
fn what_the_kernel_refuses() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let long = entry(b'L', b"l", b"", &[b'n'; 300]);
    let deep = entry(b'L', b"l", b"", "d/".repeat(3000).as_bytes());
    let file = || entry(b'0', b"x", b"", b"x");
    for entries in [
        vec![long, file()],
        vec![deep, file()],
        vec![file(), entry(b'0', b"x/y", b"", b"y")],
        vec![entry(b'5', b"d/e", b"", b""), entry(b'0', b"d", b"", b"y")],
        vec![entry(b'2', b"empty", b"", b"")],
    ] {
        let code = extract(&mut host, agent.path("work"), &tar(&entries)).code();
        assert!(matches!(code, Code::Invalid | Code::NotDirectory | Code::IsDirectory | Code::NotFound), "{code:?}");
        std::fs::remove_dir_all(agent.path("work")).unwrap();
    }
}
