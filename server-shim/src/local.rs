//! The owner's answers to other processes of the same person.

use std::io;
use std::time::Duration;

use commonhold_engine::Node;
use commonhold_engine::local::{LocalConnection, LocalError};
use serde::Deserialize;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use crate::failure::Failure;
use crate::operate;
use crate::request::{Answered, Reply, Request, VERSION, Watched};

/// Bytes of a file in one message: twice as many hex digits.
pub(crate) const CHUNK: usize = 256 << 10;

/// How long whoever reads an export or a backup may take for one piece: a backup holds on to one state of the store, whose file grows
/// meanwhile by what is edited. A guess: more than any disk needs.
const STALLED: Duration = Duration::from_secs(60);

/// An envelope whose request is looked at only if its version is known.
#[derive(Deserialize)]
struct Sealed {
    version: u32,
    request: Json,
}

/// Answers one connection until its client leaves or this process stops.
pub(crate) async fn answer(node: Node, mut connection: LocalConnection, mut draining: watch::Receiver<bool>) {
    if let Err(error) = serve(&node, &mut connection, &mut draining).await {
        debug!(%error, "a local connection ended");
    }
}

async fn serve(
    node: &Node,
    connection: &mut LocalConnection,
    draining: &mut watch::Receiver<bool>,
) -> Result<(), LocalError> {
    while let Some(request) = next(connection, draining).await? {
        match request {
            Err(failure) => connection.reply(&Answered::Err(failure)).await?,
            Ok(Request::Watch(doc)) => {
                return match operate::watch(node, &doc).await {
                    Ok(watch) => stream_watch(watch, connection, draining).await,
                    Err(failure) => fail(connection, failure).await,
                };
            }
            Ok(Request::GetBlob { space, blob }) => {
                return match operate::get_blob(node, space, &blob).await {
                    Ok(getting) => stream_blob(getting, connection, draining).await,
                    Err(failure) => fail(connection, failure).await,
                };
            }
            Ok(request @ (Request::Export { .. } | Request::Backup { .. })) => {
                return copy(node, request, connection).await;
            }
            Ok(Request::Import { space, folder }) => import(node, space, folder, connection, draining).await?,
            Ok(request @ (Request::Level { .. } | Request::Join { .. } | Request::Receipts { .. })) => {
                let answered = tokio::select! {
                    answered = operate::perform(node, request) => answered,
                    // What only waits need not be waited for.
                    _ = draining.wait_for(|draining| *draining) => Err(stopping()),
                };
                connection.reply(&answered).await?;
            }
            // A request runs to its end even if the client hangs up: half a change would be worse.
            Ok(request) => connection.reply(&operate::perform(node, request).await).await?,
        }
    }
    Ok(())
}

/// The next request; `None` when there will be none. What cannot be understood is answered, not dropped.
async fn next(
    connection: &mut LocalConnection,
    draining: &mut watch::Receiver<bool>,
) -> Result<Option<Result<Request, Failure>>, LocalError> {
    let sealed: Option<Sealed> = tokio::select! {
        sealed = connection.recv() => sealed?,
        _ = draining.wait_for(|draining| *draining) => None,
    };
    Ok(sealed.map(|sealed| match serde_json::from_value(sealed.request) {
        Ok(request) if sealed.version == VERSION => Ok(request),
        _ => Err(other_version()),
    }))
}

pub(crate) fn other_version() -> Failure {
    Failure::failed(
        "other_version",
        "the process that serves this store is of another version",
        "stop it and start it again with the same program as this command",
    )
}

fn stopping() -> Failure {
    Failure::failed("stopping", "the process that serves this store is stopping", "try again in a moment")
}

async fn fail(connection: &mut LocalConnection, failure: Failure) -> Result<(), LocalError> {
    connection.item(&Answered::Err(failure)).await?;
    connection.end().await
}

async fn stream_watch(
    mut watch: operate::Watching,
    connection: &mut LocalConnection,
    draining: &mut watch::Receiver<bool>,
) -> Result<(), LocalError> {
    enum Next {
        Item(Option<Result<Watched, Failure>>),
        Gone,
        Draining,
    }
    loop {
        let next = tokio::select! {
            item = watch.next() => Next::Item(item.transpose()),
            () = connection.gone() => Next::Gone,
            _ = draining.wait_for(|draining| *draining) => Next::Draining,
        };
        match next {
            Next::Item(Some(answered)) => connection.item(&answered.map(Reply::Watched)).await?,
            Next::Gone => return Ok(()),
            Next::Item(None) | Next::Draining => return connection.end().await,
        }
    }
}

/// Sends a blob as it is read, and how far its fetch is before that. Who hangs up ends the fetch.
async fn stream_blob(
    mut getting: operate::Getting,
    connection: &mut LocalConnection,
    draining: &mut watch::Receiver<bool>,
) -> Result<(), LocalError> {
    loop {
        let next = tokio::select! {
            next = getting.next() => next.transpose(),
            () = connection.gone() => return Ok(()),
            _ = draining.wait_for(|draining| *draining) => Some(Err(stopping())),
        };
        match next {
            Some(Ok(reply)) => connection.item(&Answered::Ok(reply)).await?,
            Some(Err(failure)) => return fail(connection, failure).await,
            None => return connection.end().await,
        }
    }
}

/// Sends an export, or a backup, as it is made.
async fn copy(node: &Node, request: Request, connection: &mut LocalConnection) -> Result<(), LocalError> {
    let (writer, reader) = tokio::io::duplex(CHUNK);
    let exporting = operate::copy(node, request, writer);
    let sending = async {
        // Ends with the sending, however that ends: the export must not wait for it.
        let mut reader = reader;
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await? {
                // The writer was dropped: the export ended, well or not.
                0 => return Ok(()),
                n => {
                    let bytes = Answered::Ok(Reply::Bytes(hex(&buffer[..n])));
                    let sent = timeout(STALLED, connection.item(&bytes)).await;
                    sent.map_err(|_| LocalError::from(io::Error::from(io::ErrorKind::TimedOut)))??;
                }
            }
        }
    };
    let (exported, sent): (Result<Reply, Failure>, Result<(), LocalError>) = tokio::join!(exporting, sending);
    sent?;
    connection.item(&exported).await?;
    connection.end().await
}

/// Receives a file piece by piece while it is imported.
async fn import(
    node: &Node,
    space: Option<String>,
    folder: bool,
    connection: &mut LocalConnection,
    draining: &mut watch::Receiver<bool>,
) -> Result<(), LocalError> {
    let (reader, mut writer) = tokio::io::duplex(CHUNK);
    let node = node.clone();
    let task = Aborting(tokio::spawn(async move { operate::import(&node, space, folder, reader).await }));
    connection.reply(&Answered::Ok(Reply::Ready)).await?;
    while let Some(request) = next(connection, draining).await? {
        match request {
            Ok(Request::Bytes(digits)) => {
                let accepted = match unhex(&digits) {
                    // An import that has failed takes no more; its reason comes at the end.
                    Some(bytes) => {
                        let _ = writer.write_all(&bytes).await;
                        Answered::Ok(Reply::Ready)
                    }
                    None => Answered::Err(other_version()),
                };
                connection.reply(&accepted).await?;
            }
            Ok(Request::End) => {
                drop(writer);
                let imported = task.join().await;
                return connection.reply(&imported).await;
            }
            _ => return connection.reply(&Answered::Err(other_version())).await,
        }
    }
    Ok(())
}

/// A task that ends with whoever waits for it: a client that leaves in the middle of a file must not have half of it imported as if
/// it were whole.
struct Aborting(tokio::task::JoinHandle<Answered>);

impl Aborting {
    async fn join(mut self) -> Answered {
        (&mut self.0).await.unwrap_or_else(|error| {
            Err(Failure::failed(
                "import",
                format!("the import broke off: {error}"),
                "see the log of the serving process",
            ))
        })
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The bytes of hex digits.
pub(crate) fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_digits_give_the_bytes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!((unhex("0"), unhex("0g"), unhex("é")), (None, None, None));
    }
}
