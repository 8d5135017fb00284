//! The three Noise messages, from a seed. Nothing here reads or writes a record.

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};
use zeroize::Zeroizing;

use super::auth::{self, AUTH_LEN, Role};
use super::{ChannelError, Versions};

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
const MAGIC: &[u8; 10] = b"commonhold";
/// Protocol name, lowest and highest version.
const PREAMBLE_LEN: usize = MAGIC.len() + 2;

const KEY: usize = 32;
const TAG: usize = 16;
/// `e`, in clear.
const MESSAGE_1_LEN: usize = KEY;
/// `e, ee, s, es` and the two version bytes.
const MESSAGE_2_LEN: usize = KEY + (KEY + TAG) + (2 + TAG);
/// `s, se` and no payload.
pub(super) const MESSAGE_3_LEN: usize = (KEY + TAG) + TAG;

/// Where a handshake stands. Each state's `read` consumes it: after an error there is no handshake.
pub(super) enum Handshake {
    AwaitsFlight1(AwaitsFlight1),
    AwaitsFlight2(AwaitsFlight2),
    AwaitsFlight3(AwaitsFlight3),
}

/// An acceptor that has heard nothing yet. There is no Noise state before the prologue, which comes with flight 1.
pub(super) struct AwaitsFlight1 {
    versions: Versions,
    signer: SigningKey,
    entropy: Zeroizing<[u8; 32]>,
}

/// A dialler that has sent flight 1.
pub(super) struct AwaitsFlight2 {
    versions: Versions,
    signer: SigningKey,
    noise: HandshakeState,
}

/// An acceptor that has sent flight 2.
pub(super) struct AwaitsFlight3 {
    signer: SigningKey,
    noise: HandshakeState,
}

/// What a finished handshake leaves: the ciphers, the transcript hash, and our own Auth, which must go out first.
pub(super) struct Session {
    pub(super) noise: TransportState,
    pub(super) hash: [u8; 32],
    pub(super) auth: [u8; AUTH_LEN],
}

impl Handshake {
    /// Also returns flight 1.
    pub(super) fn dial(versions: Versions, device: &SigningKey, seed: [u8; 32]) -> (Handshake, Vec<u8>) {
        let mut flight_1 = preamble(versions);
        let mut noise = noise_state(Role::Dialler, &flight_1, &entropy(seed, device, Role::Dialler));
        write(&mut noise, &[], MESSAGE_1_LEN, &mut flight_1);
        let waiting = AwaitsFlight2 { versions, signer: device.clone(), noise };
        (Handshake::AwaitsFlight2(waiting), flight_1)
    }

    pub(super) fn accept(versions: Versions, device: &SigningKey, seed: [u8; 32]) -> Handshake {
        let entropy = entropy(seed, device, Role::Acceptor);
        Handshake::AwaitsFlight1(AwaitsFlight1 { versions, signer: device.clone(), entropy })
    }

    /// An acceptor that has not said its versions yet.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Handshake::AwaitsFlight1(_))
    }
}

impl AwaitsFlight1 {
    /// Reads flight 1; returns the next state and flight 2.
    pub(super) fn read(self, flight_1: &[u8]) -> Result<(Handshake, Vec<u8>), ChannelError> {
        let (prologue, _, message) = split_preamble(flight_1, self.versions)?;
        if message.len() != MESSAGE_1_LEN {
            return Err(ChannelError::Malformed("flight 1 has the wrong length"));
        }
        let mut noise = noise_state(Role::Acceptor, prologue, &self.entropy);
        read(&mut noise, message, &mut [])?;
        let mut flight_2 = preamble(self.versions);
        write(&mut noise, &[self.versions.min, self.versions.max], MESSAGE_2_LEN, &mut flight_2);
        let waiting = AwaitsFlight3 { signer: self.signer, noise };
        Ok((Handshake::AwaitsFlight3(waiting), flight_2))
    }
}

impl AwaitsFlight2 {
    /// Reads flight 2; returns the session and Noise message 3, with which flight 3 starts.
    pub(super) fn read(mut self, flight_2: &[u8]) -> Result<(Session, Vec<u8>), ChannelError> {
        let (_, theirs, message) = split_preamble(flight_2, self.versions)?;
        if message.len() != MESSAGE_2_LEN {
            return Err(ChannelError::Malformed("flight 2 has the wrong length"));
        }
        let mut sealed = [0; 2];
        read(&mut self.noise, message, &mut sealed)?;
        if sealed != [theirs.min, theirs.max] {
            return Err(ChannelError::Tampered);
        }
        let mut message_3 = Vec::new();
        write(&mut self.noise, &[], MESSAGE_3_LEN, &mut message_3);
        Ok((finish(self.noise, &self.signer), message_3))
    }
}

impl AwaitsFlight3 {
    /// Reads the Noise message with which flight 3 starts; returns the session.
    pub(super) fn read(mut self, message_3: &[u8]) -> Result<Session, ChannelError> {
        read(&mut self.noise, message_3, &mut [])?;
        Ok(finish(self.noise, &self.signer))
    }
}

/// Protocol name and version range, with which flights 1 and 2 start.
pub(super) fn preamble(versions: Versions) -> Vec<u8> {
    [MAGIC.as_slice(), &[versions.min, versions.max]].concat()
}

/// The preamble as bytes, the range in it, and what follows. The range is judged before the length of the rest, which
/// another version may define otherwise.
fn split_preamble(flight: &[u8], ours: Versions) -> Result<(&[u8], Versions, &[u8]), ChannelError> {
    let (preamble, rest) = flight
        .split_at_checked(PREAMBLE_LEN)
        .filter(|(preamble, _)| preamble.starts_with(MAGIC))
        .ok_or(ChannelError::Incompatible { theirs: None, ours })?;
    let theirs = Versions { min: preamble[MAGIC.len()], max: preamble[MAGIC.len() + 1] };
    if theirs.min > theirs.max {
        return Err(ChannelError::Malformed("version range is empty"));
    }
    if !theirs.overlaps(ours) {
        return Err(ChannelError::Incompatible { theirs: Some(theirs), ours });
    }
    Ok((preamble, theirs, rest))
}

/// Hedged: whoever can guess the seed still lacks the device key, and one seed at both ends gives different keys.
fn entropy(seed: [u8; 32], device: &SigningKey, role: Role) -> Zeroizing<[u8; 32]> {
    let seed = Zeroizing::new(seed);
    let mut material = Zeroizing::new([role as u8; 65]);
    material[..32].copy_from_slice(&*seed);
    material[32..64].copy_from_slice(device.as_bytes());
    Zeroizing::new(blake3::derive_key("commonhold channel 1 ephemeral keys", &*material))
}

fn noise_state(role: Role, prologue: &[u8], entropy: &[u8; 32]) -> HandshakeState {
    let mut rng = ChaCha20Rng::from_seed(*entropy);
    // The static key of the pattern is used once as well: the device key vouches for it by signing the transcript.
    let mut fixed = Zeroizing::new([0; KEY]);
    rng.fill_bytes(&mut *fixed);
    let pattern = PATTERN.parse().expect("the pattern is one that snow knows");
    let builder = Builder::with_resolver(pattern, Box::new(Seeded(rng)))
        .prologue(prologue)
        .and_then(|builder| builder.local_private_key(&*fixed))
        .expect("prologue and key are set once");
    match role {
        Role::Dialler => builder.build_initiator(),
        Role::Acceptor => builder.build_responder(),
    }
    .expect("the pattern needs a static key and nothing else")
}

fn write(noise: &mut HandshakeState, payload: &[u8], len: usize, out: &mut Vec<u8>) {
    let start = out.len();
    // snow wants room for a tag even where it writes none.
    out.resize(start + len + TAG, 0);
    let written =
        noise.write_message(payload, &mut out[start..]).expect("it is our turn and the buffer is large enough");
    debug_assert_eq!(written, len);
    out.truncate(start + len);
}

/// `payload` is as long as the payload that the length of `message` implies; callers have checked that length.
fn read(noise: &mut HandshakeState, message: &[u8], payload: &mut [u8]) -> Result<(), ChannelError> {
    let read = noise.read_message(message, payload).map_err(|_| ChannelError::Tampered)?;
    debug_assert_eq!(read, payload.len());
    Ok(())
}

fn finish(noise: HandshakeState, signer: &SigningKey) -> Session {
    let hash = noise.get_handshake_hash().try_into().expect("BLAKE2s gives 32 bytes");
    let noise = noise.into_transport_mode().expect("the last message has been exchanged");
    Session { auth: auth::sign(signer, Role::of(&noise), &hash), noise, hash }
}

/// snow's own primitives, and randomness from a seed instead of the system.
struct Seeded(ChaCha20Rng);

impl CryptoResolver for Seeded {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(self.0.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}
