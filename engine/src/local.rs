//! How other processes of the same person reach the process that owns the store: a Unix socket in the data folder,
//! requests and answers as JSON behind a u32 length. What they say is defined by whoever uses this.
//!
//! One request at a time per connection. An answer is one reply, or a stream of items; a stream takes its connection
//! with it, so leaving it early is hanging up.

mod messages;
mod server;

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use messages::Messages;
pub use server::{LocalConnection, LocalServer};

/// Bytes of one message, either way. Large enough for a document's whole snapshot in JSON, or a page of anything else.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Connections at once; a further one is told so and dropped.
pub const CONNECTIONS_MAX: usize = 64;

/// The socket, in the data folder.
const SOCKET: &str = "peer.sock";
/// Where the socket really is, if the data folder's path is too long for one.
const SOCKET_PATH: &str = "peer.sock.path";

/// What went wrong between two processes of one person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The system refused.
    #[error("cannot use {}", .path.display())]
    Socket {
        /// The socket, or the file that names it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("the local connection failed")]
    Io(#[from] io::Error),
    /// Another process answers at this socket.
    #[error("another process already serves {}", .0.display())]
    AlreadyServed(PathBuf),
    /// Both the data folder's path and the temporary folder's leave no room for a socket.
    #[error("{} is too long a path for a socket", .0.display())]
    PathTooLong(PathBuf),
    /// The process at the other end belongs to another user.
    #[error("the process at the other end belongs to user {0}")]
    OtherUser(u32),
    /// A message over [`MESSAGE_BYTES_MAX`].
    #[error("a local message of {0} bytes, where {MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A message that is not the JSON that was expected: the two processes are of different versions.
    #[error("a local message that does not parse")]
    Json(#[from] serde_json::Error),
    /// The other process said no; its words.
    #[error("{0}")]
    Refused(String),
    /// The other process hung up in the middle of an answer, or answered what was not asked.
    #[error("the other process broke off")]
    BrokenOff,
    /// An earlier call on this connection was given up half-way, so its answer may still come.
    #[error("an earlier call on this connection was given up")]
    Abandoned,
}

/// What travels from the server to the client.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Reply(T),
    Item(T),
    End,
    Error(String),
}

/// A connection to the process that owns the store.
#[derive(Debug)]
pub struct LocalClient {
    messages: Messages,
    calling: bool,
}

impl LocalClient {
    /// Connects to the owner of the store in this data folder; `None` when no process owns it.
    pub async fn connect(data_dir: &Path) -> Result<Option<Self>, LocalError> {
        let path = socket_path(data_dir)?;
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error) if nobody_listens(&error) => return Ok(None),
            Err(source) => return Err(LocalError::Socket { path, source }),
        };
        // The socket may lie in a shared temporary folder: whoever answers must be ourselves.
        check_user(&stream)?;
        Ok(Some(LocalClient { messages: Messages::new(stream), calling: false }))
    }

    /// One request, one reply.
    pub async fn call<Req: Serialize, Res: DeserializeOwned>(&mut self, request: &Req) -> Result<Res, LocalError> {
        if std::mem::replace(&mut self.calling, true) {
            return Err(LocalError::Abandoned);
        }
        self.messages.send(request).await?;
        let answer = self.messages.recv().await?.ok_or(LocalError::BrokenOff)?;
        self.calling = false;
        match answer {
            Answer::Reply(reply) => Ok(reply),
            Answer::Error(text) => Err(LocalError::Refused(text)),
            Answer::Item(_) | Answer::End => {
                self.calling = true;
                Err(LocalError::BrokenOff)
            }
        }
    }

    /// One request, any number of items.
    pub async fn stream<Req: Serialize>(mut self, request: &Req) -> Result<LocalStream, LocalError> {
        if self.calling {
            return Err(LocalError::Abandoned);
        }
        self.messages.send(request).await?;
        Ok(LocalStream { messages: self.messages, ended: false })
    }
}

/// A streamed answer. Dropping it hangs up.
#[derive(Debug)]
pub struct LocalStream {
    messages: Messages,
    ended: bool,
}

impl LocalStream {
    /// The next item; `None` at the end. Cancel-safe.
    pub async fn next<Item: DeserializeOwned>(&mut self) -> Result<Option<Item>, LocalError> {
        if self.ended {
            return Ok(None);
        }
        match self.messages.recv().await?.ok_or(LocalError::BrokenOff)? {
            Answer::Item(item) => Ok(Some(item)),
            Answer::End => {
                self.ended = true;
                Ok(None)
            }
            Answer::Error(text) => Err(LocalError::Refused(text)),
            Answer::Reply(_) => Err(LocalError::BrokenOff),
        }
    }
}

/// Where the owner of this data folder listens, if it does.
fn socket_path(data_dir: &Path) -> Result<PathBuf, LocalError> {
    let named = data_dir.join(SOCKET_PATH);
    match std::fs::read_to_string(&named) {
        Ok(path) => Ok(PathBuf::from(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(data_dir.join(SOCKET)),
        Err(source) => Err(LocalError::Socket { path: named, source }),
    }
}

/// No such socket, or one whose owner is gone. Too long a path cannot be one either.
fn nobody_listens(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | InvalidInput)
}

fn check_user(stream: &UnixStream) -> Result<(), LocalError> {
    let theirs = stream.peer_cred()?.uid();
    // The portable way to ask for one's own.
    let ours = UnixStream::pair()?.0.peer_cred()?.uid();
    if theirs == ours { Ok(()) } else { Err(LocalError::OtherUser(theirs)) }
}

#[cfg(test)]
mod tests;
