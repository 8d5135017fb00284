//! What is said about documents beside what makes and deletes them: requests to erase them, what came of those, and where
//! they go on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Authority, RecordAt, Spot};
use crate::id::{DeviceId, DocId, EntryId};
use crate::record::{Record, Right};

/// Requests of one device that a peer completes. What others ask beyond that is done, and not signed: each completion is a
/// record that all peers hold.
pub const COMPLETED_MAX: usize = 256;

/// A record that may have been said in several places: it counts if one of them does.
#[derive(Clone, Debug)]
struct Told<T> {
    by: DeviceId,
    spots: BTreeSet<Spot>,
    what: T,
}

/// Records about documents, by what they are about.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    /// By document and record.
    requests: BTreeMap<DocId, BTreeMap<EntryId, Told<String>>>,
    /// Who said that it is done, by request.
    erased: BTreeMap<EntryId, BTreeMap<DeviceId, BTreeSet<Spot>>>,
    /// By the old document and record: the new one.
    successors: BTreeMap<DocId, BTreeMap<EntryId, Told<DocId>>>,
    /// Where devices last said that they can be dialled, and when.
    places: BTreeMap<DeviceId, (u64, EntryId, Vec<String>)>,
}

impl About {
    pub(super) fn note(&mut self, at: &RecordAt, record: &Record) {
        let (by, spot) = (at.device, (at.chain, at.n));
        let spots = BTreeSet::new;
        match record {
            Record::Erase { doc, note } => {
                let of = self.requests.entry(*doc).or_default();
                let told = || Told { by, spots: spots(), what: note.clone() };
                of.entry(at.id).or_insert_with(told).spots.insert(spot);
            }
            Record::Erased { request } => {
                self.erased.entry(*request).or_default().entry(by).or_default().insert(spot);
            }
            Record::Successor { doc, old } => {
                let of = self.successors.entry(*old).or_default();
                of.entry(at.id).or_insert_with(|| Told { by, spots: spots(), what: *doc }).spots.insert(spot);
            }
            Record::Place { made_ms, addresses } => {
                let held = self.places.entry(by).or_insert((0, EntryId([0; 32]), Vec::new()));
                // Of two of one moment the same counts on every peer.
                if (held.0, held.1) <= (*made_ms, at.id) {
                    *held = (*made_ms, at.id, addresses.clone());
                }
            }
            _ => {}
        }
    }
}

/// A request to erase a document, that counts if it is by its creator or by an admin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Erasure {
    /// The record.
    pub request: EntryId,
    /// Of which document.
    pub doc: DocId,
    /// Who asks.
    pub by: DeviceId,
    /// Whether that was an admin where it was said; else a writer.
    pub by_admin: bool,
    /// Why, for people; may be empty.
    pub note: String,
    /// The devices that signed that they have erased it, whoever asked, ascending.
    pub erased: Vec<DeviceId>,
}

impl Erasure {
    /// Whether the request counts for a document of `creator`: by whoever could delete it.
    pub fn counts(&self, creator: &DeviceId) -> bool {
        self.by_admin || self.by == *creator
    }
}

impl Authority {
    /// The requests to erase a document by those who could write, by record.
    pub fn erasures_of(&self, doc: &DocId) -> Vec<Erasure> {
        let Some(of) = self.about.requests.get(doc) else { return Vec::new() };
        let completed = of.keys().filter_map(|request| self.about.erased.get(request)).flat_map(BTreeMap::keys);
        let erased: BTreeSet<DeviceId> = completed.filter(|device| self.has_erased(device, doc)).copied().collect();
        of.iter().filter_map(|(request, told)| self.erasure(doc, request, told, &erased)).collect()
    }

    /// All requests to erase documents by those who could write, by document and record.
    pub fn erasures(&self) -> Vec<Erasure> {
        self.about.requests.keys().flat_map(|doc| self.erasures_of(doc)).collect()
    }

    fn erasure(
        &self,
        doc: &DocId,
        request: &EntryId,
        told: &Told<String>,
        erased: &BTreeSet<DeviceId>,
    ) -> Option<Erasure> {
        let by_admin = self.is_told(told, Right::Admin);
        if !by_admin && !self.is_told(told, Right::Write) {
            return None;
        }
        let (note, erased) = (told.what.clone(), erased.iter().copied().collect());
        Some(Erasure { request: *request, doc: *doc, by: told.by, by_admin, note, erased })
    }

    /// The documents that requests to erase are about, by any of these devices.
    pub(crate) fn asked_to_erase(&self, by: impl Fn(&DeviceId) -> bool) -> Vec<DocId> {
        let any = |of: &BTreeMap<EntryId, Told<String>>| of.values().any(|told| by(&told.by));
        self.about.requests.iter().filter(|(_, of)| any(of)).map(|(doc, _)| *doc).collect()
    }

    /// Whether a device said that it has erased a document, whoever asked, where that counts.
    pub(crate) fn has_erased(&self, device: &DeviceId, doc: &DocId) -> bool {
        let mut requests = self.about.requests.get(doc).into_iter().flat_map(BTreeMap::keys);
        requests.any(|request| self.has_completed(device, request))
    }

    fn has_completed(&self, device: &DeviceId, request: &EntryId) -> bool {
        let by = self.about.erased.get(request);
        let mut spots = by.and_then(|by| by.get(device)).into_iter().flatten();
        spots.any(|(chain, n)| self.counts_at(device, chain, *n, Right::Relay))
    }

    /// How many requests a device has completed, by who asked.
    pub(crate) fn completed_by(&self, device: &DeviceId) -> BTreeMap<DeviceId, usize> {
        let mut counts = BTreeMap::new();
        for (request, told) in self.about.requests.values().flatten() {
            if self.has_completed(device, request) {
                *counts.entry(told.by).or_default() += 1;
            }
        }
        counts
    }

    /// Where documents go on: old document, new document, and who says so, if that device could write where it did. Whether it
    /// also made the new one, the caller sees.
    pub fn successors(&self) -> Vec<(DocId, DocId, DeviceId)> {
        let all = self.about.successors.iter().flat_map(|(old, of)| of.values().map(move |told| (old, told)));
        all.filter(|(_, told)| self.is_told(told, Right::Write)).map(|(old, told)| (*old, told.what, told.by)).collect()
    }

    /// Where devices that have a right now can be dialled, as they last said. What came of the record itself is nothing to the point: it is
    /// of use as long as there is somebody to dial.
    pub fn places(&self) -> Vec<(DeviceId, Vec<String>)> {
        let said = self.about.places.iter().filter(|(_, (.., addresses))| !addresses.is_empty());
        let said = said.filter(|(device, _)| self.right_of(device).is_some());
        said.map(|(device, (.., addresses))| (*device, addresses.clone())).collect()
    }

    fn is_told<T>(&self, told: &Told<T>, needed: Right) -> bool {
        told.spots.iter().any(|(chain, n)| self.counts_at(&told.by, chain, *n, needed))
    }
}
