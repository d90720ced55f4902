//! Sessions, frames and credit, over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{eventually, start, Agent};
use prost::Message;
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, ExecAttach, ExecStart, Freeze, Hello, Ping, Request, Stats};
use terp_agent::wire::frame::{Kind, HEADER_BYTES, MAX_PAYLOAD_BYTES};

const INITIAL_CREDIT: usize = 262_144;

/// The agent agrees on a version and says where it is in its life.
#[test]
fn hello_tells_version_and_state() {
    let agent = Agent::start();
    let mut host = agent.connect();
    assert_eq!(host.hello(), "booted");
    let outcome = host.call(Call::Hello(Hello { wire_version: 9 }));
    assert!(
        matches!(&outcome.replies[..], [reply::Kind::Hello(hello)] if hello.wire_version == 1 && hello.boot_id.len() == 16)
    );
    assert_eq!(host.call(Call::Hello(Hello { wire_version: 0 })).code(), Code::Invalid);
    assert_eq!(host.call(Call::Ping(Ping {})).code(), Code::Ok);
}

/// A host that comes after one that died in the middle of a frame is understood, whatever the frame.
#[test]
fn a_new_preface_replaces_a_torn_session() {
    let agent = Agent::start();
    let mut host = agent.connect();
    for (nonce, torn) in [(2, &[0, 0][..]), (3, &[0, 1, 0, 0, 0, 0, 0, 9, 1, 8, 8]), (4, &[0, 0, 0, 9, 0, 0, 0, 1, 3])]
    {
        std::io::Write::write_all(&mut host.stream, torn).unwrap();
        std::io::Write::write_all(&mut host.stream, &vec![0; HEADER_BYTES + MAX_PAYLOAD_BYTES]).unwrap();
        host.begin(nonce);
        assert_eq!(host.hello(), "booted");
    }
}

/// A second connection takes over at once; the first one is closed.
#[test]
fn a_new_connection_replaces_the_old_one() {
    let agent = Agent::start();
    let mut first = agent.connect();
    let mut second = agent.connect();
    assert_eq!(second.hello(), "booted");
    assert!(first.is_closed());
}

/// A frame that breaks the rules ends the session and no more: the next preface is answered, execs go on.
#[test]
fn rule_breakers_lose_their_session() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.open(start("survivor", "read line < /dev/null; exec sleep 1000"));
    host.receive();
    let request = Request { call: Some(Call::Ping(Ping {})) }.encode_to_vec();
    let breakers: [&dyn Fn(&mut host::Host); 6] = [
        &|host| host.send(Kind::Message, 1, b""),
        &|host| host.send(Kind::Open, 0, &request),
        // A number used before.
        &|host| {
            host.call(Call::Ping(Ping {}));
            host.send(Kind::Open, 1, &request);
        },
        // Credit nobody used.
        &|host| {
            let stream =
                host.open(Call::ExecAttach(ExecAttach { exec_id: "survivor".into(), ..ExecAttach::default() }));
            host.send(Kind::Credit, stream, &1u32.to_be_bytes());
        },
        // Another frame within a request.
        &|host| {
            host.send(Kind::Part, 1, b"\x0a");
            host.send(Kind::Cancel, 7, b"");
        },
        // Data beyond credit: nobody reads this stdin.
        &|host| {
            let stream = host.open(Call::ExecStart(ExecStart {
                exec_id: "greedy".into(),
                command: "sleep 1000".into(),
                stdin: true,
                ..ExecStart::default()
            }));
            for _ in 0..=(2 * INITIAL_CREDIT / MAX_PAYLOAD_BYTES) {
                host.send(Kind::Data, stream, &vec![0; MAX_PAYLOAD_BYTES]);
            }
        },
    ];
    for (breaker, nonce) in breakers.iter().zip(10..) {
        breaker(&mut host);
        // What is sent now belongs to no session and is not answered.
        host.send(Kind::Open, 900, &request);
        host.begin(nonce);
        assert_eq!(host.hello(), "booted", "after breaker {nonce}");
    }
    let outcome = host.call(Call::Stats(Stats {}));
    assert!(
        matches!(&outcome.replies[..], [reply::Kind::Stats(stats)] if stats.execs == 2 && stats.memory_total_bytes > 0)
    );
}

/// A request longer than a frame comes in parts.
#[test]
fn long_requests_come_in_parts() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let command = format!("echo {} | wc -c", "x".repeat(100_000));
    let request = Request { call: Some(start("long", &command)) }.encode_to_vec();
    host.send(Kind::Part, 1, &request[..MAX_PAYLOAD_BYTES]);
    host.send(Kind::Open, 1, &request[MAX_PAYLOAD_BYTES..]);
    assert_eq!(host.finish(1).output().trim(), "100001");
}

/// Malformed and unknown requests are refused one by one; the session goes on.
#[test]
fn malformed_requests_are_refused() {
    let agent = Agent::start();
    let mut host = agent.connect();
    for payload in [&b""[..], b"\xff\xff\xff", b"\0\0\0\0"] {
        host.newest += 1;
        host.send(Kind::Open, host.newest, payload);
        assert_eq!(host.finish(host.newest).code(), Code::Invalid);
    }
}

/// More calls at once than the agent takes are refused, and the slots come back.
#[test]
fn calls_are_bounded() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.open(start("quiet", "exec sleep 1000"));
    host.receive();
    for _ in 0..256 {
        host.open(Call::ExecAttach(ExecAttach { exec_id: "quiet".into(), ..ExecAttach::default() }));
    }
    let refused = host.newest;
    assert_eq!(host.finish(refused).code(), Code::Exhausted);
    let frozen = host.call(Call::Freeze(Freeze::default()));
    assert_eq!(frozen.code(), Code::Unavailable, "it is served, and finds no cgroup");
    for stream in 1..refused {
        host.send(Kind::Cancel, stream, b"");
    }
    eventually("a slot is free", || host.call(Call::Stats(Stats {})).code() == Code::Ok);
}
