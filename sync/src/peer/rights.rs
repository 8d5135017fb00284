//! What follows when rights change after the fact: logs are looked at again, documents come and go, and what is held of a
//! device that is put out is gathered for the revocation.
//!
//! Who may do what is asked of [`crate::authority`]; what counts in a log is found by [`Log::cut`].

use std::collections::{BTreeMap, BTreeSet};

use super::connection::Ask;
use super::greet::{HELD_BACK_MS, STALLED_MS};
use super::{Event, Keep, Load, Local, Now, OpId, Peer, Purpose, Slot, StoreOp, Ticket};
use crate::authority::{RecordAt, RootKeys, revocation};
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::lines::Line;
use crate::log::{CutOutcome, Image, Log};
use crate::record::Record;
use crate::space::Space;

/// Documents that one read brings. An image is a few hundred bytes for each chain.
const PAGE: usize = 256;
/// Logs that are read at once to be looked at again.
const AT_ONCE: usize = 16;
/// Records that are missing while somebody with the right to write has written what needs them. More wait for the next
/// comparison.
const MISSING_MAX: usize = 1_024;

/// A walk over the documents that concern some devices.
#[derive(Debug, Default)]
struct Walk {
    devices: BTreeSet<DeviceId>,
    after: Option<DocId>,
    /// The read that is under way. Answers to others come too late.
    asked: Option<OpId>,
    ended: bool,
}

/// Logs of a space that are looked at again, because rights of these devices have changed.
#[derive(Debug, Default)]
pub(super) struct Recut {
    walk: Walk,
    todo: Vec<DocId>,
    /// Logs of which the inside of the snapshot is read first.
    deep: BTreeSet<DocId>,
}

/// A revocation that is being put together.
#[derive(Debug)]
pub(super) struct Gather {
    ticket: Ticket,
    space: SpaceId,
    walk: Walk,
    stays: BTreeMap<DocId, BTreeMap<ChainId, u64>>,
}

/// Longest time that a deletion waits for the end of what somebody is telling: as long as a space is held back for it.
const BURIAL_MS: u64 = HELD_BACK_MS;

/// Documents of a space that are deleted and whose bodies are still there.
#[derive(Debug)]
pub(super) struct Burials {
    /// When they go, whatever is still on its way.
    pub(super) due: Now,
    docs: BTreeSet<DocId>,
}

/// Whose answer a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Recut,
    Gather,
}

impl Walk {
    /// The next read, if it is time for one.
    fn next(&self, space: SpaceId) -> Option<Load> {
        if self.asked.is_some() || self.ended {
            return None;
        }
        Some(Load::Concerned { space, devices: self.devices.clone(), after: self.after, max: PAGE })
    }

    /// Takes note of an answer. False if it is to a question that was given up.
    fn answered(&mut self, op: OpId, found: &[(DocId, Image)]) -> bool {
        if self.asked != Some(op) {
            return false;
        }
        self.asked = None;
        self.ended = found.len() < PAGE;
        self.after = found.last().map(|(doc, _)| *doc).or(self.after);
        true
    }
}

impl Peer {
    /// Rights may have changed: looks again at all that this concerns, in memory at once, on disk step by step.
    pub(super) fn recut(&mut self, space: SpaceId) {
        let Some(held) = self.spaces.get_mut(&space) else { return };
        let devices = held.take_affected();
        if devices.is_empty() {
            return;
        }
        held.recut.extend(devices.iter().copied());
        let own = devices.contains(&self.device);
        self.asked_to_erase(space, |by| own || devices.contains(by));
        let Some(held) = self.spaces.get(&space) else { return };
        let devices = held.recut.clone();
        self.dirty_spaces.insert(space);
        let of_space = self.slots.range((space, DocId([0; 32]))..).take_while(|((s, _), _)| *s == space);
        let concerned = of_space.filter_map(|((_, doc), slot)| match slot {
            Slot::Held(held) if held.log.concerns(&devices) => Some(*doc),
            _ => None,
        });
        let concerned: Vec<DocId> = concerned.collect();
        concerned.into_iter().for_each(|doc| self.refresh(space, doc));
        // An answer that is on its way may lack some of these devices: the walk begins anew.
        let deep = self.recuts.remove(&space).map(|recut| recut.deep).unwrap_or_default();
        let walk = Walk { devices, ..Walk::default() };
        self.recuts.insert(space, Recut { walk, todo: Vec::new(), deep });
        let now = self.now;
        for conn in self.connections.of_space(&space) {
            if let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) {
                link.repair.touch(now);
            }
        }
    }

    /// Goes on with what an earlier run left undone.
    pub(super) fn resume_recuts(&mut self) {
        for (space, held) in &self.spaces {
            if !held.recut.is_empty() {
                let walk = Walk { devices: held.recut.clone(), ..Walk::default() };
                self.recuts.insert(*space, Recut { walk, ..Recut::default() });
            }
        }
    }

    /// Reads logs that are to be looked at again. Each is looked at when it comes into memory.
    pub(super) fn run_recuts(&mut self) {
        for space in self.recuts.keys().copied().collect::<Vec<_>>() {
            self.run_recut(space);
        }
    }

    fn run_recut(&mut self, space: SpaceId) {
        loop {
            let Some(recut) = self.recuts.get_mut(&space) else { return };
            if let Some(load) = recut.walk.next(space) {
                let op = self.load(space, load, Purpose::Concerned { asker: Asker::Recut });
                if let Some(recut) = self.recuts.get_mut(&space) {
                    recut.walk.asked = Some(op);
                }
                return;
            }
            let batch = recut.todo.split_off(recut.todo.len().saturating_sub(AT_ONCE));
            if batch.is_empty() {
                break;
            }
            if !self.ensure(space, batch.iter().copied()) {
                if let Some(recut) = self.recuts.get_mut(&space) {
                    recut.todo.extend(batch);
                }
                return;
            }
        }
        let done = self.recuts.get(&space).is_some_and(|recut| recut.walk.ended && recut.deep.is_empty());
        if done {
            self.recuts.remove(&space);
            self.all_looked_at(space);
        }
    }

    pub(super) fn concerned_loaded(&mut self, space: SpaceId, asker: Asker, op: OpId, found: Vec<(DocId, Image)>) {
        match asker {
            Asker::Recut => {
                let Some(recut) = self.recuts.get_mut(&space) else { return };
                if recut.walk.answered(op, &found) {
                    recut.todo.extend(found.into_iter().map(|(doc, _)| doc));
                }
            }
            Asker::Gather => {
                let Some(gather) = self.gather.as_mut().filter(|gather| gather.space == space) else { return };
                if gather.walk.answered(op, &found) {
                    let devices = &gather.walk.devices;
                    let ends = found.iter().map(|(doc, image)| (*doc, ends_of(&space, doc, &image.lines, devices)));
                    gather.stays.extend(ends);
                }
            }
        }
    }

    /// Whether a log that was just read is to be looked at again.
    pub(super) fn is_to_refresh(&self, space: &SpaceId) -> bool {
        self.recuts.contains_key(space) || self.spaces.get(space).is_some_and(|held| held.authority().has_ends())
    }

    /// Looks again at what counts in a log that is in memory, and whether its document is there.
    pub(super) fn refresh(&mut self, space: SpaceId, doc: DocId) {
        let Some(held) = self.spaces.get(&space) else { return };
        let Some(log) = self.log(space, doc) else { return };
        let creator = log.header().creator;
        let founded = log.headers().is_empty() || log.headers().iter().any(|at| held.founds(at));
        let was = !log.is_unfounded();
        let deleted = log.tombstones().is_empty() && log.is_deleted() || is_deleted(held, log);
        let was_deleted = log.is_deleted();
        let limits = log.lines().all().iter().map(|line| held.limit(&doc, &line.opening, Some(&creator)).cut());
        let cuts: Vec<Option<u64>> = limits.collect();
        if founded != was {
            self.change_log(space, doc, |log| log.found(founded));
            self.changed.insert((space, doc));
        }
        if deleted && !was_deleted && self.bury_in_time(space, doc) {
            return;
        }
        if was_deleted && !deleted {
            self.change_log(space, doc, Log::restore_deleted);
            let creator = self.log(space, doc).map(|log| log.header().creator);
            creator.into_iter().for_each(|creator| self.count_document(space, creator));
            self.changed.insert((space, doc));
            // What this device had written in it is not known here any more, and others may have kept it.
            self.lose_chain(space, doc);
        }
        let Some(outcome) = self.change_log(space, doc, |log| log.cut(&cuts)) else { return };
        if let Some(recut) = self.recuts.get_mut(&space) {
            _ = match outcome {
                CutOutcome::NeedsDeep => recut.deep.insert(doc),
                CutOutcome::Same | CutOutcome::Set(_) => recut.deep.remove(&doc),
            };
        }
        match outcome {
            CutOutcome::Same => {}
            CutOutcome::Set(reshown) => {
                // The next to read it judges what comes by these limits before it looks at it again.
                self.changed.insert((space, doc));
                if reshown {
                    self.emit(Event::Reshown { space, doc });
                }
            }
            CutOutcome::NeedsDeep => self.deepen(space, doc, true),
        }
    }

    /// A device said that a document is deleted, in a record that is held.
    pub(super) fn bury(&mut self, space: SpaceId, doc: DocId, at: &RecordAt) {
        let Some(held) = self.spaces.get(&space) else { return };
        let Some(Slot::Held(slot)) = self.slots.get_mut(&(space, doc)) else { return };
        let creator = slot.log.header().creator;
        slot.log.bury((at.device, at.chain, at.n), |tombstone| held.buries(tombstone, &creator));
        self.changed.insert((space, doc));
        self.dirty_spaces.insert(space);
        if is_deleted(held, &slot.log) && !slot.log.is_deleted() {
            match at.device == self.device {
                true => self.drop_bodies(space, doc),
                false => _ = self.bury_in_time(space, doc),
            }
        }
    }

    /// Drops the bodies of a deleted document, at once or, while somebody is still telling what it knows of rights, at the end of
    /// that: a revocation that undoes the deletion may come behind it. True if it is done.
    pub(super) fn bury_in_time(&mut self, space: SpaceId, doc: DocId) -> bool {
        let is_told = !self.is_being_told(&space);
        match is_told {
            true => self.drop_bodies(space, doc),
            false => {
                let due = Now(self.now.0 + BURIAL_MS);
                self.burials.entry(space).or_insert(Burials { due, docs: BTreeSet::new() }).docs.insert(doc);
                self.look_again_after_restart(space, doc);
            }
        }
        is_told
    }

    /// A deletion that waits is known in this run only: the next one looks again at what those have said who said it.
    fn look_again_after_restart(&mut self, space: SpaceId, doc: DocId) {
        let Some(log) = self.log(space, doc) else { return };
        let devices: Vec<DeviceId> = log.tombstones().iter().map(|(device, ..)| *device).collect();
        let Some(held) = self.spaces.get_mut(&space) else { return };
        held.recut.extend(devices);
        self.dirty_spaces.insert(space);
    }

    /// Nothing of a space is left to look at again, after a restart neither.
    fn all_looked_at(&mut self, space: SpaceId) {
        if self.recuts.contains_key(&space) || self.burials.contains_key(&space) {
            return;
        }
        if let Some(held) = self.spaces.get_mut(&space) {
            held.recut.clear();
            self.dirty_spaces.insert(space);
        }
    }

    /// Whether records may be on their way that lie behind those that came.
    fn is_being_told(&self, space: &SpaceId) -> bool {
        let links = self.connections.of_space(space).into_iter();
        let mut links = links.filter_map(|conn| {
            let connection = self.connections.get(&conn)?;
            Some((connection.opened, connection.links.get(space)?))
        });
        links.any(|(opened, link)| {
            let under_way = link.ask == Ask::Paging || link.wanted.contains(&space.authority());
            under_way && self.now.0 < link.progress.unwrap_or(opened).0 + STALLED_MS
        })
    }

    /// Carries out deletions that waited.
    pub(super) fn run_burials(&mut self) {
        let is_ready = |(space, burials): (&SpaceId, &Burials)| burials.due <= self.now || !self.is_being_told(space);
        let ready: Vec<SpaceId> =
            self.burials.iter().filter(|entry| is_ready(*entry)).map(|(space, _)| *space).collect();
        for space in ready {
            while let Some(burials) = self.burials.get(&space) {
                let batch: Vec<DocId> = burials.docs.iter().take(AT_ONCE).copied().collect();
                if batch.is_empty() {
                    self.burials.remove(&space);
                    self.all_looked_at(space);
                    break;
                }
                if !self.ensure(space, batch.iter().copied()) {
                    break;
                }
                for doc in batch {
                    if let Some(burials) = self.burials.get_mut(&space) {
                        burials.docs.remove(&doc);
                    }
                    self.note_buried(space, doc, Self::drop_bodies);
                }
            }
        }
    }

    /// A log is in memory whose document may be deleted while its bodies are still there.
    pub(super) fn note_buried(&mut self, space: SpaceId, doc: DocId, bury: impl FnOnce(&mut Self, SpaceId, DocId)) {
        let Some(held) = self.spaces.get(&space) else { return };
        if self.log(space, doc).is_some_and(|log| !log.is_deleted() && is_deleted(held, log)) {
            bury(self, space, doc);
        }
    }

    fn drop_bodies(&mut self, space: SpaceId, doc: DocId) {
        self.free_document(space, doc);
        self.change_log(space, doc, Log::delete);
        self.changed.insert((space, doc));
        self.batch.push(StoreOp::Drop { space, doc });
        self.erasing.insert((space, doc));
        self.waiting.take_all(space, doc);
    }

    /// Tells of a document that is there, or there again.
    pub(super) fn emit_document(&mut self, space: SpaceId, doc: DocId) {
        if let Some(header) = self.log(space, doc).filter(|log| log.is_shown()).map(|log| log.header().clone()) {
            self.emit(Event::Document { space, doc, header });
        }
    }

    /// What a device wrote waits for a record: the header of its document, or a right that a tip names. What lies behind a cut
    /// is not held by everybody, so it is asked for.
    pub(super) fn await_record(&mut self, space: SpaceId, record: EntryId, device: &DeviceId) {
        let may_write = |held: &Space| held.authority().may(device, crate::record::Right::Write, true);
        if self.spaces.get(&space).is_some_and(may_write) && self.missing.len() < MISSING_MAX {
            self.missing.insert((space, record));
        }
    }

    /// Whether records behind a cut are held, because they may bring one that is waited for.
    pub(super) fn awaits_records(&self, space: &SpaceId) -> bool {
        self.missing.range((*space, EntryId([0; 32]))..).next().is_some_and(|(s, _)| s == space)
    }

    /// Puts a revocation together, in steps. `None` while reads are under way.
    pub(super) fn run_gather(
        &mut self,
        ticket: Ticket,
        space: SpaceId,
        records: &[EntryId],
        keep: Keep,
        root: Option<RootKeys>,
    ) -> Option<Local> {
        let said = |records: Vec<Record>| match root {
            Some(root) => Local::AsRoot { root, records },
            None => Local::Records(records),
        };
        let Some(held) = self.spaces.get(&space).filter(|_| keep == Keep::Held && !self.failed) else {
            return Some(said(revocation(records.to_vec(), &BTreeMap::new())));
        };
        if self.gather.as_ref().is_none_or(|gather| gather.ticket != ticket) {
            let devices = records.iter().flat_map(|record| held.authority().devices_by(record)).collect();
            let walk = Walk { devices, ..Walk::default() };
            self.gather = Some(Gather { ticket, space, walk, stays: BTreeMap::new() });
        }
        let gather = self.gather.as_mut()?;
        if let Some(load) = gather.walk.next(space) {
            let op = self.load(space, load, Purpose::Concerned { asker: Asker::Gather });
            self.gather.as_mut()?.walk.asked = Some(op);
            return None;
        }
        if !gather.walk.ended {
            return None;
        }
        let Gather { walk, mut stays, .. } = self.gather.take()?;
        // What is in memory may not be on disk yet.
        let of_space = self.slots.range((space, DocId([0; 32]))..).take_while(|((s, _), _)| *s == space);
        for ((_, doc), slot) in of_space {
            if let Slot::Held(held) = slot {
                stays.insert(*doc, ends_of(&space, doc, held.log.lines().all(), &walk.devices));
            }
        }
        let held = self.spaces.get(&space)?;
        let log = space.authority();
        stays.insert(log, ends_of(&space, &log, held.lines().all(), &walk.devices));
        stays.retain(|_, chains| !chains.is_empty());
        Some(said(revocation(records.to_vec(), &stays)))
    }
}

/// How much counts of the chains of some devices.
pub(super) fn ends_of(
    space: &SpaceId,
    doc: &DocId,
    lines: &[Line],
    devices: &BTreeSet<DeviceId>,
) -> BTreeMap<ChainId, u64> {
    let theirs = lines.iter().filter(|line| devices.contains(&line.opening.device));
    let ends = theirs.map(|line| {
        let counted = (0..line.branches.len()).map(|branch| line.counted(branch)).max();
        (line.opening.chain(space, doc), counted.unwrap_or(0))
    });
    ends.filter(|(_, n)| *n > 0).collect()
}

pub(super) fn is_deleted(held: &Space, log: &Log) -> bool {
    log.tombstones().iter().any(|tombstone| held.buries(tombstone, &log.header().creator))
}
