//! What secrets make: the root keys of an identity from one seed, and the use of an invite. Words for people, and where
//! secrets are kept, are the shell's business.

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::ROOT_KEYS_MAX;
use crate::id::{DeviceId, EntryId, SpaceId};
use crate::record::{ChainEnds, Record, Right, Subject, commitment, redeem_bytes};

/// All root keys of an identity, from one recovery seed of 32 bytes.
///
/// Each key is committed to by the one before it, and each commitment holds the next: whoever holds the seed can rotate
/// [`ROOT_KEYS_MAX`] − 1 times, and there is only one way to.
pub struct RootKeys {
    keys: Vec<SigningKey>,
    /// What each key commits to.
    next: Vec<[u8; 32]>,
}

impl RootKeys {
    /// The keys that a seed makes.
    pub fn of_seed(seed: &[u8; 32]) -> RootKeys {
        let key = |index: usize| {
            let mut material = Zeroizing::new(seed.to_vec());
            material.extend_from_slice(&(index as u32).to_be_bytes());
            SigningKey::from_bytes(&Zeroizing::new(blake3::derive_key("commonhold root key 1", &material)))
        };
        let keys: Vec<SigningKey> = (0..ROOT_KEYS_MAX).map(key).collect();
        let mut next = vec![[0; 32]; ROOT_KEYS_MAX];
        for index in (1..ROOT_KEYS_MAX).rev() {
            next[index - 1] = commitment(&device(&keys[index]), &next[index]);
        }
        RootKeys { keys, next }
    }

    /// A root key, from 0; `None` from [`ROOT_KEYS_MAX`] on.
    pub fn key(&self, index: usize) -> Option<&SigningKey> {
        self.keys.get(index)
    }

    /// The record that founds the identity: the first of a chain of the first root key.
    pub fn founding(&self) -> Record {
        Record::Identity { root: device(&self.keys[0]), next: self.next[0] }
    }

    /// The id of the identity.
    pub fn identity(&self) -> Subject {
        self.founding().identity().expect("the record founds an identity")
    }

    /// The record by which key `index`, from 1, takes the place of the one before: the first of a chain of that key. `cuts` is
    /// what stays of the authority chains of older keys.
    pub fn rotation(&self, index: usize, cuts: ChainEnds) -> Option<Record> {
        let next = *self.next.get(index).filter(|_| index > 0)?;
        Some(Record::Rotate { root: device(&self.keys[0]), first: self.next[0], next, cuts })
    }
}

/// The invite that `secret` redeems.
pub fn invite(secret: &SigningKey, right: Right, uses: u32) -> Record {
    let key = *blake3::hash(secret.verifying_key().as_bytes()).as_bytes();
    Record::Invite { key, right, uses }
}

/// What `device` says to get what an invite gives.
pub fn redeem(secret: &SigningKey, space: &SpaceId, invite: &EntryId, device: &DeviceId) -> Record {
    let signature = secret.sign(&redeem_bytes(space, invite, device)).to_bytes();
    Record::Redeem { invite: *invite, key: secret.verifying_key().to_bytes(), signature }
}

/// Whether the key of a [`Record::Redeem`] signed for the device.
pub(super) fn signed(
    space: &SpaceId,
    invite: &EntryId,
    device: &DeviceId,
    key: &[u8; 32],
    signature: &[u8; 64],
) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else { return false };
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    key.verify_strict(&redeem_bytes(space, invite, device), &signature).is_ok()
}

fn device(key: &SigningKey) -> DeviceId {
    DeviceId(key.verifying_key().to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_every_root_key_and_the_last_commits_to_nothing() {
        let (one, again) = (RootKeys::of_seed(&[7; 32]), RootKeys::of_seed(&[7; 32]));
        assert_eq!((one.identity(), one.key(15)), (again.identity(), again.key(15)));
        assert_eq!(one.key(ROOT_KEYS_MAX), None);
        assert_eq!(one.rotation(0, vec![]), None, "the first key is put in place by the founding");
        let Record::Identity { mut next, .. } = one.founding() else { panic!() };
        for index in 1..ROOT_KEYS_MAX {
            let Some(Record::Rotate { next: after, .. }) = one.rotation(index, vec![]) else { panic!() };
            assert_eq!(commitment(&device(&one.keys[index]), &after), next);
            next = after;
        }
        assert_eq!(next, [0; 32]);
        assert_ne!(one.identity(), RootKeys::of_seed(&[8; 32]).identity());
    }

    #[test]
    fn an_invite_is_redeemed_for_one_device_in_one_space() {
        let (secret, space, invite) = (SigningKey::from_bytes(&[1; 32]), SpaceId([2; 32]), EntryId([3; 32]));
        let Record::Redeem { key, signature, .. } = redeem(&secret, &space, &invite, &DeviceId([4; 32])) else {
            panic!()
        };
        assert!(signed(&space, &invite, &DeviceId([4; 32]), &key, &signature));
        assert!(!signed(&space, &invite, &DeviceId([5; 32]), &key, &signature));
        assert!(!signed(&SpaceId([9; 32]), &invite, &DeviceId([4; 32]), &key, &signature));
        assert!(!signed(&space, &EntryId([9; 32]), &DeviceId([4; 32]), &key, &signature));
    }
}
