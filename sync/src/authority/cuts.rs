//! What a revocation leaves in force: a list from (document, chain) to a number, in memory and cut into records.
//!
//! In memory a document with one chain takes 60 bytes: two sorted vectors, nothing of its own on the heap.

use std::collections::BTreeMap;

use crate::id::{ChainId, DocId, EntryId};
use crate::record::{ChainEnds, RECORD_BYTES_MAX, Record};

/// What stays of each chain of each document; of everything else nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CutList {
    /// Ascending, each with the end of its run in `ends`.
    docs: Vec<(DocId, u32)>,
    /// Ascending inside a run.
    ends: Vec<(ChainId, u64)>,
}

impl CutList {
    /// From one record, whose decoding has checked the order.
    pub(super) fn of_record(entries: &[(DocId, ChainEnds)]) -> CutList {
        let mut list = CutList::default();
        entries.iter().for_each(|(doc, ends)| list.push(doc, ends));
        list
    }

    fn push(&mut self, doc: &DocId, ends: &[(ChainId, u64)]) {
        self.ends.extend_from_slice(ends);
        self.docs.push((*doc, self.ends.len() as u32));
    }

    fn runs(&self) -> impl Iterator<Item = (&DocId, &[(ChainId, u64)])> {
        (0..self.docs.len()).map(|at| (&self.docs[at].0, self.run(at)))
    }

    fn run(&self, at: usize) -> &[(ChainId, u64)] {
        let start = at.checked_sub(1).map_or(0, |before| self.docs[before].1);
        &self.ends[start as usize..self.docs[at].1 as usize]
    }

    /// One list of several. A writer keeps the documents in order throughout; a chain that is named twice keeps the least.
    pub(super) fn join<'a>(parts: impl Iterator<Item = &'a CutList> + Clone) -> CutList {
        let mut joined = CutList {
            docs: Vec::with_capacity(parts.clone().map(|part| part.docs.len()).sum()),
            ends: Vec::with_capacity(parts.clone().map(|part| part.ends.len()).sum()),
        };
        for (doc, ends) in parts.clone().flat_map(CutList::runs) {
            joined.push(doc, ends);
        }
        if !joined.docs.is_sorted_by(|(one, _), (other, _)| one < other) {
            let mut all: BTreeMap<DocId, BTreeMap<ChainId, u64>> = BTreeMap::new();
            for (doc, ends) in parts.flat_map(CutList::runs) {
                let chains = all.entry(*doc).or_default();
                for (chain, n) in ends {
                    let least = chains.entry(*chain).or_insert(*n);
                    *least = (*least).min(*n);
                }
            }
            joined = CutList::default();
            for (doc, chains) in all {
                joined.push(&doc, &chains.into_iter().collect::<Vec<_>>());
            }
        }
        joined
    }

    /// Number of the last entry of a chain that stays.
    pub(super) fn end(&self, log: &DocId, chain: &ChainId) -> u64 {
        let Ok(at) = self.docs.binary_search_by(|(doc, _)| doc.cmp(log)) else { return 0 };
        let run = self.run(at);
        run.binary_search_by(|(c, _)| c.cmp(chain)).map_or(0, |found| run[found].1)
    }

    /// Bytes that the list takes.
    pub(super) fn bytes(&self) -> usize {
        self.docs.capacity() * size_of::<(DocId, u32)>() + self.ends.capacity() * size_of::<(ChainId, u64)>()
    }
}

/// The records that take back `records`, in order: [`Record::Cuts`] with what stays, then the [`Record::Revoke`]. They have
/// to follow each other in one chain. `records` is sorted and freed of doubles; entries of 0 are left out.
pub fn revocation(mut records: Vec<EntryId>, stays: &BTreeMap<DocId, BTreeMap<ChainId, u64>>) -> Vec<Record> {
    // Array heads, kind and the heads inside an entry, each at its longest.
    const RECORD: usize = 8;
    const DOCUMENT: usize = 1 + 34 + 5;
    const CHAIN: usize = 17 + 9;
    records.sort_unstable();
    records.dedup();
    let mut parts: Vec<Vec<(DocId, ChainEnds)>> = Vec::new();
    let mut room = 0;
    for (doc, chains) in stays {
        let ends: ChainEnds = chains.iter().map(|(chain, n)| (*chain, *n)).filter(|(_, n)| *n > 0).collect();
        for run in ends.chunks((RECORD_BYTES_MAX - RECORD - DOCUMENT) / CHAIN) {
            let bytes = DOCUMENT + CHAIN * run.len();
            if parts.is_empty() || room < bytes {
                parts.push(Vec::new());
                room = RECORD_BYTES_MAX - RECORD;
            }
            room -= bytes;
            if let Some(part) = parts.last_mut() {
                part.push((*doc, run.to_vec()));
            }
        }
    }
    let count = parts.len() as u32;
    let parts = parts.into_iter().map(|entries| Record::Cuts { entries });
    parts.chain([Record::Revoke { records, parts: count }]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(records: &[Record]) -> CutList {
        let parts: Vec<CutList> = records
            .iter()
            .filter_map(|record| match Record::from_bytes(&record.to_bytes()) {
                Ok(Record::Cuts { entries }) => Some(CutList::of_record(&entries)),
                Ok(Record::Revoke { .. }) => None,
                other => panic!("{other:?}"),
            })
            .collect();
        CutList::join(parts.iter())
    }

    #[test]
    fn a_list_survives_being_cut_into_records() {
        let number = |i: u64| *blake3::hash(&i.to_be_bytes()).as_bytes();
        let mut stays: BTreeMap<DocId, BTreeMap<ChainId, u64>> = BTreeMap::new();
        for i in 0..500u64 {
            let chains = (0..i % 3).map(|j| (ChainId([j as u8; 16]), i * 1_000 + j));
            stays.insert(DocId(number(i)), chains.collect());
        }
        // More chains than a record has room for.
        stays.insert(
            DocId([7; 32]),
            (0..300u64).map(|i| (ChainId(number(i)[..16].try_into().unwrap()), i + 1)).collect(),
        );
        let records = revocation(vec![EntryId([2; 32]), EntryId([1; 32]), EntryId([2; 32])], &stays);
        let parts = records.len() as u32 - 1;
        assert_eq!(records.last(), Some(&Record::Revoke { records: vec![EntryId([1; 32]), EntryId([2; 32])], parts }));
        let list = list(&records);
        for (doc, chains) in &stays {
            assert_eq!(list.end(doc, &ChainId([9; 16])), 0, "what is not named keeps nothing");
            assert!(chains.iter().all(|(chain, n)| list.end(doc, chain) == *n));
        }
        assert_eq!(list.end(&DocId([8; 32]), &ChainId([0; 16])), 0);
    }

    #[test]
    fn of_a_chain_named_twice_the_least_stays() {
        let cuts = |doc: u8, n| Record::Cuts { entries: vec![(DocId([doc; 32]), vec![(ChainId([1; 16]), n)])] };
        let list = list(&[cuts(2, 9), cuts(1, 5), cuts(2, 4), cuts(2, 6)]);
        assert_eq!(list.end(&DocId([2; 32]), &ChainId([1; 16])), 4);
        assert_eq!(list.end(&DocId([1; 32]), &ChainId([1; 16])), 5);
    }
}
