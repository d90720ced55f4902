//! What is to be told of changes, until the host has credit for it: bounded, and OVERFLOW for what was too much.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::files::write::TEMPORARY_PREFIX;
use crate::proto::file_event::Kind;
use crate::proto::{reply, FileEvent};
use crate::wire::call::{Call, Stop};

/// Events kept for a host that is behind.
pub(crate) const MAX_QUEUE: usize = 2048;
/// What each event costs of the stream's credit besides its paths (agent.proto).
const EVENT_CREDIT: usize = 256;

pub(crate) struct Events {
    /// The one name in the directory that counts.
    pub(crate) only: Option<OsString>,
    queue: VecDeque<FileEvent>,
}

impl Events {
    pub(crate) fn new(only: Option<OsString>) -> Self {
        Self { only, queue: VecDeque::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn tell(&mut self, kind: Kind, path: &Path, is_dir: bool, from: Option<&Path>) {
        let counts = |path: &Path| self.only.is_none() || path.file_name() == self.only.as_deref();
        if kind != Kind::Ready && (is_temporary(path) || !counts(path)) {
            // The one file that counts has got another name.
            if let Some(from) = from.filter(|from| self.only.is_some() && counts(from)) {
                self.tell(Kind::Removed, from, is_dir, None);
            }
            return;
        }
        let event = FileEvent {
            kind: kind.into(),
            path: path.to_string_lossy().into_owned(),
            moved_from: from.map(|from| from.to_string_lossy().into_owned()).unwrap_or_default(),
            is_dir,
        };
        // A program that writes in small pieces changes its file all the time.
        if kind == Kind::Modified && self.queue.back() == Some(&event) {
            return;
        }
        if self.queue.len() >= MAX_QUEUE {
            return self.overflow();
        }
        self.queue.push_back(event);
    }

    /// All that is not told yet is replaced by saying that there was more.
    pub(crate) fn overflow(&mut self) {
        self.queue.retain(|event| event.kind() == Kind::Ready);
        self.queue.push_back(FileEvent { kind: Kind::Overflow.into(), ..FileEvent::default() });
    }

    /// Sends as far as credit goes.
    pub(crate) fn send(&mut self, call: &Call) -> Result<(), Stop> {
        while let Some(event) = self.queue.front() {
            let cost = EVENT_CREDIT + event.path.len() + event.moved_from.len();
            if call.credit(cost)? < cost {
                return Ok(());
            }
            // Before it is sent: the host may give it back at once.
            call.spend(cost);
            if let Some(event) = self.queue.pop_front() {
                call.reply(reply::Kind::FileEvent(event))?;
            }
        }
        Ok(())
    }
}

/// What `write` makes a file from.
pub(crate) fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()))
}
