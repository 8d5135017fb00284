//! Requests to erase a document: said here, done by every peer that holds it, and signed by each when it is done.

use std::collections::BTreeMap;

use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::peer::Local;
use commonhold_sync::record::{NOTE_BYTES_MAX, Record};

use crate::error::Error;
use crate::node::Node;
use crate::storage::DocumentInfo;

/// A request to erase a document, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// The record that asks.
    pub request: EntryId,
    /// The document: kind and name are what its header says, which stays.
    pub document: DocumentInfo,
    /// Who asks: its creator, or an administrator.
    pub by: DeviceId,
    /// Why, for people; may be empty.
    pub note: String,
    /// The devices that signed that they have dropped all they held of it, ascending.
    pub erased: Vec<DeviceId>,
    /// The devices with a right in the space that have not, ascending. Where anyone may write, there can be others that nobody
    /// knows of.
    pub awaited: Vec<DeviceId>,
}

impl Node {
    /// Deletes a document and asks every peer to sign that it has erased what it held of it ([`Node::erasures`]). `note`, up to 256
    /// bytes, says why. What stays everywhere is the header (kind and name), the tombstone, and the request. Gives the record
    /// of the request.
    pub async fn erase_document(&self, space: SpaceId, doc: DocId, note: &str) -> Result<EntryId, Error> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(Error::TooMuch { what: "bytes of a note", max: NOTE_BYTES_MAX });
        }
        let records = vec![Record::Tombstone { doc }, Record::Erase { doc, note: note.to_owned() }];
        let said = self.say(space, Local::Records(records)).await?;
        said.last().copied().ok_or(Error::Internal("a request without a record"))
    }

    /// The requests to erase documents of a space by those who may delete them, by document, and who has done so.
    pub async fn erasures(&self, space: SpaceId) -> Result<Vec<Erasure>, Error> {
        let (told, devices) = self.look(space, |authority| (authority.erasures(), authority.devices())).await?;
        let documents = self.documents_named(space, told.iter().map(|erasure| erasure.doc).collect()).await?;
        let erasures = told.into_iter().filter_map(|erasure| {
            let document = documents.get(&erasure.doc).filter(|document| erasure.counts(&document.creator))?.clone();
            let awaited = devices.iter().filter(|device| !erasure.erased.contains(device)).copied().collect();
            let commonhold_sync::authority::Erasure { request, by, note, erased, .. } = erasure;
            Some(Erasure { request, document, by, note, erased, awaited })
        });
        Ok(erasures.collect())
    }

    /// What is held here of some documents, deleted ones too.
    pub(crate) async fn documents_named(
        &self,
        space: SpaceId,
        docs: Vec<DocId>,
    ) -> Result<BTreeMap<DocId, DocumentInfo>, Error> {
        self.shared().settle().await?;
        Ok(self.shared().blocking(move |storage| storage.documents_named(&space, &docs)).await??)
    }
}
