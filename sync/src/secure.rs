//! The secure channel under every transport: Noise XX for the keys, a device signature over its transcript for the names.
//!
//! A [`Channel`] is a value: frames from the transport go in, application messages come out, and the other way round. It
//! opens no socket, keeps no time (the caller ends a handshake that takes longer than [`Limits::handshake_ms`]) and
//! draws no randomness beyond the seed it is given. It does not know what a message means.
//!
//! ```text
//! flight 1, dialler   preamble ‖ Noise message 1          preamble = "commonhold" ‖ lowest version ‖ highest version
//! flight 2, acceptor  preamble ‖ Noise message 2          its sealed payload repeats the two version bytes
//! flight 3, dialler   Noise message 3 ‖ records           the plaintext of the first record starts with the Auth
//! flight 4, acceptor  records                             so does this one
//! every later frame   records
//!
//! record  = u16 length, big-endian ‖ Noise transport message; all but the last of a frame are 65,535 long
//! Auth    = device, 32 bytes ‖ signature, 64 bytes
//! message = LEB128 length, minimal ‖ that many bytes; the plaintexts in order are one stream of messages
//! ```
//!
//! The dialler's preamble is the Noise prologue and the acceptor's is repeated under encryption, so a version range
//! that was changed on the way ends the handshake. An acceptor with no version in common answers with its preamble alone.

mod auth;
mod error;
mod handshake;
mod stream;
#[cfg(test)]
mod tests;

use core::{fmt, mem};

use ed25519_dalek::SigningKey;
use snow::TransportState;

use self::auth::{AUTH_LEN, Role};
pub use self::error::{ChannelError, Versions};
use self::handshake::{Handshake, MESSAGE_3_LEN, Session};
use self::stream::{Inbound, Outbound, RECORD_MAX, RECORD_MIN};
use crate::id::DeviceId;
use crate::limits::Limits;

/// The versions of the channel that this crate speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// A frame must hold flight 3 with the dialler's Auth; a smaller `frame_bytes_max` counts as this.
const FRAME_BYTES_MIN: usize = 512;

/// One end of a connection.
///
/// Contract: after each [`receive`](Self::receive) drain [`poll_message`](Self::poll_message) until `None` (asserted in
/// debug builds), then [`poll_frame`](Self::poll_frame) as fast as the transport takes frames. Transports deliver frames
/// whole, in order, once. After an error the channel is dead: send what `poll_frame` still gives, then hang up.
///
/// Memory of a quiet open channel: `size_of::<Channel>()` and two cipher keys (352 + 64 bytes on 64-bit machines). While
/// busy: the bytes queued by `send`, and at most one frame and one unfinished message of the peer's.
pub struct Channel {
    state: State,
    /// Handshake bytes that the next frame starts with.
    head: Vec<u8>,
    outbound: Outbound,
    frame_bytes_max: usize,
    message_bytes_max: usize,
}

#[allow(clippy::large_enum_variant, reason = "open is what nearly all channels are")]
enum State {
    Handshaking { handshake: Box<Handshake>, own: DeviceId, expected: Option<DeviceId> },
    Open(Open),
    Failed,
}

/// The Noise handshake is done: records flow.
struct Open {
    noise: TransportState,
    hash: [u8; 32],
    remote: Remote,
    inbound: Inbound,
}

/// Who is at the other end.
enum Remote {
    /// Its Auth has not come yet.
    Unproven {
        own: DeviceId,
        expected: Option<DeviceId>,
    },
    Proven(DeviceId),
}

impl Channel {
    /// The side that opened the connection; flight 1 is ready to be sent.
    ///
    /// `expected`: abort unless this device is at the other end. `seed` must be fresh and secret for every channel: all
    /// ephemeral keys come from it (and from the device key, so that a weak seed alone gives nothing away).
    pub fn dial(device: &SigningKey, expected: Option<DeviceId>, seed: [u8; 32], limits: &Limits) -> Channel {
        Channel::dial_with(VERSIONS, device, expected, seed, limits)
    }

    /// The side that the connection was opened to; it waits for flight 1. `seed` as for [`dial`](Self::dial).
    pub fn accept(device: &SigningKey, seed: [u8; 32], limits: &Limits) -> Channel {
        Channel::accept_with(VERSIONS, device, seed, limits)
    }

    fn dial_with(
        versions: Versions,
        device: &SigningKey,
        expected: Option<DeviceId>,
        seed: [u8; 32],
        limits: &Limits,
    ) -> Channel {
        let (handshake, flight_1) = Handshake::dial(versions, device, seed);
        Channel::new(handshake, flight_1, device, expected, limits)
    }

    fn accept_with(versions: Versions, device: &SigningKey, seed: [u8; 32], limits: &Limits) -> Channel {
        Channel::new(Handshake::accept(versions, device, seed), Vec::new(), device, None, limits)
    }

    fn new(
        handshake: Handshake,
        head: Vec<u8>,
        device: &SigningKey,
        expected: Option<DeviceId>,
        limits: &Limits,
    ) -> Channel {
        let own = DeviceId(device.verifying_key().to_bytes());
        Channel {
            state: State::Handshaking { handshake: Box::new(handshake), own, expected },
            head,
            outbound: Outbound::default(),
            frame_bytes_max: limits.frame_bytes_max.max(FRAME_BYTES_MIN),
            message_bytes_max: limits.message_bytes_max,
        }
    }

    /// Takes one frame from the transport. Its messages are then at [`poll_message`](Self::poll_message), unless any
    /// part of the frame is bad: then none of them, and the channel is dead.
    pub fn receive(&mut self, frame: &[u8], limits: &Limits) -> Result<(), ChannelError> {
        let unanswered = matches!(&self.state, State::Handshaking { handshake, .. } if handshake.is_unanswered());
        let outcome = self.accept_frame(frame, limits);
        if let Err(error) = &outcome {
            self.state = State::Failed;
            self.outbound = Outbound::default();
            self.head = match error {
                ChannelError::Incompatible { theirs: Some(_), ours } if unanswered => handshake::preamble(*ours),
                _ => Vec::new(),
            };
        }
        outcome
    }

    /// Leaves any state behind after an error; [`receive`](Self::receive) settles it.
    fn accept_frame(&mut self, frame: &[u8], limits: &Limits) -> Result<(), ChannelError> {
        let limit = limits.frame_bytes_max.max(FRAME_BYTES_MIN);
        if frame.len() > limit {
            return Err(ChannelError::TooLarge { what: "frame", bytes: frame.len() as u64, limit });
        }
        if let State::Open(open) = &mut self.state {
            return open.receive(frame, limits);
        }
        let State::Handshaking { handshake, own, expected } = mem::replace(&mut self.state, State::Failed) else {
            return Err(ChannelError::Failed);
        };
        let remote = Remote::Unproven { own, expected };
        self.state = match *handshake {
            Handshake::AwaitsFlight1(waiting) => {
                let (next, flight_2) = waiting.read(frame)?;
                self.head = flight_2;
                State::Handshaking { handshake: Box::new(next), own, expected }
            }
            Handshake::AwaitsFlight2(waiting) => {
                let (session, message_3) = waiting.read(frame)?;
                self.head = message_3;
                State::Open(Open::new(session, remote, &mut self.outbound))
            }
            Handshake::AwaitsFlight3(waiting) => {
                let (message_3, records) =
                    frame.split_at_checked(MESSAGE_3_LEN).ok_or(ChannelError::Malformed("flight 3 is short"))?;
                let mut open = Open::new(waiting.read(message_3)?, remote, &mut self.outbound);
                open.receive(records, limits)?;
                State::Open(open)
            }
        };
        Ok(())
    }

    /// The next message of the peer, in the order sent. `None`: none is complete.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        match &mut self.state {
            State::Open(open) => open.inbound.next(),
            _ => None,
        }
    }

    /// Queues a message. It leaves with the next [`poll_frame`](Self::poll_frame), or right behind the handshake if that
    /// is still under way. Nothing bounds the queue here: the caller compares [`queued_bytes`](Self::queued_bytes) with
    /// [`Limits::send_queue_bytes_max`]. A dead channel drops it.
    ///
    /// What a dialler queues before [`peer`](Self::peer) is known leaves before it knows who answers, and an impostor could read
    /// it (not alter it): the price of one trip. What a stranger must not see waits for `peer`.
    pub fn send(&mut self, message: &[u8]) {
        debug_assert!(message.len() <= self.message_bytes_max, "a message over the limit that every peer refuses");
        if !matches!(self.state, State::Failed) {
            self.outbound.push(message);
        }
    }

    /// The next frame to transmit, sealed now and holding as much of the queue as fits.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        let head = mem::take(&mut self.head);
        match &mut self.state {
            State::Open(open) if !self.outbound.is_empty() => {
                Some(self.outbound.seal(head, &mut open.noise, self.frame_bytes_max))
            }
            _ => (!head.is_empty()).then_some(head),
        }
    }

    /// The device at the other end, once it has proved itself.
    pub fn peer(&self) -> Option<DeviceId> {
        match &self.state {
            State::Open(Open { remote: Remote::Proven(device), .. }) => Some(*device),
            _ => None,
        }
    }

    /// The hash of the Noise transcript: equal at both ends, different in every session, and **not secret** (whoever sees the
    /// wire can compute it). A dialler has it from flight 2 on, in time for the hello that leaves with flight 3.
    pub fn session_hash(&self) -> Option<[u8; 32]> {
        match &self.state {
            State::Open(open) => Some(open.hash),
            _ => None,
        }
    }

    /// Bytes queued and not yet given out as frames, before encryption.
    pub fn queued_bytes(&self) -> usize {
        self.head.len() + self.outbound.len()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Handshaking { .. } => "handshaking",
            State::Open(_) => "open",
            State::Failed => "failed",
        };
        f.debug_struct("Channel")
            .field("state", &state)
            .field("peer", &self.peer())
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}

impl Open {
    /// Our own Auth goes to the front of the queue, before what the caller has queued already.
    fn new(session: Session, remote: Remote, outbound: &mut Outbound) -> Open {
        outbound.put_first(&session.auth);
        Open { noise: session.noise, hash: session.hash, remote, inbound: Inbound::default() }
    }

    /// Opens the records of one frame.
    fn receive(&mut self, frame: &[u8], limits: &Limits) -> Result<(), ChannelError> {
        debug_assert!(!self.inbound.has_message(), "poll_message was not drained before the next frame");
        if frame.is_empty() {
            return Err(ChannelError::Malformed("frame without records"));
        }
        self.inbound.reserve(frame.len(), limits);
        let mut rest = frame;
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk().ok_or(ChannelError::Malformed("frame ends in a length"))?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (record, after) =
                after.split_at_checked(length).ok_or(ChannelError::Malformed("frame ends in a record"))?;
            // Without these two a stranger could buy one key set-up and MAC per 18 bytes.
            if length < RECORD_MIN {
                return Err(ChannelError::Malformed("record without content"));
            }
            if length < RECORD_MAX && !after.is_empty() {
                return Err(ChannelError::Malformed("short record before the end of a frame"));
            }
            self.inbound.open(&mut self.noise, record)?;
            if let Remote::Unproven { own, expected } = self.remote {
                let auth = self.inbound.take_array().ok_or(ChannelError::Malformed("first record without Auth"))?;
                self.remote = Remote::Proven(self.prove(&auth, own, expected)?);
            }
            self.inbound.check(limits.message_bytes_max)?;
            rest = after;
        }
        Ok(())
    }

    /// The signature comes first, so that the other errors name a device that is really there.
    fn prove(
        &self,
        auth: &[u8; AUTH_LEN],
        own: DeviceId,
        expected: Option<DeviceId>,
    ) -> Result<DeviceId, ChannelError> {
        let found = auth::verify(auth, Role::of(&self.noise).other(), &self.hash)?;
        match expected {
            _ if found == own => Err(ChannelError::SelfConnection),
            Some(expected) if expected != found => Err(ChannelError::WrongPeer { expected, found }),
            _ => Ok(found),
        }
    }
}
