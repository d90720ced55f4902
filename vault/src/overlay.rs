//! `overlay`: a new encrypted qcow2 overlay, as a copy of an empty one with a LUKS header of its own.
//!
//! `qemu-img create` takes 1.7 s for it, almost all of that to measure how many iterations this processor does a second.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::args;
use crate::fault::{Fault, Step};
use crate::image::PAGE;
use crate::{luks, talk};

/// An empty overlay has 2 to 3 MiB.
const MAX_BYTES: u64 = 64 << 20;
const BLOCK_BYTES: usize = 64 << 10;

// docs/interop/qcow2.rst of QEMU; numbers are big-endian.
const MAGIC: u64 = 0x5146_49fb_0000_0003; // with the version
const CRYPT_METHOD_AT: usize = 32;
const LUKS: u64 = 2;
const HEADER_LENGTH_AT: usize = 100;
const ENCRYPTION_HEADER: u64 = 0x0537_be77;

pub fn run(options: &args::Overlay) -> Result<(), Fault> {
    let secret = talk::secret()?;
    // QEMU refuses a passphrase that is not UTF-8.
    let digits = secret.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let passphrase: Vec<u8> = digits
        .map(|digit| b"0123456789abcdef"[usize::from(digit)])
        .collect();
    let empty = File::open(&options.from).step("open the empty overlay")?;
    let mut image = read(&empty).step("read the empty overlay")?;
    let area = encryption_area(&image)
        .ok_or_else(|| Fault::invalid("the empty overlay is no qcow2 file with LUKS inside"))?;
    luks::renew(&mut image[area], &passphrase)?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&options.to)
        .step("create the overlay")?;
    if let Err(error) = write(&file, &image) {
        // The caller is told of the first fault; what cannot be removed now goes with its directory.
        let _ = fs::remove_file(&options.to);
        return Err(error).step("write the overlay");
    }
    talk::say("done", &[])
}

/// Most of it are zeros, and memory that is not written to costs nothing.
fn read(file: &File) -> std::io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(MAX_BYTES);
    let mut image = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut block = vec![0; BLOCK_BYTES];
    for (at, place) in (0..)
        .step_by(BLOCK_BYTES)
        .zip(image.chunks_mut(BLOCK_BYTES))
    {
        let block = &mut block[..place.len()];
        file.read_exact_at(block, at)?;
        if !is_zero(block) {
            place.copy_from_slice(block);
        }
    }
    Ok(image)
}

fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    *block == ZEROS[..block.len()]
}

/// Where the image keeps its LUKS header and key material.
fn encryption_area(image: &[u8]) -> Option<Range<usize>> {
    if number(image, 0, 8)? != MAGIC || number(image, CRYPT_METHOD_AT, 4)? != LUKS {
        return None;
    }
    let mut at = usize::try_from(number(image, HEADER_LENGTH_AT, 4)?).ok()?;
    loop {
        let (kind, length) = (number(image, at, 4)?, number(image, at + 4, 4)?);
        match kind {
            0 => return None,
            ENCRYPTION_HEADER => break,
            _ => at += 8 + usize::try_from(length).ok()?.next_multiple_of(8),
        }
    }
    let start = usize::try_from(number(image, at + 8, 8)?).ok()?;
    let end = start.checked_add(usize::try_from(number(image, at + 16, 8)?).ok()?)?;
    (end <= image.len()).then_some(start..end)
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

/// Writes all but blocks of zeros, which become holes.
fn write(file: &File, image: &[u8]) -> std::io::Result<()> {
    file.set_len(image.len() as u64)?;
    let blocks: Vec<_> = image.chunks(PAGE).collect();
    let mut at = 0;
    for same in blocks.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
        let length = same.iter().map(|block| block.len()).sum::<usize>();
        if !is_zero(same[0]) {
            file.write_all_at(&image[at..at + length], at as u64)?;
        }
        at += length;
    }
    Ok(())
}
