//! The owner's side of the local socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::messages::Messages;
use super::{Answer, CONNECTIONS_MAX, LocalError, SOCKET, SOCKET_PATH, check_user, nobody_listens, socket_path};

/// Bytes of a socket's path at most: the field in the system's address, less its final zero.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Listens at the local socket until it is dropped, which removes the socket.
#[derive(Debug)]
pub struct LocalServer {
    listener: UnixListener,
    places: Arc<Semaphore>,
    path: PathBuf,
    /// The folder of a socket that did not fit into the data folder, and the file that names it.
    aside: Option<(PathBuf, PathBuf)>,
}

impl LocalServer {
    /// Starts to listen for this data folder. Only the process that holds the store's lock may call it: the lock is
    /// what keeps two from taking a dead owner's socket over at once.
    pub async fn bind(data_dir: &Path) -> Result<Self, LocalError> {
        let named = data_dir.join(SOCKET_PATH);
        let left_behind = socket_path(data_dir)?;
        remove_stale(&left_behind).await?;
        let direct = data_dir.join(SOCKET);
        remove_stale(&direct).await?;
        if left_behind != direct {
            fs::remove_file(&named).map_err(at(&named))?;
            // Only an empty folder goes; a cleaner of temporary files may have been faster.
            let _ = left_behind.parent().map(fs::remove_dir);
        }

        let (path, aside) = match fits(&direct) {
            true => (direct, None),
            false => {
                let folder = private_folder()?;
                let path = folder.join(SOCKET);
                if !fits(&path) {
                    let _ = fs::remove_dir(&folder);
                    return Err(LocalError::PathTooLong(direct));
                }
                fs::write(&named, path.as_os_str().as_bytes()).map_err(at(&named))?;
                (path, Some((folder, named)))
            }
        };
        // Between these two lines another user may get in, whom the check of each connection turns away.
        let listener = UnixListener::bind(&path).map_err(at(&path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(at(&path))?;
        Ok(LocalServer { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), path, aside })
    }

    /// The next connection by a process of the same user. Cancel-safe.
    pub async fn accept(&self) -> Result<LocalConnection, LocalError> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if let Some(connection) = self.admit(stream) {
                return Ok(connection);
            }
        }
    }

    fn admit(&self, stream: UnixStream) -> Option<LocalConnection> {
        if let Err(error) = check_user(&stream) {
            warn!(%error, "turned a local connection away");
            return None;
        }
        let mut messages = Messages::new(stream);
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Some(LocalConnection { messages, _place: place }),
            Err(_) => {
                debug!("all local connections are taken");
                messages.try_send(&Answer::<()>::Error("too many local connections".to_owned()));
                None
            }
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // What cannot be removed is stale, and the next owner removes it.
        let _ = fs::remove_file(&self.path);
        if let Some((folder, named)) = &self.aside {
            let _ = fs::remove_file(named);
            let _ = fs::remove_dir(folder);
        }
    }
}

/// One process at the other end.
#[derive(Debug)]
pub struct LocalConnection {
    messages: Messages,
    _place: OwnedSemaphorePermit,
}

impl LocalConnection {
    /// The next request; `None` when the client hung up. Cancel-safe.
    pub async fn recv<Req: DeserializeOwned>(&mut self) -> Result<Option<Req>, LocalError> {
        self.messages.recv().await
    }

    /// Answers a call.
    pub async fn reply<Res: Serialize>(&mut self, reply: &Res) -> Result<(), LocalError> {
        self.messages.send(&Answer::Reply(reply)).await
    }

    /// One more item of a streamed answer. Waits while the client does not read. Not cancel-safe: an item that was cut
    /// in the middle ends the connection for the client.
    pub async fn item<Item: Serialize>(&mut self, item: &Item) -> Result<(), LocalError> {
        self.messages.send(&Answer::Item(item)).await
    }

    /// The end of a streamed answer.
    pub async fn end(&mut self) -> Result<(), LocalError> {
        self.messages.send(&Answer::<()>::End).await
    }

    /// Refuses a call, or breaks a stream off.
    pub async fn refuse(&mut self, why: &str) -> Result<(), LocalError> {
        self.messages.send(&Answer::<()>::Error(why.to_owned())).await
    }

    /// Returns when the client of a stream hung up. Cancel-safe.
    pub async fn gone(&mut self) {
        self.messages.disturbed().await;
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::Socket { path, source }
}

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}

/// Removes a socket that nobody serves; an error if somebody does.
async fn remove_stale(path: &Path) -> Result<(), LocalError> {
    match UnixStream::connect(path).await {
        Ok(_) => return Err(LocalError::AlreadyServed(path.to_owned())),
        Err(error) if nobody_listens(&error) => {}
        // Its backlog is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(LocalError::AlreadyServed(path.to_owned()));
        }
        Err(error) => return Err(at(path)(error)),
    }
    // Connecting to an ordinary file is refused as well, and such a file is not ours to remove.
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path).map_err(at(path)),
        _ => Ok(()),
    }
}

/// A new folder under the temporary one that only this user may enter.
fn private_folder() -> Result<PathBuf, LocalError> {
    let name = getrandom::u64().map_err(io::Error::from)?;
    let folder = std::env::temp_dir().join(format!("commonhold-{name:016x}"));
    DirBuilder::new().mode(0o700).create(&folder).map_err(at(&folder))?;
    Ok(folder)
}
