//! Coded symbols, and the rule that says which of them an element is part of.

use super::Element;

/// The XOR of some elements, the XOR of their checksums, and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Symbol {
    /// XOR of the elements, big-endian.
    pub sum: u128,
    /// XOR of their keyed checksums.
    pub check: u64,
    /// Elements added less elements taken away.
    pub count: i64,
}

impl Symbol {
    /// Adds an element (`sign` 1) or takes it away (−1).
    pub(super) fn add(&mut self, bits: u128, check: u64, sign: i64) {
        self.sum ^= bits;
        self.check ^= check;
        self.count += sign;
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Symbol::default()
    }

    /// True if this may be a single element; the checksum decides.
    pub(super) fn is_single(&self) -> bool {
        self.count == 1 || self.count == -1
    }
}

/// Names a state of a set well enough to notice that it changed during a stream. Not a proof of equality: XOR of 64-bit
/// checksums is easily collided by whoever knows the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetMark {
    /// Elements in the set.
    pub len: u64,
    /// XOR of all their checksums: the checksum of symbol 0.
    pub check: u64,
}

impl SetMark {
    /// How many elements symbol `index` holds on average, rounded down: `2 · len / (index + 2)`.
    pub(super) fn expected_count(&self, index: usize) -> i64 {
        (2 * u128::from(self.len) / (index as u128 + 2)) as i64
    }
}

/// The checksum of elements under one seed: SipHash-2-4 of the 16 bytes, keyed with the seed.
///
/// Whoever knows the seed can search for collisions; all that one buys is a fault, and a new beginning under another seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key(u64, u64);

impl Key {
    pub(super) fn new(seed: &[u8; 16]) -> Self {
        let [lo, hi] = words(seed);
        Key(lo, hi)
    }

    pub(super) fn check(self, element: Element) -> u64 {
        let mut v = [
            self.0 ^ 0x736f_6d65_7073_6575,
            self.1 ^ 0x646f_7261_6e64_6f6d,
            self.0 ^ 0x6c79_6765_6e65_7261,
            self.1 ^ 0x7465_6462_7974_6573,
        ];
        let [lo, hi] = words(&element.0);
        for word in [lo, hi, 16 << 56] {
            v[3] ^= word;
            sip_rounds::<2>(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        sip_rounds::<4>(&mut v);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let all = u128::from_le_bytes(*bytes);
    [all as u64, (all >> 64) as u64]
}

#[inline(always)]
fn sip_rounds<const N: usize>(v: &mut [u64; 4]) {
    for _ in 0..N {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }
}

/// Where an element stands in the sequence of the symbols that it is part of: always symbol 0, and symbol `i` with
/// probability `2 / (i + 2)`, independently, so about `2 ln(n/2)` of the first `n` symbols.
///
/// The gap to the next index is drawn by inverting its distribution, as in the paper: from index `i` and `u` uniform in
/// (0, 1], `(i + 1.5) · (1/√u − 1)`, rounded up. It is computed in `f64` with one conversion, root, division,
/// subtraction and multiplication each: IEEE 754 rounds all of them correctly, so every machine finds the same index
/// (Rust contracts nothing into fused operations). The draws are SplitMix64 with the element's own increment, so two
/// elements share all their indices only if they are almost equal in 127 bits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    /// The next index that holds the element. `u32::MAX` stands for "none that matters".
    pub(super) next: u32,
    draws: u32,
}

impl Cursor {
    /// Moves on to the next index that holds the element.
    #[inline]
    pub(super) fn advance(&mut self, element: Element) {
        let bits = element.bits();
        self.draws = self.draws.wrapping_add(1);
        let increment = (bits >> 64) as u64 | 1;
        let draw = mix((bits as u64).wrapping_add(increment.wrapping_mul(u64::from(self.draws))));
        let uniform = ((draw >> 11) + 1) as f64 * (1.0 / (1u64 << 53) as f64);
        let gap = (f64::from(self.next) + 1.5) * (1.0 / uniform.sqrt() - 1.0);
        let next = u64::from(self.next).saturating_add(gap as u64).saturating_add(1);
        self.next = u32::try_from(next).unwrap_or(u32::MAX);
    }

    /// Visits every index below `end` from here on.
    #[inline]
    pub(super) fn visit(&mut self, element: Element, end: usize, mut f: impl FnMut(usize)) {
        while (self.next as usize) < end {
            f(self.next as usize);
            self.advance(element);
        }
    }

    /// Adds the element to the symbols of `window` that hold it. `start` is the index of the window's first symbol, and
    /// the cursor stands at or beyond it.
    pub(super) fn sweep(&mut self, key: Key, element: Element, sign: i64, start: usize, window: &mut [Symbol]) {
        let end = start + window.len();
        if self.next as usize >= end {
            return;
        }
        let (bits, check) = (element.bits(), key.check(element));
        self.visit(element, end, |index| window[index - start].add(bits, check, sign));
    }
}

/// The output function of SplitMix64.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An element of a set that is being coded: 24 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) element: Element,
    pub(super) cursor: Cursor,
}

impl Slot {
    pub(super) fn new(element: Element) -> Self {
        Slot { element, cursor: Cursor::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::elements;
    use super::*;
    use core::hash::Hasher;

    #[test]
    #[allow(deprecated)] // the standard library's own SipHash-2-4, as the oracle
    fn checksum_is_siphash_2_4() {
        for (n, element) in elements(1, 50).into_iter().enumerate() {
            let seed = [n as u8; 16];
            let [k0, k1] = words(&seed);
            let mut oracle = core::hash::SipHasher::new_with_keys(k0, k1);
            oracle.write(&element.0);
            assert_eq!(Key::new(&seed).check(element), oracle.finish());
        }
    }

    #[test]
    fn symbol_i_holds_two_in_i_plus_two_of_all_elements() {
        const N: usize = 100_000;
        let mut hits = vec![0usize; 200];
        for element in elements(2, N) {
            Cursor::default().visit(element, hits.len(), |i| hits[i] += 1);
        }
        assert_eq!(hits[0], N);
        for (i, hits) in hits.into_iter().enumerate().skip(1) {
            let mean = 2.0 * N as f64 / (i as f64 + 2.0);
            // The continuous inverse is about 2 % off at index 1 and quickly better.
            assert!((hits as f64 - mean).abs() < 5.0 * mean.sqrt() + mean * 0.03, "symbol {i}: {hits}, not {mean}");
        }
    }

    #[test]
    fn indices_of_an_element_are_pinned() {
        // Part of the wire format: a second implementation must find the same ones.
        let mut found = Vec::new();
        Cursor::default().visit(Element(*b"0123456789abcdef"), 100_000, |i| found.push(i));
        let low = [0, 2, 3, 23, 26, 43, 56, 59, 105, 250, 400, 405, 499, 580, 628, 800];
        let high = [2_652, 18_651, 32_935, 34_356, 35_339, 56_190, 84_658];
        assert_eq!(found, [&low[..], &high].concat());
    }

    #[test]
    fn degenerate_elements_advance_too() {
        for byte in [0, 0xff, 0x80] {
            let mut last = None;
            Cursor::default().visit(Element([byte; 16]), 1 << 20, |i| {
                assert!(last < Some(i));
                last = Some(i);
            });
        }
    }
}
