//! Terminals of commands: pseudo-terminals, of which we have the one end and the command the other as its own.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{ioctl_tiocgptpeer, unlockpt, OpenptFlags};
use rustix::termios::{tcgetattr, tcsetattr, tcsetwinsize, InputModes, OptionalActions, SpecialCodeIndex, Winsize};

use crate::fault::Fault;
use crate::proto::Pty;

/// Of columns and of rows (agent.proto).
const SIZES: std::ops::RangeInclusive<u32> = 1..=1000;
/// What a program is told of the terminal, where no other environment says it.
pub(crate) const TERM: (&str, &str) = ("TERM", "xterm-256color");
/// As typed with Ctrl-D.
const END_OF_TRANSMISSION: u8 = 4;

/// # Errors
/// INVALID: out of bounds.
pub(crate) fn check_size(size: Pty) -> Result<Winsize, Fault> {
    if !SIZES.contains(&size.cols) || !SIZES.contains(&size.rows) {
        return Err(Fault::invalid(format!(
            "pty: columns and rows must be {} to {}: {}, {}",
            SIZES.start(),
            SIZES.end(),
            size.cols,
            size.rows
        )));
    }
    let small = |count| u16::try_from(count).unwrap_or(u16::MAX);
    Ok(Winsize { ws_row: small(size.rows), ws_col: small(size.cols), ws_xpixel: 0, ws_ypixel: 0 })
}

/// A terminal of that size: our end, which never blocks, and the command's. *directory* has the device that makes them.
pub(crate) fn open(directory: &OwnedFd, size: Winsize) -> Result<(OwnedFd, OwnedFd), Fault> {
    try_open(directory, size).map_err(|errno| Fault::os(errno, "cannot make a terminal"))
}

fn try_open(directory: &OwnedFd, size: Winsize) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let ours = rustix::fs::openat(directory, "ptmx", flags, Mode::empty())?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut modes = tcgetattr(&theirs)?;
    // What is erased is a character, and not a byte of one.
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    tcsetwinsize(&ours, size)?;
    Ok((ours, theirs))
}

/// The foreground process group gets SIGWINCH.
pub(crate) fn resize(ours: impl AsFd, size: Winsize) -> Result<(), Fault> {
    tcsetwinsize(ours, size).map_err(|errno| Fault::os(errno, "cannot resize the terminal"))
}

/// The character that ends the input of who reads the terminal, as its programs have set it.
pub(crate) fn end_of_file(ours: impl AsFd) -> u8 {
    match tcgetattr(ours).map(|modes| modes.special_codes[SpecialCodeIndex::VEOF]) {
        // None is set.
        Ok(0) | Err(_) => END_OF_TRANSMISSION,
        Ok(code) => code,
    }
}
