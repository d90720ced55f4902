//! The format of a memory image, version 1. All numbers are little-endian.
//!
//! ```text
//! header   magic "TERPMEM\0" | version u32 | page size u32 | size of the base in bytes u64 | file id, 32 random bytes
//! chunk…   word u32: length of the sealed part, and in its highest bit whether this is the last chunk
//!          sealed part: AES-256-GCM of
//!              number of records u32 | payload's length when decompressed u32 | its form u32 (0 as it is, 1 LZ4 block)
//!              record…   first page u32 | number of pages u32, and in its highest bit whether they are zero
//!              payload   the pages of those records that are not zero, in their order
//! ```
//!
//! Pages that are not in the image are as in the base. A chunk covers at most 256 pages; the last one covers none.
//!
//! The key of a file is derived from the data key and the file id, so a nonce (chunk number and whether it is the
//! last: Hoang et al., "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", STREAM) is never used
//! twice under one key. Associated data is the digest of header and context. So nothing can be cut off, put elsewhere,
//! taken from another file, or read as another machine's.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_256_GCM, MAX_TAG_LEN, NONCE_LEN};

use crate::fault::{Code, Fault};

pub const PAGE: usize = 4096;
/// Pages that one chunk covers at most: 1 MiB.
pub const CHUNK_PAGES: usize = 256;
pub const KEY_BYTES: usize = 32;
pub const HEADER_BYTES: usize = 56;
pub const WORD_BYTES: usize = 4;

const MAGIC: &[u8; 8] = b"TERPMEM\0";
const VERSION: u32 = 1;
const KEY_PURPOSE: &str = "terp-vault 2026-11 memory image version 1: key of one file";
const HIGHEST_BIT: u32 = 1 << 31;
const INDEX_BYTES: usize = 12;
const RECORD_BYTES: usize = 8;
const FORM_AT: usize = WORD_BYTES + 8;
const RAW: u32 = 0;
const LZ4: u32 = 1;
const MAX_SEALED: usize = INDEX_BYTES + CHUNK_PAGES * (RECORD_BYTES + PAGE) + MAX_TAG_LEN;

/// Pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub page: u64,
    pub count: usize,
}

/// Pages that follow each other and are all zero, or all data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub run: Run,
    pub zero: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub base_bytes: u64,
    pub file_id: [u8; 32],
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base_bytes.to_le_bytes());
        bytes[24..].copy_from_slice(&self.file_id);
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Fault> {
        let header = Self {
            base_bytes: u64::from_le_bytes(array(&bytes[16..24])),
            file_id: array(&bytes[24..]),
        };
        if header.encode() == *bytes {
            Ok(header)
        } else {
            Err(Fault::damaged(
                "this is no memory image of a version that is known here",
            ))
        }
    }
}

/// What seals and opens the chunks of one file.
pub struct Cipher {
    key: LessSafeKey,
    bound: [u8; 32],
}

impl Cipher {
    pub fn new(data_key: &[u8; KEY_BYTES], header: &Header, context: &str) -> Result<Self, Fault> {
        let mut derive = blake3::Hasher::new_derive_key(KEY_PURPOSE);
        derive.update(data_key).update(&header.file_id);
        let key = UnboundKey::new(&AES_256_GCM, derive.finalize().as_bytes())
            .map_err(|_| Fault::new(Code::Failed, "the cipher does not take its key"))?;
        // The header's length is fixed, so the two cannot run into each other.
        let mut bound = blake3::Hasher::new();
        bound.update(&header.encode()).update(context.as_bytes());
        Ok(Self {
            key: LessSafeKey::new(key),
            bound: *bound.finalize().as_bytes(),
        })
    }

    /// Writes chunk number `index` with its word to `out`, which is emptied before. `data` is that of the records.
    pub fn seal(
        &self,
        index: u64,
        last: bool,
        records: &[Record],
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        out.clear();
        put(out, 0);
        put(out, small(records.len())?);
        put(out, small(data.len())?);
        put(out, RAW);
        for record in records {
            let zero = if record.zero { HIGHEST_BIT } else { 0 };
            put(out, small(record.run.page)?);
            put(out, small(record.run.count)? | zero);
        }
        let at = out.len();
        out.resize(at + get_maximum_output_size(data.len()), 0);
        match compress_into(data, &mut out[at..]) {
            Ok(length) if length < data.len() => {
                out.truncate(at + length);
                out[FORM_AT..FORM_AT + 4].copy_from_slice(&LZ4.to_le_bytes());
            }
            _ => {
                out.truncate(at);
                out.extend_from_slice(data);
            }
        }
        let tag = self
            .key
            .seal_in_place_separate_tag(
                nonce(index, last),
                Aad::from(self.bound),
                &mut out[WORD_BYTES..],
            )
            .map_err(|_| Fault::new(Code::Failed, "a chunk cannot be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        let word = small(out.len() - WORD_BYTES)? | if last { HIGHEST_BIT } else { 0 };
        out[..WORD_BYTES].copy_from_slice(&word.to_le_bytes());
        Ok(())
    }

    /// Opens chunk number `index` in its place. Pages lie below `pages`; the payload is put into `data`, which is
    /// emptied before and holds exactly what the records say.
    pub fn open(
        &self,
        index: u64,
        last: bool,
        sealed: &mut [u8],
        pages: u64,
        data: &mut Vec<u8>,
    ) -> Result<Vec<Record>, Fault> {
        let plain = self
            .key
            .open_in_place(nonce(index, last), Aad::from(self.bound), sealed)
            .map_err(|_| {
                Fault::damaged(format!(
                    "chunk {index} does not open: it was changed, or key or context are others"
                ))
            })?;
        // From here on only a writer's bug could hurt, which is to be as harmless as damage.
        decode(plain, pages, data)
            .ok_or_else(|| Fault::damaged(format!("chunk {index} contradicts itself")))
    }
}

/// Splits a chunk's word: length of the sealed part, and whether it is the last.
pub fn word(bytes: [u8; WORD_BYTES]) -> Result<(usize, bool), Fault> {
    let word = u32::from_le_bytes(bytes);
    match usize::try_from(word & !HIGHEST_BIT) {
        Ok(length) if length <= MAX_SEALED => Ok((length, word & HIGHEST_BIT != 0)),
        _ => Err(Fault::damaged("a chunk is longer than any can be")),
    }
}

fn decode(plain: &[u8], pages: u64, data: &mut Vec<u8>) -> Option<Vec<Record>> {
    let (index, rest) = plain.split_at_checked(INDEX_BYTES)?;
    let field = |at: usize| u32::from_le_bytes(array(&index[at..at + 4]));
    let count = usize::try_from(field(0)).ok()?;
    let length = usize::try_from(field(4)).ok()?;
    let (listed, payload) = rest.split_at_checked(count.checked_mul(RECORD_BYTES)?)?;
    let mut records = Vec::with_capacity(count);
    let (mut covered, mut filled) = (0, 0);
    for bytes in listed.chunks_exact(RECORD_BYTES) {
        let second = u32::from_le_bytes(array(&bytes[4..]));
        let run = Run {
            page: u32::from_le_bytes(array(&bytes[..4])).into(),
            count: usize::try_from(second & !HIGHEST_BIT).ok()?,
        };
        let zero = second & HIGHEST_BIT != 0;
        covered += run.count;
        filled += if zero { 0 } else { run.count };
        let within = run.page + u64::from(second & !HIGHEST_BIT) <= pages;
        if run.count == 0 || covered > CHUNK_PAGES || !within {
            return None;
        }
        records.push(Record { run, zero });
    }
    if length != filled * PAGE {
        return None;
    }
    data.resize(length, 0);
    match field(8) {
        RAW if payload.len() == length => data.copy_from_slice(payload),
        LZ4 if decompress_into(payload, data).ok()? == length => {}
        _ => return None,
    }
    Some(records)
}

fn nonce(index: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes[8] = last.into();
    Nonce::assume_unique_for_key(bytes)
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// A number that shares its word with a flag.
fn small(number: impl TryInto<u32>) -> Result<u32, Fault> {
    match number.try_into() {
        Ok(number) if number < HIGHEST_BIT => Ok(number),
        _ => Err(Fault::invalid(
            "the machine has more memory than an image can hold",
        )),
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    fn header() -> Header {
        Header {
            base_bytes: 1 << 20,
            file_id: [9; 32],
        }
    }

    fn data(page: u64, count: usize) -> Record {
        Record {
            run: Run { page, count },
            zero: false,
        }
    }

    fn zero(page: u64, count: usize) -> Record {
        Record {
            run: Run { page, count },
            zero: true,
        }
    }

    fn sealed(index: u64, last: bool, records: &[Record], payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Cipher::new(&KEY, &header(), "x")
            .unwrap()
            .seal(index, last, records, payload, &mut out)
            .unwrap();
        out
    }

    fn opened(
        cipher: &Cipher,
        index: u64,
        last: bool,
        chunk: &[u8],
    ) -> Result<(Vec<Record>, Vec<u8>), Fault> {
        let mut rest = chunk[WORD_BYTES..].to_vec();
        let mut payload = vec![1, 2, 3];
        let records = cipher.open(index, last, &mut rest, 256, &mut payload)?;
        Ok((records, payload))
    }

    fn ours() -> Cipher {
        Cipher::new(&KEY, &header(), "x").unwrap()
    }

    /// A chunk comes back as it was, whether it shrinks or not, and one that shrinks is small.
    #[test]
    fn round_trip() {
        let records = [data(3, 1), zero(9, 200), data(255, 1)];
        let dull = vec![5; 2 * PAGE];
        let mut state = 1_u32;
        let random: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(2 * PAGE)
        .collect();

        for payload in [dull, random] {
            let chunk = sealed(4, false, &records, &payload);

            assert_eq!(word(array(&chunk[..4])).unwrap(), (chunk.len() - 4, false));
            assert_eq!(
                opened(&ours(), 4, false, &chunk).unwrap(),
                (records.to_vec(), payload)
            );
        }
        assert!(sealed(4, false, &records, &vec![5; 2 * PAGE]).len() < 200);
        assert_eq!(
            opened(&ours(), 0, true, &sealed(0, true, &[], &[])).unwrap(),
            (vec![], vec![])
        );
    }

    /// What was changed, moved, cut or is somebody else's does not open.
    #[test]
    fn refused() {
        let chunk = sealed(4, false, &[data(3, 1)], &[5; PAGE]);
        let others = [
            Cipher::new(&[8; KEY_BYTES], &header(), "x").unwrap(),
            Cipher::new(&KEY, &header(), "y").unwrap(),
            Cipher::new(
                &KEY,
                &Header {
                    file_id: [1; 32],
                    ..header()
                },
                "x",
            )
            .unwrap(),
            Cipher::new(
                &KEY,
                &Header {
                    base_bytes: 1,
                    ..header()
                },
                "x",
            )
            .unwrap(),
        ];

        for other in &others {
            assert_eq!(
                opened(other, 4, false, &chunk).unwrap_err().code,
                Code::Damaged
            );
        }
        for (index, last) in [(3, false), (5, false), (4, true)] {
            assert!(
                opened(&ours(), index, last, &chunk).is_err(),
                "{index} {last}"
            );
        }
        for at in WORD_BYTES..chunk.len() {
            let mut changed = chunk.clone();
            changed[at] ^= 1;
            assert!(opened(&ours(), 4, false, &changed).is_err(), "byte {at}");
        }
        assert!(opened(&ours(), 4, false, &chunk[..chunk.len() - 1]).is_err());
        assert!(opened(&ours(), 4, false, &chunk[..WORD_BYTES]).is_err());
    }

    /// A page outside of the base, or more or fewer pages than there is data for, is refused though it is authentic.
    #[test]
    fn bounds() {
        let page = [5; PAGE];
        for (records, payload) in [
            (vec![data(256, 1)], &page[..]),
            (vec![data(0x7fff_ffff, 1)], &page[..]),
            (vec![zero(255, 2)], &[]),
            (vec![zero(0, 200), zero(0, 200)], &[]),
            (vec![data(0, 2)], &page[..]),
            (vec![zero(0, 1)], &page[..]),
            (vec![zero(0, 0)], &[]),
        ] {
            let chunk = sealed(0, false, &records, payload);
            assert_eq!(
                opened(&ours(), 0, false, &chunk).unwrap_err().code,
                Code::Damaged,
                "{records:?}"
            );
        }
        assert!(word([0xff; 4]).is_err());
    }

    /// A header is read back, and any other version is refused.
    #[test]
    fn headers() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes).unwrap(), header());
        for at in [0, 8, 13] {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(Header::decode(&changed).is_err(), "byte {at}");
        }
    }
}
