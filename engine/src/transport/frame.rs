//! Frames to bytes and back, pure: the u32-prefixed format for plain byte streams and RFC 6455 for WebSockets.
//!
//! Why not the library's codec behind a WebSocket: it keeps its read buffer and the largest frame it ever saw in each
//! direction for the life of a connection. An idle connection would hold 4 KiB at best and half a megabyte after one
//! catch-up; this one holds nothing. The upgrade handshake stays the library's.

use std::hash::{BuildHasher, RandomState};

/// Bytes of a control frame's payload at most (RFC 6455, 5.5); the prefixed format has the same.
const CONTROL_BYTES_MAX: usize = 125;
/// Room set aside at once for a frame of which only the header is here: memory follows what was sent, not what was said.
const FIRST_ROOM: usize = 16 << 10;

/// How frames are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `kind << 24 | length` as a big-endian u32, then the bytes. Kinds: 0 data, 1 ping, 2 pong, 3 close.
    Prefixed,
    /// RFC 6455, binary messages only, no extensions. The dialler masks what it sends.
    WebSocket {
        /// This side dialled.
        dialler: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

/// What a decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Frame(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    /// With the reason that was given, at most [`CONTROL_BYTES_MAX`] bytes.
    Close(String),
}

/// Bytes that are not frames as this transport has them: the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// Refused from the header, before any of it is kept.
    #[error("a frame of {bytes} bytes, where {max} are allowed")]
    TooLong {
        /// Bytes announced, fragments before it included.
        bytes: u64,
        /// The limit.
        max: usize,
    },
    /// A listener takes masked frames only, a dialler unmasked ones.
    #[error("a WebSocket frame was masked by the wrong side")]
    Mask,
    /// Set bits that only an extension gives a meaning.
    #[error("a WebSocket frame has reserved bits set")]
    ReservedBits,
    /// An opcode or kind that does not exist, or a text message.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// A control frame that is too long or in fragments.
    #[error("a malformed control frame")]
    Control,
    /// A continuation without a beginning, or a beginning inside another message.
    #[error("a fragment out of place")]
    Fragment,
}

/// Turns bytes into [`Item`]s, in pieces of any size. Holds no heap memory between frames.
#[derive(Debug)]
pub(super) struct Decoder {
    format: Format,
    frame_bytes_max: usize,
    /// Header bytes so far.
    head: [u8; 14],
    head_len: usize,
    body: Option<Body>,
    /// A message was begun and its last fragment has not come.
    fragmented: bool,
    data: Vec<u8>,
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    kind: Kind,
    last: bool,
    /// Zero where nothing is masked; rotated so that its first byte belongs to the next byte of the body.
    mask: [u8; 4],
    left: usize,
}

impl Decoder {
    pub(super) fn new(format: Format, frame_bytes_max: usize) -> Self {
        Decoder {
            format,
            frame_bytes_max,
            head: [0; 14],
            head_len: 0,
            body: None,
            fragmented: false,
            data: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Whether the bytes so far end inside a frame or a fragmented message.
    pub(super) fn is_midway(&self) -> bool {
        self.head_len > 0 || self.body.is_some() || self.fragmented
    }

    /// Takes bytes from the front of `input` up to the end of the next item; `None` when all were taken first.
    pub(super) fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Item>, FrameFault> {
        loop {
            let Some(mut body) = self.body else {
                let wanted = self.head_wanted();
                if self.head_len == wanted {
                    self.body = Some(self.parse_head()?);
                    self.head_len = 0;
                    continue;
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let taken = take(input, wanted - self.head_len);
                self.head[self.head_len..self.head_len + taken.len()].copy_from_slice(taken);
                self.head_len += taken.len();
                continue;
            };
            let taken = take(input, body.left);
            let buffer = if body.kind == Kind::Data { &mut self.data } else { &mut self.control };
            let from = buffer.len();
            make_room(buffer, taken.len(), body.left);
            buffer.extend_from_slice(taken);
            apply_mask(&mut buffer[from..], body.mask);
            body.mask.rotate_left(taken.len() % 4);
            body.left -= taken.len();
            if body.left > 0 {
                self.body = Some(body);
                return Ok(None);
            }
            self.body = None;
            match body.kind {
                Kind::Data if !body.last => self.fragmented = true,
                Kind::Data => {
                    self.fragmented = false;
                    return Ok(Some(Item::Frame(std::mem::take(&mut self.data))));
                }
                Kind::Ping => return Ok(Some(Item::Ping(std::mem::take(&mut self.control)))),
                Kind::Pong => {
                    self.control = Vec::new();
                    return Ok(Some(Item::Pong));
                }
                Kind::Close => return Ok(Some(Item::Close(self.close_reason()))),
            }
        }
    }

    /// Header bytes needed, as far as the ones that are here tell.
    fn head_wanted(&self) -> usize {
        match self.format {
            Format::Prefixed => 4,
            Format::WebSocket { .. } if self.head_len < 2 => 2,
            Format::WebSocket { .. } => {
                let length = match self.head[1] & 0x7f {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                2 + length + if self.head[1] & 0x80 != 0 { 4 } else { 0 }
            }
        }
    }

    fn parse_head(&self) -> Result<Body, FrameFault> {
        let head = &self.head[..self.head_len];
        let (kind, last, mask, length) = match self.format {
            Format::Prefixed => {
                let kind = match head[0] {
                    0 => Kind::Data,
                    1 => Kind::Ping,
                    2 => Kind::Pong,
                    3 => Kind::Close,
                    other => return Err(FrameFault::Kind(other)),
                };
                (kind, true, [0; 4], big_endian(&head[1..]))
            }
            Format::WebSocket { dialler } => {
                if head[0] & 0x70 != 0 {
                    return Err(FrameFault::ReservedBits);
                }
                let kind = match head[0] & 0x0f {
                    0 | 2 if (head[0] & 0x0f == 0) != self.fragmented => return Err(FrameFault::Fragment),
                    0 | 2 => Kind::Data,
                    8 => Kind::Close,
                    9 => Kind::Ping,
                    10 => Kind::Pong,
                    other => return Err(FrameFault::Kind(other)),
                };
                if (head[1] & 0x80 != 0) == dialler {
                    return Err(FrameFault::Mask);
                }
                let (mask, head) = match head.split_last_chunk::<4>() {
                    Some((head, mask)) if !dialler => (*mask, head),
                    _ => ([0; 4], head),
                };
                let length = if head.len() > 2 { big_endian(&head[2..]) } else { u64::from(head[1] & 0x7f) };
                (kind, head[0] & 0x80 != 0, mask, length)
            }
        };
        if kind == Kind::Data {
            let bytes = length.saturating_add(self.data.len() as u64);
            if bytes > self.frame_bytes_max as u64 {
                return Err(FrameFault::TooLong { bytes, max: self.frame_bytes_max });
            }
        } else if length > CONTROL_BYTES_MAX as u64 || !last {
            return Err(FrameFault::Control);
        }
        Ok(Body { kind, last, mask, left: length as usize })
    }

    fn close_reason(&mut self) -> String {
        let payload = std::mem::take(&mut self.control);
        // A WebSocket close begins with a code of two bytes; what we have to say is in the text.
        let skipped = if matches!(self.format, Format::WebSocket { .. }) { payload.len().min(2) } else { 0 };
        String::from_utf8_lossy(&payload[skipped..]).into_owned()
    }
}

/// Turns frames into bytes at the end of a buffer.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    /// Masks come from a keyed hash of a counter. They need not be secret: what they cover is ciphertext, which nobody
    /// who might attack a proxy with it can choose.
    masks: RandomState,
    masked: u64,
}

impl Encoder {
    pub(super) fn new(format: Format) -> Self {
        Encoder { format, masks: RandomState::new(), masked: 0 }
    }

    /// Appends one frame. The caller keeps `payload` within the limits of its kind.
    pub(super) fn encode(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
        out.reserve(payload.len() + 14);
        match self.format {
            Format::Prefixed => {
                out.extend_from_slice(&((kind as u32) << 24 | payload.len() as u32).to_be_bytes());
                out.extend_from_slice(payload);
            }
            Format::WebSocket { dialler } => {
                let opcode = match kind {
                    Kind::Data => 2,
                    Kind::Close => 8,
                    Kind::Ping => 9,
                    Kind::Pong => 10,
                };
                let mask_bit = if dialler { 0x80 } else { 0 };
                out.push(0x80 | opcode);
                match payload.len() {
                    short @ 0..=125 => out.push(mask_bit | short as u8),
                    middle @ 126..=0xffff => {
                        out.push(mask_bit | 126);
                        out.extend_from_slice(&(middle as u16).to_be_bytes());
                    }
                    long => {
                        out.push(mask_bit | 127);
                        out.extend_from_slice(&(long as u64).to_be_bytes());
                    }
                }
                if !dialler {
                    out.extend_from_slice(payload);
                    return;
                }
                self.masked += 1;
                let mask = (self.masks.hash_one(self.masked) as u32).to_ne_bytes();
                out.extend_from_slice(&mask);
                let from = out.len();
                out.extend_from_slice(payload);
                apply_mask(&mut out[from..], mask);
            }
        }
    }

    /// Appends a close frame. The reason is cut at a character so that it fits.
    pub(super) fn encode_close(&mut self, reason: &str, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        if matches!(self.format, Format::WebSocket { .. }) {
            payload.extend_from_slice(&1000u16.to_be_bytes());
        }
        let end = reason.floor_char_boundary(CONTROL_BYTES_MAX - payload.len());
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        self.encode(Kind::Close, &payload, out);
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

/// Room for `now` bytes of `left` to come: exact where all are here, else at most doubling what did come.
fn make_room(buffer: &mut Vec<u8>, now: usize, left: usize) {
    if buffer.capacity() - buffer.len() < now {
        buffer.reserve_exact(left.min(now.max(buffer.len()).max(FIRST_ROOM)));
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    if mask == [0; 4] {
        return;
    }
    let mut chunks = bytes.chunks_exact_mut(4);
    for chunk in &mut chunks {
        chunk.iter_mut().zip(mask).for_each(|(byte, m)| *byte ^= m);
    }
    chunks.into_remainder().iter_mut().zip(mask).for_each(|(byte, m)| *byte ^= m);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LISTENER: Format = Format::WebSocket { dialler: false };
    const DIALLER: Format = Format::WebSocket { dialler: true };
    const MAX: usize = 70_000;

    fn one(format: Format, mut bytes: &[u8]) -> Result<Option<Item>, FrameFault> {
        Decoder::new(format, MAX).decode(&mut bytes)
    }

    #[test]
    fn the_examples_of_the_rfc_decode() {
        let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(one(LISTENER, &masked), Ok(Some(Item::Frame(b"Hello".to_vec()))));
        let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(one(DIALLER, &ping), Ok(Some(Item::Ping(b"Hello".to_vec()))));
        let fragments = [0x02, 0x03, 0x48, 0x65, 0x6c, 0x89, 0x00, 0x80, 0x02, 0x6c, 0x6f];
        let (mut decoder, mut input) = (Decoder::new(DIALLER, MAX), &fragments[..]);
        assert_eq!(decoder.decode(&mut input), Ok(Some(Item::Ping(vec![]))), "between two fragments");
        assert_eq!(decoder.decode(&mut input), Ok(Some(Item::Frame(b"Hello".to_vec()))));
        assert!(!decoder.is_midway());
    }

    #[test]
    fn bytes_outside_the_format_are_refused_by_name() {
        for (format, bytes, fault) in [
            (LISTENER, &[0x82, 0x00][..], FrameFault::Mask),
            (DIALLER, &[0x82, 0x80, 0, 0, 0, 0], FrameFault::Mask),
            (DIALLER, &[0xc2, 0x00], FrameFault::ReservedBits),
            (DIALLER, &[0x81, 0x00], FrameFault::Kind(1)),
            (DIALLER, &[0x8b, 0x00], FrameFault::Kind(11)),
            (DIALLER, &[0x80, 0x00], FrameFault::Fragment),
            (DIALLER, &[0x02, 0x00, 0x82, 0x00], FrameFault::Fragment),
            (DIALLER, &[0x09, 0x00], FrameFault::Control),
            (DIALLER, &[0x89, 0x7e, 0x00, 0x7e], FrameFault::Control),
            (
                DIALLER,
                &[0x82, 0x7f, 0xff, 255, 255, 255, 255, 255, 255, 255],
                FrameFault::TooLong { bytes: u64::MAX, max: MAX },
            ),
            (Format::Prefixed, &[4, 0, 0, 0], FrameFault::Kind(4)),
            (Format::Prefixed, &[0, 0xff, 0xff, 0xff], FrameFault::TooLong { bytes: 0xff_ffff, max: MAX }),
            (Format::Prefixed, &[1, 0, 0, 126], FrameFault::Control),
        ] {
            assert_eq!(one(format, bytes), Err(fault), "{bytes:02x?}");
        }
    }

    #[test]
    fn fragments_together_stay_within_the_limit() {
        let (mut decoder, mut out) = (Decoder::new(DIALLER, 10), vec![0x02, 6]);
        out.extend([0; 6]);
        out.extend([0x80, 5]);
        assert_eq!(decoder.decode(&mut &out[..]), Err(FrameFault::TooLong { bytes: 11, max: 10 }));
    }

    #[test]
    fn an_announced_frame_costs_what_came_of_it() {
        let mut decoder = Decoder::new(Format::Prefixed, 256 << 10);
        assert_eq!(decoder.decode(&mut &[0, 4, 0, 0, 7][..]), Ok(None));
        assert!(decoder.data.capacity() <= FIRST_ROOM);
    }

    #[test]
    fn a_long_close_reason_is_cut_at_a_character() {
        for (ours, theirs) in [(LISTENER, DIALLER), (DIALLER, LISTENER), (Format::Prefixed, Format::Prefixed)] {
            let (reason, mut out) = ("é".repeat(100), Vec::new());
            Encoder::new(ours).encode_close(&reason, &mut out);
            let Ok(Some(Item::Close(read))) = one(theirs, &out) else { panic!("no close") };
            assert!(reason.starts_with(&read) && read.len() > 120, "{read}");
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_bytes_are_cut(
            lengths in prop::collection::vec(prop_oneof![0usize..300, Just(65_535), Just(65_536), Just(MAX)], 1..6),
            cuts in prop::collection::vec(1usize..20_000, 1..8),
            format in 0..3,
        ) {
            let (ours, theirs) = [(LISTENER, DIALLER), (DIALLER, LISTENER), (Format::Prefixed, Format::Prefixed)][format as usize];
            let frames: Vec<Vec<u8>> = lengths.iter().map(|n| (0..*n).map(|i| (i * 7) as u8).collect()).collect();
            let (mut encoder, mut bytes) = (Encoder::new(ours), Vec::new());
            for frame in &frames {
                encoder.encode(Kind::Data, frame, &mut bytes);
            }
            let (mut decoder, mut read, mut rest, mut cuts) = (Decoder::new(theirs, MAX), Vec::new(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let mut piece = take(&mut rest, *cuts.next().unwrap());
                while let Some(item) = decoder.decode(&mut piece).unwrap() {
                    read.push(item);
                }
            }
            prop_assert_eq!(read, frames.into_iter().map(Item::Frame).collect::<Vec<_>>());
            prop_assert!(!decoder.is_midway());
        }

        #[test]
        fn no_bytes_make_a_decoder_panic_or_outgrow_its_limit(bytes in prop::collection::vec(any::<u8>(), 0..200), format in 0..3) {
            let mut decoder = Decoder::new([LISTENER, DIALLER, Format::Prefixed][format as usize], 100);
            let mut input = &bytes[..];
            while let Ok(Some(item)) = decoder.decode(&mut input) {
                if let Item::Frame(frame) = item {
                    prop_assert!(frame.len() <= 100);
                }
            }
        }
    }
}
