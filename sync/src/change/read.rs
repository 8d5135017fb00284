//! A cursor over bytes that never reads past them, and accepts a number only in its one shortest LEB128 form.

use super::Fault;

#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let (&first, rest) = self.0.split_first().ok_or(Fault::Length)?;
        self.0 = rest;
        Ok(first)
    }

    /// The next `n` bytes. `n` comes from the input and may be anything.
    pub(super) fn take(&mut self, n: u64) -> Result<&'a [u8], Fault> {
        let n = usize::try_from(n).map_err(|_| Fault::Length)?;
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Fault::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number, then that many bytes.
    pub(super) fn prefixed(&mut self) -> Result<&'a [u8], Fault> {
        let n = self.unsigned()?;
        self.take(n)
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(Fault::Number) } else { Ok(value) };
            }
        }
        Err(Fault::Number)
    }

    pub(super) fn signed(&mut self) -> Result<i64, Fault> {
        let (mut value, mut before) = (0i64, 0u8);
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte != 0 && byte != 0x7f {
                break;
            }
            value |= i64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // A last byte that only repeats the sign bit of the one before it.
                let idle = shift > 0 && byte == if before & 0x40 == 0 { 0 } else { 0x7f };
                if byte & 0x40 != 0 && shift < 57 {
                    value |= -1 << (shift + 7);
                }
                return if idle { Err(Fault::Number) } else { Ok(value) };
            }
            before = byte;
        }
        Err(Fault::Number)
    }
}

/// Writes the form that is read.
#[cfg(test)]
pub(super) fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
pub(super) fn put_signed(out: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = value as u8 & 0x7f;
        value >>= 7;
        if value == if byte & 0x40 == 0 { 0 } else { -1 } {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip_and_have_one_form(value: u64, shift in 0u32..64, noise: [u8; 11]) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_unsigned(&mut bytes, value);
            prop_assert_eq!(Reader::new(&bytes).unsigned(), Ok(value));
            bytes.clear();
            put_signed(&mut bytes, value as i64);
            prop_assert_eq!(Reader::new(&bytes).signed(), Ok(value as i64));

            // Whatever reads as a number is the form that would be written for it.
            let mut reader = Reader::new(&noise);
            if let Ok(value) = reader.unsigned() {
                bytes.clear();
                put_unsigned(&mut bytes, value);
                prop_assert_eq!(&bytes[..], &noise[..11 - reader.rest().len()]);
            }
            let mut reader = Reader::new(&noise);
            if let Ok(value) = reader.signed() {
                bytes.clear();
                put_signed(&mut bytes, value);
                prop_assert_eq!(&bytes[..], &noise[..11 - reader.rest().len()]);
            }
        }
    }

    #[test]
    fn extremes_read_and_longer_forms_do_not() {
        for value in [i64::MIN, i64::MAX, -1, 0, -64, -65, 63, 64] {
            let mut bytes = Vec::new();
            put_signed(&mut bytes, value);
            assert_eq!(Reader::new(&bytes).signed(), Ok(value));
        }
        for long in [&[0x80, 0][..], &[0xff; 10], &[0x80; 12]] {
            assert_eq!(Reader::new(long).unsigned(), Err(Fault::Number), "{long:?}");
        }
        for long in [&[0x80, 0][..], &[0xff, 0x7f], &[0xff; 12]] {
            assert_eq!(Reader::new(long).signed(), Err(Fault::Number), "{long:?}");
        }
        assert_eq!(Reader::new(&[0x80]).unsigned(), Err(Fault::Length));
        assert_eq!(Reader::new(&[1, 2]).take(u64::MAX), Err(Fault::Length));
    }
}
