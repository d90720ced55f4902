//! What a pause, a snapshot and a fork do to execs, over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{eventually, start, Agent, Host, Outcome};
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, ExecAttach, ExecStart, Freeze, Wake};
use terp_agent::wire::frame::Kind;

/// Larger than a ring and both pipes together.
const MUCH: usize = 2_000_000;
/// Initial credit.
const WINDOW: usize = 262_144;

fn attach(id: &str, offset: u64) -> Call {
    Call::ExecAttach(ExecAttach { exec_id: id.to_owned(), offset, stdin: false })
}

fn freeze() -> Call {
    Call::Freeze(Freeze::default())
}

fn wake() -> Wake {
    Wake { entropy: vec![7; 32], unix_time_ns: 1, ..Wake::default() }
}

fn received(outcome: &Outcome) -> usize {
    outcome.output().len()
}

/// Reads frames of *stream* until as many bytes of output came.
fn read_some(host: &mut Host, stream: u32, bytes: usize) -> Outcome {
    let mut outcome = Outcome::default();
    while received(&outcome) < bytes {
        assert!(!host.step(stream, &mut outcome), "it ended early: {:?}", outcome.status);
    }
    outcome
}

/// Lines of numbers, so that a byte that is lost or doubled shows.
const COUNTING: &str = "seq 1000000 1600000 | tr -d '\\n'";

fn counted(upto: usize) -> String {
    (1_000_000..).map(|number: u32| number.to_string()).take(upto.div_ceil(7)).collect::<String>()[..upto].to_owned()
}

/// What was sent before Freeze has answered is all there is: a host that leaves then knows where it was, and goes on
/// there after a Wake in another session without a gap and without a byte twice.
#[test]
fn output_flows_on_behind_a_freeze() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let stream = host.open(start("a", COUNTING));
    let mut outcome = read_some(&mut host, stream, 300_000);
    for nonce in 2..6 {
        let freezing = host.open(freeze());
        while host.receive_into(host.newest - 1, &mut outcome) != (5, freezing) {}
        assert_eq!(host.hello(), "frozen", "nothing of the command comes behind the answer");

        host = agent.connect_raw();
        host.begin(nonce);
        assert_eq!(host.call(Call::Wake(wake())).code(), Code::Ok);
        let offset = received(&outcome);
        let stream = host.open(attach("a", offset as u64));
        let more = read_some(&mut host, stream, 200_000);
        outcome.replies.extend(more.replies);
    }
    let rest = host.finish(host.newest);
    outcome.replies.extend(rest.replies);
    let output = outcome.output();
    assert_eq!(output.len(), 600_001 * 7);
    assert!(output == counted(output.len()));
}

/// In the same session output goes on by itself behind the Wake: a snapshot that was given up leaves no trace.
#[test]
fn output_flows_on_in_the_same_session() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let stream = host.open(start("a", COUNTING));
    let mut outcome = read_some(&mut host, stream, 300_000);
    let frozen = host.open(freeze());
    while host.receive_into(stream, &mut outcome) != (5, frozen) {}
    let woken = host.open(Call::Wake(wake()));
    while host.receive_into(stream, &mut outcome) != (5, woken) {}
    while !host.step(stream, &mut outcome) {}
    assert!(outcome.output() == counted(600_001 * 7));
}

/// A command that was being read when its session was lost waits for its reader, and one whose reader said that it has
/// lost interest does not.
#[test]
fn a_lost_reader_s_place_is_kept() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let (mut streams, mut kept) = (Vec::new(), Outcome::default());
    for id in ["kept", "left"] {
        let command = format!("head -c {MUCH} /dev/zero | tr '\\0' x; echo > {}", agent.path(&format!("work/{id}")));
        let stream = host.open(start(id, &command));
        streams.push(stream);
        while host.receive_quietly(streams[0], &mut kept) != stream {}
    }
    // The window is full of what nobody consumes, and the ring behind it.
    host.send(Kind::Cancel, streams[1], b"");
    eventually("the other one runs on", || std::fs::exists(agent.path("work/left")).unwrap());
    while received(&kept) < WINDOW {
        host.receive_quietly(streams[0], &mut kept);
    }
    let mut host = agent.connect();
    assert_eq!(host.hello(), "booted");
    assert!(!std::fs::exists(agent.path("work/kept")).unwrap());
    let outcome = host.call(attach("kept", WINDOW as u64));
    assert_eq!(WINDOW + received(&outcome), MUCH);
    assert!(received(&host.call(attach("left", 0))) < MUCH);
}

/// Stdin goes on in another session, from where the guest has it.
#[test]
fn input_goes_on_in_another_session() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let input: Vec<u8> = (0..MUCH).map(|index| u8::try_from(index % 251).unwrap()).collect();
    let received_at = agent.path("work/received");
    let gate = agent.path("work/gate");
    std::process::Command::new("mkfifo").arg(&gate).status().unwrap();
    let command = format!("read line < {gate}; cat > {received_at}");
    host.open(Call::ExecStart(ExecStart { exec_id: "a".into(), command, stdin: true, ..ExecStart::default() }));
    // As much as the first window allows; nobody reads it yet.
    for piece in input[..WINDOW].chunks(60_000) {
        host.send(Kind::Data, 1, piece);
    }
    assert_eq!(host.hello(), "booted", "all of it has arrived");
    let mut host = agent.connect();
    let stream = host.open(Call::ExecAttach(ExecAttach { exec_id: "a".into(), offset: 0, stdin: true }));
    let mut outcome = Outcome::default();
    host.step(stream, &mut outcome);
    let Some(reply::Kind::ExecStarted(started)) = outcome.replies.first() else { panic!("{outcome:?}") };
    assert_eq!(started.stdin_offset, WINDOW as u64);
    std::fs::write(&gate, "go\n").unwrap();
    let mut credit = WINDOW;
    let mut rest = &input[WINDOW..];
    while !rest.is_empty() {
        if credit == 0 {
            let (kind, _, payload) = host.receive();
            assert_eq!(kind, 4, "credit for what this session sent, and no other");
            credit += u32::from_be_bytes(payload.try_into().unwrap()) as usize;
            assert!(credit <= WINDOW);
        }
        let size = rest.len().min(credit).min(60_000);
        host.send(Kind::Data, stream, &rest[..size]);
        (rest, credit) = (&rest[size..], credit - size);
    }
    host.send(Kind::Data, stream, b"");
    assert_eq!(host.finish(stream).exited().exit_code, 0);
    assert!(std::fs::read(received_at).unwrap() == input);
}

/// A command can be attached to while it is being started, and one that does not start was never there.
#[test]
fn attaching_waits_for_a_start() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let starting = host.open(start("a", "echo one"));
    let attached = host.open(attach("a", 0));
    let mut ends = 0;
    let mut output = Vec::new();
    while ends < 2 {
        match host.receive() {
            (5, _, payload) => {
                assert_eq!(payload, b"", "OK");
                ends += 1;
            }
            (2, from, payload) => {
                let reply = <terp_agent::proto::Reply as prost::Message>::decode(&*payload).unwrap().kind.unwrap();
                if let reply::Kind::ExecOutput(piece) = reply {
                    output.push((from, piece.data));
                }
            }
            _ => {}
        }
    }
    output.sort();
    assert_eq!(output, [(starting, b"one\n".to_vec()), (attached, b"one\n".to_vec())]);
    let call = ExecStart { exec_id: "b".into(), argv: vec!["/no/such".into()], ..ExecStart::default() };
    host.open(Call::ExecStart(call));
    let attached = host.open(attach("b", 0));
    assert_eq!(host.finish(attached).code(), Code::NotFound);
}

/// A command that was asked for before Freeze has started when that is done, whatever becomes of its session.
#[test]
fn a_start_that_came_before_a_freeze_is_made() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    for round in 0..20u8 {
        let mut host = agent.connect_raw();
        host.begin(2 * round + 1);
        let id = format!("e{round}");
        host.open(start(&id, "echo one"));
        let frozen = host.open(freeze());
        while host.receive().1 != frozen {}
        let mut host = agent.connect_raw();
        host.begin(2 * round + 2);
        assert_eq!(host.call(Call::Wake(wake())).code(), Code::Ok);
        assert_eq!(host.call(attach(&id, 0)).output(), "one\n");
    }
}

/// A fork is told to programs that wait for its signal, first of all; nobody else is harmed.
#[test]
fn programs_are_told_of_a_fork() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let ready = |id: &str| agent.path(&format!("work/{id}"));
    let told = "import os, signal, sys, time
signal.signal(63, lambda *_: os.write(1, b'told\\n'))
open(sys.argv[1], 'w')
while True: time.sleep(1000)";
    let all = "import signal, sys, time
for number in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(number, lambda *_: sys.exit(7))
open(sys.argv[1], 'w')
while True: time.sleep(1000)";
    let program = |id: &str, text: &str| {
        let argv = ["python3", "-c", text, &ready(id)].map(str::to_owned).to_vec();
        Call::ExecStart(ExecStart { exec_id: id.into(), argv, ..ExecStart::default() })
    };
    for call in [program("told", told), program("all", all), start("none", &format!("> {}; sleep 1000", ready("none")))]
    {
        host.open(call);
    }
    eventually("they wait", || ["told", "all", "none"].iter().all(|id| std::fs::exists(ready(id)).unwrap()));

    for (nonce, forked, said) in [(2, true, "told\n"), (3, false, "told\n"), (4, true, "told\ntold\n")] {
        host = agent.connect_raw();
        host.begin(nonce);
        assert_eq!(host.call(freeze()).code(), Code::Ok);
        assert_eq!(host.call(Call::Wake(Wake { forked, ..wake() })).code(), Code::Ok);
        let stream = host.open(attach("told", 0));
        assert_eq!(read_some(&mut host, stream, said.len()).output(), said);
    }
    for id in ["told", "all", "none"] {
        host.call(Call::ExecSignal(terp_agent::proto::ExecSignal { exec_id: id.into(), signal: 9 }));
        assert_eq!(host.call(attach(id, 0)).exited().signal, 9, "{id} lived until now");
    }
}

/// A Wake may keep what was there of the environment.
#[test]
fn the_environment_is_kept_or_replaced() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let env =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut seen = |id: &str, wake: Wake| {
        assert_eq!(host.call(Call::Wake(wake)).code(), Code::Ok);
        host.exec(id, "echo $A $B $C").output()
    };
    assert_eq!(seen("a", Wake { env: env(&[("A", "1"), ("B", "1")]), ..wake() }), "1 1\n");
    assert_eq!(seen("b", Wake { env: env(&[("B", "2"), ("C", "2")]), keep_env: true, ..wake() }), "1 2 2\n");
    assert_eq!(seen("c", Wake { env: env(&[("C", "3")]), ..wake() }), "3\n");
}
