//! The byte channel: a virtio-serial port in a machine, a listening unix socket elsewhere.
//!
//! A port reads 0 bytes and reports a hang-up for as long as the host is away, so a level-triggered wait would
//! spin; an edge-triggered one wakes when the host comes, goes or sends (`drivers/char/virtio_console.c` wakes
//! its queue in all three cases).

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What waiting on the channel brought.
pub(crate) enum Arrival {
    Bytes(usize),
    /// The host is gone, or another took its place.
    Closed,
}

pub(crate) struct Channel {
    listener: Option<UnixListener>,
    connection: Option<Arc<OwnedFd>>,
    epoll: OwnedFd,
    /// Bytes came since the last `Closed`, or a connection was made.
    open: bool,
}

impl Channel {
    /// Opens the character device at *path*, or listens on a unix socket there, replacing a stale one.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let kind = std::fs::symlink_metadata(path).map(|found| found.file_type());
        match kind {
            Ok(kind) if kind.is_char_device() => Self::port(path),
            Ok(kind) if kind.is_socket() => {
                std::fs::remove_file(path)?;
                Self::listen(path)
            }
            _ => Self::listen(path),
        }
    }

    fn port(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let port = Arc::new(rustix::fs::open(path, flags, Mode::empty())?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut channel = Self { listener: None, connection: None, epoll, open: false };
        channel.adopt(port)?;
        Ok(channel)
    }

    fn listen(path: &Path) -> std::io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self { listener: Some(listener), connection: None, epoll, open: false })
    }

    fn adopt(&mut self, connection: Arc<OwnedFd>) -> std::io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &connection, epoll::EventData::new_u64(1), flags)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Where to write to the host that sent the last bytes.
    pub(crate) fn connection(&self) -> Option<Arc<OwnedFd>> {
        self.connection.clone()
    }

    /// Waits for bytes or for the host to leave.
    ///
    /// # Errors
    /// The channel itself is broken (device unplugged): there is nothing left to serve.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<Arrival> {
        loop {
            if self.accept()? {
                return Ok(Arrival::Closed);
            }
            if let Some(connection) = &self.connection {
                match rustix::io::read(connection, &mut *buffer) {
                    Ok(0) => {
                        self.release();
                        if std::mem::take(&mut self.open) {
                            return Ok(Arrival::Closed);
                        }
                    }
                    Ok(count) => {
                        self.open = true;
                        return Ok(Arrival::Bytes(count));
                    }
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => {}
                    Err(error) if self.listener.is_none() => return Err(error.into()),
                    Err(_) => {
                        self.release();
                        self.open = false;
                        return Ok(Arrival::Closed);
                    }
                }
            }
            self.wait()?;
        }
    }

    /// Takes a waiting connection in place of the present one.
    fn accept(&mut self) -> std::io::Result<bool> {
        let Some(listener) = &self.listener else {
            return Ok(false);
        };
        let Ok((stream, _)) = listener.accept() else {
            return Ok(false);
        };
        stream.set_nonblocking(true)?;
        self.release();
        self.open = false;
        self.adopt(Arc::new(stream.into()))?;
        Ok(true)
    }

    /// Forgets a socket whose peer is gone. A port stays: the host comes back on it.
    fn release(&mut self) {
        if self.listener.is_some() {
            if let Some(old) = self.connection.take() {
                let _ = epoll::delete(&self.epoll, &old);
            }
        }
    }

    fn wait(&self) -> std::io::Result<()> {
        let mut events = Vec::with_capacity(2);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Finds the port that the host named *name*: without udev there is no link by that name.
pub(crate) fn find_port(name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let label = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if label.trim_end() == name {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}
