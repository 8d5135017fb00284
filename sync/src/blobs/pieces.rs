//! Which pieces of a blob somebody has: a bit each.

/// A set of pieces of one blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pieces {
    bits: Vec<u8>,
    of: u32,
    count: u32,
}

impl Pieces {
    /// None of so many.
    pub fn none(of: u32) -> Pieces {
        Pieces { bits: vec![0; of.div_ceil(8) as usize], of, count: 0 }
    }

    /// All of so many.
    pub fn all(of: u32) -> Pieces {
        let mut all = Pieces::none(of);
        (0..of).for_each(|piece| _ = all.insert(piece));
        all
    }

    /// As on the wire: piece 0 is the lowest bit of the first byte. `None` if the length is another, or a bit is set that
    /// stands for no piece.
    pub fn from_bytes(bytes: &[u8], of: u32) -> Option<Pieces> {
        if bytes.len() != of.div_ceil(8) as usize {
            return None;
        }
        let spare = bytes.len() as u32 * 8 - of;
        if bytes.last().is_some_and(|last| last.leading_zeros() < spare) {
            return None;
        }
        let count = bytes.iter().map(|byte| byte.count_ones()).sum();
        Some(Pieces { bits: bytes.to_vec(), of, count })
    }

    /// As on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// How many pieces the blob has.
    pub fn of(&self) -> u32 {
        self.of
    }

    /// How many are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether nothing is missing.
    pub fn is_all(&self) -> bool {
        self.count == self.of
    }

    /// Whether a piece is in it.
    pub fn has(&self, piece: u32) -> bool {
        self.bits.get(piece as usize / 8).is_some_and(|byte| byte >> (piece % 8) & 1 == 1)
    }

    /// Adds a piece. False if it was there, or there is no such piece.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.of || self.has(piece) {
            return false;
        }
        self.bits[piece as usize / 8] |= 1 << (piece % 8);
        self.count += 1;
        true
    }

    /// Takes a piece out. False if it was not there.
    pub fn remove(&mut self, piece: u32) -> bool {
        if !self.has(piece) {
            return false;
        }
        self.bits[piece as usize / 8] &= !(1 << (piece % 8));
        self.count -= 1;
        true
    }

    /// Its pieces, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.of).filter(|piece| self.has(*piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_its_encoding_and_nothing_else_decodes() {
        let mut set = Pieces::none(11);
        assert!(set.insert(0) && set.insert(10) && !set.insert(10) && !set.insert(11));
        assert_eq!((set.as_bytes(), set.count()), (&[1, 4][..], 2));
        assert_eq!(Pieces::from_bytes(&[1, 4], 11), Some(set));
        assert_eq!(Pieces::from_bytes(&[1, 12], 11), None, "a bit for a piece that is not there");
        assert_eq!(Pieces::from_bytes(&[1], 11), None);
        assert!(Pieces::all(16).is_all() && Pieces::from_bytes(&[0xff, 0xff], 16).unwrap().is_all());
    }
}
