//! The engine's errors as failures of a verb: which exit code, and what the person can do.

use commonhold_engine::local::LocalError;
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
        Error::NotAllowed(_) => (
            Exit::Failed,
            "ask an administrator for: commonhold space grant SPACE DEVICE (`commonhold peers --json` on their side lists devices)",
        ),
        Error::Invite(_) => (Exit::Usage, "copy the whole invite, from commonhold1 to its last character"),
        Error::Damaged { .. } => (Exit::Store, "run `commonhold doctor`; other peers still have the document"),
        Error::Edit(_) | Error::TooMuch { .. } | Error::DoesNotFit(_) => {
            (Exit::Failed, "change the value and try again")
        }
        Error::Import(_) => (Exit::Failed, "check that the file is a whole export, or an .automerge file"),
        Error::Closed => (Exit::Failed, "the process is stopping; try again in a moment"),
        _ => (Exit::Failed, "try again; `commonhold doctor` looks at everything"),
    };
    Failure::new(exit, error.code(), chain(error), remedy)
}

/// A store that could not be opened.
pub(crate) fn open_failure(error: &OpenError, settings: &Settings) -> Failure {
    let data = settings.data();
    match error {
        OpenError::Store(StoreError::InUse { pid }) => reach::in_use(&data, *pid),
        OpenError::Local(LocalError::AlreadyServed(_)) => reach::in_use(&data, None),
        OpenError::Store(store) => {
            let mut failure = store_failure(store);
            failure.what = format!("{}: {}", data.display(), failure.what);
            failure
        }
        OpenError::Listen { .. } if error.code() == "address_in_use" => Failure::new(
            Exit::InUse,
            error.code(),
            chain(error),
            "choose another with --listen ws://127.0.0.1:0/ (any free port), or stop the program that has it",
        ),
        OpenError::Listen { .. } => Failure::usage(
            error.code(),
            chain(error),
            "check --listen and peer.listen: an address of this machine, such as ws://127.0.0.1:7340/",
        ),
        OpenError::NoKeys | OpenError::Keys(_) => Failure::usage(
            error.code(),
            chain(error),
            "check the keys folder (--keys): its owner, its mode 700, its files' mode 600",
        ),
        OpenError::Data { .. } | OpenError::Lineage(_) | OpenError::Local(_) => Failure::new(
            Exit::Store,
            error.code(),
            chain(error),
            "make the data folder writable for this user, or name another with --data",
        ),
        _ => Failure::failed(error.code(), chain(error), "`commonhold doctor` looks at everything"),
    }
}

/// What is wrong is the part of the engine's message before its advice, which stands in a line of its own here.
fn store_failure(error: &StoreError) -> Failure {
    let (exit, remedy) = match error {
        StoreError::InUse { .. } => (Exit::InUse, "stop the other process, or go through it"),
        StoreError::Full { .. } => (Exit::Store, "free some space; nothing that was saved is lost"),
        StoreError::ReadOnly => (Exit::Store, "make the data folder writable, or name another with --data"),
        StoreError::NewerFormat { .. } => (Exit::Store, "use a newer version of commonhold; nothing was changed"),
        StoreError::NotAStore { .. } => {
            (Exit::Store, "check the path, or put a backup in its place; nothing was changed")
        }
        StoreError::Damaged { .. } | StoreError::DamagedFile { .. } => (
            Exit::Store,
            "move the file away and join the space again (peers fill it), or restore a backup; `commonhold doctor` says more",
        ),
        StoreError::Io { .. } => (Exit::Store, "check the disk and the permissions of the data folder"),
        StoreError::TooLarge { .. } => (Exit::Failed, "make it smaller"),
        _ => (Exit::Store, "free the disk of its fault and start again; `commonhold doctor` looks at everything"),
    };
    Failure::new(exit, error.code(), chain(error), remedy)
}
