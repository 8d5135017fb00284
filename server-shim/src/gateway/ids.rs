//! Ids of documents, as automerge-repo has them: 16 bytes, written in base58 with a checksum.
//!
//! A document that a client created keeps its id: it stands in our document's header, as its name under the kind [`KIND`], so every
//! peer that holds the space finds it. Any other document has the id that follows from ours.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use commonhold_engine::{DocId, DocumentInfo, EntryId};

/// The kind of the documents that clients created.
pub(crate) const KIND: &str = "automerge-repo";
/// Longest text of an id: 16 bytes and 4 of checksum take 28 digits at most.
const TEXT_MAX: usize = 28;

/// An id as automerge-repo has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RepoId([u8; 16]);

impl RepoId {
    /// The id by which clients know a document.
    pub(crate) fn of(info: &DocumentInfo) -> RepoId {
        RepoId::created(&info.kind, &info.name).unwrap_or_else(|| RepoId::derived(&info.id))
    }

    /// The id in the header of a document that a client created.
    pub(crate) fn created(kind: &str, name: &str) -> Option<RepoId> {
        (kind == KIND).then(|| name.parse().ok()).flatten()
    }

    /// The id of a document that no client created.
    pub(crate) fn derived(doc: &DocId) -> RepoId {
        let hash = blake3::Hasher::new().update(b"commonhold automerge-repo 1").update(&doc.0).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        RepoId(id)
    }
}

impl FromStr for RepoId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() > TEXT_MAX {
            return Err(());
        }
        let bytes = bs58::decode(text).with_check(None).into_vec().map_err(drop)?;
        bytes.try_into().map(RepoId).map_err(drop)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.0).with_check().into_string())
    }
}

/// Which document each id means. Of two with one id the lesser is meant, on every peer.
pub(crate) fn directory(documents: &[DocumentInfo]) -> BTreeMap<RepoId, DocId> {
    let mut directory: BTreeMap<RepoId, DocId> = BTreeMap::new();
    for info in documents {
        let doc = directory.entry(RepoId::of(info)).or_insert(info.id);
        *doc = info.id.min(*doc);
    }
    directory
}

/// A change hash, as it stands in messages about remote heads.
pub(crate) fn head_text(head: &EntryId) -> String {
    bs58::encode(head.0).with_check().into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is_one() {
        let id = RepoId([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        // Written by bs58check in JavaScript.
        assert_eq!(RepoId([0; 16]).to_string(), "11111111111111114Ki9Gx");
        for text in ["", "1", "0OIl", "2AdjcPDvqyHBHuTyLGMWMVqCZVh", &"1".repeat(4_000)] {
            assert_eq!(text.parse::<RepoId>(), Err(()), "{text}");
        }
    }

    #[test]
    fn documents_of_clients_keep_their_id_and_others_get_one_of_ours() {
        let id = RepoId([3; 16]);
        assert_eq!(RepoId::created(KIND, &id.to_string()), Some(id));
        assert_eq!(RepoId::created("list", &id.to_string()), None);
        assert_eq!(RepoId::created(KIND, "shopping"), None);
        let doc = DocId([9; 32]);
        assert_eq!(RepoId::derived(&doc), RepoId::derived(&doc));
        assert_ne!(RepoId::derived(&doc), RepoId::derived(&DocId([8; 32])));
    }
}
