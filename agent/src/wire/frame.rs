//! Frames and prefaces, as values: no I/O.
//!
//! ```text
//! Seeking ── magic and nonce ──► Framed ── a frame breaks the rules ──► Seeking (from that frame's first byte)
//! ```

use crate::erase::erase;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;
/// Largest payload of a frame.
pub const MAX_PAYLOAD_BYTES: usize = 65_536;
/// First half of a preface; every byte is ≥ 0x80, so none is a valid frame type.
pub const MAGIC: [u8; 16] =
    [0xF4, 0xA9, 0xD5, 0xC8, 0xEE, 0x93, 0xB1, 0x8D, 0xFA, 0xC3, 0x97, 0xE1, 0xBC, 0xA6, 0xD2, 0x9F];
/// Bytes of magic and nonce together.
pub const PREFACE_BYTES: usize = 32;

/// Frame types, both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Pad = 0,
    Open = 1,
    Message = 2,
    Data = 3,
    Credit = 4,
    End = 5,
    Cancel = 6,
    Part = 7,
}

/// What the host sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound {
    Preface([u8; PREFACE_BYTES]),
    Open {
        stream: u32,
        payload: Vec<u8>,
    },
    Part {
        stream: u32,
        payload: Vec<u8>,
    },
    Data {
        stream: u32,
        payload: Vec<u8>,
    },
    Credit {
        stream: u32,
        bytes: u32,
    },
    Cancel {
        stream: u32,
    },
    /// The session is over; the decoder looks for the next preface. Says which rule was broken.
    Violation(&'static str),
}

/// Cuts the host's bytes into frames. Holds at most one frame and what one read brought.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// First byte not yet consumed.
    start: usize,
    /// First byte of the frame that was returned last, for `reject`.
    last: usize,
    framed: bool,
}

impl Decoder {
    /// Forgets everything: the channel was closed.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Adds what a read brought. Call `next_frame` until it gives None before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets the frames that were returned, and erases them: there may be secrets in them.
    pub fn compact(&mut self) {
        self.last = 0;
        if self.start == 0 {
            return;
        }
        let rest = self.buffer.len() - self.start;
        self.buffer.copy_within(self.start.., 0);
        erase(self.buffer.get_mut(rest..).unwrap_or_default());
        self.buffer.truncate(rest);
        self.start = 0;
    }

    /// Treats the frame returned last as a violation: the search for a preface starts at its first byte.
    pub fn reject(&mut self) {
        self.start = self.last;
        self.framed = false;
    }

    /// The next thing the host said, or None until more bytes come.
    pub fn next_frame(&mut self) -> Option<Inbound> {
        loop {
            if !self.framed {
                return self.seek();
            }
            let rest = self.buffer.get(self.start..)?;
            let (header, rest) = rest.split_first_chunk::<HEADER_BYTES>()?;
            let [l0, l1, l2, l3, s0, s1, s2, s3, kind] = *header;
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            self.last = self.start;
            if let Some(rule) = broken_rule(kind, length, stream) {
                self.framed = false;
                return Some(Inbound::Violation(rule));
            }
            let payload = rest.get(..length)?;
            let frame = match kind {
                KIND_OPEN => Inbound::Open { stream, payload: payload.to_vec() },
                KIND_PART => Inbound::Part { stream, payload: payload.to_vec() },
                KIND_DATA => Inbound::Data { stream, payload: payload.to_vec() },
                KIND_CANCEL => Inbound::Cancel { stream },
                KIND_CREDIT => Inbound::Credit {
                    stream,
                    bytes: payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)),
                },
                _ => {
                    self.start += HEADER_BYTES;
                    continue;
                }
            };
            self.start += HEADER_BYTES + length;
            return Some(frame);
        }
    }

    fn seek(&mut self) -> Option<Inbound> {
        let rest = self.buffer.get(self.start..)?;
        let Some(found) = rest.windows(MAGIC.len()).position(|window| window == MAGIC) else {
            // The tail may be the beginning of a magic that the next read completes.
            self.start = self.buffer.len().saturating_sub(MAGIC.len() - 1).max(self.start);
            return None;
        };
        let preface = *rest.get(found..)?.first_chunk::<PREFACE_BYTES>()?;
        self.start += found + PREFACE_BYTES;
        self.framed = true;
        Some(Inbound::Preface(preface))
    }
}

const KIND_PAD: u8 = Kind::Pad as u8;
const KIND_OPEN: u8 = Kind::Open as u8;
const KIND_DATA: u8 = Kind::Data as u8;
const KIND_CREDIT: u8 = Kind::Credit as u8;
const KIND_CANCEL: u8 = Kind::Cancel as u8;
const KIND_PART: u8 = Kind::Part as u8;

fn broken_rule(kind: u8, length: usize, stream: u32) -> Option<&'static str> {
    if length > MAX_PAYLOAD_BYTES {
        return Some("a frame is too long");
    }
    match kind {
        KIND_PAD => (length != 0 || stream != 0).then_some("a pad frame is not empty"),
        KIND_OPEN | KIND_PART | KIND_DATA => (stream == 0).then_some("a frame names stream 0"),
        KIND_CREDIT => (length != 4).then_some("a credit frame is not of 4 bytes"),
        KIND_CANCEL => (length != 0).then_some("a cancel frame is not empty"),
        _ => Some("a frame's type is none that a host sends"),
    }
}

/// One frame as bytes. *write* appends the payload, which must keep to `MAX_PAYLOAD_BYTES`.
pub fn encode(kind: Kind, stream: u32, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.push(kind as u8);
    write(&mut frame);
    let length = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    if let Some(field) = frame.first_chunk_mut() {
        *field = length.to_be_bytes();
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preface(nonce: u8) -> Vec<u8> {
        [&MAGIC[..], &[nonce; 16]].concat()
    }

    fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
        encode(Kind::Data, stream, |out| out.extend_from_slice(payload))
    }

    fn decode(chunks: &[&[u8]]) -> Vec<Inbound> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(frame) = decoder.next_frame() {
                frames.push(frame);
            }
        }
        frames
    }

    fn prefaces(frames: &[Inbound]) -> Vec<u8> {
        frames
            .iter()
            .filter_map(|frame| match frame {
                Inbound::Preface(bytes) => Some(bytes[16]),
                _ => None,
            })
            .collect()
    }

    /// Frames come out whole however the bytes were cut.
    #[test]
    fn frames_survive_any_cut() {
        let bytes = [preface(7), data(3, b"hello"), encode(Kind::Cancel, 3, |_| {})].concat();
        for size in 1..bytes.len() {
            let frames = decode(&bytes.chunks(size).collect::<Vec<_>>());
            assert_eq!(frames.len(), 3, "cut at {size}");
            assert_eq!(frames[1], Inbound::Data { stream: 3, payload: b"hello".to_vec() });
            assert_eq!(frames[2], Inbound::Cancel { stream: 3 });
        }
    }

    /// A new preface in place of a frame header starts a new session.
    #[test]
    fn a_preface_ends_the_session_before_it() {
        let bytes = [preface(1), data(1, b"x"), preface(2), data(1, b"y")].concat();
        let frames = decode(&[&bytes]);
        assert_eq!(prefaces(&frames), [1, 2]);
        assert!(matches!(frames[2], Inbound::Violation(_)));
        assert_eq!(frames[4], Inbound::Data { stream: 1, payload: b"y".to_vec() });
    }

    /// A host that died inside a frame, at any byte of it, is followed by one whose zeros and preface are understood.
    #[test]
    fn zeros_complete_a_torn_frame() {
        let torn = data(0x0102_0304, &[0xAB; 300]);
        let largest = encode(Kind::Data, 5, |out| out.resize(HEADER_BYTES + MAX_PAYLOAD_BYTES, 1));
        let zeros = vec![0; HEADER_BYTES + MAX_PAYLOAD_BYTES];
        let cuts = (1..torn.len()).map(|cut| &torn[..cut]).chain((1..12).map(|cut| &largest[..cut]));
        for cut in cuts {
            let bytes = [&preface(1), cut, &zeros, &preface(2), &data(1, b"z")].concat();
            let frames = decode(&[&bytes]);
            assert_eq!(prefaces(&frames), [1, 2], "cut after {}", cut.len());
            assert_eq!(frames.last(), Some(&Inbound::Data { stream: 1, payload: b"z".to_vec() }));
        }
    }

    /// The magic is found wherever it begins, also right behind bytes that look like its beginning.
    #[test]
    fn seeking_finds_the_magic_at_any_offset() {
        for junk in [&b""[..], b"\0", &MAGIC[..15], &[0xF4; 40], b"noise"] {
            let bytes = [junk, &preface(9)].concat();
            for size in [1, 7, bytes.len()] {
                assert_eq!(prefaces(&decode(&bytes.chunks(size).collect::<Vec<_>>())), [9]);
            }
        }
    }

    /// Each rule a frame can break ends the session.
    #[test]
    fn rule_breakers_are_refused() {
        let long = [&[0, 1, 0, 1][..], &[0, 0, 0, 1, 3]].concat();
        let cases = [
            long,
            encode(Kind::Message, 1, |_| {}),
            encode(Kind::End, 1, |_| {}),
            encode(Kind::Open, 0, |_| {}),
            encode(Kind::Pad, 1, |_| {}),
            encode(Kind::Credit, 1, |out| out.push(1)),
            encode(Kind::Cancel, 1, |out| out.push(1)),
        ];
        for case in cases {
            let frames = decode(&[&preface(1), &case]);
            assert!(matches!(frames[..], [Inbound::Preface(_), Inbound::Violation(_)]), "{case:?}");
        }
    }

    /// After `reject` the bytes of the refused frame are searched too.
    #[test]
    fn reject_searches_the_frame_itself() {
        let mut decoder = Decoder::default();
        decoder.push(&[preface(1), data(1, &preface(2))].concat());
        decoder.next_frame();
        assert!(matches!(decoder.next_frame(), Some(Inbound::Data { .. })));
        decoder.reject();
        assert_eq!(prefaces(&[decoder.next_frame().unwrap()]), [2]);
    }
}
