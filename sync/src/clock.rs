//! Clocks: exactly which entries a peer holds of a log, and fingerprints over many logs.

use std::collections::BTreeMap;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::id::{ChainId, DocId};
use crate::merkle::Head;

/// Chains that one clock may name on the wire.
pub const CLOCK_CHAINS_MAX: u64 = 65_536;
/// Branches that one clock may name for one chain.
pub const CLOCK_BRANCHES_MAX: u64 = 64;

/// How far a peer holds one chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// The first number at which the chain is proven to part, if it is. Then what counts of it is what stands before that,
    /// and what entries of other chains build upon.
    pub closed: Option<u64>,
    /// Ends of its branches (number, head), sorted. An honest chain has one. Of a closed chain only what counts; none where
    /// nothing does.
    pub heads: Vec<(u64, Head)>,
}

impl Ends {
    /// Number of entries of the longest branch.
    pub fn length(&self) -> u64 {
        self.heads.last().map_or(0, |(n, _)| *n)
    }

    /// Whether a proof is known that closes the chain earlier than in `other`.
    pub fn closes_before(&self, other: Option<&Ends>) -> bool {
        let before = |at: u64| other.and_then(|other| other.closed).is_none_or(|theirs| at < theirs);
        self.closed.is_some_and(before)
    }
}

/// Chain → how far it is held: exactly which entries a peer holds of a log. Encoded in the order of the chains, and refused
/// in any other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Clock(pub BTreeMap<ChainId, Ends>);

impl Clock {
    /// Adds the head of a branch.
    pub fn insert(&mut self, chain: ChainId, n: u64, head: Head) {
        let heads = &mut self.0.entry(chain).or_default().heads;
        if let Err(at) = heads.binary_search(&(n, head)) {
            heads.insert(at, (n, head));
        }
    }

    /// Number of entries of the longest branch of `chain`; 0 if unknown.
    pub fn length(&self, chain: &ChainId) -> u64 {
        self.0.get(chain).map_or(0, Ends::length)
    }

    /// Whether some branch of `other` is missing here or longer than any branch here, or its chain closed later or not at
    /// all, as far as heads tell.
    pub fn lacks_something_of(&self, other: &Clock) -> bool {
        let none = Ends::default();
        other.0.iter().any(|(chain, theirs)| {
            let ours = self.0.get(chain).unwrap_or(&none);
            let several = theirs.heads.len() > 1 || ours.heads.len() > 1;
            let lacking = |end: &(u64, Head)| !ours.heads.contains(end) && (end.0 >= ours.length() || several);
            theirs.closes_before(Some(ours))
                || ours.closed.is_none_or(|_| theirs.closed.is_some()) && theirs.heads.iter().any(lacking)
        })
    }

    /// Numbers of pairs in it, for bounds on memory.
    pub fn pairs(&self) -> usize {
        self.0.values().map(|ends| ends.heads.len().max(1)).sum()
    }

    /// BLAKE3 over the chains in order: id, number of branches, then number and head of each. Of a closed chain the
    /// highest bit of the number of branches is set, and where it is closed comes before them.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"commonhold clock 1");
        for (chain, ends) in &self.0 {
            let count = ends.heads.len() as u32;
            hasher.update(&chain.0);
            match ends.closed {
                None => hasher.update(&count.to_be_bytes()),
                Some(at) => hasher.update(&(count | 1 << 31).to_be_bytes()).update(&at.to_be_bytes()),
            };
            for (n, head) in &ends.heads {
                hasher.update(&n.to_be_bytes()).update(&head.0);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

impl<C> Encode<C> for Clock {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.map(self.0.len() as u64)?;
        for (chain, ends) in &self.0 {
            chain.encode(e, c)?;
            e.array(ends.heads.len() as u64 * 2 + u64::from(ends.closed.is_some()))?;
            if let Some(at) = ends.closed {
                e.u64(at)?;
            }
            for (n, head) in &ends.heads {
                e.u64(*n)?.bytes(&head.0)?;
            }
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Clock {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        let fault = decode::Error::message;
        let chains = d.map()?.filter(|n| *n <= CLOCK_CHAINS_MAX).ok_or_else(|| fault("too many chains in a clock"))?;
        let mut clock = Clock::default();
        // Only what stands in order is taken, and so only appended: a clock costs what its bytes cost to read.
        for _ in 0..chains {
            let chain = ChainId::decode(d, c)?;
            if clock.0.last_key_value().is_some_and(|(last, _)| *last >= chain) {
                return Err(fault("the chains of a clock ascend"));
            }
            let items = d.array()?.filter(|n| *n <= 2 * CLOCK_BRANCHES_MAX + 1 && *n > 0);
            let items = items.ok_or_else(|| fault("a chain has 1 to 64 branches of two fields"))?;
            // An odd number of fields: where the chain is closed comes first.
            let closed = (items % 2 == 1).then(|| d.u64()).transpose()?;
            if closed == Some(0) {
                return Err(fault("a chain is closed at 1 or later"));
            }
            let mut heads: Vec<(u64, Head)> = Vec::new();
            for _ in 0..items / 2 {
                let head = (d.u64()?, Head::decode(d, c)?);
                if heads.last().is_some_and(|last| *last >= head) {
                    return Err(fault("the branches of a chain ascend"));
                }
                heads.push(head);
            }
            clock.0.insert(chain, Ends { closed, heads });
        }
        Ok(clock)
    }
}

/// The fingerprint of a set of logs: the sum modulo 2^256 of one hash per (log, clock digest). It changes by one
/// subtraction and one addition when a log does.
///
/// A sum can be forged by a writer who searches for collisions; what that buys is that two peers do not notice one
/// difference at a reconnect, never a wrong document.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fingerprint([u64; 4]);

impl Fingerprint {
    fn element(doc: &DocId, digest: &[u8; 32]) -> [u64; 4] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"commonhold fingerprint 1").update(&doc.0).update(digest);
        let hash = hasher.finalize();
        let mut limbs = [0u64; 4];
        for (limb, bytes) in limbs.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        limbs
    }

    /// Adds a log at a clock.
    pub fn add(&mut self, doc: &DocId, digest: &[u8; 32]) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(Self::element(doc, digest)) {
            let (sum, over) = limb.overflowing_add(other);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || over_again;
        }
    }

    /// Removes a log at a clock; the inverse of [`Fingerprint::add`].
    pub fn remove(&mut self, doc: &DocId, digest: &[u8; 32]) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(Self::element(doc, digest)) {
            let (rest, under) = limb.overflowing_sub(other);
            let (rest, under_again) = rest.overflowing_sub(u64::from(borrow));
            *limb = rest;
            borrow = under || under_again;
        }
    }

    /// Little-endian bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut out = [0u8; 32];
        for (bytes, limb) in out.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *bytes = limb.to_le_bytes();
        }
        out
    }

    /// The inverse of [`Fingerprint::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Fingerprint {
        let mut limbs = [0u64; 4];
        for (limb, bytes) in limbs.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        Fingerprint(limbs)
    }
}

impl<C> Encode<C> for Fingerprint {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.to_bytes())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Fingerprint {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.bytes()?
            .try_into()
            .map(Fingerprint::from_bytes)
            .map_err(|_| decode::Error::message("a fingerprint has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_does_not_depend_on_the_order_and_removal_undoes_addition() {
        let (mut a, mut b) = (Fingerprint::default(), Fingerprint::default());
        for i in 0..100u8 {
            a.add(&DocId([i; 32]), &[i; 32]);
            b.add(&DocId([99 - i; 32]), &[99 - i; 32]);
        }
        assert_eq!(a, b);
        assert_eq!(Fingerprint::from_bytes(&a.to_bytes()), a);
        (0..100u8).for_each(|i| a.remove(&DocId([i; 32]), &[i; 32]));
        assert_eq!(a, Fingerprint::default());
    }

    #[test]
    fn a_clock_survives_its_encoding_and_its_digest_shows_branches_and_ends() {
        let chain = ChainId([1; 16]);
        let mut clock = Clock::default();
        clock.insert(chain, 5, Head([1; 32]));
        let mut forked = clock.clone();
        forked.insert(chain, 5, Head([9; 32]));
        let closed = |clock: &Clock, at| {
            let mut clock = clock.clone();
            clock.0.get_mut(&chain).unwrap().closed = Some(at);
            clock
        };
        let nothing = Clock([(chain, Ends { closed: Some(1), heads: vec![] })].into());
        let all = [closed(&clock, 4), closed(&clock, 3), closed(&forked, 3), nothing, clock, forked];
        assert!(all[5].lacks_something_of(&all[0]) && !all[0].lacks_something_of(&all[5]));
        assert!(all[4].lacks_something_of(&all[5]) && !all[5].lacks_something_of(&all[4]));
        assert!(all[0].lacks_something_of(&all[1]) && !all[1].lacks_something_of(&all[0]));
        let digests: std::collections::BTreeSet<[u8; 32]> = all.iter().map(Clock::digest).collect();
        assert_eq!(digests.len(), all.len());
        for clock in all {
            let bytes = minicbor::to_vec(&clock).unwrap();
            assert_eq!(Decoder::new(&bytes).decode::<Clock>().unwrap(), clock);
        }
    }

    #[test]
    fn of_two_ends_of_a_chain_the_earlier_closes_first() {
        let ends = |closed| Ends { closed, heads: vec![] };
        assert!(ends(Some(4)).closes_before(None) && ends(Some(4)).closes_before(Some(&ends(None))));
        assert!(ends(Some(4)).closes_before(Some(&ends(Some(5)))));
        assert!(!ends(Some(4)).closes_before(Some(&ends(Some(4)))) && !ends(None).closes_before(None));
    }

    /// A clock that names these chains, each with these branches of it, in this order.
    fn bytes(chains: &[(u8, &[(u64, u8)])]) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        e.map(chains.len() as u64).unwrap();
        for (chain, branches) in chains {
            e.bytes(&[*chain; 16]).unwrap().array(2 * branches.len() as u64).unwrap();
            for (n, head) in *branches {
                e.u64(*n).unwrap().bytes(&[*head; 32]).unwrap();
            }
        }
        e.into_writer()
    }

    #[test]
    fn a_clock_is_read_no_further_than_to_the_first_key_or_branch_out_of_order() {
        let read = |bytes: &[u8]| {
            let mut d = Decoder::new(bytes);
            (d.decode::<Clock>().is_ok(), d.position())
        };
        let good = bytes(&[(1, &[(5, 1), (5, 2), (6, 0)]), (2, &[(1, 1)])]);
        assert_eq!(read(&good), (true, good.len()));
        // The attack: one chain as often as a clock may name chains, its branches from the last to the first.
        let branches: Vec<(u64, u8)> = (0..CLOCK_BRANCHES_MAX).map(|n| (1_000 - n, 0)).collect();
        let again = bytes(&vec![(1, &branches[..1]); 65_536]);
        let falling = bytes(&vec![(1, &branches[..]); 3_000]);
        for bytes in [&again, &falling, &bytes(&[(2, &[(1, 1)]), (1, &[(1, 1)])]), &bytes(&[(1, &[(1, 1), (1, 1)])])] {
            let (taken, position) = read(bytes);
            assert!(!taken && position < 128, "{position} of {} bytes read", bytes.len());
        }
    }
}
