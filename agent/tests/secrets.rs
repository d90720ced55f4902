//! Secrets of commands and variables set later, over a socket: who has them, and that nobody keeps them.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use host::{eventually, start, Agent, Host, Outcome};
use prost::Message;
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{
    reply, EnvChange, EnvList, ExecAttach, ExecSignal, ExecStart, Freeze, FreezeReply, Pty, Request, Wake,
};
use terp_agent::wire::frame::{Kind, MAX_PAYLOAD_BYTES};

type Env = BTreeMap<String, String>;

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn with_secrets(id: &str, command: &str, secrets: Env) -> ExecStart {
    ExecStart { exec_id: id.to_owned(), command: command.to_owned(), secrets, ..ExecStart::default() }
}

fn change(host: &mut Host, set: Env, unset: &[&str]) -> Code {
    let unset = unset.iter().map(|name| (*name).to_owned()).collect();
    let stream = open_long(host, Call::EnvChange(EnvChange { set, unset }));
    host.finish(stream).code()
}

fn names(host: &mut Host) -> Vec<String> {
    match host.call(Call::EnvList(EnvList {})).replies.pop() {
        Some(reply::Kind::EnvNames(found)) => found.names,
        other => panic!("{other:?}"),
    }
}

fn wake(keep_env: bool, ephemeral_env: Env) -> Call {
    Call::Wake(Wake { entropy: vec![7; 32], unix_time_ns: 1, keep_env, ephemeral_env, ..Wake::default() })
}

fn withhold() -> Call {
    Call::Freeze(Freeze { withhold_secrets: true, ..Freeze::default() })
}

fn taken(outcome: &Outcome) -> Env {
    match &outcome.replies[..] {
        [reply::Kind::Freeze(FreezeReply { ephemeral_env })] if outcome.code() == Code::Ok => ephemeral_env.clone(),
        _ => panic!("{outcome:?}"),
    }
}

/// A word that is found in no program: put together here, so that it is not in this one's text either.
fn marker(name: &str) -> String {
    ["terp", "secret", name, &std::process::id().to_string(), "qzvxkj"].join("/")
}

/// How often *word* is in the memory of a process that it can write.
fn count_in_memory(pid: u32, word: &str) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut count = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        if !rest.starts_with("rw") {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        memory.seek(SeekFrom::Start(from)).unwrap();
        // A part of the stack may not be there.
        if memory.read_exact(&mut bytes).is_ok() {
            count += bytes.windows(word.len()).filter(|window| *window == word.as_bytes()).count();
        }
    }
    count
}

/// As `Host::open`, for a request of more than one frame.
fn open_long(host: &mut Host, call: Call) -> u32 {
    host.newest += 1;
    let request = Request { call: Some(call) }.encode_to_vec();
    let (last, parts) = request.chunks(MAX_PAYLOAD_BYTES).collect::<Vec<_>>().split_last().map_or_else(
        || panic!("it is empty"),
        |(last, parts)| (last.to_vec(), parts.iter().map(|part| part.to_vec()).collect::<Vec<_>>()),
    );
    for part in parts {
        host.send(Kind::Part, host.newest, &part);
    }
    host.send(Kind::Open, host.newest, &last);
    host.newest
}

/// Secrets are over all other variables, for their command alone.
#[test]
fn secrets_are_for_one_command() {
    let agent = Agent::start();
    let mut host = agent.connect();
    assert_eq!(change(&mut host, env(&[("A", "set"), ("B", "set"), ("D", "set")]), &[]), Code::Ok);
    let command = "echo $A $B $C $D";
    let call = ExecStart {
        env: env(&[("A", "env"), ("B", "env")]),
        ..with_secrets("a", command, env(&[("A", "secret"), ("C", "secret")]))
    };
    assert_eq!(host.call(Call::ExecStart(call)).output(), "secret env secret set\n");
    assert_eq!(host.exec("b", command).output(), "set set set\n");
    let bad = with_secrets("c", command, env(&[("A=", "x")]));
    assert_eq!(host.call(Call::ExecStart(bad)).code(), Code::Invalid);
}

/// Once its command runs, or was refused, the agent has a secret no more, however it came: one word of it is nowhere.
#[test]
fn no_secret_stays_in_the_agent() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let word = marker("command");
    let long = word.repeat(90_000 / word.len());
    let secrets = env(&[("S", &word), ("L", &long), ("M", &long), ("N", &long)]);
    let sum = "exec sleep 1000";
    let calls = [
        with_secrets("plain", sum, secrets.clone()),
        ExecStart { background: true, ..with_secrets("background", sum, secrets.clone()) },
        ExecStart { pty: Some(Pty { cols: 80, rows: 24 }), ..with_secrets("pty", sum, secrets.clone()) },
    ];
    for call in calls {
        let stream = open_long(&mut host, Call::ExecStart(call));
        let mut outcome = Outcome::default();
        while outcome.replies.is_empty() {
            host.step(stream, &mut outcome);
        }
        let [reply::Kind::ExecStarted(started)] = &outcome.replies[..] else { panic!("{outcome:?}") };
        eventually("the command has it", || count_in_memory(started.pid, &word) > 1);
        eventually("the agent has it no more", || count_in_memory(agent.pid(), &word) == 0);
    }
    for call in [
        ExecStart { cwd: "/no/such".into(), ..with_secrets("a", sum, secrets.clone()) },
        ExecStart { argv: vec!["/no/such".into()], ..with_secrets("b", "", secrets.clone()) },
        ExecStart { env: env(&[("=", "")]), ..with_secrets("c", sum, secrets.clone()) },
        with_secrets("plain", sum, secrets.clone()),
    ] {
        let stream = open_long(&mut host, Call::ExecStart(call));
        assert_ne!(host.finish(stream).code(), Code::Ok);
        eventually("the agent has it no more", || count_in_memory(agent.pid(), &word) == 0);
    }
    // Half a request, in a session that is lost then; and one that cannot be read.
    let request = Request { call: Some(Call::ExecStart(with_secrets("d", sum, secrets))) }.encode_to_vec();
    host.send(Kind::Part, host.newest + 1, &request[..60_000]);
    host.begin(2);
    let mut broken = request[..60_000].to_vec();
    broken.extend([0xff; 20]);
    host.send(Kind::Open, 1, &broken);
    host.newest = 1;
    assert_eq!(host.finish(1).code(), Code::Invalid);
    eventually("the agent has it no more", || count_in_memory(agent.pid(), &word) == 0);
}

/// Variables are set, replaced and unset, all of a change or nothing of it.
#[test]
fn variables_are_changed() {
    let agent = Agent::start();
    let mut host = agent.connect();
    assert_eq!(names(&mut host), [""; 0]);
    assert_eq!(change(&mut host, env(&[("B", "1"), ("_a9", "1")]), &[]), Code::Ok);
    assert_eq!(change(&mut host, env(&[("A", "2")]), &["_a9", "unknown"]), Code::Ok);
    assert_eq!(names(&mut host), ["A", "B"]);
    let large = "x".repeat(65_536);
    for bad in [env(&[("1A", "")]), env(&[("", "")]), env(&[("A-B", "")]), env(&[("A", "\0")]), env(&[("L", &large)])] {
        assert_eq!(change(&mut host, bad, &["A", "B"]), Code::Invalid);
    }
    let many: Env = (0..255).map(|index| (format!("N{index}"), String::new())).collect();
    assert_eq!(change(&mut host, many.clone(), &[]), Code::Invalid, "257 in all");
    assert_eq!(host.exec("a", "echo $A $B").output(), "2 1\n");
    assert_eq!(change(&mut host, many, &["A"]), Code::Ok);
    assert_eq!(change(&mut host, env(&[("B", &"x".repeat(62_000))]), &[]), Code::Invalid, "with what is there");
    assert_eq!(names(&mut host).len(), 256);
    assert_eq!(change(&mut host, env(&[("A", "both")]), &["A", "N0"]), Code::Ok, "it is unset first");
    assert_eq!(host.exec("b", "echo $A").output(), "both\n");
}

/// A value is nowhere in the agent when it was replaced or unset, or cleared by a Wake that keeps nothing.
#[test]
fn no_old_value_stays_in_the_agent() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let count = |word: &str| count_in_memory(agent.pid(), word);
    let words: Vec<_> = ["one", "two", "three"].iter().map(|name| marker(name)).collect();
    assert_eq!(change(&mut host, env(&[("A", &words[0]), ("B", &words[1])]), &[]), Code::Ok);
    eventually("what is looked for is found, in one place", || (count(&words[0]), count(&words[1])) == (1, 1));
    assert_eq!(host.exec("a", "test -n \"$A\"").exited().exit_code, 0);
    eventually("spawned with, it is there once", || count(&words[0]) == 1);
    assert_eq!(change(&mut host, env(&[("A", &words[2])]), &[]), Code::Ok);
    eventually("it is replaced", || (count(&words[0]), count(&words[2])) == (0, 1));
    assert_eq!(change(&mut host, env(&[]), &["B"]), Code::Ok);
    eventually("it is gone", || count(&words[1]) == 0);
    assert_eq!(host.call(wake(true, env(&[]))).code(), Code::Ok);
    assert_eq!((names(&mut host), count(&words[2])), (vec!["A".to_owned()], 1), "it is kept");
    assert_eq!(host.call(wake(false, env(&[]))).code(), Code::Ok);
    assert_eq!((names(&mut host), count(&words[2])), (vec![], 0));
    let bad = wake(true, env(&[("A-B", "x")]));
    assert_eq!(host.call(bad).code(), Code::Invalid);
}

/// A freeze that withholds takes the variables out of the guest, and a Wake gives them back.
#[test]
fn variables_are_withheld_and_given_back() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let word = marker("withheld");
    let variables = env(&[("A", &word), ("B", "")]);
    assert_eq!(change(&mut host, variables.clone(), &[]), Code::Ok);
    assert!(host.call(Call::Freeze(Freeze::default())).replies.is_empty());
    eventually("it stays where none asked for it", || count_in_memory(agent.pid(), &word) == 1);
    let frozen = host.call(withhold());
    assert_eq!(taken(&frozen), variables);
    eventually("it is nowhere", || count_in_memory(agent.pid(), &word) == 0);
    assert_eq!(change(&mut host, env(&[]), &[]), Code::Unavailable);
    assert_eq!(taken(&host.call(withhold())), env(&[]), "they were taken");
    let mut host = agent.connect_raw();
    host.begin(2);
    assert_eq!(host.call(wake(true, variables)).code(), Code::Ok);
    assert_eq!(names(&mut host), ["A", "B"]);
    assert_eq!(host.exec("a", "echo $A").output(), word + "\n");
}

/// Variables are lost to nobody when the host gives a freeze up before its answer comes: they are there after the next Wake.
#[test]
fn variables_of_a_cancelled_freeze_go_back() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    assert_eq!(change(&mut host, env(&[("A", "kept")]), &[]), Code::Ok);
    // The freeze waits for a command that does not get on with its start.
    let freeze = agent.cgroup().join("cgroup.freeze");
    std::fs::write(&freeze, "1").unwrap();
    let stuck = host.open(start("a", "true"));
    let freezing = host.open(withhold());
    host.send(Kind::Cancel, freezing, b"");
    assert_eq!(host.finish(freezing).code(), Code::Unavailable);
    assert_eq!(host.hello(), "frozen");
    assert_eq!(host.call(wake(true, env(&[]))).code(), Code::Ok);
    assert_eq!(names(&mut host), ["A"]);
    assert_eq!(host.exec("b", "echo $A").output(), "kept\n");
    host.send(Kind::Cancel, stuck, b"");
}

/// A guest is not frozen without its secrets while a command has some, or what that left behind; others do not matter.
#[test]
fn secrets_in_use_are_not_withheld() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    host.open(start("other", "exec sleep 1000"));
    let secrets = || env(&[("S", "secret")]);
    let background = ExecStart { background: true, ..with_secrets("a", "exec sleep 1000", secrets()) };
    assert_eq!(host.call(Call::ExecStart(background)).code(), Code::Ok);
    assert_eq!(host.call(withhold()).code(), Code::Busy);
    assert_eq!(host.hello(), "booted", "nothing was changed");
    assert_eq!(host.exec("b", "echo fine").output(), "fine\n");
    host.call(Call::ExecSignal(ExecSignal { exec_id: "a".into(), signal: 9 }));
    host.call(Call::ExecAttach(ExecAttach { exec_id: "a".into(), offset: 0, stdin: false }));

    let leaves = with_secrets("c", "setsid sleep 1000 > /dev/null 2>&1 & echo $!", secrets());
    let pid = host.call(Call::ExecStart(leaves)).output();
    assert_eq!(host.call(withhold()).code(), Code::Busy, "what it left has them");
    std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    eventually("it can be frozen", || host.call(withhold()).code() == Code::Ok);
    assert_eq!(host.hello(), "frozen");
}

/// Whoever kills a command can freeze at once, however many processes of it are still to go.
#[test]
fn killed_commands_are_awaited() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    for id in ["a", "b", "c"] {
        let command = "for i in $(seq 50); do sleep 1000 & done; echo begun; wait";
        let call = ExecStart { background: true, ..with_secrets(id, command, env(&[("S", "secret")])) };
        assert_eq!(host.call(Call::ExecStart(call)).code(), Code::Ok);
        assert_eq!(host.call(withhold()).code(), Code::Busy);
        host.call(Call::ExecSignal(ExecSignal { exec_id: id.into(), signal: 9 }));
        assert_eq!(host.call(withhold()).code(), Code::Ok);
        assert_eq!(host.call(wake(true, env(&[]))).code(), Code::Ok);
    }
}

/// A command that is given secrets and does not get on while it is started counts as well, and is started all the same.
#[test]
fn secrets_of_a_stuck_start_are_in_use() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let freeze = agent.cgroup().join("cgroup.freeze");
    std::fs::write(&freeze, "1").unwrap();
    let stuck = host.open(Call::ExecStart(with_secrets("a", "echo $S", env(&[("S", "secret")]))));
    assert_eq!(host.call(withhold()).code(), Code::Busy);
    std::fs::write(&freeze, "0").unwrap();
    assert_eq!(host.finish(stuck).output(), "secret\n");
}
