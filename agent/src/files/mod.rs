//! Files for the host: reads anywhere, changes only below the write roots (`place` enforces it).

pub(crate) mod archive;
pub(crate) mod change;
mod events;
pub(crate) mod extract;
mod inflow;
pub(crate) mod list;
pub(crate) mod place;
pub(crate) mod read;
mod tar;
pub(crate) mod watch;
pub(crate) mod write;

pub(crate) use place::{WriteRoots, MADE_ROOTS};

use crate::fault::Fault;

/// `PATH_MAX` of Linux.
const MAX_PATH_BYTES: usize = 4096;

/// # Errors
/// INVALID: not absolute, too long or with a NUL in it.
fn check_path(path: &str) -> Result<&str, Fault> {
    if !path.starts_with('/') || path.len() >= MAX_PATH_BYTES || path.contains('\0') {
        return Err(Fault::invalid("path: must be absolute, shorter than 4096 bytes and without NUL"));
    }
    Ok(path)
}

/// Parent and last component.
///
/// # Errors
/// INVALID: the last component is no name.
fn split(path: &str) -> Result<(&str, &str), Fault> {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((_, "" | "." | "..")) | None => Err(Fault::invalid(format!("path: does not end in a name: {path}"))),
        Some(("", name)) => Ok(("/", name)),
        Some(parts) => Ok(parts),
    }
}
