//! Commands in the background, their list and their logs, over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{eventually, is_alive, start, Agent, Host, Outcome};
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, ExecAttach, ExecEntry, ExecList, ExecLog, ExecLogInfo, ExecSignal, ExecStart};
use terp_agent::proto::{Freeze, Wake};
use terp_agent::wire::frame::Kind;

const MIB: u64 = 1 << 20;

fn background(id: &str, command: &str) -> Call {
    Call::ExecStart(ExecStart {
        exec_id: id.to_owned(),
        command: command.to_owned(),
        background: true,
        ..ExecStart::default()
    })
}

fn attach(id: &str, offset: u64) -> Call {
    Call::ExecAttach(ExecAttach { exec_id: id.to_owned(), offset, stdin: false })
}

fn log(id: &str, offset: u64, limit: u32) -> Call {
    Call::ExecLog(ExecLog { exec_id: id.to_owned(), offset, limit })
}

/// Starts it and returns its pid.
fn launch(host: &mut Host, id: &str, command: &str) -> u32 {
    let outcome = host.call(background(id, command));
    match &outcome.replies[..] {
        [reply::Kind::ExecStarted(started)] if outcome.code() == Code::Ok => started.pid,
        _ => panic!("{outcome:?}"),
    }
}

fn read_log(host: &mut Host, id: &str, offset: u64, limit: u32) -> (ExecLogInfo, Vec<u8>) {
    let outcome = host.call(log(id, offset, limit));
    match &outcome.replies[..] {
        [reply::Kind::ExecLog(info)] if outcome.code() == Code::Ok => (*info, outcome.data),
        _ => panic!("{outcome:?}"),
    }
}

fn list(host: &mut Host) -> Vec<ExecEntry> {
    let outcome = host.call(Call::ExecList(ExecList {}));
    assert_eq!(outcome.code(), Code::Ok);
    let pages = outcome.replies.into_iter().map(|reply| match reply {
        reply::Kind::ExecEntries(page) => page.entries,
        other => panic!("{other:?}"),
    });
    pages.flatten().collect()
}

fn await_exit(host: &mut Host, id: &str) -> ExecLogInfo {
    let mut info = ExecLogInfo::default();
    eventually("it exits", || {
        info = read_log(host, id, 0, 1).0;
        info.exited.is_some()
    });
    info
}

/// The start of each output reply, and all that came.
fn pieces(outcome: &Outcome) -> (Option<u64>, Vec<u8>) {
    let (mut first, mut data) = (None, Vec::new());
    for reply in &outcome.replies {
        if let reply::Kind::ExecOutput(output) = reply {
            let first = *first.get_or_insert(output.offset);
            assert_eq!(output.offset, first + data.len() as u64, "no byte is lost or doubled");
            data.extend_from_slice(&output.data);
        }
    }
    (first, data)
}

/// `seq 1000000 1250000 | tr -d '\n'`, as far as wanted from anywhere.
fn counted(from: u64, size: usize) -> Vec<u8> {
    let numbers = (1_000_000 + from / 7..).flat_map(|number| number.to_string().into_bytes());
    numbers.skip(usize::try_from(from % 7).unwrap()).take(size).collect()
}

/// It runs without anybody attached; both streams come in the order they were written, and stay when it has exited.
#[test]
fn output_goes_to_a_log() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let pid = launch(&mut host, "a", "echo one; echo two >&2; echo three; exit 3");
    let info = await_exit(&mut host, "a");
    assert_eq!((info.first_offset, info.size), (0, 14));
    assert_eq!(info.exited.unwrap().exit_code, 3);
    assert_eq!(read_log(&mut host, "a", 0, 100).1, b"one\ntwo\nthree\n");
    assert_eq!(read_log(&mut host, "a", 4, 3).1, b"two");
    let (info, data) = read_log(&mut host, "a", 99, 100);
    assert_eq!((info.offset, data), (14, Vec::new()));
    let outcome = host.call(attach("a", 8));
    assert_eq!((outcome.output().as_str(), outcome.exited().exit_code), ("three\n", 3));
    let entries = list(&mut host);
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!((entry.exec_id.as_str(), entry.pid, entry.pty), ("a", pid, false));
    assert!(entry.command.starts_with("echo one;") && entry.started_ns > 0);
    assert_eq!(entry.exited.unwrap().exit_code, 3);
    assert_eq!(host.call(background("a", "true")).code(), Code::Exists);
}

/// Nothing but a background command has a log, and a part of it is bounded.
#[test]
fn wrong_requests_are_refused() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.exec("plain", "true");
    launch(&mut host, "a", "true");
    assert_eq!(host.call(log("plain", 0, 1)).code(), Code::Invalid);
    assert_eq!(host.call(log("none", 0, 1)).code(), Code::NotFound);
    assert_eq!(host.call(log("a", 0, 0)).code(), Code::Invalid);
    assert_eq!(host.call(log("a", 0, (1 << 20) + 1)).code(), Code::Invalid);
    assert!(list(&mut host).iter().all(|entry| entry.exec_id == "a"));
    assert_eq!(host.call(background("b", "")).code(), Code::Invalid);
}

/// A slow attacher, a quick one and one that comes in between all get every byte, and none holds the command back.
#[test]
fn several_attachers_get_everything() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let (gate, done) = (agent.path("work/gate"), agent.path("work/done"));
    std::process::Command::new("mkfifo").arg(&gate).status().unwrap();
    let command =
        format!("read x < {gate}; seq 1000000 1250000 | tr -d '\\n'; touch {done}; read x < {gate}; echo -n end");
    launch(&mut host, "a", &command);
    let slow = host.open(attach("a", 0));
    std::fs::write(&gate, "\n").unwrap();
    eventually("it is not held back", || std::fs::exists(&done).unwrap());
    let mut outcomes = [Outcome::default(), Outcome::default(), Outcome::default()];
    let quick = host.open(attach("a", 0));
    let late = host.open(attach("a", 1_000_001));
    let streams = [slow, quick, late];
    let mut written = false;
    let mut open = 3;
    while open > 0 {
        let (kind, from, payload) = host.receive();
        let index = streams.iter().position(|stream| *stream == from).unwrap();
        open -= usize::from(host.keep_frame(from, kind, &payload, &mut outcomes[index]));
        if !written && pieces(&outcomes[0]).1.len() == 250_001 * 7 {
            std::fs::write(&gate, "\n").unwrap();
            written = true;
        }
    }
    for (outcome, from) in outcomes.iter().zip([0, 0, 1_000_001]) {
        let (first, data) = pieces(outcome);
        assert_eq!(first, Some(from));
        let all = [counted(from, 250_001 * 7 - usize::try_from(from).unwrap()), b"end".to_vec()].concat();
        assert!(data == all);
        assert_eq!(outcome.exited().exit_code, 0);
    }
}

/// The last 64 MiB are kept. Who asks for older ones, or falls behind, goes on where the log begins, never with other bytes.
#[test]
fn the_last_64_mib_are_kept() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let size = 150 * MIB;
    let gate = agent.path("work/gate");
    std::process::Command::new("mkfifo").arg(&gate).status().unwrap();
    // Wherever it is looked at, the bytes tell where they stand.
    let numbers = format!("seq 1000000 99999999 | tr -d '\\n' | head -c {size}");
    launch(&mut host, "a", &format!("head -c 70 /dev/zero; read x < {gate}; {numbers}; read x < {gate}; echo end"));
    let slow = host.open(attach("a", 0));
    let mut kept = Outcome::default();
    while pieces(&kept).1.len() < 70 {
        host.step(slow, &mut kept);
    }
    // From here on no credit is given on this stream, until the log has left it behind.
    let mut quiet = Outcome::default();
    std::fs::write(&gate, "\n").unwrap();
    let mut info = ExecLogInfo::default();
    eventually("all is written", || {
        let outcome = quiet_call(&mut host, log("a", 0, 1), slow, &mut quiet);
        let [reply::Kind::ExecLog(found)] = outcome.replies[..] else { panic!("{outcome:?}") };
        info = found;
        info.size == size + 70
    });
    assert!(info.first_offset.is_multiple_of(MIB) && info.first_offset == info.offset);
    assert!((64 * MIB..=65 * MIB).contains(&(info.size - info.first_offset)));
    let (first, data) = pieces(&quiet);
    let got = first.unwrap() + data.len() as u64;
    assert!(first == Some(70) && got < MIB && data == counted(0, data.len()));
    host.send(Kind::Credit, slow, &u32::try_from(data.len()).unwrap().to_be_bytes());
    std::fs::write(&gate, "\n").unwrap();
    let rest = host.finish(slow);
    let (first, data) = pieces(&rest);
    assert_eq!((first, rest.exited().exit_code), (Some(info.first_offset), 0));
    let data = data.strip_suffix(b"end\n").unwrap();
    assert_eq!(info.first_offset + data.len() as u64, size + 70);
    for from in (0..data.len()).step_by(100_003) {
        let piece = &data[from..data.len().min(from + 1000)];
        assert!(piece == expected(info.first_offset + from as u64, piece.len()));
    }

    let (info, data) = read_log(&mut host, "a", 0, 1 << 20);
    assert!(data == expected(info.offset, 1 << 20));
    let (info, data) = read_log(&mut host, "a", size - 1000, 5000);
    assert_eq!((info.offset, data.len()), (size - 1000, 1074));
    assert!(data.strip_suffix(b"end\n").unwrap() == expected(size - 1000, 1070));
}

/// Of the command above, behind its 70 zeros: numbers of seven digits, then of eight.
fn expected(from: u64, size: usize) -> Vec<u8> {
    let seven = 9_000_000 * 7;
    let from = from - 70;
    assert!(from >= seven, "{from}");
    let numbers = (10_000_000 + (from - seven) / 8..).flat_map(|number| number.to_string().into_bytes());
    numbers.skip(usize::try_from((from - seven) % 8).unwrap()).take(size).collect()
}

/// A call while another stream is not read on: what comes for that one is kept, and no credit given.
fn quiet_call(host: &mut Host, call: Call, quiet: u32, kept: &mut Outcome) -> Outcome {
    let stream = host.open(call);
    let mut outcome = Outcome::default();
    loop {
        let (kind, from, payload) = host.receive();
        let whose = if from == quiet { &mut *kept } else { &mut outcome };
        if from == quiet {
            whose.replies.extend(<terp_agent::proto::Reply as prost::Message>::decode(&*payload).unwrap().kind);
        } else if host.keep_frame(stream, kind, &payload, whose) {
            return outcome;
        }
    }
}

/// What its last moment brought is in the log, though it is more than a pipe's buffer and someone holds the pipe open.
#[test]
fn last_output_is_drained() {
    let agent = Agent::start();
    let mut host = agent.connect();
    launch(&mut host, "a", "setsid sleep 1000 & echo $!; head -c 60000 /dev/zero | tr '\\0' x");
    let info = await_exit(&mut host, "a");
    let data = read_log(&mut host, "a", 0, 1 << 20).1;
    let text = String::from_utf8(data).unwrap();
    let (pid, rest) = text.split_once('\n').unwrap();
    assert_eq!(info.size, text.len() as u64);
    assert_eq!(rest, "x".repeat(60_000));
    assert!(is_alive(pid));
    std::process::Command::new("kill").arg(pid).status().unwrap();
}

/// A process that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of a command whose log could keep nothing, whoever follows it from its beginning is told of its end.
#[test]
fn an_end_comes_where_nothing_was_kept() {
    let top = tempfile::tempdir().unwrap();
    let channel = top.path().join("channel");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_terp-agent"));
    // No log can be made there, as on a disk that is full.
    command.env("TMPDIR", "/proc").arg("--channel").arg(&channel).arg("--services").arg(top.path());
    let _agent = Killed(command.spawn().unwrap());
    let mut stream = None;
    eventually("the agent listens", || {
        stream = std::os::unix::net::UnixStream::connect(&channel).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut host = Host { stream, newest: 0 };
    host.begin(1);
    launch(&mut host, "a", "echo lost");
    let info = await_exit(&mut host, "a");
    assert_eq!((info.first_offset, info.size), (5, 5));
    let outcome = host.call(attach("a", 0));
    assert_eq!((outcome.output().as_str(), outcome.exited().exit_code), ("", 0));
}

/// Neither a lost session nor a freeze leaves a gap in a log, or a byte twice; what an attached host had is where it goes on.
#[test]
fn logs_are_whole_behind_freezes() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    launch(&mut host, "a", "seq 1000000 1250000 | while read n; do echo -n $n; done");
    let mut all = Vec::new();
    let wake = || Call::Wake(Wake { entropy: vec![7; 32], unix_time_ns: 1, ..Wake::default() });
    for nonce in 2..6 {
        let stream = host.open(attach("a", all.len() as u64));
        let mut outcome = Outcome::default();
        while pieces(&outcome).1.len() < 2_000 {
            assert!(!host.step(stream, &mut outcome), "{:?}", outcome.status);
        }
        let freezing = host.open(Call::Freeze(Freeze::default()));
        while host.receive_into(stream, &mut outcome) != (5, freezing) {}
        assert_eq!(host.hello(), "frozen", "nothing of the command comes behind the answer");
        all.extend(pieces(&outcome).1);
        host = agent.connect_raw();
        host.begin(nonce);
        assert_eq!(host.call(wake()).code(), Code::Ok);
    }
    assert!(all == counted(0, all.len()));
    let entries = list(&mut host);
    assert!(entries.len() == 1 && entries[0].exited.is_none());
    assert_eq!(host.call(Call::ExecSignal(ExecSignal { exec_id: "a".into(), signal: 9 })).code(), Code::Ok);
    let info = await_exit(&mut host, "a");
    assert_eq!(info.exited.unwrap().signal, 9);
    let whole = host.call(attach("a", 0));
    assert!(pieces(&whole) == (Some(0), counted(0, usize::try_from(info.size).unwrap())));
}

/// Whoever attaches to a command that is about to exit gets all it wrote, and then its exit.
#[test]
fn attaching_meets_an_exit() {
    let agent = Agent::start();
    let mut host = agent.connect();
    for index in 0..60 {
        let (id, text) = (format!("e{index}"), format!("{index}\n"));
        host.open(background(&id, &format!("echo {index}")));
        let streams: Vec<_> = (0..4).map(|_| host.open(attach(&id, 0))).collect();
        let mut outcomes: Vec<_> = streams.iter().map(|_| Outcome::default()).collect();
        let mut open = streams.len();
        while open > 0 {
            let (kind, from, payload) = host.receive();
            if let Some(index) = streams.iter().position(|stream| *stream == from) {
                open -= usize::from(host.keep_frame(from, kind, &payload, &mut outcomes[index]));
            }
        }
        for outcome in outcomes {
            assert_eq!((outcome.output(), outcome.exited().exit_code), (text.clone(), 0));
        }
    }
}

/// A command whose session is lost before it was told of the start is there, and found in the list.
#[test]
fn a_start_outlives_its_session() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.open(background("a", "echo one; exec sleep 1000"));
    assert_eq!(host.hello(), "booted", "it has arrived");
    let mut host = agent.connect();
    eventually("it is listed", || list(&mut host).iter().any(|entry| entry.exec_id == "a" && entry.exited.is_none()));
    eventually("it has written", || read_log(&mut host, "a", 0, 100).1 == b"one\n");
}

/// A background command has no timeout unless it is given one, and a foreground one does not disturb it.
#[test]
fn timeouts_hold_in_the_background() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let call = ExecStart {
        exec_id: "a".into(),
        command: "echo begun; exec sleep 1000".into(),
        background: true,
        timeout_ms: 200,
        ..ExecStart::default()
    };
    assert_eq!(host.call(Call::ExecStart(call)).code(), Code::Ok);
    assert!(await_exit(&mut host, "a").exited.unwrap().timed_out);
    assert_eq!(read_log(&mut host, "a", 0, 100).1, b"begun\n");
}

/// 256 are kept; of more, the ones that exited first are forgotten. The list may take several frames.
#[test]
fn two_hundred_and_fifty_six_are_kept() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let long = format!("true {}", "é".repeat(4000));
    launch(&mut host, "runs", "exec sleep 1000");
    for index in 0..300 {
        launch(&mut host, &format!("e{index}"), &long);
    }
    eventually("old ones are forgotten", || list(&mut host).len() == 256);
    let entries = list(&mut host);
    assert_eq!(entries[0].exec_id, "runs");
    assert_eq!(entries[1..].last().unwrap().exec_id, "e299");
    assert!(entries[1..].iter().all(|entry| entry.command.len() <= 4096 && long.starts_with(&entry.command)));
    assert_eq!(host.call(log("e0", 0, 1)).code(), Code::NotFound);
    host.call(start("plain", "true"));
    assert_eq!(list(&mut host).len(), 256);
    host.send(Kind::Cancel, 1, b"");
}
