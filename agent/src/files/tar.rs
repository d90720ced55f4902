//! The tar format (POSIX.1-2001, "pax"), as far as files, directories and links go: what headers hold, and nothing of
//! where it comes from or goes to.

pub(crate) const BLOCK_BYTES: usize = 512;
pub(crate) type Block = [u8; BLOCK_BYTES];

/// What an entry is, by its type flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// The next entry's name, or the name that it links to, as GNU tar writes long ones.
    LongName,
    LongLink,
    /// Records for the next entry.
    Pax,
    /// For all entries that follow, devices and whatever else there is: passed over.
    Other,
}

/// Of one entry. Names are as they stand in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Seconds since the Unix epoch.
    pub(crate) modified: i64,
}

/// The block is no header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoHeader;

/// Fields of a header: where each begins and ends.
mod at {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const TIME: Range<usize> = 136..148;
    pub(super) const SUM: Range<usize> = 148..156;
    pub(super) const FLAG: Range<usize> = 156..157;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const PREFIX: Range<usize> = 345..500;
}

/// Largest size that the field takes in octal.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;
const MAGIC: &[u8] = b"ustar\x0000";

fn field(block: &Block, place: std::ops::Range<usize>) -> &[u8] {
    block.get(place).unwrap_or_default()
}

fn put(block: &mut Block, place: std::ops::Range<usize>, value: &[u8]) {
    for (target, byte) in block.get_mut(place).unwrap_or_default().iter_mut().zip(value) {
        *target = *byte;
    }
}

// ---- writing -----------------------------------------------------------------------------------

/// The blocks of an entry's header: one, or with a pax header before it where a name or the size does not fit.
pub(crate) fn header(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    for (key, value, place) in [("path", &entry.name, at::NAME), ("linkpath", &entry.link, at::LINK)] {
        if value.len() > place.len() {
            if records.is_empty() && std::str::from_utf8(value).is_err() {
                record(&mut records, "hdrcharset", b"BINARY");
            }
            record(&mut records, key, value);
        }
    }
    if entry.size > MAX_OCTAL_SIZE {
        record(&mut records, "size", entry.size.to_string().as_bytes());
    }
    let mut blocks = Vec::new();
    if !records.is_empty() {
        let of = Entry {
            kind: Kind::Pax,
            name: b"PaxHeader".to_vec(),
            link: Vec::new(),
            size: records.len() as u64,
            ..*entry
        };
        blocks.extend_from_slice(&plain(&of));
        blocks.extend_from_slice(&records);
        blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    blocks.extend_from_slice(&plain(entry));
    blocks
}

fn plain(entry: &Entry) -> Block {
    let mut block = [0; BLOCK_BYTES];
    put(&mut block, at::NAME, &entry.name);
    put(&mut block, at::LINK, &entry.link);
    put(&mut block, at::MODE, format!("{:07o}", entry.mode & 0o7777).as_bytes());
    put(&mut block, at::UID, b"0000000");
    put(&mut block, at::GID, b"0000000");
    put(&mut block, at::SIZE, format!("{:011o}", entry.size.min(MAX_OCTAL_SIZE)).as_bytes());
    let time = u64::try_from(entry.modified).unwrap_or_default().min(MAX_OCTAL_SIZE);
    put(&mut block, at::TIME, format!("{time:011o}").as_bytes());
    put(&mut block, at::MAGIC, MAGIC);
    let flag = match entry.kind {
        Kind::Directory => b"5",
        Kind::Symlink => b"2",
        Kind::HardLink => b"1",
        Kind::Pax => b"x",
        Kind::LongName => b"L",
        Kind::LongLink => b"K",
        Kind::File | Kind::Other => b"0",
    };
    put(&mut block, at::FLAG, flag);
    let sum = sums(&block).0;
    put(&mut block, at::SUM, format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A pax record counts its own length, with the digits of that.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

// ---- reading -----------------------------------------------------------------------------------

/// Reads a header. Two blocks of zeros, the end of an archive, are none.
pub(crate) fn parse(block: &Block) -> Result<Entry, NoHeader> {
    let told = number(field(block, at::SUM)).ok_or(NoHeader)?;
    let (unsigned, signed) = sums(block);
    if told != u64::from(unsigned) && i64::try_from(told) != Ok(i64::from(signed)) {
        return Err(NoHeader);
    }
    let mut name = text(field(block, at::NAME)).to_vec();
    let posix = field(block, at::MAGIC).starts_with(b"ustar\0");
    let prefix = text(field(block, at::PREFIX));
    if posix && !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    let kind = match field(block, at::FLAG) {
        // Before POSIX, a directory was a file with a slash.
        b"0" | b"\0" | b"7" if name.ends_with(b"/") => Kind::Directory,
        b"0" | b"\0" | b"7" => Kind::File,
        b"1" => Kind::HardLink,
        b"2" => Kind::Symlink,
        b"5" => Kind::Directory,
        b"L" => Kind::LongName,
        b"K" => Kind::LongLink,
        b"x" => Kind::Pax,
        _ => Kind::Other,
    };
    Ok(Entry {
        kind,
        name,
        link: text(field(block, at::LINK)).to_vec(),
        size: number(field(block, at::SIZE)).ok_or(NoHeader)?,
        mode: u32::try_from(number(field(block, at::MODE)).unwrap_or(0o644) & 0o7777).unwrap_or_default(),
        modified: number(field(block, at::TIME)).and_then(|time| i64::try_from(time).ok()).unwrap_or_default(),
    })
}

/// Changes *entry* as the records of its pax header say.
pub(crate) fn amend(entry: &mut Entry, mut records: &[u8]) -> Result<(), NoHeader> {
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ').ok_or(NoHeader)?;
        let length: usize = ascii(records.get(..space)).ok_or(NoHeader)?;
        let record = records.get(space + 1..length).ok_or(NoHeader)?;
        records = records.get(length..).ok_or(NoHeader)?;
        let record = record.strip_suffix(b"\n").ok_or(NoHeader)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(NoHeader)?;
        let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
        match key {
            b"path" => entry.name = value.to_vec(),
            b"linkpath" => entry.link = value.to_vec(),
            b"size" => entry.size = ascii(Some(value)).ok_or(NoHeader)?,
            b"mtime" => {
                let seconds = value.split(|byte| *byte == b'.').next();
                entry.modified = ascii(seconds).ok_or(NoHeader)?;
            }
            // A sparse file of GNU tar has holes that only its own records tell.
            _ if key.starts_with(b"GNU.sparse.") => return Err(NoHeader),
            _ => {}
        }
    }
    Ok(())
}

/// What stands before the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn ascii<T: std::str::FromStr>(digits: Option<&[u8]>) -> Option<T> {
    std::str::from_utf8(digits?).ok()?.parse().ok()
}

/// Octal, with spaces around and NUL behind; or binary where the first bit is set, as GNU tar writes large numbers.
fn number(field: &[u8]) -> Option<u64> {
    if field.first() == Some(&0x80) {
        let mut value: u64 = 0;
        for byte in field.get(1..)? {
            value = value.checked_mul(256)? | u64::from(*byte);
        }
        return Some(value);
    }
    let digits = std::str::from_utf8(text(field)).ok()?.trim_matches(' ');
    if digits.is_empty() {
        return Some(0);
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()
}

/// Of all bytes, with spaces in place of the sum; unsigned, and signed as some old programs took it.
fn sums(block: &Block) -> (u32, i32) {
    let (mut unsigned, mut signed) = (0, 0);
    for (index, byte) in block.iter().enumerate() {
        let byte = if at::SUM.contains(&index) { b' ' } else { *byte };
        unsigned += u32::from(byte);
        signed += i32::from(i8::from_ne_bytes([byte]));
    }
    (unsigned, signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], link: &[u8], size: u64) -> Entry {
        let kind = if link.is_empty() { Kind::File } else { Kind::Symlink };
        Entry { kind, name: name.to_vec(), link: link.to_vec(), size, mode: 0o640, modified: 1_700_000_000 }
    }

    fn read_back(blocks: &[u8]) -> Entry {
        let mut blocks = blocks.chunks(BLOCK_BYTES).map(|block| Block::try_from(block).unwrap());
        let first = parse(&blocks.next().unwrap()).unwrap();
        if first.kind != Kind::Pax {
            return first;
        }
        let size = usize::try_from(first.size).unwrap();
        let records: Vec<u8> = blocks.by_ref().take(size.div_ceil(BLOCK_BYTES)).flatten().take(size).collect();
        let mut found = parse(&blocks.next().unwrap()).unwrap();
        amend(&mut found, &records).unwrap();
        found
    }

    /// Whatever is written reads back, with names and sizes of any length.
    #[test]
    fn headers_round_trip() {
        let lengths = [1, 98, 99, 100, 101, 254, 999, 1000, 4095];
        for length in lengths {
            for written in [
                entry(&vec![b'n'; length], b"", 5),
                entry(b"l", &vec![b't'; length], 0),
                entry(&vec![0xFF; length], b"", 1 << 40),
            ] {
                assert_eq!(read_back(&header(&written)), written, "{length}");
            }
        }
    }

    /// Numbers as the various programs write them; sums that are wrong.
    #[test]
    fn numbers_and_sums() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0 "), Some(0o644));
        assert_eq!(number(b"\0\0\0"), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]), Some(0x0200_0000));
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "more than 64 bits");
        assert_eq!(number(b"64x"), None);
        assert_eq!(number(b"-1"), None);
        let mut block = plain(&entry(b"n", b"", 5));
        assert!(parse(&block).is_ok());
        block[0] ^= 1;
        assert_eq!(parse(&block), Err(NoHeader));
        assert_eq!(parse(&[0; BLOCK_BYTES]), Err(NoHeader));
    }

    /// Records that lie about their length, or are cut, are refused and read nothing that is not theirs.
    #[test]
    fn hostile_records_are_refused() {
        let mut found = entry(b"n", b"", 5);
        for records in [
            &b"9999999999999999999999 path=x\n"[..],
            b"0 path=x\n",
            b"3 path=x\n",
            b"99 path=x\n",
            b"10 path=xy",
            b"path=x\n",
            b"-5 path=x\n",
            b"11 size=-1\n",
            b"29 GNU.sparse.realsize=1000000\n",
        ] {
            assert!(amend(&mut found, records).is_err(), "{}", String::from_utf8_lossy(records));
        }
        assert_eq!(found, entry(b"n", b"", 5));
    }
}
