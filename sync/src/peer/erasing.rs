//! Requests to erase documents: what was asked of this device, and is done, is signed.
//!
//! Who asks deletes the document as well, and it is the deletion that drops what is held of it. Should the request count, this
//! device says so, once a document: in the commit that drops it or a later one, so that nobody hears of it before it is done.

use super::Peer;
use crate::authority::COMPLETED_MAX;
use crate::id::{DeviceId, DocId, SpaceId};
use crate::record::Record;

/// Logs that are read at once for a look at whether they are deleted.
const AT_ONCE: usize = 16;

impl Peer {
    /// Looks at the documents that these devices asked to erase, if this device has not said of them that it has.
    pub(super) fn asked_to_erase(&mut self, space: SpaceId, by: impl Fn(&DeviceId) -> bool) {
        let Some(held) = self.spaces.get(&space) else { return };
        let mut docs = held.authority().asked_to_erase(by);
        docs.retain(|doc| !held.authority().has_erased(&self.device, doc));
        self.erasing.extend(docs.into_iter().map(|doc| (space, doc)));
    }

    /// Rights have changed: this device may say by now what it could not.
    pub(super) fn may_have_erased(&mut self, space: SpaceId) {
        if self.spaces.get(&space).is_some_and(|held| held.right_of(&self.device).is_some()) {
            let of_space = (space, DocId([0; 32]))..=(space, DocId([255; 32]));
            self.erasing.extend(self.unsigned.extract_if(of_space, |_| true));
        }
    }

    /// Says of documents that they are erased.
    pub(super) fn run_erasures(&mut self) {
        while let Some((space, _)) = self.erasing.first().copied() {
            let of_space = self.erasing.iter().take_while(|(of, _)| *of == space);
            let batch: Vec<DocId> = of_space.map(|(_, doc)| *doc).take(AT_ONCE).collect();
            if !self.ensure(space, batch.iter().copied()) {
                return;
            }
            batch.iter().for_each(|doc| _ = self.erasing.remove(&(space, *doc)));
            self.say_erased(space, &batch);
        }
    }

    fn say_erased(&mut self, space: SpaceId, docs: &[DocId]) {
        let Some(held) = self.spaces.get(&space) else { return };
        if held.right_of(&self.device).is_none() {
            return self.unsigned.extend(docs.iter().map(|doc| (space, *doc)));
        }
        let authority = held.authority();
        let mut completed = authority.completed_by(&self.device);
        let mut said = Vec::new();
        for doc in docs.iter().filter(|doc| !authority.has_erased(&self.device, doc)) {
            let Some(log) = self.log(space, *doc).filter(|log| log.is_deleted()) else { continue };
            let erasures = authority.erasures_of(doc);
            let mut counting = erasures.iter().filter(|erasure| erasure.counts(&log.header().creator));
            let left = |by: &DeviceId| completed.get(by).is_none_or(|count| *count < COMPLETED_MAX);
            if let Some(erasure) = counting.find(|erasure| left(&erasure.by)) {
                *completed.entry(erasure.by).or_default() += 1;
                said.push(Record::Erased { request: erasure.request });
            }
        }
        if let Err(why) = self.add_records(space, &said) {
            self.notice(None, Some(space), None, "erased", &why.to_string());
        }
    }
}
