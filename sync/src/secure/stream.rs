//! From messages to records and back: one stream of messages each way, cut at any byte into Noise messages and frames.
//!
//! Both directions keep one buffer, whose size follows what is really there, and give it back when it is empty.

use core::ops::Range;

use snow::TransportState;

use super::ChannelError;
use crate::limits::Limits;

const TAG: usize = 16;
const LENGTH: usize = 2;
/// Longest Noise message, by the Noise specification.
pub(super) const RECORD_MAX: usize = 65_535;
/// A tag and one byte of plaintext.
pub(super) const RECORD_MIN: usize = TAG + 1;
/// Longest LEB128 length: 32 bits.
const HEADER_MAX: usize = 5;
/// Capacity below which giving memory back is not worth a copy.
const SLACK: usize = 1 << 10;

/// Messages on their way out, as plaintext.
#[derive(Default)]
pub(super) struct Outbound {
    plain: Vec<u8>,
    /// Start of what has not been sealed yet.
    sealed: usize,
}

impl Outbound {
    /// Queues one message.
    pub(super) fn push(&mut self, message: &[u8]) {
        let (header, used) = write_header(message.len());
        self.plain.reserve(used + message.len());
        self.plain.extend_from_slice(&header[..used]);
        self.plain.extend_from_slice(message);
    }

    /// Puts raw bytes before everything that is queued. Only before the first [`seal`](Self::seal).
    pub(super) fn put_first(&mut self, bytes: &[u8]) {
        debug_assert_eq!(self.sealed, 0);
        self.plain.splice(..0, bytes.iter().copied());
    }

    /// Bytes not sealed yet.
    pub(super) fn len(&self) -> usize {
        self.plain.len() - self.sealed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One frame of at most `frame_bytes_max`: `head`, and behind it as much of the queue as fits.
    pub(super) fn seal(&mut self, head: Vec<u8>, noise: &mut TransportState, frame_bytes_max: usize) -> Vec<u8> {
        let mut frame = head;
        let room = frame_bytes_max.saturating_sub(frame.len());
        let records = self.len().div_ceil(RECORD_MAX - TAG);
        frame.reserve_exact(room.min(self.len() + records * (LENGTH + TAG)));
        loop {
            let room = frame_bytes_max.saturating_sub(frame.len() + LENGTH).min(RECORD_MAX);
            let take = room.saturating_sub(TAG).min(self.len());
            if take == 0 {
                break;
            }
            let length = (take + TAG) as u16;
            frame.extend_from_slice(&length.to_be_bytes());
            let start = frame.len();
            frame.resize(start + take + TAG, 0);
            noise
                .write_message(&self.plain[self.sealed..self.sealed + take], &mut frame[start..])
                .expect("the record fits and nobody sends 2^64 of them");
            self.sealed += take;
        }
        if self.is_empty() {
            *self = Outbound::default();
        } else if self.sealed >= self.plain.len() / 2 {
            self.plain.drain(..self.sealed);
            self.sealed = 0;
        }
        frame
    }
}

/// Plaintext that came in: first what `taken` has passed, then messages, the last of them perhaps unfinished.
#[derive(Default)]
pub(super) struct Inbound {
    plain: Vec<u8>,
    /// Start of what has not been given out.
    taken: usize,
    /// Start of the first message whose length has not been judged; beyond the end while a message is unfinished.
    checked: usize,
}

impl Inbound {
    /// Makes room for the plaintext of a frame that has arrived. Doubles, so that many small frames of one message cost
    /// linear time, but not beyond what one unfinished message and one frame can need.
    pub(super) fn reserve(&mut self, frame_len: usize, limits: &Limits) {
        let need = self.plain.len() + frame_len;
        if need > self.plain.capacity() {
            let most = limits.message_bytes_max + HEADER_MAX + limits.frame_bytes_max;
            let target = need.max((2 * self.plain.capacity()).min(most));
            self.plain.reserve_exact(target - self.plain.len());
        }
    }

    /// Decrypts one record to the end of the stream.
    pub(super) fn open(&mut self, noise: &mut TransportState, record: &[u8]) -> Result<(), ChannelError> {
        let start = self.plain.len();
        self.plain.resize(start + record.len() - TAG, 0);
        noise.read_message(record, &mut self.plain[start..]).map(drop).map_err(|_| ChannelError::Tampered)
    }

    /// Takes raw bytes from the start of the stream.
    pub(super) fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.plain[self.taken..].first_chunk::<N>()?;
        self.taken += N;
        self.checked = self.checked.max(self.taken);
        Some(bytes)
    }

    /// Judges the length of every message that has begun since the last call.
    pub(super) fn check(&mut self, message_bytes_max: usize) -> Result<(), ChannelError> {
        while let Some(rest) = self.plain.get(self.checked..)
            && let Some((used, length)) = read_header(rest)?
        {
            if length > message_bytes_max as u64 {
                return Err(ChannelError::TooLarge { what: "message", bytes: length, limit: message_bytes_max });
            }
            self.checked += used + length as usize;
        }
        Ok(())
    }

    /// Whether [`next`](Self::next) has something to give.
    pub(super) fn has_message(&self) -> bool {
        self.front().is_some()
    }

    /// Takes the first message if it is complete.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let Some(body) = self.front() else {
            self.compact();
            return None;
        };
        self.taken = body.end;
        let message = self.plain[body].to_vec();
        if self.taken == self.plain.len() {
            self.compact();
        }
        Some(message)
    }

    /// Where the first message lies, if it is complete. Its length has passed [`check`](Self::check).
    fn front(&self) -> Option<Range<usize>> {
        let (used, length) = read_header(&self.plain[self.taken..]).ok().flatten()?;
        let start = self.taken + used;
        let end = start + length as usize;
        (end <= self.plain.len()).then_some(start..end)
    }

    fn compact(&mut self) {
        self.plain.drain(..self.taken);
        self.checked -= self.taken;
        self.taken = 0;
        if self.plain.is_empty() || self.plain.capacity() > 2 * self.plain.len() + SLACK {
            self.plain.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.plain.capacity()
    }
}

#[cfg(test)]
impl Outbound {
    pub(super) fn capacity(&self) -> usize {
        self.plain.capacity()
    }

    pub(super) fn plain_mut(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }
}

/// The header of a message, and how many bytes of the array it uses.
fn write_header(length: usize) -> ([u8; HEADER_MAX], usize) {
    let mut rest = u32::try_from(length).expect("message_bytes_max is far below 4 GiB");
    let mut header = [0; HEADER_MAX];
    let mut used = 0;
    loop {
        header[used] = (rest & 0x7f) as u8;
        rest >>= 7;
        used += 1;
        if rest == 0 {
            return (header, used);
        }
        header[used - 1] |= 0x80;
    }
}

/// The bytes that the header at the start of `bytes` uses, and the length it gives; `None` if it is not all there.
fn read_header(bytes: &[u8]) -> Result<Option<(usize, u64)>, ChannelError> {
    let mut length = 0;
    for (at, byte) in bytes.iter().take(HEADER_MAX).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if *byte == 0 && at > 0 {
                return Err(ChannelError::Malformed("message length is not minimal"));
            }
            return Ok(Some((at + 1, length)));
        }
    }
    if bytes.len() >= HEADER_MAX {
        return Err(ChannelError::Malformed("message length is too long"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_one_encoding() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 1 << 21, u32::MAX as usize] {
            let (header, used) = write_header(length);
            assert_eq!(read_header(&header[..used]), Ok(Some((used, length as u64))));
            assert_eq!(read_header(&header[..used - 1]), Ok(None), "a cut header is waited for");
        }
        assert!(read_header(&[0x80, 0x00]).is_err(), "padded");
        assert!(read_header(&[0xff; 5]).is_err(), "endless");
    }
}
