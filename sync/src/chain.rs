//! Chains, and the tips by which a device signs them.
//!
//! A chain is the line of entries that one device makes to one log in one run. A tip signs a chain up to an entry; one
//! signature covers everything before it. Entries travel and are stored in [`Segment`]s: a run of entries and the tip
//! over the last of them.

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use minicbor::data::Type;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::merkle::Head;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_LEN: usize = 64;

/// Longest foreign actor id that a gateway may vouch for, in bytes (Automerge's own limit is the wire's; 64 covers all
/// known clients).
pub const FOREIGN_ACTOR_MAX: usize = 64;

/// Rights heads that one tip may name.
pub const RIGHTS_HEADS_MAX: usize = 8;

/// Whose changes a chain carries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// The signing device made them.
    Own,
    /// Unsigned changes of this Automerge actor, vouched for by the signing device (a gateway or an import).
    Foreign(Vec<u8>),
}

/// What opens a chain: everything a tip signs that stays the same for its whole length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Opening {
    /// The signing device.
    pub device: DeviceId,
    /// Drawn at random once a run, so that two runs never share a chain.
    pub salt: [u8; 8],
    /// Whose changes the chain carries.
    pub kind: Kind,
}

impl Opening {
    /// The id of the chain that this opening starts in a log.
    pub fn chain(&self, space: &SpaceId, doc: &DocId) -> ChainId {
        let mut hasher = blake3::Hasher::new();
        match &self.kind {
            Kind::Own => {
                hasher.update(b"commonhold chain 1").update(&space.0).update(&doc.0);
                hasher.update(&self.device.0).update(&self.salt);
            }
            // Independent of the gateway, so that two gateways vouch for one chain.
            Kind::Foreign(actor) => {
                hasher.update(b"commonhold foreign 1").update(&space.0).update(&doc.0).update(actor);
            }
        }
        let mut id = [0u8; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ChainId(id)
    }

    /// The Automerge actor that the changes of this chain must name.
    pub fn actor(&self, space: &SpaceId, doc: &DocId) -> Vec<u8> {
        match &self.kind {
            Kind::Own => self.chain(space, doc).0.to_vec(),
            Kind::Foreign(actor) => actor.clone(),
        }
    }
}

impl<C> Encode<C> for Opening {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(3)?.bytes(&self.device.0)?.bytes(&self.salt)?;
        match &self.kind {
            Kind::Own => e.null()?.ok(),
            Kind::Foreign(actor) => e.bytes(actor)?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Opening {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(3) {
            return Err(decode::Error::message("an opening has three fields"));
        }
        let device = DeviceId::decode(d, c)?;
        let salt = d.bytes()?.try_into().map_err(|_| decode::Error::message("a salt has 8 bytes"))?;
        let kind = match d.datatype()? {
            Type::Null => {
                d.null()?;
                Kind::Own
            }
            _ => match d.bytes()? {
                actor if (1..=FOREIGN_ACTOR_MAX).contains(&actor.len()) => Kind::Foreign(actor.to_vec()),
                _ => return Err(decode::Error::message("a foreign actor has 1 to 64 bytes")),
            },
        };
        Ok(Opening { device, salt, kind })
    }
}

/// A device's signature over the head of a chain. The head itself is recomputed by whoever checks it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tip {
    /// Number of the last entry covered, from 1.
    pub n: u64,
    /// Heads of the rights records that the signer knew (at most [`RIGHTS_HEADS_MAX`]).
    pub rights: Vec<EntryId>,
    /// Ed25519 over [`tip_bytes`].
    pub signature: [u8; SIGNATURE_LEN],
}

impl<C> Encode<C> for Tip {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(3)?.u64(self.n)?;
        self.rights.encode(e, c)?;
        e.bytes(&self.signature)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Tip {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(3) {
            return Err(decode::Error::message("a tip has three fields"));
        }
        let n = d.u64()?;
        let count = d.array()?.unwrap_or(u64::MAX);
        if count > RIGHTS_HEADS_MAX as u64 {
            return Err(decode::Error::message("a tip names at most 8 rights heads"));
        }
        let rights = (0..count).map(|_| EntryId::decode(d, c)).collect::<Result<_, _>>()?;
        let signature = d.bytes()?.try_into().map_err(|_| decode::Error::message("a signature has 64 bytes"))?;
        Ok(Tip { n, rights, signature })
    }
}

/// The bytes that a tip signs: fixed order, every variable part behind its length.
pub fn tip_bytes(space: &SpaceId, doc: &DocId, opening: &Opening, n: u64, head: &Head, rights: &[EntryId]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"commonhold tip 1");
    out.extend_from_slice(&space.0);
    out.extend_from_slice(&doc.0);
    out.extend_from_slice(&opening.device.0);
    out.extend_from_slice(&opening.salt);
    match &opening.kind {
        Kind::Own => out.push(0),
        Kind::Foreign(actor) => {
            out.push(1);
            out.push(actor.len() as u8);
            out.extend_from_slice(actor);
        }
    }
    out.extend_from_slice(&n.to_be_bytes());
    out.extend_from_slice(&head.0);
    out.push(rights.len() as u8);
    rights.iter().for_each(|id| out.extend_from_slice(&id.0));
    out
}

impl Tip {
    /// Signs the head of a chain.
    pub fn sign(
        key: &SigningKey,
        space: &SpaceId,
        doc: &DocId,
        opening: &Opening,
        n: u64,
        head: &Head,
        rights: Vec<EntryId>,
    ) -> Tip {
        debug_assert!(rights.len() <= RIGHTS_HEADS_MAX);
        let signature = key.sign(&tip_bytes(space, doc, opening, n, head, &rights)).to_bytes();
        Tip { n, rights, signature }
    }

    /// Whether the device of `opening` signed `head` as the head of the first `n` entries. `verify_strict`, one at a
    /// time: batch verification accepts crafted signatures that single verification refuses.
    pub fn verifies(&self, space: &SpaceId, doc: &DocId, opening: &Opening, head: &Head) -> bool {
        #[cfg(test)]
        SIGNATURES_CHECKED.set(SIGNATURES_CHECKED.get() + 1);
        let Ok(key) = VerifyingKey::from_bytes(&opening.device.0) else { return false };
        let bytes = tip_bytes(space, doc, opening, self.n, head, &self.rights);
        key.verify_strict(&bytes, &ed25519_dalek::Signature::from_bytes(&self.signature)).is_ok()
    }
}

#[cfg(test)]
std::thread_local! {
    /// Signatures of tips that this thread has checked.
    pub(crate) static SIGNATURES_CHECKED: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// A run of consecutive entries of one chain under the tip over the last of them: the unit of transfer and storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The log: a document, or the space's authority log.
    pub doc: DocId,
    /// The chain.
    pub opening: Opening,
    /// Number of the first entry, from 1. The last has number `tip.n`.
    pub first: u64,
    /// Wire forms of the entries, in order; `tip.n - first + 1` of them.
    pub entries: Vec<Vec<u8>>,
    /// The tip over the last entry.
    pub tip: Tip,
}

impl Segment {
    /// Bytes of the entries.
    pub fn body_bytes(&self) -> usize {
        self.entries.iter().map(Vec::len).sum()
    }

    /// An upper bound of the bytes that it takes in a message, opening and tip included.
    pub fn wire_bytes_max(&self) -> usize {
        // An opening takes up to 120, a document's id 34, a tip 84 and 34 for each head of rights records.
        256 + 34 * self.tip.rights.len() + self.entries.iter().map(|entry| entry.len() + 5).sum::<usize>()
    }

    /// Whether the numbers are in order: at least one entry, and as many as `first` and the tip say.
    pub fn is_well_formed(&self) -> bool {
        self.first >= 1
            && !self.entries.is_empty()
            && self.first.checked_add(self.entries.len() as u64 - 1) == Some(self.tip.n)
    }

    /// Whether `next` continues this segment, so that both can travel under the later tip.
    pub fn continues_with(&self, next: &Segment) -> bool {
        self.doc == next.doc && self.opening == next.opening && self.tip.n.checked_add(1) == Some(next.first)
    }

    /// Joins a continuation, keeping the later tip.
    pub fn join(&mut self, next: Segment) {
        debug_assert!(self.continues_with(&next));
        self.entries.extend(next.entries);
        self.tip = next.tip;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::Frontier;

    fn opening(key: &SigningKey) -> Opening {
        Opening { device: DeviceId(key.verifying_key().to_bytes()), salt: *b"saltsalt", kind: Kind::Own }
    }

    #[test]
    fn a_tip_verifies_for_exactly_what_it_signed() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let (space, doc, opening) = (SpaceId([1; 32]), DocId([2; 32]), opening(&key));
        let mut frontier = Frontier::default();
        frontier.push(&EntryId([3; 32]));
        let head = frontier.head();
        let tip = Tip::sign(&key, &space, &doc, &opening, 1, &head, vec![]);
        assert!(tip.verifies(&space, &doc, &opening, &head));

        assert!(!tip.verifies(&SpaceId([9; 32]), &doc, &opening, &head));
        assert!(!tip.verifies(&space, &DocId([9; 32]), &opening, &head));
        assert!(!tip.verifies(&space, &doc, &Opening { salt: [0; 8], ..opening.clone() }, &head));
        assert!(!tip.verifies(&space, &doc, &Opening { kind: Kind::Foreign(vec![1]), ..opening.clone() }, &head));
        assert!(!Tip { n: 2, ..tip.clone() }.verifies(&space, &doc, &opening, &head));
        assert!(!Tip { rights: vec![EntryId([1; 32])], ..tip.clone() }.verifies(&space, &doc, &opening, &head));
        frontier.push(&EntryId([4; 32]));
        assert!(!tip.verifies(&space, &doc, &opening, &frontier.head()));
    }

    #[test]
    fn signed_bytes_match_the_golden_vector() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let bytes =
            tip_bytes(&SpaceId([1; 32]), &DocId([2; 32]), &opening(&key), 5, &Head([3; 32]), &[EntryId([4; 32])]);
        assert_eq!(bytes.len(), 16 + 32 + 32 + 32 + 8 + 1 + 8 + 32 + 1 + 32);
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "01ce67639ca209e1776cddba0bd599f4399953243063939779c7c4dffc7cc2a3"
        );
    }

    #[test]
    fn two_gateways_vouch_for_one_foreign_chain() {
        let (space, doc) = (SpaceId([1; 32]), DocId([2; 32]));
        let by = |device: u8| Opening {
            device: DeviceId([device; 32]),
            salt: [device; 8],
            kind: Kind::Foreign(vec![5; 16]),
        };
        assert_eq!(by(1).chain(&space, &doc), by(2).chain(&space, &doc));
        assert_eq!(by(1).actor(&space, &doc), vec![5; 16]);
    }
}
