//! What secrets make: the root keys of an identity from one seed, and the use of an invite. Words for people, and where
//! secrets are kept, are the shell's business.

use core::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::ROOT_KEYS_MAX;
use crate::id::{DeviceId, EntryId, SpaceId};
use crate::record::{ChainEnds, Record, Right, Subject, commitment, redeem_bytes};

/// Root keys of an identity, from the first on: all of them, where the recovery seed is at hand, or those that have been
/// put in place so far.
///
/// Each key is committed to by the one before it, and each commitment holds the next: whoever holds the seed can rotate
/// [`ROOT_KEYS_MAX`] − 1 times, and there is only one way to. Who holds the first n keys only cannot put key n in place.
#[derive(Clone)]
pub struct RootKeys {
    keys: Vec<SigningKey>,
    /// What each key commits to.
    next: Vec<[u8; 32]>,
}

impl RootKeys {
    /// The first `count` keys that a seed makes, at least 1 and at most [`ROOT_KEYS_MAX`].
    pub fn of_seed(seed: &[u8; 32], count: usize) -> RootKeys {
        let key = |index: usize| {
            let mut material = Zeroizing::new(seed.to_vec());
            material.extend_from_slice(&(index as u32).to_be_bytes());
            SigningKey::from_bytes(&Zeroizing::new(blake3::derive_key("commonhold root key 1", &material)))
        };
        let keys = (0..ROOT_KEYS_MAX).map(key).collect();
        let mut all = RootKeys::linked(keys, [0; 32]);
        all.keys.truncate(count.max(1));
        all.next.truncate(count.max(1));
        all
    }

    /// The keys from these secrets, the first included, and what the last of them commits to. `None` without a key, or with
    /// more than [`ROOT_KEYS_MAX`].
    pub fn of_secrets(secrets: &[[u8; 32]], next: [u8; 32]) -> Option<RootKeys> {
        let fits = (1..=ROOT_KEYS_MAX).contains(&secrets.len());
        fits.then(|| RootKeys::linked(secrets.iter().map(SigningKey::from_bytes).collect(), next))
    }

    fn linked(keys: Vec<SigningKey>, last: [u8; 32]) -> RootKeys {
        let mut next = vec![last; keys.len()];
        for index in (1..keys.len()).rev() {
            next[index - 1] = commitment(&device(&keys[index]), &next[index]);
        }
        RootKeys { keys, next }
    }

    /// The keys, the first one first; never empty.
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// What the last of the keys commits to; all zero: nothing.
    pub fn next(&self) -> [u8; 32] {
        self.next[self.next.len() - 1]
    }

    /// The last of the keys.
    pub fn newest(&self) -> DeviceId {
        device(&self.keys[self.keys.len() - 1])
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

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} root keys of {:?}", self.keys.len(), self.identity())
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
        let of = |seed: u8| RootKeys::of_seed(&[seed; 32], ROOT_KEYS_MAX);
        let (one, again) = (of(7), of(7));
        assert_eq!((one.identity(), one.newest()), (again.identity(), again.newest()));
        assert_eq!(one.rotation(0, vec![]), None, "the first key is put in place by the founding");
        assert_eq!(one.rotation(ROOT_KEYS_MAX, vec![]), None);
        let Record::Identity { mut next, .. } = one.founding() else { panic!() };
        for index in 1..ROOT_KEYS_MAX {
            let Some(Record::Rotate { next: after, .. }) = one.rotation(index, vec![]) else { panic!() };
            assert_eq!(commitment(&device(&one.keys[index]), &after), next);
            next = after;
        }
        assert_eq!((next, one.next()), ([0; 32], [0; 32]));
        assert_ne!(one.identity(), of(8).identity());
    }

    #[test]
    fn the_first_keys_are_kept_without_the_seed_and_say_the_same() {
        let all = RootKeys::of_seed(&[7; 32], ROOT_KEYS_MAX);
        for count in [1, 3, ROOT_KEYS_MAX] {
            let some = RootKeys::of_seed(&[7; 32], count);
            let secrets: Vec<[u8; 32]> = some.keys().iter().map(SigningKey::to_bytes).collect();
            let kept = RootKeys::of_secrets(&secrets, some.next()).unwrap();
            assert_eq!((kept.identity(), kept.founding()), (all.identity(), all.founding()));
            assert_eq!(kept.newest(), device(&all.keys[count - 1]));
            for index in 0..count {
                assert_eq!(kept.rotation(index, vec![]), all.rotation(index, vec![]));
            }
            assert_eq!(kept.rotation(count, vec![]), None);
        }
        assert!(RootKeys::of_secrets(&[], [0; 32]).is_none());
        assert!(RootKeys::of_secrets(&[[1; 32]; ROOT_KEYS_MAX + 1], [0; 32]).is_none());
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
