//! How much may be stored, of whom: asked before anything is admitted, counted when it is.

use std::collections::BTreeSet;

use super::rights::is_deleted;
use super::{DeviceId, DocId, Now, Peer, SpaceId};
use crate::chain::Segment;
use crate::log::Log;
use crate::record::{Record, Right, Subject};
use crate::space::Space;
use crate::usage::{Quotas, UNSIGNED, Usage};

/// The code of notices about what does not fit.
pub(super) const QUOTA: &str = "quota";
/// Time in which a document is not asked for again of which something did not fit. Deletions and other quotas end it.
const BEYOND_MS: u64 = 600_000;
/// Documents of which that is remembered, some 100 bytes each. Others are asked for at each comparison.
const BEYOND_MAX: usize = 4_096;

impl Peer {
    /// What did not fit before may fit now. Of a part of a space, which is not compared, all is asked for again.
    pub(super) fn set_quotas(&mut self, quotas: Quotas) {
        self.meter.set_quotas(quotas);
        let spaces: BTreeSet<SpaceId> = core::mem::take(&mut self.beyond).into_keys().map(|(space, _)| space).collect();
        for space in spaces {
            if self.spaces.get(&space).is_some_and(|held| held.filter.is_some()) {
                self.begin_anew(space, "takes more from now on");
            }
            for conn in self.connections.of_space(&space) {
                let link = self.connections.get_mut(&conn).and_then(|connection| connection.links.get_mut(&space));
                link.into_iter().for_each(|link| link.repair.touch(self.now));
            }
        }
    }

    /// Whether a segment of entries from elsewhere does not fit. What is held already takes nothing.
    /// Only what was asked for says that it is no use to ask again: what is pushed, somebody may have made up.
    pub(super) fn is_beyond(&mut self, space: SpaceId, segment: &Segment, asked: bool) -> bool {
        let (doc, device) = (segment.doc, segment.opening.device);
        let chain = segment.opening.chain(&space, &doc);
        let line = self.log(space, doc).and_then(|log| log.lines().get(&chain));
        if line.is_some_and(|(_, line)| line.branches[0].len() >= segment.tip.n) {
            return false;
        }
        let beyond = self.does_not_fit(space, device, Usage::bytes(segment.body_bytes()));
        if beyond {
            if self.beyond.len() >= BEYOND_MAX {
                let now = self.now;
                self.beyond.retain(|_, until| now < *until);
            }
            if self.beyond.len() < BEYOND_MAX || self.beyond.contains_key(&(space, doc)) {
                let until = self.beyond.entry((space, doc)).or_default();
                *until = if asked { Now(self.now.0 + BEYOND_MS) } else { *until };
            }
        }
        beyond
    }

    /// Whether a segment of records with so many headers does not fit. What is held already takes nothing. Only documents are refused: what
    /// is said about rights concerns everybody. Nor is it an administrator's, who might have to say something about rights next.
    pub(super) fn is_record_beyond(&self, space: SpaceId, segment: &Segment, headers: usize) -> bool {
        let device = segment.opening.device;
        let admin = self.spaces.get(&space).is_none_or(|held| held.right_of(&device) >= Some(Right::Admin));
        if headers == 0 || admin || about_rights(segment) || self.holds_records(space, segment) {
            return false;
        }
        let freed = self.freed_by(space, segment);
        let more = Usage {
            bytes: (segment.body_bytes() as u64).saturating_sub(freed.bytes),
            documents: (headers as u64).saturating_sub(freed.documents),
        };
        self.does_not_fit(space, device, more)
    }

    /// What a device frees in a segment of records: whoever deletes documents of their own makes room for what they create before or after,
    /// and is not held up by it. Only what will be dropped counts, and once.
    pub(super) fn freed_by(&self, space: SpaceId, segment: &Segment) -> Usage {
        let (device, mut freed) = (segment.opening.device, Usage::default());
        let Some(held) = self.spaces.get(&space) else { return freed };
        let chain = held.authority_chain(&segment.opening);
        if !held.authority().counts_at(&device, &chain, segment.tip.n, Right::Write) {
            return freed;
        }
        let mut created = BTreeSet::new();
        let mut deleted = BTreeSet::new();
        for bytes in &segment.entries {
            match Record::from_bytes(bytes) {
                Ok(Record::Header { .. }) => _ = created.insert(DocId(Record::id(&space, &device, bytes).0)),
                // A header may be said again, and what is deleted once stays so.
                Ok(Record::Tombstone { doc }) if created.remove(&doc) && deleted.insert(doc) => freed.documents += 1,
                Ok(Record::Tombstone { doc }) if deleted.insert(doc) => {
                    let own =
                        |log: &&Log| log.header().creator == device && !log.is_deleted() && !is_deleted(held, log);
                    if let Some(log) = self.log(space, doc).filter(own) {
                        freed.documents += 1;
                        freed.bytes += log.taken().get(&device).copied().unwrap_or_default();
                    }
                }
                _ => {}
            }
        }
        freed
    }

    fn holds_records(&self, space: SpaceId, segment: &Segment) -> bool {
        let Some(held) = self.spaces.get(&space) else { return false };
        let line = held.lines().get(&held.authority_chain(&segment.opening));
        line.is_some_and(|(_, line)| line.branches[0].len() >= segment.tip.n)
    }

    fn does_not_fit(&self, space: SpaceId, device: DeviceId, more: Usage) -> bool {
        self.meter.is_beyond(&space, (device != self.device).then_some(&device), more)
    }

    /// Whether a document is not to be asked for, since something of it did not fit a while ago.
    pub(super) fn was_beyond(&self, space: SpaceId, doc: DocId) -> bool {
        self.beyond.get(&(space, doc)).is_some_and(|until| self.now < *until)
    }

    pub(super) fn count_segment(&mut self, space: SpaceId, segment: &Segment) {
        let (device, bytes) = (segment.opening.device, segment.body_bytes());
        if !self.meter.knows(space, device) {
            self.find_owner(space, device);
        }
        self.meter.take(space, device, Usage::bytes(bytes));
        self.change_log(space, segment.doc, |log| log.take(device, bytes));
    }

    pub(super) fn count_snapshot(&mut self, space: SpaceId, doc: DocId, bytes: u64) {
        if let Some(more) = self.change_log(space, doc, |log| log.take_snapshot(bytes)) {
            self.meter.take(space, UNSIGNED, Usage { bytes: more, documents: 0 });
        }
    }

    pub(super) fn count_document(&mut self, space: SpaceId, creator: DeviceId) {
        self.meter.take(space, creator, Usage { bytes: 0, documents: 1 });
    }

    /// What a document held is free again: it is about to be dropped.
    pub(super) fn free_document(&mut self, space: SpaceId, doc: DocId) {
        let Some(log) = self.log(space, doc) else { return };
        let (creator, taken) = (log.header().creator, Log::taken(log).clone());
        self.meter.give_back(space, creator, Usage { bytes: 0, documents: 1 });
        for (device, bytes) in taken {
            self.meter.give_back(space, device, Usage { bytes, documents: 0 });
        }
        self.beyond.retain(|(of, _), _| *of != space);
    }

    /// As whom the devices count that have stored something in a space: rights in it changed.
    pub(super) fn find_owners(&mut self, space: SpaceId) {
        self.meter.devices_in(space).into_iter().for_each(|device| self.find_owner(space, device));
    }

    fn find_owner(&mut self, space: SpaceId, device: DeviceId) {
        let in_space = |held: &Space| held.authority().identity_of(&device);
        let identity = self.spaces.get(&space).and_then(in_space);
        // Where nothing is said of it, what another space says stands: an identity has one quota over all.
        let identity = match identity {
            None if self.meter.acts(&device) => self.spaces.values().find_map(in_space),
            known => known,
        };
        self.meter.counts_as(device, identity.map_or_else(|| device.into(), Subject));
    }
}

/// Whether something in it says who may do what.
fn about_rights(segment: &Segment) -> bool {
    let says = |bytes: &Vec<u8>| {
        matches!(
            Record::from_bytes(bytes),
            Ok(Record::Grant { .. }
                | Record::Revoke { .. }
                | Record::Cuts { .. }
                | Record::Invite { .. }
                | Record::Redeem { .. }
                | Record::Identity { .. }
                | Record::Rotate { .. }
                | Record::Member { .. })
        )
    };
    segment.entries.iter().any(says)
}
