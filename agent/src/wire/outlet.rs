//! The way out: one writer at a time writes whole frames, and none of an earlier session.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{epoll, eventfd, EventfdFlags};
use rustix::io::Errno;

use crate::sync::lock;
use crate::wire::frame::PREFACE_BYTES;

/// The session a frame belongs to is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionOver;

struct Target {
    connection: Arc<OwnedFd>,
    /// Edge-triggered: a port whose host is away reports a hang-up at every level-triggered look.
    epoll: OwnedFd,
}

pub(crate) struct Outlet {
    /// The session that may write; 0 is none. Changed before the lock is taken, so that a writer that waits
    /// inside it notices and leaves, perhaps in the middle of a frame (the host skips to our preface).
    session: AtomicU64,
    changed: OwnedFd,
    target: Mutex<Option<Target>>,
}

impl Outlet {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            session: AtomicU64::new(0),
            changed: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            target: Mutex::new(None),
        })
    }

    /// Ends the session that was and answers *preface* in the name of *session*.
    pub(crate) fn begin(
        &self,
        session: u64,
        connection: Arc<OwnedFd>,
        preface: &[u8; PREFACE_BYTES],
    ) -> Result<(), SessionOver> {
        let mut guard = self.replace(session);
        if guard.as_ref().is_none_or(|target| !Arc::ptr_eq(&target.connection, &connection)) {
            *guard = Some(self.prepare(connection).map_err(|_| SessionOver)?);
        }
        self.write(&mut guard, session, preface)
    }

    /// Ends the session that was: its writers stop, also one that waits for the host to read.
    pub(crate) fn end(&self) {
        drop(self.replace(0));
    }

    /// Writes one whole frame of *session*, waiting for the host to read.
    pub(crate) fn send(&self, session: u64, frame: &[u8]) -> Result<(), SessionOver> {
        let mut guard = lock(&self.target);
        self.write(&mut guard, session, frame)
    }

    /// As `send`, unless *stop* holds when its turn has come: then nothing is written, and the result is false. So what
    /// is sent after *stop* was set is the last, whoever waits meanwhile.
    pub(crate) fn send_unless(&self, stop: &AtomicBool, session: u64, frame: &[u8]) -> Result<bool, SessionOver> {
        let mut guard = lock(&self.target);
        if stop.load(Ordering::SeqCst) {
            return Ok(false);
        }
        self.write(&mut guard, session, frame).map(|()| true)
    }

    fn replace(&self, session: u64) -> MutexGuard<'_, Option<Target>> {
        self.session.store(session, Ordering::SeqCst);
        let _ = rustix::io::write(&self.changed, &1u64.to_ne_bytes());
        let guard = lock(&self.target);
        let _ = rustix::io::read(&self.changed, &mut [0; 8]);
        guard
    }

    fn prepare(&self, connection: Arc<OwnedFd>) -> Result<Target, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let writable = epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&epoll, &connection, epoll::EventData::new_u64(0), writable)?;
        epoll::add(&epoll, &self.changed, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
        Ok(Target { connection, epoll })
    }

    fn write(&self, target: &mut Option<Target>, session: u64, mut bytes: &[u8]) -> Result<(), SessionOver> {
        while !bytes.is_empty() {
            if self.session.load(Ordering::SeqCst) != session {
                return Err(SessionOver);
            }
            let Some(Target { connection, epoll }) = target else {
                return Err(SessionOver);
            };
            match rustix::io::write(&*connection, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut events = Vec::with_capacity(2);
                    let _ = epoll::wait(&*epoll, rustix::buffer::spare_capacity(&mut events), None);
                }
                Err(_) => {
                    // Half a frame may be out: nothing more may follow it.
                    *target = None;
                    return Err(SessionOver);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::MAGIC;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    const PREFACE: [u8; PREFACE_BYTES] = {
        let mut preface = [7; PREFACE_BYTES];
        preface.first_chunk_mut::<16>().unwrap().copy_from_slice(&MAGIC);
        preface
    };

    /// A writer that waits for a host that does not read leaves when a new session begins, and what it still
    /// had does not follow the new preface.
    #[test]
    fn a_new_session_drops_waiting_writers() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let connection: Arc<OwnedFd> = Arc::new(ours.into());
        let outlet = Arc::new(Outlet::new().unwrap());
        outlet.begin(1, connection.clone(), &[1; PREFACE_BYTES]).unwrap();
        let (left, leaving) = std::sync::mpsc::channel();
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let (outlet, left) = (outlet.clone(), left.clone());
                std::thread::spawn(move || {
                    while outlet.send(1, &vec![0xAA; 50_000]).is_ok() {}
                    left.send(()).unwrap();
                })
            })
            .collect();
        let successor = {
            let outlet = outlet.clone();
            std::thread::spawn(move || {
                outlet.begin(2, connection, &PREFACE).unwrap();
                outlet.send(2, b"new").unwrap();
            })
        };
        // The one that was in the middle of a frame; the others may get their turn only behind the new preface.
        leaving.recv().unwrap();
        let mut seen = Vec::new();
        let mut buffer = vec![0; 65_536];
        while !seen.ends_with(b"new") {
            let count = theirs.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..count]);
        }
        for thread in writers.into_iter().chain([successor]) {
            thread.join().unwrap();
        }
        let preface = seen.windows(PREFACE_BYTES).position(|window| window == PREFACE).unwrap();
        assert_eq!(&seen[preface + PREFACE_BYTES..], b"new");
        assert_eq!(outlet.send(1, b"old"), Err(SessionOver));
    }
}
