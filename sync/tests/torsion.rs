//! Signatures with a point of small order mixed in: the equation that a check of many at once uses holds for them, and the
//! one for a single check does not. Who took what the others refuse would hold another history than they.

use commonhold_sync::chain::{Kind, Opening, Segment, Tip, tip_bytes};
use commonhold_sync::change;
use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::limits::{Limits, Rules};
use commonhold_sync::log::{Admission, Header, Image, Log, Need};
use commonhold_sync::merkle::Frontier;
use commonhold_sync::proof::{ForkProof, Tail};
use commonhold_sync::violation::Violation;
use curve25519_dalek::EdwardsPoint;
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha512};

const SPACE: SpaceId = SpaceId([1; 32]);
const DOC: DocId = DocId([2; 32]);

/// Signs with a nonce that has the `n`th torsion point mixed in.
fn crafted(key: &SigningKey, message: &[u8], n: u64) -> [u8; 64] {
    let wide = |parts: &[&[u8]]| {
        let hash: [u8; 64] = Sha512::digest(parts.concat()).into();
        Scalar::from_bytes_mod_order_wide(&hash)
    };
    let (secret, public) = (key.to_scalar(), key.verifying_key());
    let nonce = wide(&[b"nonce", &n.to_le_bytes()]);
    let point: EdwardsPoint = nonce * ED25519_BASEPOINT_POINT + EIGHT_TORSION[1 + n as usize % 7];
    let first = point.compress();
    let challenge = wide(&[first.as_bytes(), public.as_bytes(), message]);
    let second = nonce + challenge * secret;
    let rest = second * ED25519_BASEPOINT_POINT - challenge * (secret * ED25519_BASEPOINT_POINT) - point;
    assert!(rest.mul_by_cofactor().is_identity() && !rest.is_identity(), "the two equations differ on it");
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(first.as_bytes());
    signature[32..].copy_from_slice(second.as_bytes());
    signature
}

#[test]
fn no_signature_with_torsion_is_taken_by_a_tip_a_log_or_a_proof() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let device = DeviceId(key.verifying_key().to_bytes());
    let opening = Opening { device, salt: *b"saltsalt", kind: Kind::Own };
    let actor = opening.chain(&SPACE, &DOC).0;
    let entry = change::joining(&actor, &device, &[], 1);
    let id = change::id(&entry).unwrap();
    let head = |id: &EntryId| {
        let mut frontier = Frontier::default();
        frontier.push(id);
        frontier.head()
    };
    let message = |id: &EntryId| tip_bytes(&SPACE, &DOC, &opening, 1, &head(id), &[]);
    let other = EntryId([9; 32]);
    let sound = Tip::sign(&key, &SPACE, &DOC, &opening, 1, &head(&other), vec![]);
    for n in 0..400 {
        let tip = Tip { n: 1, rights: vec![], signature: crafted(&key, &message(&id), n) };
        assert!(!tip.verifies(&SPACE, &DOC, &opening, &head(&id)));
        let tail = |tip, id| Tail { opening: &opening, tip, ids: core::slice::from_ref(id) };
        let proof = ForkProof::of(DOC, Frontier::default(), tail(&tip, &id), tail(&sound, &other));
        assert!(!proof.verifies(&SPACE));
        let header = Header { creator: device, kind: String::new(), name: String::new() };
        let (mut log, _) = Log::load(SPACE, DOC, Image::of_header(header), &[]);
        let segment = Segment { doc: DOC, opening: opening.clone(), first: 1, entries: vec![entry.clone()], tip };
        let refused = log.admit(&Rules::V1, &Limits::default(), segment, Need::Asked);
        assert!(matches!(refused, Admission::Refused(Violation::BadTip)), "{refused:?}");
    }
    let tip = Tip::sign(&key, &SPACE, &DOC, &opening, 1, &head(&id), vec![]);
    let tail = |tip, id| Tail { opening: &opening, tip, ids: core::slice::from_ref(id) };
    assert!(ForkProof::of(DOC, Frontier::default(), tail(&tip, &id), tail(&sound, &other)).verifies(&SPACE));
}
