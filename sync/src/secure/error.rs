//! What can go wrong with a channel, sorted by who has to act.

use core::fmt;

use crate::id::DeviceId;

/// A range of channel versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Lowest version spoken.
    pub min: u8,
    /// Highest version spoken.
    pub max: u8,
}

impl Versions {
    /// Whether some version is in both ranges.
    pub fn overlaps(self, other: Versions) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}–{}", self.min, self.max)
    }
}

/// Why a channel died. All but the last two end the connection by the fault of the peer or of somebody between.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// Bytes that no correct peer sends: drop the connection and count it.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A Noise message that does not open: altered, replayed, lost a predecessor, or made for another session. These
    /// cannot be told apart. The peer may be innocent; drop the connection.
    #[error("message does not open: altered, replayed, out of order or of another session")]
    Tampered,
    /// The peer's Auth is not that device's signature over this session: an impostor. Drop and count.
    #[error("signature of the peer's device does not match this session")]
    BadSignature,
    /// A frame or message over a limit of ours: drop the connection and count it.
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// "frame" or "message".
        what: &'static str,
        /// Its size, or the size it claims.
        bytes: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Another device than the dialler asked for, proven. Look for the right address.
    #[error("expected device {expected}, found {found}")]
    WrongPeer {
        /// Whom the dialler wanted.
        expected: DeviceId,
        /// Who answered.
        found: DeviceId,
    },
    /// Honest, but no version in common (`theirs` is `None` if it is not this protocol at all): somebody must update.
    #[error("no version in common: theirs {}, ours {ours}", DisplayTheirs(.theirs))]
    Incompatible {
        /// The peer's range.
        theirs: Option<Versions>,
        /// Our range.
        ours: Versions,
    },
    /// The address leads to this very device: the dialler should forget it.
    #[error("connected to this device itself")]
    SelfConnection,
    /// The caller used a channel after its first error.
    #[error("channel has failed before")]
    Failed,
}

impl ChannelError {
    /// A stable name for logs, counters and disconnect reasons.
    pub fn code(&self) -> &'static str {
        match self {
            ChannelError::Malformed(_) => "channel_malformed",
            ChannelError::Tampered => "channel_tampered",
            ChannelError::BadSignature => "channel_bad_signature",
            ChannelError::TooLarge { .. } => "channel_too_large",
            ChannelError::WrongPeer { .. } => "channel_wrong_peer",
            ChannelError::Incompatible { .. } => "channel_incompatible",
            ChannelError::SelfConnection => "channel_self_connection",
            ChannelError::Failed => "channel_failed",
        }
    }
}

struct DisplayTheirs<'a>(&'a Option<Versions>);

impl fmt::Display for DisplayTheirs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(versions) => versions.fmt(f),
            None => f.write_str("another protocol"),
        }
    }
}
