//! The Merkle tree over the entry ids of a chain: RFC 9162's shape, with BLAKE3.
//!
//! A peer keeps only the frontier (the roots of the full subtrees), so appending is O(1) amortised and a head over
//! 260,000 entries costs 18 hashes of state.

use minicbor::{Decode, Encode};

use crate::id::EntryId;

/// The root of a tree: what a tip signs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Head(pub [u8; 32]);

impl<C> Encode<C> for Head {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Head {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.bytes()?.try_into().map(Head).map_err(|_| minicbor::decode::Error::message("wrong length for Head"))
    }
}

/// The state of a growing tree: the roots of its full subtrees, largest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    n: u64,
    peaks: Vec<[u8; 32]>,
}

impl Frontier {
    /// Number of entries appended.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// True before the first entry.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Appends the next entry.
    pub fn push(&mut self, entry: &EntryId) {
        let mut node = leaf(entry);
        let mut size = self.n;
        while size & 1 == 1 {
            let left = self.peaks.pop().expect("a peak for each set bit of n");
            node = parent(&left, &node);
            size >>= 1;
        }
        self.peaks.push(node);
        self.n += 1;
    }

    /// The head over all entries so far; for none, the hash of nothing (RFC 9162 §2.1.1).
    pub fn head(&self) -> Head {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return Head(*blake3::hash(b"").as_bytes()) };
        Head(peaks.fold(*last, |right, left| parent(left, &right)))
    }

    /// The head of a tree of `n` entries that begins with this one's, goes on with `entry`, and of which `right` are the
    /// nodes to the right of that entry's path, from the leaf up (the rest of an audit path of RFC 9162 §2.1.3; what is
    /// on the left are the peaks). `None` if the numbers do not fit.
    pub fn head_with(&self, entry: &EntryId, right: &[[u8; 32]], n: u64) -> Option<Head> {
        let (mut at, mut last) = (self.n, n.checked_sub(1)?);
        if at > last {
            return None;
        }
        let (mut left, mut right) = (self.peaks.iter().rev(), right.iter());
        let mut node = leaf(entry);
        while last > 0 {
            if at & 1 == 1 {
                node = parent(left.next()?, &node);
            } else if at < last {
                node = parent(&node, right.next()?);
            }
            (at, last) = (at >> 1, last >> 1);
        }
        (left.next().is_none() && right.next().is_none()).then_some(Head(node))
    }

    /// `n` (8 bytes, big-endian) and the peaks.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.n.to_be_bytes().to_vec();
        self.peaks.iter().for_each(|p| out.extend_from_slice(p));
        out
    }

    /// The inverse of [`Frontier::to_bytes`]; `None` if the number of peaks does not fit `n`.
    pub fn from_bytes(bytes: &[u8]) -> Option<Frontier> {
        let (n, rest) = bytes.split_first_chunk::<8>()?;
        let n = u64::from_be_bytes(*n);
        let (peaks, tail) = rest.as_chunks::<32>();
        (tail.is_empty() && peaks.len() == n.count_ones() as usize).then(|| Frontier { n, peaks: peaks.to_vec() })
    }
}

impl<C> Encode<C> for Frontier {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.to_bytes())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Frontier {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Frontier::from_bytes(d.bytes()?).ok_or_else(|| minicbor::decode::Error::message("peaks do not fit the size"))
    }
}

/// The nodes to the right of the path of entry `first` in a tree of `first - 1 + ids.len()` entries, from the leaf up. `ids`
/// are the entries from `first` on.
pub fn right_nodes(first: u64, ids: &[EntryId]) -> Vec<[u8; 32]> {
    let mut nodes = Vec::new();
    let at = first - 1;
    let (mut start, mut end) = (0, at + ids.len() as u64);
    while end - start > 1 {
        let middle = start + (end - start).next_power_of_two() / 2;
        if at >= middle {
            start = middle;
            continue;
        }
        nodes.push(root(&ids[(middle - at) as usize..(end - at) as usize]));
        end = middle;
    }
    nodes.reverse();
    nodes
}

/// The root over some entries, taken as a tree of their own.
fn root(entries: &[EntryId]) -> [u8; 32] {
    let mut frontier = Frontier::default();
    entries.iter().for_each(|entry| frontier.push(entry));
    frontier.head().0
}

fn leaf(entry: &EntryId) -> [u8; 32] {
    let mut bytes = [0u8; 33];
    bytes[1..].copy_from_slice(&entry.0);
    *blake3::hash(&bytes).as_bytes()
}

fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut bytes = [1u8; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    *blake3::hash(&bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recursive definition of RFC 9162 §2.1.1.
    fn by_definition(entries: &[EntryId]) -> [u8; 32] {
        match entries {
            [] => *blake3::hash(b"").as_bytes(),
            [one] => leaf(one),
            many => {
                let split = many.len().next_power_of_two() / 2;
                parent(&by_definition(&many[..split]), &by_definition(&many[split..]))
            }
        }
    }

    #[test]
    fn heads_equal_the_recursive_definition_at_every_size() {
        let entries: Vec<EntryId> = (0..200u8).map(|i| EntryId([i; 32])).collect();
        let mut frontier = Frontier::default();
        for n in 0..entries.len() {
            assert_eq!(frontier.head().0, by_definition(&entries[..n]), "size {n}");
            assert_eq!(Frontier::from_bytes(&frontier.to_bytes()).as_ref(), Some(&frontier));
            frontier.push(&entries[n]);
        }
    }

    #[test]
    fn a_head_follows_from_the_entries_before_one_and_the_nodes_to_its_right() {
        let entries: Vec<EntryId> = (0..70u8).map(|i| EntryId([i; 32])).collect();
        for n in 1..=entries.len() {
            let head = Head(by_definition(&entries[..n]));
            for first in 1..=n {
                let mut before = Frontier::default();
                entries[..first - 1].iter().for_each(|entry| before.push(entry));
                let right = right_nodes(first as u64, &entries[first - 1..n]);
                let found = |entry, right: &[_], n| before.head_with(entry, right, n as u64);
                assert_eq!(found(&entries[first - 1], &right, n), Some(head), "{first} of {n}");
                assert_ne!(found(&EntryId([99; 32]), &right, n), Some(head));
                assert_eq!(found(&entries[first - 1], &[&right[..], &[[0; 32]]].concat(), n), None);
                assert_eq!(found(&entries[first - 1], &right, first - 1), None);
            }
        }
    }

    #[test]
    fn a_frontier_with_the_wrong_number_of_peaks_is_refused() {
        let mut frontier = Frontier::default();
        frontier.push(&EntryId([1; 32]));
        let bytes = frontier.to_bytes();
        assert!(Frontier::from_bytes(&bytes[..39]).is_none());
        assert!(Frontier::from_bytes(&bytes[..8]).is_none());
        assert!(Frontier::from_bytes(&[]).is_none());
    }
}
