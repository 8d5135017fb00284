//! Receipts for what is on disk: asked of others, given to others, and to this device's own user.
//!
//! Who is asked answers once it holds what it is asked for, which may be later. Neither side says that it does not want to know any
//! more: of what is asked on one connection both keep the latest [`ASKED_MAX`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{After, ConnId, Event, Peer, Slot};
use crate::id::{DocId, EntryId, SpaceId};
use crate::message::{Held, Message, ReceiptWant};
use crate::storage_receipt::{StorageReceipt, may_name};
use crate::violation::Violation;

/// Versions that one side of a connection asks about at once; the oldest is forgotten for a newer one. At most 32 KiB each, and
/// mostly 100 bytes.
const ASKED_MAX: usize = 64;

/// A version of a document: its heads, ascending.
type Version = (SpaceId, DocId, Vec<EntryId>);

/// Versions that somebody asked about, oldest first.
#[derive(Debug, Default)]
pub(super) struct Asked(VecDeque<Version>);

/// What one connection was asked: versions, and whether the answer came. It is asked about each once.
#[derive(Debug, Default)]
pub(super) struct Waited(VecDeque<(Version, bool)>);

impl Waited {
    /// False if it was asked about before.
    fn add(&mut self, version: &Version) -> bool {
        let new = !self.0.iter().any(|(asked, _)| asked == version);
        if new {
            self.0.push_back((version.clone(), false));
            if self.0.len() > ASKED_MAX {
                self.0.pop_front();
            }
        }
        new
    }

    /// Whether an answer was waited for, which it is no more.
    fn answered(&mut self, version: &Version) -> bool {
        let waited = self.0.iter_mut().find(|(asked, _)| asked == version);
        waited.is_some_and(|(_, answered)| !core::mem::replace(answered, true))
    }
}

impl Asked {
    fn has(&self, version: &Version) -> bool {
        self.0.contains(version)
    }

    fn asks_of(&self, key: &(SpaceId, DocId)) -> bool {
        self.0.iter().any(|(space, doc, _)| (*space, *doc) == *key)
    }

    /// Gives the one that is forgotten for it.
    fn add(&mut self, version: Version) -> Option<Version> {
        self.0.push_back(version);
        (self.0.len() > ASKED_MAX).then(|| self.0.pop_front()).flatten()
    }
}

/// Who wants a receipt: a connection, or this device's own user.
pub(super) type Asker = Option<ConnId>;

/// What is wanted of this peer.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    by: BTreeMap<Asker, Asked>,
    /// The askers by document.
    of: BTreeMap<(SpaceId, DocId), BTreeSet<Asker>>,
    /// Documents to look at, and whether somebody has just asked.
    due: BTreeMap<(SpaceId, DocId), bool>,
}

impl Receipts {
    fn want(&mut self, asker: Asker, version: Version) {
        let key = (version.0, version.1);
        let asked = self.by.entry(asker).or_default();
        if asked.has(&version) {
            return;
        }
        let gone = asked.add(version).map(|(space, doc, _)| (space, doc)).filter(|gone| !asked.asks_of(gone));
        gone.into_iter().for_each(|gone| self.leave(gone, asker));
        self.of.entry(key).or_default().insert(asker);
        self.due.insert(key, true);
    }

    /// A log has changed, or more is known of it.
    pub(super) fn changed(&mut self, space: SpaceId, doc: DocId) {
        if self.of.contains_key(&(space, doc)) {
            self.due.entry((space, doc)).or_default();
        }
    }

    pub(super) fn closed(&mut self, conn: ConnId) {
        let asked = self.by.remove(&Some(conn)).unwrap_or_default();
        for (space, doc, _) in asked.0 {
            self.leave((space, doc), Some(conn));
        }
    }

    /// Askers, and documents that they ask about.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.by.len(), self.of.len())
    }

    fn leave(&mut self, key: (SpaceId, DocId), asker: Asker) {
        if let Some(askers) = self.of.get_mut(&key) {
            askers.remove(&asker);
            if askers.is_empty() {
                self.of.remove(&key);
            }
        }
    }

    /// Takes out what is wanted of a document and `held`.
    fn take(&mut self, key: (SpaceId, DocId), held: impl Fn(&[EntryId]) -> bool) -> Vec<(Asker, Vec<EntryId>)> {
        let mut taken = Vec::new();
        for asker in self.of.get(&key).cloned().unwrap_or_default() {
            let Some(asked) = self.by.get_mut(&asker) else { continue };
            asked.0.retain(|(space, doc, entries)| {
                let given = (*space, *doc) == key && held(entries);
                if given {
                    taken.push((asker, entries.clone()));
                }
                !given
            });
            if !asked.asks_of(&key) {
                self.leave(key, asker);
            }
        }
        taken
    }
}

impl Peer {
    /// Asks for receipts of everybody connected who takes the document and was not asked yet, and of this peer itself.
    pub(super) fn ask_receipts(&mut self, space: SpaceId, doc: DocId, mut entries: Vec<EntryId>) {
        entries.sort_unstable();
        if !may_name(&entries) {
            return;
        }
        let version = (space, doc, entries);
        for conn in self.connections.of_space(&space) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let Some(link) = connection.links.get(&space).filter(|link| link.wants_doc(&space, &doc)) else { continue };
            let want = ReceiptWant { space: link.theirs, doc, entries: version.2.clone() };
            if connection.receipts.add(&version) {
                connection.send(&Message::ReceiptWant(want));
            }
        }
        self.receipts.want(None, version);
    }

    pub(super) fn on_receipt_want(&mut self, conn: ConnId, want: ReceiptWant) -> Result<(), Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(()) };
        let space = connection.space_of(want.space)?;
        if !connection.links.contains_key(&space) {
            return Err(Violation::OutOfPlace("a receipt of a space that was not offered"));
        }
        if !may_name(&want.entries) {
            return Err(Violation::OutOfPlace("entries that a receipt cannot name"));
        }
        if !self.unwanted.docs.contains(&want.doc) {
            self.receipts.want(Some(conn), (space, want.doc, want.entries));
        }
        Ok(())
    }

    pub(super) fn on_held(&mut self, conn: ConnId, receipt: StorageReceipt) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        // What is not waited for any more is let lie.
        if !connection.receipts.answered(&(receipt.space, receipt.doc, receipt.entries.clone())) {
            return Ok(());
        }
        if connection.peer != Some(receipt.holder) || !receipt.verifies() {
            return Err(Violation::OutOfPlace("a receipt that its sender did not sign"));
        }
        self.emit(Event::Held { receipt });
        Ok(())
    }

    /// Gives receipts for what is held by now, once it is on disk.
    pub(super) fn run_receipts(&mut self) {
        for ((space, doc), new) in core::mem::take(&mut self.receipts.due) {
            if !self.ensure(space, [doc]) {
                self.receipts.due.insert((space, doc), new);
                continue;
            }
            let Some(Slot::Held(held)) = self.slots.get(&(space, doc)) else { continue };
            let log = &held.log;
            let given = self.receipts.take((space, doc), |entries| entries.iter().all(|id| log.holds(id)));
            if new && log.is_shallow() && self.receipts.of.contains_key(&(space, doc)) {
                // It may lie inside the snapshot.
                self.deepen(space, doc, false);
            }
            for (asker, entries) in given {
                self.after.push(After::Receipt { asker, space, doc, entries });
            }
        }
    }

    pub(super) fn give_receipt(&mut self, asker: Asker, space: SpaceId, doc: DocId, entries: Vec<EntryId>) {
        let receipt = StorageReceipt::sign(&self.key, space, doc, entries);
        match asker {
            None => self.emit(Event::Held { receipt }),
            Some(conn) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.send(&Message::Held(Held { receipt }));
                }
            }
        }
    }
}
