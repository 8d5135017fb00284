//! Signatures of webhooks as Standard Webhooks 1.0 has them: of the id, the time of the attempt and the body, with dots between.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// How the receiver knows that an event is from here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub(crate) enum Scheme {
    /// HMAC-SHA256 with a secret that both sides have: `v1`.
    #[default]
    #[n(0)]
    Hmac,
    /// Ed25519: who has the public key can verify, and not sign: `v1a`.
    #[n(1)]
    Ed25519,
}

/// What a hook signs with.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Key {
    #[n(0)]
    pub(super) scheme: Scheme,
    /// The secret of HMAC, or the seed of Ed25519.
    #[n(1)]
    secret: ByteArray<32>,
    /// Milliseconds since 1970 from which on it signs no more; absent: it is the present one.
    #[n(2)]
    pub(super) until_ms: Option<u64>,
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({:?}, …)", self.scheme)
    }
}

impl Key {
    /// A new one. The error says that the system has no random numbers.
    pub(super) fn draw(scheme: Scheme) -> Result<Key, String> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(|error| format!("no random numbers: {error}"))?;
        Ok(Key { scheme, secret: (*secret).into(), until_ms: None })
    }

    /// What the receiver verifies with: a secret, or a public key.
    pub(super) fn shown(&self) -> String {
        match self.scheme {
            Scheme::Hmac => format!("whsec_{}", BASE64_STANDARD.encode(*self.secret)),
            Scheme::Ed25519 => format!("whpk_{}", BASE64_STANDARD.encode(self.signing().verifying_key().as_bytes())),
        }
    }

    fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.secret)
    }

    /// One signature, as it stands in `webhook-signature`.
    fn sign(&self, signed: &[u8]) -> String {
        match self.scheme {
            Scheme::Hmac => format!("v1,{}", hmac(&*self.secret, signed)),
            Scheme::Ed25519 => format!("v1a,{}", BASE64_STANDARD.encode(self.signing().sign(signed).to_bytes())),
        }
    }
}

fn hmac(secret: &[u8], signed: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(signed);
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

/// `webhook-signature`: one signature for each key that is valid now. `at_s`: seconds since 1970.
pub(super) fn signatures(keys: &[Key], id: &str, at_s: u64, body: &[u8]) -> String {
    let signed = [format!("{id}.{at_s}.").as_bytes(), body].concat();
    let valid = keys.iter().filter(|key| key.until_ms.is_none_or(|until| at_s.saturating_mul(1_000) < until));
    valid.map(|key| key.sign(&signed)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, VerifyingKey};

    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    /// The example that the libraries of Standard Webhooks share.
    #[test]
    fn the_published_example_of_hmac_has_its_signature() {
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = [format!("{ID}.{AT}.").as_bytes(), BODY].concat();
        assert_eq!(hmac(&secret, &signed), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_published_example_of_ed25519_has_its_signature() {
        let secret = BASE64_STANDARD
            .decode("6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==")
            .unwrap();
        let secret: [u8; 32] = secret[..32].try_into().unwrap();
        let key = Key { scheme: Scheme::Ed25519, secret: secret.into(), until_ms: None };
        assert_eq!(key.shown(), "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
        assert_eq!(
            signatures(&[key], ID, AT, BODY),
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
        );
    }

    #[test]
    fn both_keys_sign_until_the_old_one_is_over() {
        let (mut old, new) = (Key::draw(Scheme::Hmac).unwrap(), Key::draw(Scheme::Ed25519).unwrap());
        old.until_ms = Some((AT + 1) * 1_000);
        let keys = [new.clone(), old];
        let both = signatures(&keys, ID, AT, BODY);
        let (first, second) = both.split_once(' ').unwrap();
        assert!(first.starts_with("v1a,") && second.starts_with("v1,"));
        assert_eq!(signatures(&keys, ID, AT + 1, BODY).matches(',').count(), 1);
        let public = BASE64_STANDARD.decode(new.shown().strip_prefix("whpk_").unwrap()).unwrap();
        let public = VerifyingKey::from_bytes(public.as_slice().try_into().unwrap()).unwrap();
        let signature = BASE64_STANDARD.decode(first.strip_prefix("v1a,").unwrap()).unwrap();
        let signed = [format!("{ID}.{AT}.").as_bytes(), BODY].concat();
        public.verify_strict(&signed, &Signature::from_slice(&signature).unwrap()).unwrap();
        assert!(!format!("{keys:?}").contains(&BASE64_STANDARD.encode(*keys[1].secret)));
    }
}
