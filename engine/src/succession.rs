//! A document that goes on in another: the only way to leave a long history behind.

use commonhold_sync::id::{DeviceId, DocId, SpaceId};
use commonhold_sync::peer::Local;
use commonhold_sync::record::Record;

use crate::document::{EditError, ObjId};
use crate::document_handle::Document;
use crate::error::{EditFailure, Error};
use crate::node::Node;

/// A document that goes on in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Succession {
    /// The old document.
    pub old: DocId,
    /// The new one.
    pub new: DocId,
    /// Who made the new one, and says so.
    pub by: DeviceId,
}

impl Node {
    /// Makes a new document that shows what an old one shows now, without its history, and says that the old one goes on there.
    /// Kind and name are those of the old one.
    ///
    /// The old document stays, and so do edits that others make in it before they hear of the new one: move them by hand, or
    /// delete it once nobody uses it. Of values that conflict only the one shown goes along, marks grow at their end, and objects
    /// inside a text become replacement characters.
    pub async fn succeed_document(&self, space: SpaceId, old: DocId) -> Result<Document, Error> {
        let document = self.open_document(space, old).await?;
        let info = document.info().await?;
        let content = document.read(|view| view.content()).await?;
        let new = self.create_document(space, &info.kind, &info.name).await?;
        let filled = async {
            new.edit(|edit| edit.fill(&ObjId::ROOT, &content)).await.map_err(EditFailure::<EditError>::flatten)?;
            new.flush().await?;
            self.say(space, Local::Records(vec![Record::Successor { doc: new.id(), old }])).await
        };
        match filled.await {
            Ok(_) => Ok(new),
            Err(error) => {
                // Half a document helps nobody; the first error is the one to tell.
                let _ = self.delete_document(space, new.id()).await;
                Err(error)
            }
        }
    }

    /// The documents of a space that go on in others, by the old one's id. It is for the application or its people to decide
    /// whom they follow, should there be several.
    pub async fn successions(&self, space: SpaceId) -> Result<Vec<Succession>, Error> {
        let told = self.look(space, |authority| authority.successors()).await?;
        let new = self.documents_named(space, told.iter().map(|(_, new, _)| *new).collect()).await?;
        let made = |new_doc: &DocId, by: &DeviceId| {
            new.get(new_doc).is_some_and(|document| document.creator == *by && !document.deleted)
        };
        let told = told.into_iter().filter(|(_, new, by)| made(new, by));
        Ok(told.map(|(old, new, by)| Succession { old, new, by }).collect())
    }
}
