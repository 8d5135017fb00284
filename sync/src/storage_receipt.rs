//! Who holds what on disk, signed by who holds it, so that it can be shown to somebody who was not there.
//!
//! A receipt says what was so when it was signed. It does not say for how long its holder keeps what it speaks of.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Encode};

use crate::chain::SIGNATURE_LEN;
use crate::id::{DeviceId, DocId, EntryId, SpaceId};
use crate::message::list;

/// Entries that one receipt names: heads of a version, of which a document has as many as there are chains that nobody has joined. 32
/// bytes each, which makes a message of 32 KiB.
pub const RECEIPT_ENTRIES_MAX: usize = 1_024;

/// A device says that it has entries of a document on disk, and all that these build upon.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StorageReceipt {
    /// Who holds them, and signs.
    #[n(0)]
    pub holder: DeviceId,
    /// In which space.
    #[n(1)]
    pub space: SpaceId,
    /// In which document.
    #[n(2)]
    pub doc: DocId,
    /// The heads of the version, ascending; at most [`RECEIPT_ENTRIES_MAX`].
    #[cbor(n(3), decode_with = "list::<_, _, RECEIPT_ENTRIES_MAX>")]
    pub entries: Vec<EntryId>,
    /// See `signed_bytes`.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub signature: [u8; SIGNATURE_LEN],
}

impl StorageReceipt {
    /// A receipt of this device. The caller has the entries on disk.
    pub fn sign(key: &SigningKey, space: SpaceId, doc: DocId, entries: Vec<EntryId>) -> StorageReceipt {
        let holder = DeviceId(key.verifying_key().to_bytes());
        let receipt = StorageReceipt { holder, space, doc, entries, signature: [0; SIGNATURE_LEN] };
        StorageReceipt { signature: key.sign(&receipt.signed_bytes()).to_bytes(), ..receipt }
    }

    /// Whether it names what a receipt may, and its holder signed it, strictly.
    pub fn verifies(&self) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        let key = VerifyingKey::from_bytes(&self.holder.0);
        may_name(&self.entries) && key.is_ok_and(|key| key.verify_strict(&self.signed_bytes(), &signature).is_ok())
    }

    /// `"commonhold storage 1" ‖ holder ‖ space ‖ document ‖ entries`
    fn signed_bytes(&self) -> Vec<u8> {
        let entries = self.entries.iter().flat_map(|id| id.0);
        [b"commonhold storage 1", &self.holder.0[..], &self.space.0, &self.doc.0]
            .concat()
            .into_iter()
            .chain(entries)
            .collect()
    }
}

/// Whether a receipt may name these: some, not too many, ascending.
pub fn may_name(entries: &[EntryId]) -> bool {
    (1..=RECEIPT_ENTRIES_MAX).contains(&entries.len()) && entries.is_sorted_by(|a, b| a < b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> StorageReceipt {
        let key = SigningKey::from_bytes(&[7; 32]);
        StorageReceipt::sign(&key, SpaceId([1; 32]), DocId([2; 32]), vec![EntryId([3; 32]), EntryId([4; 32])])
    }

    #[test]
    fn a_receipt_verifies_for_what_was_signed_and_nothing_else() {
        let good = receipt();
        assert!(good.verifies());
        let bytes = minicbor::to_vec(&good).unwrap();
        assert_eq!(minicbor::decode::<StorageReceipt>(&bytes).unwrap(), good);
        let changes: [fn(&mut StorageReceipt); 7] = [
            |r| r.holder.0[0] ^= 1,
            |r| r.space.0[31] ^= 1,
            |r| r.doc.0[0] ^= 1,
            |r| r.entries[1].0[0] ^= 1,
            |r| r.entries.swap(0, 1),
            |r| _ = r.entries.pop(),
            |r| r.signature[63] ^= 1,
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut other = good.clone();
            change(&mut other);
            assert!(!other.verifies(), "change {at}");
        }
    }

    #[test]
    fn a_receipt_names_something_and_not_too_much() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let of = |count: usize| {
            let id = |n: usize| EntryId(core::array::from_fn(|at| (n >> (8 * (31 - at).min(7))) as u8));
            StorageReceipt::sign(&key, SpaceId([1; 32]), DocId([2; 32]), (0..count).map(id).collect())
        };
        assert!(of(1).verifies() && of(RECEIPT_ENTRIES_MAX).verifies());
        assert!(!of(0).verifies() && !of(RECEIPT_ENTRIES_MAX + 1).verifies());
        let bytes = minicbor::to_vec(of(RECEIPT_ENTRIES_MAX + 1)).unwrap();
        assert!(minicbor::decode::<StorageReceipt>(&bytes).is_err());
    }
}
