//! What went wrong, as the caller is told: a code to act on and a text for the log.

use std::fmt;
use std::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The file system has no room.
    DiskFull,
    /// The image is not what was saved, or key or context are others.
    Damaged,
    /// The machine's process has ended.
    Gone,
    /// The request cannot be: options, a process that does not map the base as it must.
    Invalid,
    /// Anything else of the host.
    Failed,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::Damaged => "damaged",
            Self::Gone => "gone",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug)]
pub struct Fault {
    pub code: Code,
    pub detail: String,
}

impl Fault {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { code, detail }
    }

    pub fn damaged(detail: impl Into<String>) -> Self {
        Self::new(Code::Damaged, detail)
    }

    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::Invalid, detail)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code.name(), self.detail)
    }
}

/// Names the step that a failure of the system belongs to.
pub trait Step<T> {
    /// # Errors
    /// What `self` failed with, named, with the code that its error number stands for.
    fn step(self, step: &str) -> Result<T, Fault>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str) -> Result<T, Fault> {
        self.map_err(|source| {
            let code = match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Code::DiskFull,
                Some(libc::ESRCH) => Code::Gone,
                _ => Code::Failed,
            };
            Fault::new(code, format!("{step}: {source}"))
        })
    }
}
