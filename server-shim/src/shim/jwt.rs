//! Tokens of an identity provider: JSON Web Tokens (RFC 7519), signed by one of the keys (RFC 7517) that the operator puts into a file.
//!
//! Nothing is fetched, and nothing in a token is believed that the file and the configuration do not say: neither the algorithm, nor whom
//! it is from or for. What the bearer may do stands in the claim `commonhold`; without it, nothing.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use commonhold_engine::SpaceId;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::access::{May, Opened, unix_now};

/// Keys of the file, and its bytes: providers have two or three of some hundred bytes.
const KEYS_MAX: usize = 64;
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Bytes of a token, of the name in it, and rights in it. A cookie of a browser has 4 KiB.
const TOKEN_BYTES_MAX: usize = 8 << 10;
const NAME_BYTES_MAX: usize = 256;
const GRANTS_MAX: usize = 64;
/// By how much the clocks of the provider and of this machine may differ, seconds.
const LEEWAY_S: u64 = 60;
/// How old what was read of the file may be.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Whom the provider vouches for. Two tokens of one person are the same person.
pub(crate) struct User {
    name: String,
    may: Vec<Opened>,
    /// Seconds since 1970.
    until: u64,
}

impl User {
    /// Who it is, by the provider's word.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What they may do in a space now.
    pub(crate) fn may(&self, space: &SpaceId) -> Option<May> {
        let granted = || self.may.iter().filter_map(|one| one.may(space)).max();
        (unix_now() < self.until).then(granted).flatten()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "User({:?})", self.name)
    }
}

impl PartialEq for User {
    fn eq(&self, other: &User) -> bool {
        self.name == other.name
    }
}

impl Eq for User {}

impl PartialOrd for User {
    fn partial_cmp(&self, other: &User) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for User {
    fn cmp(&self, other: &User) -> Ordering {
        self.name.cmp(&other.name)
    }
}

/// What is asked of a token besides its time.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    commonhold: Vec<String>,
}

/// A provider, as the configuration names it.
#[derive(Debug)]
pub(crate) struct Provider {
    path: PathBuf,
    issuer: String,
    audience: String,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    read_at: Instant,
    changed: Option<SystemTime>,
    keys: Arc<[Key]>,
}

/// A key, and what it may sign with.
struct Key {
    id: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({:?}, {:?})", self.id, self.algorithms)
    }
}

impl Provider {
    /// The error says what is wrong with the file.
    pub(crate) fn new(path: PathBuf, issuer: String, audience: String) -> Result<Provider, String> {
        let changed = modified(&path);
        let keys = read(&path)?;
        Ok(Provider { path, issuer, audience, keys: Mutex::new(Keys { read_at: Instant::now(), changed, keys }) })
    }

    /// Whom a token names. The error is for whoever sent it.
    pub(crate) fn user(&self, token: &str) -> Result<User, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!("the token has more than {TOKEN_BYTES_MAX} bytes"));
        }
        let head = decode_header(token).map_err(|error| format!("this is no JSON Web Token: {error}"))?;
        let keys = self.keys();
        let mut named = keys.iter().filter(|key| head.kid.is_none() || key.id == head.kid);
        let key = named.next().ok_or("the token is signed with a key that this peer does not know")?;
        if head.kid.is_none() && named.next().is_some() {
            return Err("the token does not say which key it is signed with (kid)".into());
        }
        let mut asks = Validation::new(Algorithm::EdDSA);
        asks.algorithms.clone_from(&key.algorithms);
        asks.set_issuer(&[&self.issuer]);
        asks.set_audience(&[&self.audience]);
        asks.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        asks.validate_nbf = true;
        asks.leeway = LEEWAY_S;
        let Claims { sub: name, exp, commonhold } =
            decode(token, &key.key, &asks).map_err(|error| format!("the token is not good here: {error}"))?.claims;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("sub has 1 to {NAME_BYTES_MAX} bytes"));
        }
        if commonhold.len() > GRANTS_MAX {
            return Err(format!("the claim commonhold has more than {GRANTS_MAX} rights"));
        }
        let may = commonhold.iter().map(|one| one.parse()).collect::<Result<Vec<Opened>, String>>();
        let may = may.map_err(|why| format!("the claim commonhold is no list of rights: {why}"))?;
        Ok(User { name, may, until: exp.saturating_add(LEEWAY_S) })
    }

    fn keys(&self) -> Arc<[Key]> {
        let mut held = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if held.read_at.elapsed() >= AGE_MAX {
            held.read_at = Instant::now();
            let changed = modified(&self.path);
            if changed != held.changed {
                held.changed = changed;
                match read(&self.path) {
                    Ok(keys) => held.keys = keys,
                    // What was good stays good: an operator's slip should not lock everybody out.
                    Err(error) => tracing::error!(%error, "the keys for JSON Web Tokens stay as they were"),
                }
            }
        }
        held.keys.clone()
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|facts| facts.modified()).ok()
}

fn read(path: &Path) -> Result<Arc<[Key]>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let wrong = |why: String| format!("{}: {why}", path.display());
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let set: JwkSet =
        serde_json::from_slice(&bytes).map_err(|error| wrong(format!("it is no set of keys (RFC 7517): {error}")))?;
    let signs = |key: &&Jwk| !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    let keys: Vec<Key> = set.keys.iter().filter(signs).map(key).collect::<Result<_, _>>().map_err(wrong)?;
    match keys.len() {
        0 => Err(wrong("no key in it signs".into())),
        1..=KEYS_MAX => Ok(keys.into()),
        _ => Err(wrong(format!("it has more than {KEYS_MAX} keys"))),
    }
}

fn key(jwk: &Jwk) -> Result<Key, String> {
    let name = || jwk.common.key_id.clone().unwrap_or_else(|| "without kid".into());
    let curve = |curve: &EllipticCurve| match curve {
        EllipticCurve::P256 => Some(vec![Algorithm::ES256]),
        EllipticCurve::P384 => Some(vec![Algorithm::ES384]),
        EllipticCurve::Ed25519 => Some(vec![Algorithm::EdDSA]),
        _ => None,
    };
    let by_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Some(vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ]),
        AlgorithmParameters::EllipticCurve(key) => curve(&key.curve),
        AlgorithmParameters::OctetKeyPair(key) => curve(&key.curve),
        // Whoever can check with such a key can sign with it.
        AlgorithmParameters::OctetKey(_) => {
            return Err(format!("key {} is a shared secret; only public keys belong here", name()));
        }
        _ => None,
    };
    let unknown = || format!("key {} is of a kind that is not known here: RSA, P-256, P-384 or Ed25519", name());
    let by_kind = by_kind.ok_or_else(unknown)?;
    let algorithms = match jwk.common.key_algorithm {
        None => by_kind,
        Some(said) => by_kind.into_iter().filter(|one| is(said, *one)).collect(),
    };
    if algorithms.is_empty() {
        return Err(format!("key {} has an alg that is not of its kind", name()));
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("key {}: {error}", name()))?;
    Ok(Key { id: jwk.common.key_id.clone(), key, algorithms })
}

fn is(said: KeyAlgorithm, one: Algorithm) -> bool {
    said.to_string().parse::<Algorithm>().is_ok_and(|said| said == one)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value as Json, json};

    use super::*;

    /// PKCS#8 of private keys: what RFC 8410 and RFC 5915 put before the secret.
    const ED25519: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
    const P256: [u8; 36] = [
        48, 65, 2, 1, 0, 48, 19, 6, 7, 42, 134, 72, 206, 61, 2, 1, 6, 8, 42, 134, 72, 206, 61, 3, 1, 7, 4, 39, 48, 37,
        2, 1, 1, 4, 32, 7,
    ];

    fn ed25519(seed: u8) -> EncodingKey {
        EncodingKey::from_ed_der(&[&ED25519[..], &[seed; 32]].concat())
    }

    fn p256() -> EncodingKey {
        EncodingKey::from_ec_der(&[&P256[..], &[7; 31]].concat())
    }

    fn public(key: &EncodingKey, algorithm: Algorithm, id: &str) -> Json {
        let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
        jwk.common.key_id = Some(id.into());
        serde_json::to_value(jwk).unwrap()
    }

    struct Made {
        _folder: tempfile::TempDir,
        provider: Provider,
    }

    fn provider(keys: &Json) -> Result<Made, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, keys.to_string()).unwrap();
        let provider = Provider::new(path, "https://login.example.org/".into(), "commonhold".into())?;
        Ok(Made { _folder: folder, provider })
    }

    fn claims(with: &Json) -> Json {
        let mut claims = json!({
            "iss": "https://login.example.org/", "aud": ["other", "commonhold"], "sub": "alice", "exp": unix_now() + 600,
            "commonhold": ["*:read", format!("{}:write", "ab".repeat(32))],
        });
        json_patch::merge(&mut claims, with);
        claims
    }

    fn token(key: &EncodingKey, algorithm: Algorithm, id: Option<&str>, claims: &Json) -> String {
        let mut header = Header::new(algorithm);
        header.kid = id.map(str::to_owned);
        encode(&header, claims, key).unwrap()
    }

    #[test]
    fn a_token_gives_what_it_says_and_no_more() {
        let (first, second) = (ed25519(1), p256());
        let keys = [public(&first, Algorithm::EdDSA, "1"), public(&second, Algorithm::ES256, "2")];
        let made = provider(&json!({ "keys": keys })).unwrap();
        let (named, other): (SpaceId, SpaceId) = ("ab".repeat(32).parse().unwrap(), "cd".repeat(32).parse().unwrap());
        for token in [
            token(&first, Algorithm::EdDSA, Some("1"), &claims(&json!({}))),
            token(&second, Algorithm::ES256, Some("2"), &claims(&json!({}))),
        ] {
            let user = made.provider.user(&token).unwrap();
            assert_eq!((user.name(), user.may(&named), user.may(&other)), ("alice", Some(May::Write), Some(May::Read)));
        }
        let none = token(&first, Algorithm::EdDSA, Some("1"), &claims(&json!({ "commonhold": null })));
        assert_eq!(made.provider.user(&none).unwrap().may(&named), None);
    }

    #[test]
    fn tokens_of_others_for_others_at_other_times_or_of_no_key_are_refused() {
        let (good, bad) = (ed25519(1), ed25519(2));
        let keys = [public(&good, Algorithm::EdDSA, "1"), public(&p256(), Algorithm::ES256, "2")];
        let made = provider(&json!({ "keys": keys })).unwrap();
        let of = |key: &EncodingKey, id, with: Json| token(key, Algorithm::EdDSA, id, &claims(&with));
        assert!(made.provider.user(&of(&good, Some("1"), json!({}))).is_ok());
        let now = unix_now();
        let refused = [
            of(&bad, Some("1"), json!({})),
            of(&good, Some("3"), json!({})),
            of(&good, Some("2"), json!({})),
            // Which of two keys it is must be said.
            of(&good, None, json!({})),
            of(&good, Some("1"), json!({ "iss": "https://evil.example/" })),
            of(&good, Some("1"), json!({ "iss": null })),
            of(&good, Some("1"), json!({ "aud": "other" })),
            of(&good, Some("1"), json!({ "aud": null })),
            of(&good, Some("1"), json!({ "exp": now - LEEWAY_S - 1 })),
            of(&good, Some("1"), json!({ "exp": null })),
            of(&good, Some("1"), json!({ "nbf": now + 600 })),
            of(&good, Some("1"), json!({ "sub": null })),
            of(&good, Some("1"), json!({ "sub": "" })),
            of(&good, Some("1"), json!({ "sub": "x".repeat(NAME_BYTES_MAX + 1) })),
            of(&good, Some("1"), json!({ "commonhold": "*:write" })),
            of(&good, Some("1"), json!({ "commonhold": ["*:own"] })),
            of(&good, Some("1"), json!({ "commonhold": vec!["*:read"; GRANTS_MAX + 1] })),
            of(&good, Some("1"), json!({ "long": "x".repeat(TOKEN_BYTES_MAX) })),
            token(&EncodingKey::from_secret(&[7; 64]).unwrap(), Algorithm::HS256, Some("1"), &claims(&json!({}))),
            // {"alg":"none"} and {"sub":"alice"}
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.".to_owned(),
            "...".to_owned(),
            "a.b.c".to_owned(),
        ];
        for (at, token) in refused.iter().enumerate() {
            assert!(made.provider.user(token).is_err(), "{at}");
        }
        let whole = of(&good, Some("1"), json!({}));
        for at in 0..whole.len() {
            let mut altered = whole.clone().into_bytes();
            altered[at] ^= 1;
            let altered = String::from_utf8(altered).unwrap();
            // Of the last digit of Base64, two bits are nothing's.
            assert!(made.provider.user(&altered).is_err() || at + 1 == whole.len(), "{at}");
        }
    }

    #[test]
    fn a_set_of_keys_is_taken_whole_or_refused_with_what_is_wrong() {
        let refused = |keys: Json, why: &str| {
            let said = provider(&keys).err().unwrap();
            assert!(said.contains(why), "{said}");
        };
        refused(json!({ "keys": [] }), "no key in it signs");
        refused(json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "s" }] }), "key s is a shared secret");
        refused(json!([]), "no set of keys");
        let mut wrong = public(&ed25519(1), Algorithm::EdDSA, "1");
        wrong["alg"] = json!("ES256");
        refused(json!({ "keys": [wrong] }), "an alg that is not of its kind");
        refused(json!({ "keys": vec![public(&ed25519(1), Algorithm::EdDSA, "1"); KEYS_MAX + 1] }), "more than 64 keys");
    }
}
