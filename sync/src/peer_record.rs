//! What a peer says of itself for others to pass on: where it can be dialled, and which roles it plays. Signed by its device, so
//! that nobody can send dialers to an address in another's name; the newer of two counts.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::chain::SIGNATURE_LEN;
use crate::id::DeviceId;

/// Addresses in one record: a few interfaces, in both families. More would only slow down who tries them in turn.
pub const RECORD_ADDRESSES_MAX: usize = 8;
/// Bytes of one address, as in a hello.
pub const RECORD_ADDRESS_BYTES_MAX: usize = 256;

/// Why a peer record is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerRecordError {
    /// More addresses, or longer ones, than a record may have.
    #[error("a peer record has at most 8 addresses of at most 256 bytes")]
    TooLarge,
    /// The device did not sign it.
    #[error("a peer record is not signed by its device")]
    BadSignature,
}

/// A signed statement of a device about itself. Decoding does not check it; [`PeerRecord::verify`] does.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PeerRecord {
    /// Who says so.
    pub device: DeviceId,
    /// When, in milliseconds of the device's own wall clock since 1970. Compared only with other records of the same device.
    pub made_ms: u64,
    /// Bits of [`crate::message::roles`].
    pub roles: u64,
    /// Where it can be dialled, best first; empty if nowhere.
    pub addresses: Vec<String>,
    signature: [u8; SIGNATURE_LEN],
}

impl PeerRecord {
    /// A record of this device. Addresses beyond what fits are left out.
    pub fn sign(key: &SigningKey, made_ms: u64, roles: u64, addresses: &[String]) -> PeerRecord {
        let fits = addresses.iter().filter(|address| address.len() <= RECORD_ADDRESS_BYTES_MAX);
        let mut record = PeerRecord {
            device: DeviceId(key.verifying_key().to_bytes()),
            made_ms,
            roles,
            addresses: fits.take(RECORD_ADDRESSES_MAX).cloned().collect(),
            signature: [0; SIGNATURE_LEN],
        };
        record.signature = key.sign(&record.signed_bytes()).to_bytes();
        record
    }

    /// Whether its device signed it, strictly, and it keeps to the bounds.
    pub fn verify(&self) -> Result<(), PeerRecordError> {
        let fits = |address: &String| address.len() <= RECORD_ADDRESS_BYTES_MAX;
        if self.addresses.len() > RECORD_ADDRESSES_MAX || !self.addresses.iter().all(fits) {
            return Err(PeerRecordError::TooLarge);
        }
        let key = VerifyingKey::from_bytes(&self.device.0).map_err(|_| PeerRecordError::BadSignature)?;
        let signature = Signature::from_bytes(&self.signature);
        key.verify_strict(&self.signed_bytes(), &signature).map_err(|_| PeerRecordError::BadSignature)
    }

    /// Whether this one counts and the other, of the same device, does not.
    pub fn replaces(&self, other: &PeerRecord) -> bool {
        self.made_ms > other.made_ms
    }

    /// `"commonhold peer 1" ‖ device ‖ made_ms (u64 be) ‖ roles (u64 be) ‖ number of addresses (u8) ‖ [length (u16 be) ‖ address]…`
    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = b"commonhold peer 1".to_vec();
        bytes.extend(self.device.0);
        bytes.extend(self.made_ms.to_be_bytes());
        bytes.extend(self.roles.to_be_bytes());
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            bytes.extend((address.len() as u16).to_be_bytes());
            bytes.extend(address.as_bytes());
        }
        bytes
    }
}

impl<C> Encode<C> for PeerRecord {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(5)?.bytes(&self.device.0)?.u64(self.made_ms)?.u64(self.roles)?;
        e.array(self.addresses.len() as u64)?;
        self.addresses.iter().try_for_each(|address| e.str(address)?.ok())?;
        e.bytes(&self.signature)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PeerRecord {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(5) {
            return Err(decode::Error::message("a peer record has five fields"));
        }
        let (device, made_ms, roles) = (DeviceId::decode(d, c)?, d.u64()?, d.u64()?);
        let count = d.array()?.filter(|count| *count <= RECORD_ADDRESSES_MAX as u64);
        let count = count.ok_or_else(|| decode::Error::message("a peer record has at most 8 addresses"))?;
        let addresses = (0..count).map(|_| d.str().map(str::to_owned)).collect::<Result<_, _>>()?;
        let signature = d.bytes()?.try_into();
        let signature = signature.map_err(|_| decode::Error::message("wrong length for a signature"))?;
        Ok(PeerRecord { device, made_ms, roles, addresses, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PeerRecord {
        let key = SigningKey::from_bytes(&[7; 32]);
        PeerRecord::sign(&key, 1_000, 3, &["ws://127.0.0.1:4000/".into(), "x".repeat(257)])
    }

    #[test]
    fn a_peer_record_survives_its_encoding_and_leaves_out_what_does_not_fit() {
        let record = record();
        assert_eq!(record.addresses, ["ws://127.0.0.1:4000/"]);
        assert_eq!(record.verify(), Ok(()));
        let bytes = minicbor::to_vec(&record).unwrap();
        let again: PeerRecord = Decoder::new(&bytes).decode().unwrap();
        assert_eq!(again, record);
    }

    #[test]
    fn nothing_in_a_peer_record_can_be_altered() {
        let changes: [&dyn Fn(&mut PeerRecord); 5] = [
            &|r| r.made_ms += 1,
            &|r| r.roles = 8,
            &|r| r.addresses.clear(),
            &|r| r.addresses.push("ws://example.com/".into()),
            &|r| r.device = DeviceId(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes()),
        ];
        for change in changes {
            let mut bad = record();
            change(&mut bad);
            assert_eq!(bad.verify(), Err(PeerRecordError::BadSignature));
        }
    }
}
