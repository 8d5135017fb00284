//! The bytes of symbols, as they stand in a byte string of a message.
//!
//! Numbers are LEB128 of 1 to 10 bytes in their shortest form, hashes are fixed, sums big-endian, checksums
//! little-endian. Every length is compared with what is allowed and with the bytes that are left before anything is
//! allocated; bytes that are left over are refused.

use super::{BATCH_SYMBOLS_MAX, SET_LEN_MAX, SYMBOLS_MAX, SetMark, Symbol};

/// A run of symbols of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The set that was coded.
    pub mark: SetMark,
    /// Index of the first symbol.
    pub start: usize,
    /// The symbols from there on.
    pub symbols: Vec<Symbol>,
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// The bytes end too early, or go on where they should end.
    #[error("wrong length")]
    Length,
    /// A number is not in its shortest form, or does not fit 64 bits.
    #[error("malformed number")]
    Number,
    /// A value is above its bound.
    #[error("{what} is {found}, the most is {max}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// The value.
        found: u64,
        /// The bound.
        max: u64,
    },
    /// A value that has no meaning.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// Bytes of the shortest symbol: sum, checksum, one byte for the count.
const SYMBOL_BYTES_MIN: usize = 25;

/// Encodes a batch: `set length, set checksum (8), start, number of symbols, symbols`. A symbol is `sum (16), checksum
/// (8), count`, where the count is given as the zigzag difference to `2 · set length / (index + 2)`, rounded down: one
/// byte, or two where a large set meets a small index. Symbols beyond [`BATCH_SYMBOLS_MAX`] are for the next batch.
pub fn encode_symbols(mark: SetMark, start: usize, symbols: &[Symbol]) -> Vec<u8> {
    let symbols = &symbols[..symbols.len().min(BATCH_SYMBOLS_MAX)];
    let mut out = Vec::with_capacity(24 + symbols.len() * (SYMBOL_BYTES_MIN + 2));
    put_number(&mut out, mark.len);
    out.extend(mark.check.to_le_bytes());
    put_number(&mut out, start as u64);
    put_number(&mut out, symbols.len() as u64);
    for (symbol, index) in symbols.iter().zip(start..) {
        out.extend(symbol.sum.to_be_bytes());
        out.extend(symbol.check.to_le_bytes());
        let off = symbol.count.wrapping_sub(mark.expected_count(index));
        put_number(&mut out, (off << 1 ^ off >> 63) as u64);
    }
    out
}

/// Decodes a batch of 1 to `symbols_max` symbols.
pub fn decode_symbols(bytes: &[u8], symbols_max: usize) -> Result<Batch, BytesError> {
    let mut reader = Reader(bytes);
    let len = reader.number_up_to("set length", SET_LEN_MAX)?;
    let mark = SetMark { len, check: u64::from_le_bytes(reader.array()?) };
    let start = reader.number_up_to("start index", SYMBOLS_MAX as u64)? as usize;
    let count = reader.count("number of symbols", symbols_max.min(BATCH_SYMBOLS_MAX), SYMBOL_BYTES_MIN)?;
    if count == 0 {
        return Err(BytesError::Malformed("batch without symbols"));
    }
    let mut symbols = Vec::with_capacity(count);
    for index in start..start + count {
        let sum = u128::from_be_bytes(reader.array()?);
        let check = u64::from_le_bytes(reader.array()?);
        let zigzag = reader.number()?;
        let off = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let count = mark.expected_count(index).checked_add(off).ok_or(BytesError::Malformed("count"))?;
        symbols.push(Symbol { sum, check, count });
    }
    reader.end()?;
    Ok(Batch { mark, start, symbols })
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BytesError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(BytesError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, BytesError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(BytesError::Number);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BytesError::Number)
    }

    fn number_up_to(&mut self, what: &'static str, max: u64) -> Result<u64, BytesError> {
        let found = self.number()?;
        if found > max { Err(BytesError::TooLarge { what, found, max }) } else { Ok(found) }
    }

    /// The number of things that follow, each of at least `each` bytes.
    fn count(&mut self, what: &'static str, max: usize, each: usize) -> Result<usize, BytesError> {
        let count = self.number_up_to(what, max as u64)? as usize;
        if count.saturating_mul(each) > self.0.len() { Err(BytesError::Length) } else { Ok(count) }
    }

    fn end(self) -> Result<(), BytesError> {
        if self.0.is_empty() { Ok(()) } else { Err(BytesError::Length) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Encoder;
    use super::super::tests::elements;
    use super::*;
    use proptest::prelude::*;

    fn batch_bytes() -> (Batch, Vec<u8>) {
        let mut encoder = Encoder::new(&[7; 16], elements(5, 3_000));
        encoder.next_symbols(10);
        let batch = Batch { mark: encoder.mark(), start: 10, symbols: encoder.next_symbols(20) };
        let bytes = encode_symbols(batch.mark, batch.start, &batch.symbols);
        (batch, bytes)
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let (batch, bytes) = batch_bytes();
        assert_eq!(decode_symbols(&bytes, 20), Ok(batch));
    }

    #[test]
    fn extreme_counts_survive_or_are_refused() {
        for count in [i64::MIN, -1, 0, 1, i64::MAX] {
            for len in [0, 1, SET_LEN_MAX] {
                let symbols = [Symbol { sum: 1, check: 2, count }];
                let bytes = encode_symbols(SetMark { len, check: 9 }, 0, &symbols);
                match decode_symbols(&bytes, 1) {
                    Ok(batch) => assert_eq!(batch.symbols, symbols),
                    Err(fault) => assert_eq!(fault, BytesError::Malformed("count")),
                }
            }
        }
    }

    #[test]
    fn bounds_are_checked_before_anything_is_read() {
        let (_, bytes) = batch_bytes();
        let too_large = |what, found, max| Err(BytesError::TooLarge { what, found, max });
        assert_eq!(decode_symbols(&bytes, 19), too_large("number of symbols", 20, 19));
        let mut promise = vec![5];
        promise.extend([0; 9]);
        put_number(&mut promise, 16_000);
        assert_eq!(decode_symbols(&promise, usize::MAX), Err(BytesError::Length));
        *promise.last_mut().unwrap() = 0x7f;
        assert!(matches!(decode_symbols(&promise, usize::MAX), Err(BytesError::Length)));
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(decode_symbols(&long, 20), Err(BytesError::Length));
        // A number in a longer form than it needs, and one beyond 64 bits.
        assert_eq!(decode_symbols(&[&[0x81, 0][..], &[0; 40]].concat(), 20), Err(BytesError::Number));
        assert_eq!(decode_symbols(&[0xff; 40], 20), Err(BytesError::Number));
    }

    #[test]
    fn every_truncation_is_refused() {
        let (_, symbols) = batch_bytes();
        assert!((0..symbols.len()).all(|n| decode_symbols(&symbols[..n], 100).is_err()));
    }

    proptest! {
        #[test]
        fn mutated_bytes_are_refused_or_canonical(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (_, mut symbols) = batch_bytes();
            for (at, byte) in flips {
                *at.get_mut(&mut symbols) = byte;
            }
            if let Ok(batch) = decode_symbols(&symbols, 100) {
                prop_assert_eq!(encode_symbols(batch.mark, batch.start, &batch.symbols), symbols);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_symbols(&bytes, usize::MAX);
        }
    }
}
