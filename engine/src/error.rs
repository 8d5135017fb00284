//! What can go wrong for whoever embeds the engine. Each message says what to do; each error has a code that stays.

use std::path::PathBuf;
use std::sync::Arc;

use commonhold_sync::id::{DocId, SpaceId};
use commonhold_sync::message::LIST_MAX;
use commonhold_sync::peer::LocalError;

use crate::blobs::BlobError;
use crate::device::{IdentityError, PrivateFileError};
use crate::document::EditError;
use crate::invite::InviteError;
use crate::lineage::LineageError;
use crate::quarantine::Excess;
use crate::store::StoreError;
use crate::transport::TransportError;

/// An operation on an open node that came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node was closed, here or by its last owner.
    #[error("the peer is closed; open it again")]
    Closed,
    /// The space is not held here.
    #[error("this peer does not hold space {0}; join it with an invite first")]
    UnknownSpace(SpaceId),
    /// The space's genesis has not arrived.
    #[error("space {0} is not known yet: connect to a peer that holds it")]
    SpaceNotReady(SpaceId),
    /// There is no such document here.
    #[error("this peer does not hold document {0}; if it exists elsewhere, wait until it has been synced")]
    UnknownDocument(DocId),
    /// The document was deleted.
    #[error("document {0} is deleted")]
    Deleted(DocId),
    /// This peer takes only some documents of the space, and not this one.
    #[error("this peer does not take document {0}; take it first")]
    NotTaken(DocId),
    /// The operator of this peer wants nothing to do with it.
    #[error("{0} is blocked on this peer")]
    Blocked(&'static str),
    /// The document costs more than a document may here.
    #[error("document {doc} is in quarantine: it has {excess}")]
    Quarantined {
        /// Which.
        doc: DocId,
        /// How it is over its budget.
        excess: Excess,
    },
    /// The space has all that its quota on this peer allows.
    #[error("the space takes all that it may on this peer; delete documents, or raise its quota")]
    Quota,
    /// This device may not do that.
    #[error("this device has no right to {0} in the space; ask an administrator for a grant")]
    NotAllowed(&'static str),
    /// Entries that do not continue this device's chain.
    #[error("the edit could not be signed onto this device's chain ({0}); make it again")]
    DoesNotFit(String),
    /// The store failed. The node tries to open it again by itself.
    #[error("nothing is saved at present: {0}")]
    StoreFailed(Arc<StoreError>),
    /// The document's rows do not make a document.
    #[error("document {doc} cannot be shown ({why}); run a check, and sync it again from another peer")]
    Damaged {
        /// Which.
        doc: DocId,
        /// What was found.
        why: String,
    },
    /// A refused edit.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// An invite that does not hold together.
    #[error(transparent)]
    Invite(#[from] InviteError),
    /// The identity of this device's owner.
    #[error(transparent)]
    Identity(#[from] Arc<IdentityError>),
    /// A blob that cannot be stored or read.
    #[error(transparent)]
    BlobFailed(BlobError),
    /// A bundle or an Automerge file that was not taken.
    #[error("not imported: {0}")]
    Import(String),
    /// A bundle that could not be written.
    #[error("not exported: {0}")]
    Export(String),
    /// Reading or writing what the caller gave failed.
    #[error("reading or writing failed")]
    Io(#[from] Arc<std::io::Error>),
    /// This node can be dialled nowhere.
    #[error("this peer listens nowhere, so there is no address to publish")]
    NoAddress,
    /// What was asked is beyond a limit.
    #[error("{what}: at most {max}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much.
        max: usize,
    },
    /// A fault of ours; the document or node goes on.
    #[error("internal fault: {0}; please report it")]
    Internal(&'static str),
}

impl Error {
    /// A name of the kind of error that stays the same in all versions.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Closed => "closed",
            Error::UnknownSpace(_) => "unknown_space",
            Error::NoAddress => "no_address",
            Error::SpaceNotReady(_) => "space_not_ready",
            Error::UnknownDocument(_) => "unknown_document",
            Error::Deleted(_) => "deleted",
            Error::NotTaken(_) => "not_taken",
            Error::Blocked(_) => "blocked",
            Error::Quota => "quota",
            Error::Quarantined { .. } => "quarantined",
            Error::NotAllowed(_) => "not_allowed",
            Error::DoesNotFit(_) => "does_not_fit",
            Error::StoreFailed(error) => error.code(),
            Error::Damaged { .. } => "document_damaged",
            Error::Edit(_) => "edit_refused",
            Error::Invite(_) => "bad_invite",
            Error::Identity(_) => "identity",
            Error::BlobFailed(BlobError::Quota { .. }) => "blob_quota",
            Error::BlobFailed(BlobError::TooLarge) => "blob_too_large",
            Error::BlobFailed(_) => "blob_damaged",
            Error::Import(_) => "import_refused",
            Error::Export(_) => "export_failed",
            Error::Io(_) => "io",
            Error::TooMuch { .. } => "too_much",
            Error::Internal(_) => "internal",
        }
    }

    pub(crate) fn from_local(why: LocalError, space: SpaceId, doc: Option<DocId>) -> Error {
        let doc = doc.unwrap_or(space.authority());
        match why {
            LocalError::UnknownSpace => Error::UnknownSpace(space),
            LocalError::SpaceNotReady => Error::SpaceNotReady(space),
            LocalError::UnknownDocument => Error::UnknownDocument(doc),
            LocalError::Deleted => Error::Deleted(doc),
            LocalError::NotTaken => Error::NotTaken(doc),
            LocalError::TakesTooMany => Error::TooMuch { what: "documents taken of a space", max: LIST_MAX },
            LocalError::NotAllowed(what) => Error::NotAllowed(what),
            LocalError::KeyReplaced(_) => IdentityError::KeyReplaced.into(),
            LocalError::DoesNotFit(why) => Error::DoesNotFit(why),
            LocalError::Blocked(what) => Error::Blocked(what),
            LocalError::Quota => Error::Quota,
            LocalError::StoreFailed => Error::StoreFailed(Arc::new(StoreError::Failed { reason: "a write".into() })),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Error::StoreFailed(Arc::new(error))
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        Error::Identity(Arc::new(error))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io(Arc::new(error))
    }
}

/// Why an edit came to nothing: the application's own reason, or ours.
#[derive(Debug, thiserror::Error)]
pub enum EditFailure<E> {
    /// What the closure returned.
    #[error("{0}")]
    App(E),
    /// The document or the peer refused.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl<E> From<EditError> for EditFailure<E> {
    fn from(error: EditError) -> Self {
        EditFailure::Engine(error.into())
    }
}

impl EditFailure<EditError> {
    /// One error of both.
    pub fn flatten(self) -> Error {
        match self {
            EditFailure::App(error) => error.into(),
            EditFailure::Engine(error) => error,
        }
    }
}

/// A node that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store: in use, of a newer version, full, damaged, or not a store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder could not be made.
    #[error("cannot use the data folder {}", .path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A store on disk without a place for the device's secret apart from it.
    #[error("a store on disk needs a keys folder outside the data folder: set `keys`")]
    NoKeys,
    /// The device's secret.
    #[error(transparent)]
    Keys(#[from] PrivateFileError),
    /// The facts by which a copied or restored store is told apart.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// Cannot listen there.
    #[error("cannot listen on {address}: choose another address or port, or stop what uses it")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: TransportError,
    },
    /// The system gave no randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl OpenError {
    /// A name of the kind of error that stays the same in all versions.
    pub fn code(&self) -> &'static str {
        match self {
            OpenError::Store(error) => error.code(),
            OpenError::Data { .. } => "data_folder",
            OpenError::NoKeys => "no_keys",
            OpenError::Keys(_) => "keys",
            OpenError::Lineage(_) => "lineage",
            OpenError::Listen { source: TransportError::Io(error), .. }
                if error.kind() == std::io::ErrorKind::AddrInUse =>
            {
                "address_in_use"
            }
            OpenError::Listen { .. } => "listen",
            OpenError::Random(_) => "no_randomness",
        }
    }
}
