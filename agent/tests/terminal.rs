//! Terminals, and what is typed into commands, over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{eventually, start, Agent, Host, Outcome};
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{
    reply, ExecAttach, ExecInput, ExecList, ExecLog, ExecResize, ExecSignal, ExecStart, Freeze, Ping, Pty, Wake,
};
use terp_agent::wire::frame::Kind;

fn pty(id: &str, argv: &[&str], size: (u32, u32)) -> Call {
    Call::ExecStart(ExecStart {
        exec_id: id.to_owned(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        pty: Some(Pty { cols: size.0, rows: size.1 }),
        ..ExecStart::default()
    })
}

/// A shell that prints no prompt and no escape codes of its own.
fn shell(host: &mut Host, id: &str) {
    let outcome = host.call(pty(id, &["sh", "-c", "stty -echo; echo ready; exec sh"], (80, 24)));
    assert!(matches!(outcome.replies[..], [reply::Kind::ExecStarted(_)]), "{outcome:?}");
    expect(host, id, "ready");
    typed(host, id, None, b"PS1=\n");
}

fn attach(id: &str, offset: u64) -> Call {
    Call::ExecAttach(ExecAttach { exec_id: id.to_owned(), offset, stdin: false })
}

fn signal(id: &str, signal: u32) -> Call {
    Call::ExecSignal(ExecSignal { exec_id: id.to_owned(), signal })
}

fn input(id: &str, offset: Option<u64>, data: &[u8], close: bool) -> Call {
    Call::ExecInput(ExecInput { exec_id: id.to_owned(), offset, data: data.to_vec(), close })
}

fn accepted(outcome: &Outcome) -> u64 {
    match outcome.replies[..] {
        [reply::Kind::ExecInput(reply)] => reply.offset,
        _ => panic!("{outcome:?}"),
    }
}

fn typed(host: &mut Host, id: &str, offset: Option<u64>, data: &[u8]) -> u64 {
    accepted(&host.call(input(id, offset, data, false)))
}

/// Reads the terminal from its beginning until it has said *text*; returns all of it.
fn expect(host: &mut Host, id: &str, text: &str) -> String {
    let stream = host.open(attach(id, 0));
    let mut outcome = Outcome::default();
    while !outcome.output().contains(text) {
        assert!(!host.step(stream, &mut outcome), "it ended: {:?}", outcome.output());
    }
    host.send(Kind::Cancel, stream, b"");
    outcome.output()
}

/// A command on a terminal has it as its own, of the size asked for, and is told its kind unless its environment is.
#[test]
fn a_terminal_is_its_command_s_own() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let script =
        "tty; stty size; echo $TERM; ps -o tty= -p $$; echo err >&2; test -t 0 && test -t 1 && test -t 2 && exit 7";
    assert_eq!(host.call(pty("a", &["bash", "-c", script], (101, 33))).code(), Code::Ok);
    let outcome = host.call(attach("a", 0));
    assert_eq!(outcome.exited().exit_code, 7);
    let output = outcome.output();
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{output}");
    assert_eq!(lines[1..3], ["33 101", "xterm-256color"]);
    assert_eq!(lines[3].trim(), lines[0].trim_start_matches("/dev/"));
    assert_eq!(lines[4], "err");
    let mut call = ExecStart { env: [("TERM".to_owned(), "vt100".to_owned())].into(), ..ExecStart::default() };
    (call.exec_id, call.command, call.pty) = ("b".into(), "echo $TERM".into(), Some(Pty { cols: 1, rows: 1000 }));
    assert_eq!(host.call(Call::ExecStart(call)).code(), Code::Ok);
    assert_eq!(host.call(attach("b", 0)).output(), "vt100\r\n");
    let entries = host.call(Call::ExecList(ExecList {}));
    let Some(reply::Kind::ExecEntries(page)) = entries.replies.first() else { panic!("{entries:?}") };
    assert!(page.entries.iter().all(|entry| entry.pty && entry.exited.is_some()));
    assert!(page.entries[0].command.starts_with("bash -c tty;"));
}

/// What is typed is echoed, and read by the line; Ctrl-C interrupts what runs and not the shell.
#[test]
fn a_shell_is_typed_into() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.call(pty("a", &["bash", "--norc", "-i"], (80, 24)));
    typed(&mut host, "a", None, b"sh -c 'echo $((6*7)); exec sleep 1000'\n");
    expect(&mut host, "a", "42\r\n");
    typed(&mut host, "a", None, b"\x03");
    typed(&mut host, "a", None, b"echo code=$((100+30))\n");
    assert!(expect(&mut host, "a", "code=130").contains("echo $((6*7))"), "it is echoed");
    let offset = typed(&mut host, "a", None, b"exit 5\n");
    assert_eq!(host.call(attach("a", 0)).exited().exit_code, 5);
    let again = host.call(input("a", Some(offset - 7), b"exit 5\n", false));
    assert_eq!(accepted(&again), offset, "a repetition of what it took before");
    assert_eq!(host.call(input("a", None, b"more", false)).code(), Code::Invalid);
}

/// What lies before the count is typed once, however often and in whatever pieces it comes again.
#[test]
fn repetitions_type_nothing_twice() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.call(pty("a", &["sh", "-c", "stty -echo; echo ready; cat"], (80, 24)));
    expect(&mut host, "a", "ready");
    assert_eq!(typed(&mut host, "a", Some(0), b"one\n"), 4);
    assert_eq!(typed(&mut host, "a", Some(0), b"one\n"), 4);
    assert_eq!(typed(&mut host, "a", Some(0), b"one\ntwo\n"), 8);
    assert_eq!(typed(&mut host, "a", Some(6), b"o\nthree\n"), 14);
    assert_eq!(host.call(input("a", Some(15), b"x", false)).code(), Code::Invalid);
    assert_eq!(host.call(input("a", Some(u64::MAX), b"x", true)).code(), Code::Invalid);
    let close = input("a", Some(14), b"four\n", true);
    assert_eq!(accepted(&host.call(close.clone())), 20, "the end of file counts");
    assert_eq!(accepted(&host.call(close)), 20);
    let outcome = host.call(attach("a", 0));
    assert_eq!(outcome.output(), "ready\r\none\r\ntwo\r\nthree\r\nfour\r\n");
    assert_eq!(outcome.exited().exit_code, 0);
}

/// A program on a terminal is told when its size changes.
#[test]
fn terminals_are_resized() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let script = "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.01; done";
    host.call(pty("a", &["bash", "-c", script], (80, 24)));
    expect(&mut host, "a", "ready");
    let resize =
        |id: &str, cols, rows| Call::ExecResize(ExecResize { exec_id: id.into(), size: Some(Pty { cols, rows }) });
    for (cols, rows) in [(0, 24), (80, 0), (1001, 24), (80, 1001)] {
        assert_eq!(host.call(resize("a", cols, rows)).code(), Code::Invalid);
        assert_eq!(host.call(pty("b", &["true"], (cols, rows))).code(), Code::Invalid);
    }
    assert_eq!(host.call(Call::ExecResize(ExecResize { exec_id: "a".into(), size: None })).code(), Code::Invalid);
    assert_eq!(host.call(resize("none", 80, 24)).code(), Code::NotFound);
    host.exec("plain", "true");
    assert_eq!(host.call(resize("plain", 80, 24)).code(), Code::Invalid);
    assert_eq!(host.call(resize("a", 120, 40)).code(), Code::Ok);
    let outcome = host.call(attach("a", 0));
    assert_eq!(outcome.output(), "ready\r\n40 120\r\n");
    assert_eq!(host.call(resize("a", 80, 24)).code(), Code::Ok, "it has exited already");
}

/// With nobody attached a terminal goes on, and its oldest output is dropped; hung up on, its shell and what that runs end.
#[test]
fn terminals_stay_and_are_hung_up() {
    for agent in [Some(Agent::start()), Agent::start_with_cgroup()].into_iter().flatten() {
        let mut host = agent.connect();
        host.call(pty("a", &["bash", "--norc", "-i"], (80, 24)));
        let done = agent.path("work/done");
        let pid = agent.path("work/pid");
        typed(&mut host, "a", None, format!("seq 300000; sleep 1000 & echo $! > {pid}; touch {done}\n").as_bytes());
        eventually("it is not held back", || std::fs::exists(&done).unwrap());
        let mut host = agent.connect();
        let stream = host.open(attach("a", 0));
        let mut outcome = Outcome::default();
        while !outcome.output().contains("300000") {
            host.step(stream, &mut outcome);
        }
        let first = outcome.replies.iter().find_map(|reply| match reply {
            reply::Kind::ExecOutput(output) => Some(output.offset),
            _ => None,
        });
        assert!(first > Some(1_000_000));
        assert_eq!(host.call(signal("a", 1)).code(), Code::Ok);
        let outcome = host.call(attach("a", 0));
        assert_eq!(outcome.exited().signal, 1);
        let pid = std::fs::read_to_string(&pid).unwrap();
        eventually("its job is gone", || !host::is_alive(&pid));
    }
}

/// A terminal is as it was behind a freeze: nothing of its output is lost, and what was typed arrives.
#[test]
fn terminals_go_on_behind_a_freeze() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    shell(&mut host, "a");
    let offset = typed(&mut host, "a", None, b"sleep 0.2; echo a-b | tr a-z A-Z; read x; echo \"got $x\"\n");
    assert_eq!(host.call(Call::Freeze(Freeze::default())).code(), Code::Ok);
    assert_eq!(host.call(input("a", Some(offset), b"line\n", false)).code(), Code::Unavailable);
    let mut host = agent.connect_raw();
    host.begin(2);
    let wake = Wake { entropy: vec![7; 32], unix_time_ns: 1, ..Wake::default() };
    assert_eq!(host.call(Call::Wake(wake)).code(), Code::Ok);
    assert_eq!(typed(&mut host, "a", Some(offset), b"line\n"), offset + 5);
    expect(&mut host, "a", "got line");
}

/// What is typed while a freeze comes arrives once, whether the answer to it came or not.
#[test]
fn typing_meets_a_freeze() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    host.call(pty("a", &["sh", "-c", "stty -echo; echo ready; cat"], (80, 24)));
    expect(&mut host, "a", "ready");
    let (mut offset, mut wanted) = (0, "ready\r\n".to_owned());
    for round in 0..20u8 {
        let line = format!("line {round}\n");
        host.open(input("a", Some(offset), line.as_bytes(), false));
        let frozen = host.open(Call::Freeze(Freeze::default()));
        while host.receive().1 != frozen {}
        host = agent.connect_raw();
        host.begin(round + 2);
        let wake = Wake { entropy: vec![7; 32], unix_time_ns: 1, ..Wake::default() };
        assert_eq!(host.call(Call::Wake(wake)).code(), Code::Ok);
        offset = typed(&mut host, "a", Some(offset), line.as_bytes());
        wanted += &line.replace('\n', "\r\n");
    }
    host.call(input("a", Some(offset), b"", true));
    assert_eq!(host.call(attach("a", 0)).output(), wanted);
}

/// Who waits to type when a freeze comes is told at once, and has typed nothing.
#[test]
fn a_freeze_ends_the_wait_for_room() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let call = ExecStart { exec_id: "a".into(), command: "exec sleep 1000".into(), ..ExecStart::default() };
    let call = ExecStart { background: true, stdin: true, ..call };
    assert_eq!(host.call(Call::ExecStart(call)).code(), Code::Ok);
    let mut offset = 0;
    while offset < 128 * 1024 {
        offset = typed(&mut host, "a", None, &vec![b'x'; 16 * 1024]);
    }
    let waiting = host.open(input("a", None, b"y", false));
    let frozen = host.open(Call::Freeze(Freeze::default()));
    let (mut outcome, mut ended) = (Outcome::default(), Vec::new());
    while ended.len() < 2 {
        if let (5, stream) = host.receive_into(waiting, &mut outcome) {
            ended.push(stream);
        }
    }
    assert!(ended.contains(&frozen));
    assert_eq!(outcome.code(), Code::Unavailable);
    let wake = Wake { entropy: vec![7; 32], unix_time_ns: 1, ..Wake::default() };
    assert_eq!(host.call(Call::Wake(wake)).code(), Code::Ok);
    assert_eq!(typed(&mut host, "a", Some(0), b"xxx"), offset);
}

/// A program that does not read is kept 64 KiB for. What does not fit is not typed at all, and other calls do not wait.
#[test]
fn input_waits_for_room() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let gate = agent.path("work/gate");
    std::process::Command::new("mkfifo").arg(&gate).status().unwrap();
    let call = ExecStart {
        exec_id: "a".into(),
        command: format!("read x < {gate}; sha256sum; read x < {gate}"),
        background: true,
        stdin: true,
        ..ExecStart::default()
    };
    assert_eq!(host.call(Call::ExecStart(call)).code(), Code::Ok);
    let all: Vec<u8> = (0..400_000u32).map(|index| index.to_le_bytes()[1] ^ index.to_le_bytes()[0]).collect();
    let mut offset = 0u64;
    let refused = loop {
        let from = usize::try_from(offset).unwrap();
        let typing = host.open(input("a", Some(offset), &all[from..from + 30_000], false));
        let other = host.open(Call::Ping(Ping {}));
        let (mut outcome, mut ended) = (Outcome::default(), Vec::new());
        while ended.len() < 2 {
            if let (5, stream) = host.receive_into(typing, &mut outcome) {
                ended.push(stream);
            }
        }
        if outcome.code() != Code::Ok {
            assert_eq!(ended, [other, typing], "another call does not wait");
            break outcome.code();
        }
        offset = accepted(&outcome);
    };
    assert_eq!(refused, Code::Exhausted);
    assert!((64 * 1024..=64 * 1024 + 64 * 1024).contains(&offset), "the pipe's and ours: {offset}");
    std::fs::write(&gate, "\n").unwrap();
    while offset < all.len() as u64 {
        let piece = &all[usize::try_from(offset).unwrap()..];
        offset = typed(&mut host, "a", Some(offset), &piece[..piece.len().min(32_768)]);
    }
    assert_eq!(host.call(input("a", None, &vec![0; 32_769], false)).code(), Code::Invalid);
    for _ in 0..2 {
        assert_eq!(accepted(&host.call(input("a", Some(offset), b"", true))), offset);
    }
    assert_eq!(host.call(input("a", Some(offset), b"more", false)).code(), Code::Invalid);
    std::fs::write(agent.path("work/expected"), &all).unwrap();
    let wanted = host.exec("sum", "sha256sum < expected").output();
    let mut output = Vec::new();
    eventually("it has read all", || {
        output = host.call(Call::ExecLog(ExecLog { exec_id: "a".into(), offset: 0, limit: 1000 })).data;
        !output.is_empty()
    });
    assert_eq!(String::from_utf8(output).unwrap(), wanted);
    std::fs::write(&gate, "\n").unwrap();
}

/// Only what has input that no stream feeds is typed into.
#[test]
fn wrong_input_is_refused() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let stdin = ExecStart { exec_id: "a".into(), command: "cat".into(), stdin: true, ..ExecStart::default() };
    let stream = host.open(Call::ExecStart(stdin.clone()));
    host.receive();
    assert_eq!(host.call(input("a", None, b"x", false)).code(), Code::Invalid);
    host.send(Kind::Data, stream, b"");
    assert_eq!(host.finish(stream).exited().exit_code, 0);
    let quiet = ExecStart { exec_id: "b".into(), background: true, stdin: false, ..stdin.clone() };
    assert_eq!(host.call(Call::ExecStart(quiet)).code(), Code::Ok);
    assert_eq!(host.call(input("b", None, b"x", false)).code(), Code::Invalid);
    assert_eq!(host.call(input("none", None, b"x", false)).code(), Code::NotFound);
    let both =
        ExecStart { exec_id: "c".into(), background: true, pty: Some(Pty { cols: 1, rows: 1 }), ..stdin.clone() };
    assert_eq!(host.call(Call::ExecStart(both)).code(), Code::Invalid);
    let open = ExecStart { exec_id: "d".into(), background: true, ..stdin };
    assert_eq!(host.call(Call::ExecStart(open)).code(), Code::Ok);
    let attached = Call::ExecAttach(ExecAttach { exec_id: "d".into(), offset: 0, stdin: true });
    assert_eq!(host.call(attached).code(), Code::Invalid);
    assert_eq!(accepted(&host.call(input("d", None, b"hello", true))), 5);
    let outcome = host.call(attach("d", 0));
    assert_eq!((outcome.output().as_str(), outcome.exited().exit_code), ("hello", 0));
    host.call(start("e", "true"));
}
