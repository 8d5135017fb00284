//! The engine's errors as failures of a verb: which exit code, and what the person can do.

use commonhold_engine::device::IdentityError;
use commonhold_engine::store::StoreError;
use commonhold_engine::{Error, OpenError};

use crate::config::Settings;
use crate::failure::{Exit, Failure, chain};
use crate::reach;

/// An operation on an open node that failed.
pub(crate) fn failure(error: &Error) -> Failure {
    let (exit, remedy) = match error {
        Error::StoreFailed(store) => return store_failure(store),
        Error::UnknownSpace(_) | Error::UnknownDocument(_) | Error::Deleted(_) => {
            (Exit::NotFound, "`commonhold space ls` and `commonhold doc ls` show what is here")
        }
        Error::SpaceNotReady(_) => (
            Exit::Unreachable,
            "let a peer that has the space be reached: `commonhold serve`, then `commonhold status --wait 30`",
        ),
        Error::Quarantined { .. } => {
            (Exit::Failed, "`commonhold doc release DOC` shows it whatever it costs; document.* says what it may")
        }
        Error::Quota => (
            Exit::Failed,
            "`commonhold usage` shows what takes how much; quota.space_mib and quota.space_documents bound it",
        ),
        Error::Blocked(_) => {
            (Exit::Failed, "`commonhold block ls` shows what is blocked, `commonhold block rm` ends it")
        }
        Error::NotAllowed(_) => (
            Exit::Failed,
            "ask an administrator for: commonhold grant DEVICE (`commonhold status --json` prints this device's id as \"peer\"); `commonhold members` lists who may what",
        ),
        Error::Identity(identity) => return identity_failure(identity),
        Error::Invite(_) => (Exit::Usage, "copy the whole invite, from commonhold1 to its last character"),
        Error::Damaged { .. } => (Exit::Store, "run `commonhold doctor`; other peers still have the document"),
        Error::Edit(_) | Error::TooMuch { .. } | Error::DoesNotFit(_) => {
            (Exit::Failed, "change the value and try again")
        }
        Error::Import(_) => (Exit::Failed, "check that the file is a whole export, or an .automerge file"),
        Error::BlobFailed(_) => (
            Exit::Failed,
            "`commonhold blob gc` frees room; a damaged blob is fetched again with `commonhold blob get`",
        ),
        Error::NoAddress => (Exit::Failed, "run it while `commonhold serve` listens at an address that others reach"),
        Error::Closed => (Exit::Failed, "the process is stopping; try again in a moment"),
        _ => (Exit::Failed, "try again; `commonhold doctor` looks at everything"),
    };
    Failure::new(exit, error.code(), chain(error), remedy)
}

/// No identity, or not as it has to be.
pub(crate) fn identity_failure(error: &IdentityError) -> Failure {
    let (exit, code, remedy) = match error {
        IdentityError::None => {
            (Exit::NotFound, "no_identity", "make one with `commonhold identity new`, or `recover` yours")
        }
        IdentityError::Exists(_) => (
            Exit::Failed,
            "identity_exists",
            "`commonhold identity show` prints it; another one needs another keys folder",
        ),
        IdentityError::Phrase(_) => (Exit::Usage, "bad_phrase", "type all 24 words, in their order"),
        IdentityError::KeyReplaced => {
            (Exit::Failed, "root_key_replaced", "run `commonhold identity recover` here, and type the 24 words")
        }
        IdentityError::NoKeyLeft => (
            Exit::Failed,
            "no_root_key_left",
            "make another identity in another keys folder, and let an administrator grant it what this one has",
        ),
        _ => (Exit::Store, "keys", "see to the keys folder; `commonhold doctor` looks at it"),
    };
    Failure::new(exit, code, chain(error), remedy)
}

/// A store that could not be opened.
pub(crate) fn open_failure(error: &OpenError, settings: &Settings) -> Failure {
    let data = settings.data();
    match error {
        OpenError::Store(StoreError::InUse { pid }) => reach::in_use(&data, *pid),
        OpenError::Store(store) => {
            let mut failure = store_failure(store);
            failure.what = format!("{}: {}", data.display(), failure.what);
            failure
        }
        OpenError::Listen { address, source } => {
            let what = format!("cannot listen on {address}: {}", chain(source));
            match error.code() {
                "address_in_use" => Failure::new(
                    Exit::InUse,
                    error.code(),
                    what,
                    "choose another with --listen ws://127.0.0.1:0/ (any free port), or stop the program that has it",
                ),
                code => {
                    Failure::usage(code, what, "listen at an address of this machine, such as ws://127.0.0.1:7340/")
                }
            }
        }
        OpenError::NoKeys | OpenError::Keys(_) => Failure::usage(
            error.code(),
            chain(error),
            "check the keys folder (--keys): its owner, its mode 700, its files' mode 600",
        ),
        OpenError::Data { .. } | OpenError::Lineage(_) => Failure::new(
            Exit::Store,
            error.code(),
            chain(error),
            "make the data folder writable for this user, or name another with --data",
        ),
        _ => Failure::failed(error.code(), chain(error), "`commonhold doctor` looks at everything"),
    }
}

/// The engine's messages end with advice; here advice has a line of its own.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    let (exit, what, remedy) = match error {
        StoreError::InUse { .. } => (Exit::InUse, chain(error), "stop the other process, or go through it"),
        StoreError::Full { source } => {
            (Exit::Store, format!("the disk is full: {source}"), "free some space; nothing that was saved is lost")
        }
        StoreError::ReadOnly => {
            (Exit::Store, "the store is read-only".into(), "make the data folder writable, or name another with --data")
        }
        StoreError::NewerFormat { found, known } => (
            Exit::Store,
            format!("the store has format {found}, this program knows formats up to {known}"),
            "use a newer version of commonhold; nothing in the store was changed",
        ),
        StoreError::NotAStore { reason } => (
            Exit::Store,
            format!("not a store: {reason}"),
            "check the path, or put a backup in its place; nothing was changed",
        ),
        StoreError::DamagedFile { detail } => (
            Exit::Store,
            format!("the store file is damaged: {detail}"),
            "move the file away and join the space again (peers fill it), or restore a backup",
        ),
        StoreError::Damaged { .. } => (Exit::Store, chain(error), "`commonhold doctor` lists every damaged row"),
        StoreError::Io { doing, source } => {
            (Exit::Store, format!("{doing} failed: {source}"), "check the disk and the permissions of the data folder")
        }
        StoreError::TooLarge { .. } => (Exit::Failed, chain(error), "make it smaller"),
        _ => (Exit::Store, chain(error), "check the disk, then start again; `commonhold doctor` looks at everything"),
    };
    Failure::new(exit, error.code(), what, remedy)
}
