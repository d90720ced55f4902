//! Byte streams to programs of the guest that listen on a unix socket: what the host sends goes in, what they say
//! comes back, each direction under its own credit and closed by itself.
//!
//! One thread serves one stream. It waits for the socket and, by the call's bell, for the host.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    connect as connect_to, send, shutdown, socket_with, AddressFamily, SendFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::fault::{Code, Fault};
use crate::proto::{reply, Connect, Connected};
use crate::wire::call::{Call, Stop, CHUNK_BYTES};

/// Where programs listen: NAME.sock for each.
pub(crate) const DIRECTORY: &str = "/run/terp";
const MAX_NAME_BYTES: usize = 64;

/// Serves one stream to its end.
pub(crate) fn connect(directory: &Path, call: &Call, ask: &Connect) -> Result<(), Stop> {
    let program = reach(directory, &ask.name)?;
    call.reply(reply::Kind::Connected(Connected {}))?;
    let mut link = Link { call, program, up: Up::default(), down_open: true, buffer: vec![0; CHUNK_BYTES] };
    link.serve()
}

fn reach(directory: &Path, name: &str) -> Result<OwnedFd, Fault> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        return Err(Fault::invalid("name: must be 1 to 64 of [a-z0-9-]"));
    }
    let fault = |errno| match errno {
        // A socket whose program is gone, and what is no socket of this kind.
        Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR | Errno::NOTSOCK | Errno::PROTOTYPE => {
            Fault::new(Code::NotFound, format!("{name}: nobody listens"))
        }
        errno => Fault::os(errno, name),
    };
    // Non-blocking: a program that does not accept must not hold this thread.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fault)?;
    let address = SocketAddrUnix::new(directory.join(format!("{name}.sock"))).map_err(fault)?;
    loop {
        match connect_to(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Fault::exhausted(format!("{name}: does not accept connections"))),
            Err(errno) => return Err(fault(errno)),
        }
    }
}

/// What the host sent and the program has not taken. Bounded by the host's credit.
#[derive(Default)]
struct Up {
    queue: VecDeque<Vec<u8>>,
    /// Written bytes of the first piece.
    written: usize,
    /// The host has sent all.
    ended: bool,
    /// The program has been told so, or takes no more.
    closed: bool,
}

struct Link<'a> {
    call: &'a Call,
    program: OwnedFd,
    up: Up,
    /// The program may still say something.
    down_open: bool,
    buffer: Vec<u8>,
}

impl Link<'_> {
    fn serve(&mut self) -> Result<(), Stop> {
        let bell = self.call.bell()?;
        loop {
            bell.silence();
            if self.call.is_lost() {
                return Err(Stop::Lost);
            }
            let wants_out = self.feed()?;
            let wants_in = self.drain()?;
            if !self.down_open && self.up.closed {
                return Ok(());
            }
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::OUT, wants_out);
            wanted.set(PollFlags::IN, wants_in);
            let mut waits = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&self.program, wanted)];
            // With what it said still unread and no credit, its hang-up would be reported at once, again and again.
            let counted = if wanted.is_empty() && self.down_open { 1 } else { 2 };
            match poll(waits.get_mut(..counted).unwrap_or_default(), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Fault::os(errno, "cannot wait for a service").into()),
            }
            let hung_up = waits.get(1).is_some_and(|program| program.revents().contains(PollFlags::HUP));
            if hung_up && !self.down_open {
                return Ok(());
            }
        }
    }

    /// Gives the program what waits for it. True when there is more than it takes now.
    fn feed(&mut self) -> Result<bool, Stop> {
        let (pieces, ended) = self.call.take_inbound();
        let up = &mut self.up;
        up.queue.extend(pieces);
        up.ended = ended;
        let mut consumed = 0;
        let full = loop {
            let Some(piece) = up.queue.front() else { break false };
            let rest = piece.get(up.written..).unwrap_or_default();
            if up.closed {
                consumed += rest.len();
                up.queue.pop_front();
                up.written = 0;
                continue;
            }
            match send(&self.program, rest, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    consumed += count;
                    up.written += count;
                    if up.written >= piece.len() {
                        up.queue.pop_front();
                        up.written = 0;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break true,
                Err(_) => up.closed = true,
            }
        };
        if up.ended && up.queue.is_empty() && !up.closed {
            let _ = shutdown(&self.program, Shutdown::Write);
            up.closed = true;
        }
        self.call.consumed(consumed)?;
        Ok(full)
    }

    /// Passes on what the program says, as far as credit goes. True when there is credit for more.
    fn drain(&mut self) -> Result<bool, Stop> {
        while self.down_open {
            let granted = self.call.credit(CHUNK_BYTES)?;
            if granted == 0 {
                return Ok(false);
            }
            match rustix::io::read(&self.program, self.buffer.get_mut(..granted).unwrap_or_default()) {
                Ok(0) | Err(Errno::CONNRESET) => {
                    self.down_open = false;
                    self.call.data(&[])?;
                }
                Ok(count) => {
                    // Before it is sent: the host may give it back at once.
                    self.call.spend(count);
                    self.call.data(self.buffer.get(..count).unwrap_or_default())?;
                    if !self.up.queue.is_empty() || self.call.is_lost() {
                        return Ok(true);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(true),
                Err(errno) => return Err(Fault::os(errno, "cannot read from a service").into()),
            }
        }
        Ok(false)
    }
}
