//! The host's end of the wire, as small as tests can use: an agent process off PID 1 and a blocking client.
#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use prost::Message;
use terp_agent::proto::request::Call;
use terp_agent::proto::status::Code;
use terp_agent::proto::{reply, ExecExited, ExecStart, Hello, Reply, Request, Status};
use terp_agent::wire::frame::{encode, Kind, HEADER_BYTES, MAGIC};

/// Nothing here takes this long; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Agent {
    process: Child,
    pub directory: tempfile::TempDir,
    cgroup: Option<PathBuf>,
}

impl Agent {
    /// Kills process trees, as where there is no cgroup.
    pub fn start() -> Self {
        Self::launch(None)
    }

    /// With a cgroup2 directory of its own; None where this machine gives us none.
    pub fn start_with_cgroup() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let base = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let path = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })?;
        let base = base.join(format!("terp-agent-test-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::create_dir(&base).ok()?;
        Some(Self::launch(Some(base)))
    }

    fn launch(cgroup: Option<PathBuf>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_terp-agent"));
        command.arg("--channel").arg(directory.path().join("channel"));
        for name in ["work", "other"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            command.arg("--write-root").arg(directory.path().join(name));
        }
        command.arg("--services").arg(directory.path());
        if let Some(cgroup) = &cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        Self { process: command.spawn().unwrap(), directory, cgroup }
    }

    /// Of its commands; only with `start_with_cgroup`.
    pub fn cgroup(&self) -> &std::path::Path {
        self.cgroup.as_deref().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// A connection with no preface sent.
    pub fn connect_raw(&self) -> Host {
        let mut stream = None;
        eventually("the agent listens", || {
            stream = UnixStream::connect(self.directory.path().join("channel")).ok();
            stream.is_some()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Host { stream, newest: 0 }
    }

    pub fn connect(&self) -> Host {
        let mut host = self.connect_raw();
        host.begin(1);
        host
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = std::fs::write(cgroup.join("cgroup.freeze"), "0");
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(cgroup) = &self.cgroup {
            // The killed take a moment to go, and a cgroup stays as long as they do.
            let deadline = Instant::now() + PATIENCE;
            while cgroup.exists() && Instant::now() < deadline {
                for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(entry.path());
                }
                let _ = std::fs::remove_dir(cgroup);
            }
        }
    }
}

/// What a call brought.
#[derive(Debug, Default)]
pub struct Outcome {
    pub replies: Vec<reply::Kind>,
    pub data: Vec<u8>,
    pub status: Status,
}

impl Outcome {
    pub fn code(&self) -> Code {
        self.status.code()
    }

    /// stdout and stderr together, as they came.
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        for reply in &self.replies {
            if let reply::Kind::ExecOutput(output) = reply {
                bytes.extend_from_slice(&output.data);
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    pub fn exited(&self) -> ExecExited {
        match self.replies.last() {
            Some(reply::Kind::ExecExited(exited)) => *exited,
            other => panic!("no exit: {other:?}, {:?}", self.status),
        }
    }
}

pub struct Host {
    pub stream: UnixStream,
    pub newest: u32,
}

impl Host {
    /// Sends a preface and skips what comes before its answer.
    pub fn begin(&mut self, nonce: u8) {
        let preface = [&MAGIC[..], &[nonce; 16]].concat();
        self.stream.write_all(&preface).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(&preface) {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        self.newest = 0;
    }

    pub fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let frame = encode(kind, stream, |out| out.extend_from_slice(payload));
        self.stream.write_all(&frame).unwrap();
    }

    /// The next frame: type, stream, payload.
    pub fn receive(&mut self) -> (u8, u32, Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
        let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).unwrap();
        (header[8], stream, payload)
    }

    /// The connection is closed or stays silent: nothing but the end of it comes.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    pub fn open(&mut self, call: Call) -> u32 {
        self.newest += 1;
        let request = Request { call: Some(call) }.encode_to_vec();
        self.send(Kind::Open, self.newest, &request);
        self.newest
    }

    /// Receives until the stream ends, giving credit for all that comes.
    pub fn finish(&mut self, stream: u32) -> Outcome {
        let mut outcome = Outcome::default();
        while !self.step(stream, &mut outcome) {}
        outcome
    }

    /// One frame of the stream. True at its end.
    pub fn step(&mut self, stream: u32, outcome: &mut Outcome) -> bool {
        self.receive_into(stream, outcome) == (5, stream)
    }

    fn keep(&mut self, stream: u32, kind: u8, payload: &[u8], outcome: &mut Outcome) {
        let mut used = 0;
        match kind {
            2 => {
                let reply = Reply::decode(payload).unwrap().kind.unwrap();
                if let reply::Kind::ExecOutput(output) = &reply {
                    used = output.data.len();
                }
                outcome.replies.push(reply);
            }
            3 => {
                used = payload.len();
                outcome.data.extend_from_slice(payload);
            }
            4 => {}
            5 => outcome.status = Status::decode(payload).unwrap(),
            other => panic!("unexpected frame type {other}"),
        }
        if used > 0 {
            self.send(Kind::Credit, stream, &u32::try_from(used).unwrap().to_be_bytes());
        }
    }

    /// Keeps a frame that `receive` gave, if it is of the stream, with credit for it. True at the stream's end.
    pub fn keep_frame(&mut self, stream: u32, kind: u8, payload: &[u8], outcome: &mut Outcome) -> bool {
        self.keep(stream, kind, payload, outcome);
        kind == 5
    }

    /// One frame; a reply of the stream is kept, and no credit given for it. Returns whose it was.
    pub fn receive_quietly(&mut self, stream: u32, outcome: &mut Outcome) -> u32 {
        let (kind, from, payload) = self.receive();
        if (kind, from) == (2, stream) {
            outcome.replies.extend(Reply::decode(&*payload).unwrap().kind);
        }
        from
    }

    /// One frame, kept if it is of the stream. Returns its type and stream.
    pub fn receive_into(&mut self, stream: u32, outcome: &mut Outcome) -> (u8, u32) {
        let (kind, from, payload) = self.receive();
        if from == stream {
            self.keep(stream, kind, &payload, outcome);
        }
        (kind, from)
    }

    pub fn call(&mut self, call: Call) -> Outcome {
        let stream = self.open(call);
        self.finish(stream)
    }

    /// A call with data of at most the initial credit.
    pub fn call_with(&mut self, call: Call, data: &[&[u8]]) -> Outcome {
        let stream = self.open(call);
        for piece in data {
            self.send(Kind::Data, stream, piece);
        }
        self.send(Kind::Data, stream, &[]);
        self.finish(stream)
    }

    pub fn hello(&mut self) -> String {
        match self.call(Call::Hello(Hello { wire_version: 1 })).replies.pop() {
            Some(reply::Kind::Hello(hello)) => hello.state,
            other => panic!("no hello: {other:?}"),
        }
    }

    pub fn exec(&mut self, id: &str, command: &str) -> Outcome {
        self.call(start(id, command))
    }
}

pub fn start(id: &str, command: &str) -> Call {
    Call::ExecStart(ExecStart { exec_id: id.to_owned(), command: command.to_owned(), ..ExecStart::default() })
}

/// Waits until *holds*.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process exists and is no zombie.
pub fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}
