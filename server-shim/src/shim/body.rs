//! Documents as the bytes that are sent. Each version is written out once, however many ask for it at the same time: those whose edits
//! were saved together all get the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use commonhold_engine::{DocId, Document, EntryId, SpaceId, View};
use serde_json::Value as Json;

use super::problem::{Kind, Problem};
use super::version;

/// Bytes of documents that are kept, over all of them.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// A document at a version.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) heads: Arc<[EntryId]>,
    pub(crate) bytes: Bytes,
    pub(crate) etag: Arc<str>,
}

impl Shown {
    pub(crate) fn json(&self) -> Result<Json, Problem> {
        serde_json::from_slice(&self.bytes).map_err(|_| Problem::new(Kind::Internal, "a document that is no JSON"))
    }
}

/// The latest version of documents that were asked for. Clones keep the same.
#[derive(Debug, Default, Clone)]
pub(crate) struct Bodies(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    of: BTreeMap<(SpaceId, DocId), Shown>,
    bytes: usize,
}

impl Bodies {
    /// A document as it is: edits that are still being gathered into a change are not in it.
    pub(crate) async fn of(&self, document: &Document) -> Result<Shown, Problem> {
        document.read(|view| self.shown(document, view)).await?.ok_or_else(unversioned)
    }

    /// A document as it is once every edit so far is on this disk. It is written out when the edits are closed into a change: while the next are
    /// gathered, it is a past version, which costs far more to read.
    pub(crate) async fn saved(&self, document: &Document) -> Result<Shown, Problem> {
        document.flush_and_read(|view| self.shown(document, view)).await?.ok_or_else(unversioned)
    }

    /// Called under the document's lock, so that of many that ask at once the first does the work.
    fn shown(&self, document: &Document, view: &View) -> Option<Shown> {
        let key = (document.space(), document.id());
        self.kept(key, &view.heads()).or_else(|| self.keep(key, view))
    }

    fn kept(&self, key: (SpaceId, DocId), heads: &[EntryId]) -> Option<Shown> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.of.get(&key).filter(|shown| *shown.heads == *heads).cloned()
    }

    fn keep(&self, key: (SpaceId, DocId), view: &View) -> Option<Shown> {
        let heads = view.heads();
        let json = if view.is_gathering() { view.json_at_heads(&heads)? } else { view.to_json() };
        let bytes = Bytes::from(serde_json::to_vec(&json).ok()?);
        let shown = Shown { etag: version::etag(&heads, &bytes).into(), heads: heads.into(), bytes };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += shown.bytes.len();
        if let Some(before) = kept.of.insert(key, shown.clone()) {
            kept.bytes -= before.bytes.len();
        }
        while kept.bytes > KEPT_BYTES_MAX
            && let Some((_, gone)) = kept.of.pop_first()
        {
            kept.bytes -= gone.bytes.len();
        }
        Some(shown)
    }
}

fn unversioned() -> Problem {
    Problem::new(Kind::Internal, "a document without its own version")
}
