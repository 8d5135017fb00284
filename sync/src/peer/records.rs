//! Chains of the authority log that show two histories: found out, proven, closed; and what this device said in such a chain
//! of its own is said again, because a copied disk is nobody's fault.
//!
//! The ids of records are not kept in memory. To tell two histories apart the chain is read again, and the other one is asked
//! for from its first record.

use std::collections::BTreeSet;

use super::receive::From;
use super::{DEEPEN_EVERY_MS, Event, Load, OpId, Peer, Purpose, StoreOp};
use crate::chain::Opening;
use crate::id::{ChainId, EntryId, SpaceId};
use crate::lines::Closing;
use crate::log::StoredSegment;
use crate::proof::ForkProof;
use crate::record::Record;
use crate::violation::Violation;

impl Peer {
    /// A chain of the authority log may have two histories: reads the one that is held. Once in a while for each space.
    pub(super) fn suspect(&mut self, space: SpaceId, opening: Opening, from: From) {
        let (now, key) = (self.now, (space, space.authority()));
        self.deepened.retain(|_, at| at.0 + DEEPEN_EVERY_MS > now.0);
        let Some(held) = self.spaces.get_mut(&space).filter(|_| !self.deepened.contains_key(&key)) else { return };
        self.deepened.insert(key, now);
        held.forget();
        self.load(space, Load::Chain { space, opening: opening.clone(), from: 1 }, Purpose::Suspect { opening, from });
    }

    /// Asks for the whole of what the other side has of the chain.
    pub(super) fn suspect_loaded(&mut self, space: SpaceId, opening: &Opening, from: From, found: &[StoredSegment]) {
        let Some(held) = self.spaces.get_mut(&space) else { return };
        let chain = held.authority_chain(opening);
        let first = found.iter().filter(|stored| stored.branch == 0).flat_map(|stored| &stored.segment.entries);
        let ids: Vec<EntryId> = first.map(|bytes| Record::id(&space, &opening.device, bytes)).collect();
        held.deepen(chain, ids);
        self.ask_log(from.conn, space, space.authority(), Some(chain));
    }

    /// A proof from elsewhere about a chain of the authority log.
    pub(super) fn take_record_proof(&mut self, space: SpaceId, proof: ForkProof, from: From) -> Result<(), Violation> {
        let Some(held) = self.spaces.get(&space) else { return Ok(()) };
        let known = held.lines().get(&proof.chain(&space)).map(|(_, line)| line.closed.as_ref());
        match known {
            Some(Some(closed)) if closed.at() <= proof.at() => return Ok(()),
            // Who never had a right cannot fill the log with closed chains.
            None if held.lines().all().len() >= self.limits.chains_per_log
                || !held.authority().ever(&proof.opening.device, crate::record::Right::Relay) =>
            {
                return Ok(());
            }
            _ => {}
        }
        if !proof.verifies(&space) {
            return Err(Violation::BadProof);
        }
        self.close_records(space, proof, from);
        Ok(())
    }

    /// Closes a chain of the authority log: stored, told, sent on, and everything looked at again that rested on it.
    pub(super) fn close_records(&mut self, space: SpaceId, proof: ForkProof, from: From) {
        let Some(held) = self.spaces.get_mut(&space) else { return };
        if held.close(&proof) == Closing::Known {
            return;
        }
        held.seq += 1;
        let (doc, seq, source) = (space.authority(), held.seq, from.store);
        self.dirty_spaces.insert(space);
        self.batch.push(StoreOp::Proofs { space, doc, seq, before: 0, source });
        self.push_proof(space, &proof, Some(from.conn));
        let (chain, opening) = (proof.chain(&space), proof.opening);
        self.emit(Event::Forked { space, doc, chain, device: opening.device });
        self.recut(space);
        if opening.device == self.device {
            self.lose_records(space, chain, &opening);
        }
    }

    /// Others show records of this device that it does not hold: it goes on in another chain, and says again what does not
    /// count in a closed one.
    pub(super) fn lose_records(&mut self, space: SpaceId, chain: ChainId, opening: &Opening) {
        let doc = space.authority();
        if *opening == self.own_opening(&space, &doc) {
            self.lose_chain(space, doc);
        }
        if let Some(held) = self.spaces.get_mut(&space)
            && held.lines().get(&chain).is_some_and(|(_, line)| line.closed.is_some())
        {
            held.resay.insert(chain);
            self.dirty_spaces.insert(space);
            self.resaying.insert(space, OpId(self.next_op));
        }
    }

    pub(super) fn run_resays(&mut self) {
        let done = self.done;
        let is_due = |op: &OpId| done > *op || *op == OpId(0);
        let due: Vec<SpaceId> = self.resaying.iter().filter(|(_, op)| is_due(op)).map(|(space, _)| *space).collect();
        for space in due {
            self.resaying.remove(&space);
            let Some(held) = self.spaces.get(&space) else { continue };
            let lines = held.resay.iter().filter_map(|chain| held.lines().get(chain));
            let of = lines.filter_map(|(_, line)| Some((line.opening.clone(), line.closed.as_ref()?.at())));
            for (opening, from) in of.collect::<Vec<_>>() {
                let load = Load::Chain { space, opening: opening.clone(), from };
                self.load(space, load, Purpose::Resay { opening });
            }
        }
    }

    /// Says again what this device said in a closed chain, on any of its histories. The same words make the same records: who
    /// has one of them already gains another place where it counts.
    pub(super) fn resay_loaded(&mut self, space: SpaceId, opening: &Opening, found: Vec<StoredSegment>) {
        let Some(held) = self.spaces.get_mut(&space) else { return };
        let chain = held.authority_chain(opening);
        let at = held.lines().get(&chain).and_then(|(_, line)| line.closed.as_ref()).map_or(1, ForkProof::at);
        held.resay.remove(&chain);
        self.dirty_spaces.insert(space);
        let mut seen = BTreeSet::new();
        let mut records = Vec::new();
        for StoredSegment { segment, .. } in found {
            for (_, bytes) in (segment.first..).zip(segment.entries).filter(|(n, _)| *n >= at) {
                let Ok(record) = Record::from_bytes(&bytes) else { continue };
                // These say something as the first of a chain only.
                let first = matches!(
                    record,
                    Record::Identity { .. } | Record::Rotate { .. } | Record::Redeem { .. } | Record::Unknown { .. }
                );
                if !first && seen.insert(bytes) {
                    records.push(record);
                }
            }
        }
        if let Err(why) = self.add_records(space, &records) {
            self.notice(None, Some(space), None, "own-fork", &why.to_string());
        }
    }
}
