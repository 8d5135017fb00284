//! A link of the overlay: what the peer at its end is to us.

use super::bucket::Bucket;
use super::limits::OverlayLimits;
use crate::message::roles;
use crate::peer::Now;
use crate::peer_record::PeerRecord;

/// What the peer at the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Connected, no more.
    Stranger {
        /// When the link is released, unless it becomes something else.
        release_at: Now,
    },
    /// It is to be measured, and asked if it is near.
    Measured {
        /// When it is given up.
        until: Now,
    },
    /// It was asked and has not answered.
    Asked {
        /// When it is given up.
        until: Now,
        /// For being near: it takes the place of one farther away.
        near: bool,
    },
    /// Both said so.
    Neighbour {
        since: Now,
        /// We asked.
        chosen: bool,
        /// For being near. The others keep the overlay in one piece.
        near: bool,
    },
    /// A leaf, attached here.
    Leaf,
}

/// A peer to which there is a connection on which both named the space.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) roles: u64,
    pub(super) record: Option<PeerRecord>,
    /// We dialled it, so it did not choose us.
    pub(super) dialled: bool,
    pub(super) rtt_ms: Option<u32>,
    pub(super) place: Place,
    /// Not to be asked before: it refused.
    pub(super) not_before: Now,
    pub(super) refusals: u32,
    pub(super) requests: Bucket,
    /// Who has less gives way first.
    pub(super) favour: (bool, i64),
}

impl Link {
    pub(super) fn new(now: Now, roles: u64, record: Option<PeerRecord>, dialled: bool, limits: &OverlayLimits) -> Link {
        Link {
            roles,
            record,
            dialled,
            rtt_ms: None,
            place: Place::Stranger { release_at: Now(now.0 + limits.linger_ms) },
            not_before: Now(0),
            refusals: 0,
            requests: Bucket::new(now, limits.requests_burst, limits.requests_per_s),
            favour: (true, 0),
        }
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.roles & roles::LEAF != 0
    }

    pub(super) fn is_neighbour(&self) -> bool {
        matches!(self.place, Place::Neighbour { .. })
    }

    /// Its record, if others can dial it.
    pub(super) fn dialable(&self) -> Option<&PeerRecord> {
        self.record.as_ref().filter(|record| !record.addresses.is_empty())
    }
}
