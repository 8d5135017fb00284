//! The checksum trailer of a stored value: `value ‖ BLAKE3(table id ‖ key length as u32 LE ‖ key ‖ value)[..8]`.
//!
//! It finds damage (a flipped bit, a row that turns up under another key or in another table), not malice: whoever can
//! write the file can write the trailer. 8 bytes let one damaged row in 2^64 through.

/// Bytes that the trailer adds to every value on disk.
pub(super) const TRAILER_BYTES: usize = 8;

/// The trailer for a value that is stored under `key` in the table with this id.
pub(super) fn trailer(table_id: u8, key: &[u8], value: &[u8]) -> [u8; TRAILER_BYTES] {
    let key_len = u32::try_from(key.len()).expect("keys are at most KEY_BYTES_MAX long");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[table_id]);
    hasher.update(&key_len.to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut out = [0; TRAILER_BYTES];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// The value without its trailer, or `None` when the two do not match.
pub(super) fn open<'a>(table_id: u8, key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (value, found) = stored.split_last_chunk::<TRAILER_BYTES>()?;
    (key.len() <= super::KEY_BYTES_MAX && trailer(table_id, key, value) == *found).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(table_id: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
        [value, &trailer(table_id, key, value)].concat()
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let stored = sealed(3, b"key", b"a value");
        assert_eq!(open(3, b"key", &stored), Some(&b"a value"[..]));
        for bit in 0..stored.len() * 8 {
            let mut bent = stored.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(3, b"key", &bent), None, "bit {bit}");
        }
    }

    #[test]
    fn a_value_belongs_to_its_table_and_key() {
        let stored = sealed(3, b"key", b"value");
        assert_eq!(open(4, b"key", &stored), None);
        assert_eq!(open(3, b"kez", &stored), None);
        // The boundary between key and value is part of what is hashed.
        assert_eq!(open(3, b"ke", &sealed(3, b"key", b"value")), None);
        assert_ne!(trailer(3, b"keyv", b"alue"), trailer(3, b"key", b"value"));
        assert_eq!(open(3, b"key", b"short"), None);
    }

    #[test]
    fn the_trailer_is_the_documented_one() {
        let hash = blake3::hash(b"\x04\x03\0\0\0keyvalue");
        assert_eq!(trailer(4, b"key", b"value"), hash.as_bytes()[..8]);
    }
}
