//! Certificates that this sandbox trusts besides those of its template: of the host's gateway, which puts credentials
//! into what the sandbox sends.
//!
//! They go to the end of the system's bundle, which is what curl, git, OpenSSL's and Go's programs read and where the
//! template's environment sends Python's and Node's; and to where `update-ca-certificates` finds them again.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::log;
use crate::wake::{is_on_disk, replace_text};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const SOURCE: &str = "/usr/local/share/ca-certificates/terp-sandbox.crt";
/// Around what is ours, in both files. Readers of PEM skip what is outside of certificates.
const BEGIN: &str = "\n# Certificates of this sandbox alone, by Terp\n";
const END: &str = "# End of the certificates by Terp\n";
/// Debian's bundle has 220 KiB. A larger one is a user's, and not read into memory.
const MAX_BUNDLE_BYTES: u64 = 4 << 20;

/// Makes programs trust *pem*, and nothing that an earlier call brought; with an empty one, only the latter.
///
/// What a user did to these files may be in the way. Then connections that need a credential fail, and nothing else
/// does: it is logged and no error.
///
/// # Arguments
/// *before*: whether there was an earlier call.
pub(crate) fn replace(pem: &[u8], before: bool) {
    for (what, outcome) in [
        ("certificates for update-ca-certificates", put_source(Path::new(SOURCE), pem)),
        ("the bundle of certificates", put_in_bundle(Path::new(BUNDLE), pem, before)),
    ] {
        if let Err(error) = outcome {
            log::line(&format!("{what}: {error}"));
        }
    }
}

fn put_source(path: &Path, pem: &[u8]) -> std::io::Result<()> {
    check_place(path)?;
    if pem.is_empty() {
        return match rustix::fs::unlink(path) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
    }
    Ok(replace_text(path, &block(pem))?)
}

fn put_in_bundle(path: &Path, pem: &[u8], before: bool) -> std::io::Result<()> {
    check_place(path)?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() || found.len() > MAX_BUNDLE_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, "no plain file of at most 4 MiB"));
    }
    let (mut at, mut tail) = (found.len(), Vec::new());
    if before {
        let mut content = Vec::new();
        (&file).take(MAX_BUNDLE_BYTES).read_to_end(&mut content)?;
        if let Some(first) = position(&content, BEGIN.as_bytes()) {
            tail = without_ours(content.split_off(first));
            at = first as u64;
        }
    }
    if !pem.is_empty() {
        tail.extend(block(pem));
    }
    // In place: a full disk is no matter where the length stays. User processes stand still meanwhile.
    file.write_all_at(&tail, at)?;
    let length = at + tail.len() as u64;
    if length < found.len() {
        file.set_len(length)?;
    }
    Ok(())
}

fn block(pem: &[u8]) -> Vec<u8> {
    let newline: &[u8] = if pem.ends_with(b"\n") { b"" } else { b"\n" };
    [BEGIN.as_bytes(), pem, newline, END.as_bytes()].concat()
}

/// *content* without our blocks. One without an end, cut by a full disk, reaches to the end of the file.
fn without_ours(mut content: Vec<u8>) -> Vec<u8> {
    while let Some(first) = position(&content, BEGIN.as_bytes()) {
        let length = content.get(first..).and_then(|rest| position(rest, END.as_bytes()));
        let last = length.map_or(content.len(), |length| first + length + END.len());
        content.drain(first..last);
    }
    content
}

fn position(content: &[u8], text: &[u8]) -> Option<usize> {
    content.windows(text.len()).position(|window| window == text)
}

/// A user may have mounted something there whose server stands still now, and would be waited for.
fn check_place(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if is_on_disk(parent) => Ok(()),
        _ => Err(Error::new(ErrorKind::NotFound, "its directory is not on the disk")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What another certificate was put in place of is gone, and what others wrote is kept.
    #[test]
    fn certificates_are_replaced() {
        let first = [b"SYSTEM\n".as_slice(), &block(b"ONE")].concat();
        let user = [first.as_slice(), b"USER\n"].concat();
        let begin = position(&user, BEGIN.as_bytes()).unwrap();
        assert_eq!(without_ours(user[begin..].to_vec()), b"USER\n");
        let twice = [block(b"ONE"), b"USER\n".to_vec(), block(b"TWO\n")].concat();
        assert_eq!(without_ours(twice), b"USER\n");
        let torn = block(b"ONE");
        assert_eq!(without_ours(torn[..torn.len() - END.len()].to_vec()), b"");
    }

    /// A bundle gets longer by one block, however often, and is as it was when nothing is to be trusted any more.
    #[test]
    fn bundles_do_not_grow() {
        let Some(top) = directory_on_disk() else { return };
        let path = top.path().join("bundle");
        std::fs::write(&path, "SYSTEM\n").unwrap();
        put_in_bundle(&path, b"ONE\n", false).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [b"SYSTEM\n".as_slice(), &block(b"ONE\n")].concat());
        put_in_bundle(&path, b"ANOTHER ONE\n", true).unwrap();
        put_in_bundle(&path, b"TWO\n", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [b"SYSTEM\n".as_slice(), &block(b"TWO\n")].concat());
        put_in_bundle(&path, b"", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"SYSTEM\n");
    }

    /// No link is followed, nothing that is no file is waited for.
    #[test]
    fn only_plain_bundles_are_written() {
        let Some(top) = directory_on_disk() else { return };
        let (kept, link, fifo) = (top.path().join("kept"), top.path().join("link"), top.path().join("fifo"));
        std::fs::write(&kept, "kept").unwrap();
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        for odd in [&link, &fifo, &top.path().join("none")] {
            assert!(put_in_bundle(odd, b"ONE\n", false).is_err(), "{odd:?}");
        }
        assert_eq!(std::fs::read(&kept).unwrap(), b"kept");
    }

    /// None where temporary files are in memory: nothing is written there.
    fn directory_on_disk() -> Option<tempfile::TempDir> {
        let top = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../target").unwrap();
        is_on_disk(top.path()).then_some(top)
    }
}
