//! Byte streams to programs of the guest, over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{Agent, Host, Outcome};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, Connect};
use terp_agent::wire::frame::Kind;

fn connect(name: &str) -> Call {
    Call::Connect(Connect { name: name.to_owned() })
}

/// A program that listens, the host's stream to it, and its end of that.
fn linked(agent: &Agent, host: &mut Host) -> (u32, Outcome, UnixStream) {
    let listener = UnixListener::bind(agent.path("echo-1.sock")).unwrap();
    let stream = host.open(connect("echo-1"));
    let program = listener.accept().unwrap().0;
    program.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut outcome = Outcome::default();
    host.step(stream, &mut outcome);
    assert!(matches!(outcome.replies[..], [reply::Kind::Connected(_)]), "{outcome:?}");
    (stream, outcome, program)
}

fn receive(host: &mut Host, stream: u32, outcome: &mut Outcome, bytes: usize) {
    while outcome.data.len() < bytes {
        assert!(!host.step(stream, outcome), "{:?}", outcome.status);
    }
}

/// Bytes go both ways, far more than any credit; either direction ends by itself.
#[test]
fn bytes_flow_both_ways() {
    const TOTAL: usize = 3_000_000;
    let agent = Agent::start();
    let mut host = agent.connect();
    let (stream, mut outcome, mut program) = linked(&agent, &mut host);
    let answering = std::thread::spawn(move || {
        let mut heard = vec![0; 5];
        program.read_exact(&mut heard).unwrap();
        let pattern: Vec<u8> = (0..TOTAL).map(|index| index.to_le_bytes()[0]).collect();
        program.write_all(&pattern).unwrap();
        program.shutdown(Shutdown::Write).unwrap();
        program.read_to_end(&mut heard).unwrap();
        heard
    });
    host.send(Kind::Data, stream, b"hello");
    receive(&mut host, stream, &mut outcome, TOTAL);
    assert!(outcome.data.iter().enumerate().all(|(index, byte)| *byte == index.to_le_bytes()[0]));
    // Its end of data, and the stream goes on in the other direction.
    assert_eq!(host.receive(), (3, stream, Vec::new()));
    host.send(Kind::Data, stream, b" world");
    host.send(Kind::Data, stream, b"");
    assert_eq!(host.finish(stream).code(), Code::Ok);
    assert_eq!(answering.join().unwrap(), b"hello world");
}

/// A program that goes ends the stream, whatever the host meant to send; what it said before arrives.
#[test]
fn a_program_that_leaves_ends_the_stream() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let (stream, mut outcome, mut program) = linked(&agent, &mut host);
    host.send(Kind::Data, stream, &vec![b'x'; 60_000]);
    program.write_all(b"farewell").unwrap();
    drop(program);
    while !host.step(stream, &mut outcome) {}
    assert_eq!(outcome.data, b"farewell");
    assert_eq!(outcome.code(), Code::Ok);
}

/// A program that does not read holds back its host and nobody else; giving up on it works, and it sees the end.
#[test]
fn a_program_that_does_not_read_is_left() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let (stream, _, mut program) = linked(&agent, &mut host);
    for _ in 0..4 {
        host.send(Kind::Data, stream, &vec![b'x'; 65_536]);
    }
    assert_eq!(host.hello(), "booted");
    host.send(Kind::Cancel, stream, b"");
    assert_eq!(host.finish(stream).code(), Code::Unavailable);
    let mut rest = Vec::new();
    program.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 4 * 65_536, "{}", rest.len());
}

/// A host that does not read holds back the program, and its leaving closes the stream.
#[test]
fn a_lost_session_closes_the_stream() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let (_, _, mut program) = linked(&agent, &mut host);
    let talking = std::thread::spawn(move || {
        let mut sent = 0;
        while let Ok(count) = program.write(&[b'x'; 4096]) {
            sent += count;
        }
        sent
    });
    drop(host);
    assert!(talking.join().unwrap() < 3_000_000);
}

/// Who is not there, or is no name, is said to be so.
#[test]
fn services_that_are_not_there() {
    let agent = Agent::start();
    let mut host = agent.connect();
    assert_eq!(host.call(connect("nobody")).code(), Code::NotFound);
    drop(UnixListener::bind(agent.path("gone.sock")).unwrap());
    assert_eq!(host.call(connect("gone")).code(), Code::NotFound);
    std::fs::write(agent.path("file.sock"), "").unwrap();
    assert_eq!(host.call(connect("file")).code(), Code::NotFound);
    for name in ["", "../channel", "A", "a b", &"x".repeat(65)] {
        assert_eq!(host.call(connect(name)).code(), Code::Invalid, "{name}");
    }
}
