//! Fork proofs: two signed tips of one chain, and the nodes of their trees that show that they cannot both be true.
//!
//! A proof closes a chain at the first entry in which the two histories differ ([`ForkProof::at`]). It accuses by the
//! accused device's own signatures, so it is believed from whoever brings it, and nothing else is.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::chain::{Opening, Tip};
use crate::id::{ChainId, DocId, EntryId, SpaceId};
use crate::merkle::{Frontier, right_nodes};

/// Longest encoded proof: two tips with 8 rights heads each (700 bytes), two openings (250), and for each tree up to 34
/// nodes on the right (a chain of 2^34 entries) beside as many that both share.
pub const PROOF_BYTES_MAX: usize = 4_096;

/// One of the two histories, from the entry on in which they differ.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Side {
    /// The signature over it.
    #[n(0)]
    pub tip: Tip,
    /// Its first entry that the other does not have.
    #[n(1)]
    pub entry: EntryId,
    /// The nodes to the right of that entry's path, from the leaf up, 32 bytes each.
    #[n(2)]
    pub right: ByteVec,
}

/// A branch of a chain, from the entry on in which it differs from another.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    /// The opening under which it was signed.
    pub opening: &'a Opening,
    /// The tip over its end.
    pub tip: &'a Tip,
    /// The ids of the entries after those that both share; at least one.
    pub ids: &'a [EntryId],
}

/// Two histories of one chain, both signed.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ForkProof {
    /// In which log.
    #[n(0)]
    pub doc: DocId,
    /// The opening of the chain, as the first history has it.
    #[n(1)]
    pub opening: Opening,
    /// As the second has it, if it is another: two gateways vouch for one foreign chain, or two openings make one id.
    #[n(2)]
    pub other_opening: Option<Opening>,
    /// The tree over the entries that both share.
    #[n(3)]
    pub shared: Frontier,
    /// The history with the lesser entry.
    #[n(4)]
    pub first: Side,
    /// The other.
    #[n(5)]
    pub second: Side,
}

impl ForkProof {
    /// Of two branches that part after `shared`. Neither tip is checked here.
    pub fn of(doc: DocId, shared: Frontier, a: Tail<'_>, b: Tail<'_>) -> ForkProof {
        let (a, b) = if a.ids[0] <= b.ids[0] { (a, b) } else { (b, a) };
        let side = |tail: Tail<'_>| Side {
            tip: tail.tip.clone(),
            entry: tail.ids[0],
            right: right_nodes(shared.len() + 1, tail.ids).concat().into(),
        };
        ForkProof {
            doc,
            opening: a.opening.clone(),
            other_opening: (a.opening != b.opening).then(|| b.opening.clone()),
            first: side(a),
            second: side(b),
            shared,
        }
    }

    /// Number of the first entry in which the two histories differ: where the chain is closed.
    pub fn at(&self) -> u64 {
        self.shared.len() + 1
    }

    /// The chain that it closes.
    pub fn chain(&self, space: &SpaceId) -> ChainId {
        self.opening.chain(space, &self.doc)
    }

    /// Whether it proves what it says: both tips verify, over trees that part here, of one chain. Two signature checks,
    /// the last things done.
    pub fn verifies(&self, space: &SpaceId) -> bool {
        let other = self.other_opening.as_ref();
        if self.first.entry >= self.second.entry
            || other.is_some_and(|other| *other == self.opening || other.chain(space, &self.doc) != self.chain(space))
        {
            return false;
        }
        let verifies = |side: &Side, opening: &Opening| {
            let (right, rest) = side.right.as_chunks::<32>();
            let head = self.shared.head_with(&side.entry, right, side.tip.n).filter(|_| rest.is_empty());
            head.is_some_and(|head| side.tip.verifies(space, &self.doc, opening, &head))
        };
        verifies(&self.first, &self.opening) && verifies(&self.second, other.unwrap_or(&self.opening))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Kind;
    use crate::id::DeviceId;
    use ed25519_dalek::SigningKey;

    const SPACE: SpaceId = SpaceId([1; 32]);
    const DOC: DocId = DocId([2; 32]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn opening(key: &SigningKey) -> Opening {
        Opening { device: DeviceId(key.verifying_key().to_bytes()), salt: *b"saltsalt", kind: Kind::Own }
    }

    fn frontier(ids: &[EntryId]) -> Frontier {
        let mut frontier = Frontier::default();
        ids.iter().for_each(|id| frontier.push(id));
        frontier
    }

    fn tip(key: &SigningKey, ids: &[EntryId]) -> Tip {
        let head = frontier(ids).head();
        Tip::sign(key, &SPACE, &DOC, &opening(key), ids.len() as u64, &head, vec![])
    }

    fn history(shared: u8, own: u8, name: u8) -> Vec<EntryId> {
        let shared = (0..shared).map(|n| EntryId([n; 32]));
        shared.chain((0..own).map(|n| EntryId([name.wrapping_add(n); 32]))).collect()
    }

    fn proof(key: &SigningKey, shared: u8, a: &[EntryId], b: &[EntryId]) -> ForkProof {
        let (opening, at) = (opening(key), usize::from(shared));
        let (tip_a, tip_b) = (tip(key, a), tip(key, b));
        let tail = |tip, ids| Tail { opening: &opening, tip, ids };
        ForkProof::of(DOC, frontier(&a[..at]), tail(&tip_a, &a[at..]), tail(&tip_b, &b[at..]))
    }

    #[test]
    fn two_signed_histories_prove_a_fork_wherever_they_part() {
        let key = key(7);
        for shared in [0, 1, 5, 8, 31] {
            for (more_a, more_b) in [(1, 1), (1, 9), (40, 3)] {
                let (a, b) = (history(shared, more_a, 100), history(shared, more_b, 200));
                let found = proof(&key, shared, &a, &b);
                assert_eq!(found, proof(&key, shared, &b, &a), "the sides stand in one order");
                assert_eq!(found.at(), u64::from(shared) + 1);
                assert!(found.verifies(&SPACE));
                assert!(!found.verifies(&SpaceId([9; 32])));
                let bytes = minicbor::to_vec(&found).unwrap();
                assert_eq!(minicbor::decode::<ForkProof>(&bytes).unwrap(), found);
            }
        }
    }

    #[test]
    fn what_no_device_signed_twice_is_refused() {
        let (key, other) = (key(7), key(8));
        let (a, b) = (history(5, 3, 100), history(5, 4, 200));
        let sound = proof(&key, 5, &a, &b);
        let refused = |change: &dyn Fn(&mut ForkProof)| {
            let mut bad = sound.clone();
            change(&mut bad);
            assert!(!bad.verifies(&SPACE));
        };
        // One history twice, and the same with its sides swapped.
        refused(&|p| p.second = p.first.clone());
        refused(&|p| core::mem::swap(&mut p.first, &mut p.second));
        // A history and its own continuation: both signed, and both true.
        let longer = history(5, 6, 100);
        let (tip_a, tip_b) = (tip(&key, &a), tip(&key, &longer));
        let own = opening(&key);
        let tail = |tip, ids| Tail { opening: &own, tip, ids };
        assert!(
            !ForkProof::of(DOC, frontier(&a[..5]), tail(&tip_a, &a[5..]), tail(&tip_b, &longer[5..])).verifies(&SPACE)
        );
        // Another's signature on one side.
        refused(&|p| p.second.tip = tip(&other, &b));
        refused(&|p| p.other_opening = Some(opening(&other)));
        refused(&|p| p.other_opening = Some(p.opening.clone()));
        // Other numbers, nodes or entries than were signed.
        refused(&|p| p.first.tip.n += 1);
        refused(&|p| p.first.entry = EntryId([0; 32]));
        refused(&|p| p.second.right.extend_from_slice(&[0; 32]));
        refused(&|p| p.second.right.extend_from_slice(&[0; 1]));
        refused(&|p| p.shared = frontier(&a[..4]));
        refused(&|p| p.doc = DocId([9; 32]));
    }

    #[test]
    fn a_proof_over_long_chains_stays_small() {
        // Right-hand nodes are some 32 for the longest chains; here they are made up, only their number counts.
        let sound = proof(&key(7), 5, &history(5, 3, 100), &history(5, 4, 200));
        let mut long = sound.clone();
        let peaks = [&((1u64 << 34) - 1).to_be_bytes()[..], &[0; 32 * 34]].concat();
        long.shared = Frontier::from_bytes(&peaks).unwrap();
        for side in [&mut long.first, &mut long.second] {
            side.tip.rights = vec![EntryId([1; 32]); 8];
            side.right = vec![0; 32 * 30].into();
        }
        assert!(minicbor::to_vec(&long).unwrap().len() <= PROOF_BYTES_MAX);
    }
}
