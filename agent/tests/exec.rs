//! Execs, over a socket.
#![allow(clippy::unwrap_used)]

mod host;

use host::{eventually, is_alive, start, Agent, Outcome};
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, ExecAttach, ExecSignal, ExecStart, Freeze, Stats, Wake};
use terp_agent::wire::frame::Kind;

fn attach(id: &str, offset: u64) -> Call {
    Call::ExecAttach(ExecAttach { exec_id: id.to_owned(), offset, stdin: false })
}

fn signal(id: &str, signal: u32) -> Call {
    Call::ExecSignal(ExecSignal { exec_id: id.to_owned(), signal })
}

fn with_timeout(id: &str, command: &str, timeout_ms: u64) -> Call {
    Call::ExecStart(ExecStart { exec_id: id.into(), command: command.into(), timeout_ms, ..ExecStart::default() })
}

/// Output of both streams comes with offsets, then the exit code.
#[test]
fn output_and_exit_code_come_back() {
    let agent = Agent::start();
    let outcome = agent.connect().exec("a", "echo out; sleep 0.05; echo err >&2; exit 3");
    let spans: Vec<_> = outcome
        .replies
        .iter()
        .filter_map(|reply| match reply {
            reply::Kind::ExecOutput(output) => Some((output.stream, output.offset, output.data.as_slice())),
            _ => None,
        })
        .collect();
    assert_eq!(spans, [(0, 0, &b"out\n"[..]), (1, 4, b"err\n")]);
    assert_eq!(outcome.exited().exit_code, 3);
    assert_eq!(outcome.code(), Code::Ok);
}

/// A command runs in the default directory, with the environment of base and request, as its own session.
#[test]
fn commands_get_their_surroundings() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let env = [("GREETING".to_owned(), "hi".to_owned())].into();
    let command =
        "pwd; echo $GREETING $HOME; ps -o sid= -p $$ | tr -d ' '; echo $$; cat; grep SigBlk /proc/self/status"
            .to_owned();
    let outcome = host.call(Call::ExecStart(ExecStart { exec_id: "a".into(), command, env, ..ExecStart::default() }));
    let output = outcome.output();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..2], [&agent.path("work"), "hi /root"]);
    assert_eq!(lines[2], lines[3], "leader of its own session");
    assert_eq!(lines[4].split_whitespace().last(), Some("0000000000000000"), "no signal is blocked");
}

/// Wrong requests are told apart from failing commands.
#[test]
fn wrong_requests_are_refused() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let bad = ExecStart { exec_id: "a".into(), command: "true".into(), ..ExecStart::default() };
    for bad in [
        ExecStart { cwd: "/no/such/place".into(), ..bad.clone() },
        ExecStart { cwd: "relative".into(), ..bad.clone() },
        ExecStart { exec_id: "a b".into(), ..bad.clone() },
        ExecStart { exec_id: "x".repeat(65), ..bad.clone() },
        ExecStart { command: String::new(), ..bad.clone() },
        ExecStart { command: String::new(), argv: vec!["no-such-program".into()], ..bad.clone() },
        ExecStart { command: String::new(), argv: vec!["/etc/passwd".into()], ..bad.clone() },
        ExecStart { env: [("A=".to_owned(), String::new())].into(), ..bad },
    ] {
        assert_eq!(host.call(Call::ExecStart(bad.clone())).code(), Code::Invalid, "{bad:?}");
    }
    assert_eq!(host.exec("a", "no-such-program 2>/dev/null").exited().exit_code, 127);
    assert_eq!(host.exec("a", "true").code(), Code::Exists);
    assert_eq!(host.call(attach("b", 0)).code(), Code::NotFound);
    assert_eq!(host.call(signal("b", 15)).code(), Code::NotFound);
    assert_eq!(host.call(signal("a", 65)).code(), Code::Invalid);
    assert_eq!(host.call(signal("a", 15)).code(), Code::Ok, "it has exited already");
}

/// stdin goes through whole, however large, and its end is seen.
#[test]
fn stdin_flows_under_credit() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let stream = host.open(Call::ExecStart(ExecStart {
        exec_id: "a".into(),
        command: "sleep 0.05; wc -c".into(),
        stdin: true,
        ..ExecStart::default()
    }));
    let (mut credit, mut left) = (262_144usize, 2_000_000usize);
    while left > 0 {
        let piece = left.min(credit).min(65_536);
        if piece > 0 {
            host.send(Kind::Data, stream, &vec![b'x'; piece]);
            credit -= piece;
            left -= piece;
        } else if let (4, _, payload) = host.receive() {
            credit += u32::from_be_bytes(payload.try_into().unwrap()) as usize;
        }
    }
    host.send(Kind::Data, stream, &[]);
    assert_eq!(host.finish(stream).output().trim(), "2000000");
}

/// A command that never reads its stdin ends all the same, and one whose sender has left sees the end of it.
#[test]
fn stdin_never_blocks_an_exit() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let unread = ExecStart { exec_id: "a".into(), command: "true".into(), stdin: true, ..ExecStart::default() };
    assert_eq!(host.call_with(Call::ExecStart(unread.clone()), &[&vec![0; 60_000]]).exited().exit_code, 0);
    let cat = ExecStart { exec_id: "b".into(), command: "cat; echo over".into(), ..unread };
    let stream = host.open(Call::ExecStart(cat));
    host.receive();
    host.send(Kind::Cancel, stream, b"");
    assert_eq!(host.call(attach("b", 0)).output(), "over\n");
}

/// A reader that is behind holds the command back and misses nothing, though no ring is as large.
#[test]
fn a_slow_reader_gets_everything() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let done = agent.path("work/done");
    let stream = host.open(start("a", &format!("head -c 3000000 /dev/zero; touch {done}")));
    let mut outcome = Outcome::default();
    while outcome.output().len() < 1_000_000 {
        host.step(stream, &mut outcome);
        assert!(!std::path::Path::new(&done).exists(), "it is held back");
    }
    while !host.step(stream, &mut outcome) {}
    assert_eq!(outcome.output().len(), 3_000_000);
}

/// With nobody attached a command runs on, its oldest output is dropped, and a later host finds the rest.
#[test]
fn a_detached_command_runs_on() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let command =
        format!("read x < {0}; seq 300000; echo end; touch {1}", agent.path("work/go"), agent.path("work/done"));
    std::process::Command::new("mkfifo").arg(agent.path("work/go")).status().unwrap();
    let stream = host.open(start("a", &command));
    host.receive();
    host.send(Kind::Cancel, stream, b"");
    assert_eq!(host.finish(stream).code(), Code::Unavailable);
    std::fs::write(agent.path("work/go"), "\n").unwrap();
    eventually("it runs on", || std::path::Path::new(&agent.path("work/done")).exists());
    let outcome = host.call(attach("a", 0));
    let Some(reply::Kind::ExecOutput(first)) = outcome.replies.get(1) else { panic!("{outcome:?}") };
    assert!(first.offset > 0, "the oldest output is gone");
    assert!(outcome.output().ends_with("300000\nend\n"));
    let end = first.offset + outcome.output().len() as u64;
    assert_eq!(host.call(attach("a", end - 4)).output(), "end\n");
    assert_eq!(host.call(attach("a", end)).exited().exit_code, 0);
}

fn escape_artist(agent: &Agent) -> String {
    let pids = agent.path("work/pids");
    format!("trap '' TERM; (setsid sh -c 'trap \"\" TERM; (sleep 1000 & echo $! >> {pids}; wait) & wait' &) ; sleep 1000 & echo $! >> {pids}; wait; sleep 1000")
}

fn pids(agent: &Agent) -> Vec<String> {
    let text = std::fs::read_to_string(agent.path("work/pids")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn timeout_kills_everything(agent: &Agent) {
    let mut host = agent.connect();
    let stream = host.open(with_timeout("a", &escape_artist(agent), 500));
    eventually("both children run", || pids(agent).len() == 2);
    let exited = host.finish(stream).exited();
    assert!(exited.timed_out);
    assert_eq!((exited.exit_code, exited.signal), (137, 9));
    eventually("nobody is left", || !pids(agent).iter().any(|pid| is_alive(pid)));
}

/// A timeout ends everything the command started, also what forked twice, took a new session and ignores SIGTERM.
#[test]
fn a_timeout_leaves_nobody_behind() {
    timeout_kills_everything(&Agent::start());
}

/// The same by cgroup, and what runs next is not hit.
#[test]
fn a_timeout_kills_the_cgroup_and_only_that() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    timeout_kills_everything(&agent);
    let mut host = agent.connect();
    for id in ["b", "c", "d"] {
        assert_eq!(host.exec(id, "echo fine").output(), "fine\n");
    }
}

/// What a command leaves behind and writes without end does not keep it from having ended, however slowly it is read.
#[test]
fn a_flood_does_not_outlive_its_command() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let stream = host.open(start("a", "yes & exit 3"));
    let mut outcome = Outcome::default();
    while !host.step(stream, &mut outcome) {
        assert!(outcome.replies.len() < 2000, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(outcome.exited().exit_code, 3);
}

/// A command that does not get on while it is started holds up nobody else, and can be signalled.
#[test]
fn a_stuck_start_holds_nobody_up() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    assert_eq!(host.exec("a", "true").exited().exit_code, 0);
    let freeze = agent.cgroup().join("cgroup.freeze");
    let events = agent.cgroup().join("cgroup.events");
    let born = || std::fs::read_to_string(&events).unwrap().contains("populated 1");
    std::fs::write(&freeze, "1").unwrap();
    let stuck = host.open(start("b", "sleep 1000"));
    eventually("it is born", born);
    assert_eq!(host.hello(), "booted");
    assert_eq!(host.call(signal("a", 15)).code(), Code::Ok);
    assert_eq!(host.call(signal("b", 10)).code(), Code::Ok);
    assert_eq!(host.call(start("b", "true")).code(), Code::Exists);
    assert_eq!(host.call(Call::Stats(Stats {})).code(), Code::Ok);
    std::fs::write(&freeze, "0").unwrap();
    assert_eq!(host.finish(stuck).exited().signal, 10, "it comes when the command runs");
    std::fs::write(&freeze, "1").unwrap();
    let stuck = host.open(start("c", "echo never"));
    eventually("it is born", born);
    assert_eq!(host.call(signal("c", 9)).code(), Code::Ok);
    assert_eq!(host.finish(stuck).exited().signal, 9, "this one does not wait");
}

/// Cgroups that a user removed or spoilt are not used again.
#[test]
fn spoilt_cgroups_are_replaced() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let first = agent.cgroup().join("exec-1");
    assert_eq!(host.exec("a", "true").exited().exit_code, 0);
    eventually("it is empty", || std::fs::remove_dir(&first).is_ok());
    assert_eq!(host.exec("b", "echo fine").output(), "fine\n");
    assert_eq!(host.exec("c", "echo fine").output(), "fine\n");
}

/// The default directory is there again when a command removed it.
#[test]
fn the_default_directory_is_made_again() {
    let agent = Agent::start();
    let mut host = agent.connect();
    assert_eq!(host.exec("a", "cd /; rmdir $OLDPWD").exited().exit_code, 0);
    assert_eq!(host.exec("b", "pwd; cd /; rmdir $PWD/$OLDPWD").output().trim(), agent.path("work"));
    let cwd = agent.path("work");
    let named = ExecStart { exec_id: "c".into(), command: "pwd".into(), cwd: cwd.clone(), ..ExecStart::default() };
    assert_eq!(host.call(Call::ExecStart(named)).output().trim(), cwd);
}

/// Signals reach the process group; 9 everything.
#[test]
fn signals_reach_the_group() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let stream = host.open(start("a", "trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.01; done"));
    let mut outcome = Outcome::default();
    while outcome.output().is_empty() {
        host.step(stream, &mut outcome);
    }
    host.open(signal("a", 10));
    while !host.step(stream, &mut outcome) {}
    assert!(outcome.output().ends_with("got it\n"), "{}", outcome.output());
    assert_eq!(outcome.exited().exit_code, 7);

    let mut host = agent.connect();
    host.open(start("b", &escape_artist(&agent)));
    eventually("both children run", || pids(&agent).len() == 2);
    let mut other = agent.connect();
    assert_eq!(other.call(signal("b", 9)).code(), Code::Ok);
    assert_eq!(other.call(attach("b", 0)).exited().signal, 9);
    eventually("nobody is left", || !pids(&agent).iter().any(|pid| is_alive(pid)));
}

/// What a command leaves in the background is hung up on; nohup and setsid mean what they say. The command's
/// end does not wait for them though they hold its output open.
#[test]
fn daemons_live_on() {
    for agent in [Some(Agent::start()), Agent::start_with_cgroup()].into_iter().flatten() {
        let mut host = agent.connect();
        let outcome = host.exec(
            "a",
            "sleep 1000 & echo $!; nohup sleep 1000 2>/dev/null & echo $!; setsid sleep 1000 & echo $!; sleep 0.1",
        );
        let output = outcome.output();
        let pids: Vec<_> = output.lines().collect();
        assert_eq!(outcome.exited().exit_code, 0);
        eventually("the plain one is gone", || !is_alive(pids[0]));
        assert!(is_alive(pids[1]) && is_alive(pids[2]));
        for pid in &pids[1..] {
            std::process::Command::new("kill").arg(pid).status().unwrap();
        }
    }
}

/// Orphans are reaped: no zombie stays with the agent.
#[test]
fn orphans_are_reaped() {
    let agent = Agent::start();
    let mut host = agent.connect();
    assert_eq!(host.exec("a", "for i in $(seq 300); do (setsid true &) ; done").exited().exit_code, 0);
    let children = format!("/proc/{0}/task/{0}/children", agent.pid());
    eventually("all are reaped", || std::fs::read_to_string(&children).unwrap().is_empty());
}

/// Many commands at once all come back, and only 64 of them are remembered.
#[test]
fn many_commands_run_at_once() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let streams: Vec<_> =
        (0..100).map(|index| host.open(start(&format!("e{index}"), &format!("echo {index}")))).collect();
    let mut outcomes: Vec<_> = streams.iter().map(|_| Outcome::default()).collect();
    let mut open = streams.len();
    while open > 0 {
        let (kind, stream, payload) = host.receive();
        let outcome = &mut outcomes[stream as usize - 1];
        match kind {
            2 => outcome.replies.extend(<terp_agent::proto::Reply as prost::Message>::decode(&*payload).unwrap().kind),
            5 => open -= 1,
            _ => {}
        }
    }
    for (index, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.output(), format!("{index}\n"));
    }
    eventually("old ones are forgotten", || {
        (0..100).filter(|index| host.call(attach(&format!("e{index}"), 0)).code() == Code::Ok).count() <= 64
    });
}

/// Freeze stops user processes and refuses new ones; Wake lets them run with the new environment.
#[test]
fn freeze_and_wake() {
    let Some(agent) = Agent::start_with_cgroup() else { return };
    let mut host = agent.connect();
    let ticks = agent.path("work/ticks");
    host.open(start("a", &format!("while :; do echo >> {ticks}; sleep 0.01; done")));
    let count = || std::fs::metadata(&ticks).map_or(0, |found| found.len());
    eventually("it ticks", || count() > 3);

    let mut host = agent.connect();
    assert_eq!(host.call(Call::Freeze(Freeze::default())).code(), Code::Ok);
    assert_eq!(host.hello(), "frozen");
    let frozen_at = count();
    assert_eq!(host.exec("b", "true").code(), Code::Unavailable);
    assert_eq!(host.call(signal("a", 9)).code(), Code::Unavailable);
    let wake = Wake {
        entropy: vec![7; 32],
        unix_time_ns: 1,
        env: [("S".to_owned(), "1".to_owned())].into(),
        ..Wake::default()
    };
    assert_eq!(host.call(Call::Wake(Wake { entropy: vec![7; 31], ..wake.clone() })).code(), Code::Invalid);
    assert_eq!(host.hello(), "frozen", "a refused Wake thaws nothing");
    assert_eq!(count(), frozen_at);

    assert_eq!(host.call(Call::Wake(wake.clone())).code(), Code::Ok);
    assert_eq!(host.hello(), "awake");
    eventually("it ticks again", || count() > frozen_at);
    assert_eq!(host.exec("b", "echo $S").output(), "1\n");
    assert_eq!(host.call(Call::Wake(Wake { env: [].into(), ..wake })).code(), Code::Ok);
    assert_eq!(host.exec("c", "echo $S").output(), "\n", "a later Wake replaces the environment");
}
