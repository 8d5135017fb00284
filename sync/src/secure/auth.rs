//! Auth: a device signs the transcript of a session, and thereby its own fresh Noise keys and the peer's.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use snow::TransportState;

use super::ChannelError;
use crate::id::DeviceId;

/// Device, 32 bytes, and signature, 64 bytes.
pub(super) const AUTH_LEN: usize = 96;

const DOMAIN: &[u8; 20] = b"commonhold channel 1";
const SIGNED_LEN: usize = DOMAIN.len() + 1 + 32 + 32;

/// Which end of the connection speaks. It is signed, so that an Auth cannot be sent back to its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Dialler = 0,
    Acceptor = 1,
}

impl Role {
    pub(super) fn of(noise: &TransportState) -> Role {
        if noise.is_initiator() { Role::Dialler } else { Role::Acceptor }
    }

    pub(super) fn other(self) -> Role {
        match self {
            Role::Dialler => Role::Acceptor,
            Role::Acceptor => Role::Dialler,
        }
    }
}

/// The Auth by which `signer`, in `role`, enters the session with this transcript hash.
pub(super) fn sign(signer: &SigningKey, role: Role, hash: &[u8; 32]) -> [u8; AUTH_LEN] {
    let device = signer.verifying_key().to_bytes();
    let signature = signer.sign(&signed_bytes(role, hash, &device));
    let mut auth = [0; AUTH_LEN];
    auth[..32].copy_from_slice(&device);
    auth[32..].copy_from_slice(&signature.to_bytes());
    auth
}

/// The device that made `auth`, if it did so in `role` for the session with this transcript hash.
pub(super) fn verify(auth: &[u8; AUTH_LEN], role: Role, hash: &[u8; 32]) -> Result<DeviceId, ChannelError> {
    let (device, signature) = auth.split_first_chunk::<32>().expect("an Auth is longer than a device id");
    let verified = Signature::from_slice(signature).and_then(|signature| {
        VerifyingKey::from_bytes(device)?.verify_strict(&signed_bytes(role, hash, device), &signature)
    });
    verified.map(|()| DeviceId(*device)).map_err(|_| ChannelError::BadSignature)
}

fn signed_bytes(role: Role, hash: &[u8; 32], device: &[u8; 32]) -> [u8; SIGNED_LEN] {
    let mut bytes = [0; SIGNED_LEN];
    let (domain, rest) = bytes.split_at_mut(DOMAIN.len());
    domain.copy_from_slice(DOMAIN);
    rest[0] = role as u8;
    rest[1..33].copy_from_slice(hash);
    rest[33..].copy_from_slice(device);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_signed_bytes_are_those_of_the_specification() {
        let signer = SigningKey::from_bytes(&[7; 32]);
        let device = signer.verifying_key().to_bytes();
        let expected = [&b"commonhold channel 1\x01"[..], &[0xab; 32], &device].concat();
        assert_eq!(signed_bytes(Role::Acceptor, &[0xab; 32], &device).as_slice(), expected);
        let auth = concat!(
            "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
            "0ad232e30373df2ab4ccce14a59b27287a91279cc396e9568bfee1dab62bd840",
            "a7525d02d9f14267e8deab4d169ba12b081036a4f2fe343d4b082ca818e5ab05",
        );
        assert_eq!(hex(&sign(&signer, Role::Acceptor, &[0xab; 32])), auth);
    }

    #[test]
    fn an_auth_holds_for_one_role_one_session_and_one_device() {
        let (signer, hash) = (SigningKey::from_bytes(&[7; 32]), [1; 32]);
        let auth = sign(&signer, Role::Dialler, &hash);
        assert_eq!(verify(&auth, Role::Dialler, &hash), Ok(DeviceId(signer.verifying_key().to_bytes())));
        assert_eq!(verify(&auth, Role::Acceptor, &hash), Err(ChannelError::BadSignature));
        assert_eq!(verify(&auth, Role::Dialler, &[2; 32]), Err(ChannelError::BadSignature));
        for at in 0..AUTH_LEN {
            let mut altered = auth;
            altered[at] ^= 1;
            assert_eq!(verify(&altered, Role::Dialler, &hash), Err(ChannelError::BadSignature), "byte {at}");
        }
    }

    #[test]
    fn a_key_of_small_order_proves_nothing() {
        // The neutral element as key and as R, with s = 0, satisfies the loose equation for any message.
        let mut auth = [0; AUTH_LEN];
        (auth[0], auth[32]) = (1, 1);
        assert_eq!(verify(&auth, Role::Dialler, &[0; 32]), Err(ChannelError::BadSignature));
    }
}
