//! Why a call failed, as the host is told.

use rustix::io::Errno;

pub(crate) use crate::proto::status::Code;
use crate::proto::Status;

/// Longest message of a `Status`, in bytes (agent.proto).
const MAX_MESSAGE: usize = 1024;

/// A failed call: a stable code and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self::new(Code::Exhausted, message)
    }

    /// What the kernel answered while doing *what*.
    pub(crate) fn os(errno: Errno, what: &str) -> Self {
        Self::new(code_of(errno), format!("{what}: {}", text_of(errno)))
    }

    pub(crate) fn io(error: &std::io::Error, what: &str) -> Self {
        match Errno::from_io_error(error) {
            Some(errno) => Self::os(errno, what),
            None => Self::new(Code::Internal, format!("{what}: {error}")),
        }
    }

    /// The END payload; the message is cut at a character boundary.
    pub(crate) fn into_status(mut self) -> Status {
        if self.message.len() > MAX_MESSAGE {
            let mut end = MAX_MESSAGE;
            while !self.message.is_char_boundary(end) {
                end -= 1;
            }
            self.message.truncate(end);
        }
        Status { code: self.code.into(), message: self.message }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn code_of(errno: Errno) -> Code {
    match errno {
        Errno::NOENT | Errno::SRCH => Code::NotFound,
        Errno::EXIST => Code::Exists,
        // A mount point in the way (BUSY, XDEV) is a thing this caller may not touch.
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::BUSY | Errno::XDEV => Code::NotPermitted,
        Errno::ISDIR => Code::IsDirectory,
        Errno::NOTDIR => Code::NotDirectory,
        Errno::NOTEMPTY => Code::NotEmpty,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Code::NoSpace,
        Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::AGAIN => Code::Exhausted,
        Errno::INVAL | Errno::LOOP | Errno::NAMETOOLONG | Errno::TOOBIG | Errno::NOEXEC => Code::Invalid,
        _ => Code::Internal,
    }
}

/// The kernel's words for the errors users meet; the number for the rest, which keeps the C library's table out.
fn text_of(errno: Errno) -> String {
    let text = match errno {
        Errno::NOENT => "no such file or directory",
        Errno::EXIST => "exists already",
        Errno::ACCESS | Errno::PERM => "not permitted",
        Errno::ROFS => "read-only file system",
        Errno::BUSY | Errno::XDEV => "a mount point is in the way",
        Errno::ISDIR => "is a directory",
        Errno::NOTDIR => "not a directory",
        Errno::NOTEMPTY => "directory not empty",
        Errno::NOSPC | Errno::DQUOT => "no space left",
        Errno::FBIG => "file too large",
        Errno::NOMEM => "out of memory",
        Errno::MFILE | Errno::NFILE => "too many open files",
        Errno::AGAIN => "out of processes",
        Errno::LOOP => "too many symbolic links",
        Errno::NAMETOOLONG => "name too long",
        Errno::TOOBIG => "arguments and environment too long",
        Errno::NOEXEC => "not an executable",
        _ => return format!("error {}", errno.raw_os_error()),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status message keeps to the wire's bound and stays UTF-8.
    #[test]
    fn long_messages_are_cut_at_a_character() {
        let status = Fault::invalid("é".repeat(900)).into_status();
        assert_eq!(status.message.len(), 1024);
        let status = Fault::invalid("x".to_owned() + &"é".repeat(900)).into_status();
        assert_eq!(status.message.len(), 1023);
    }
}
