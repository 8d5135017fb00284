//! Blobs as an application uses them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use commonhold_sync::blobs::{Blob, FETCHES_MAX};
use commonhold_sync::id::SpaceId;
use commonhold_sync::peer::BlobInput;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};

use super::collect::{self, Collected};
use super::{BlobError, BlobInfo, BlobRef, BlobStore, FileBlobs, MemoryBlobs, Pieces};
use crate::config::Config;
use crate::error::Error;
use crate::node::Node;
use crate::shared::{Command, Shared, locked};
use crate::status::NodeEvent;

/// Fetches that are under way or wait for their turn.
const FETCHES_WAITING_MAX: usize = 1_024;
/// The folder in the data folder.
pub(crate) const FOLDER: &str = "blobs";

/// Where blobs lie, and what is being fetched.
pub(crate) struct Fetches {
    pub(crate) store: Arc<dyn BlobStore>,
    under_way: Mutex<BTreeMap<(SpaceId, Blob), watch::Sender<Fetching>>>,
    turns: Arc<Semaphore>,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlobProgress {
    /// Bytes that are stored.
    pub bytes: u64,
    /// Connected peers that have some of the blob.
    pub sources: usize,
}

#[derive(Debug, Clone)]
enum Fetching {
    UnderWay(BlobProgress),
    Held,
    Failed(Error),
}

impl Fetches {
    pub(crate) fn new(config: &Config) -> Fetches {
        let store: Arc<dyn BlobStore> = match (&config.blob_store, &config.data) {
            (Some(store), _) => store.clone(),
            (None, Some(data)) => Arc::new(FileBlobs::new(data.join(FOLDER), config.blobs)),
            (None, None) => Arc::new(MemoryBlobs::new(config.blobs)),
        };
        Fetches { store, under_way: Mutex::default(), turns: Arc::new(Semaphore::new(FETCHES_MAX)) }
    }

    pub(crate) fn progress(&self, space: SpaceId, blob: Blob, progress: BlobProgress) {
        if let Some(fetch) = locked(&self.under_way).get(&(space, blob)) {
            fetch.send_replace(Fetching::UnderWay(progress));
        }
    }

    pub(crate) fn ended(&self, space: SpaceId, blob: Blob, result: Result<(), Error>) {
        if let Some(fetch) = locked(&self.under_way).remove(&(space, blob)) {
            fetch.send_replace(result.map_or_else(Fetching::Failed, |()| Fetching::Held));
        }
    }

    /// Ends all that are with the driver, or come to it.
    pub(crate) fn fail_all(&self, error: &Error) {
        for (_, fetch) in std::mem::take(&mut *locked(&self.under_way)) {
            fetch.send_replace(Fetching::Failed(error.clone()));
        }
    }
}

/// A piece could not be stored, or the blob not be made whole.
pub(crate) fn fetch_failed(shared: &Shared, space: SpaceId, blob: Blob, error: BlobError) {
    tracing::warn!(%space, hash = %blob.hash, %error, "a blob could not be stored");
    shared.blobs.ended(space, blob, Err(error.into()));
}

/// A blob that is being fetched. Dropping all of them cancels the fetch; what came stays, and the next goes on from there.
#[derive(Debug)]
pub struct BlobFetch {
    state: watch::Receiver<Fetching>,
}

impl BlobFetch {
    /// How far it is.
    pub fn progress(&self) -> BlobProgress {
        match &*self.state.borrow() {
            Fetching::UnderWay(progress) => *progress,
            Fetching::Held | Fetching::Failed(_) => BlobProgress::default(),
        }
    }

    /// The next news: how far it is now, or `None`: the blob is here, whole and durable.
    pub async fn next(&mut self) -> Result<Option<BlobProgress>, Error> {
        let moved = self.state.changed().await;
        match &*self.state.borrow_and_update() {
            Fetching::Held => Ok(None),
            Fetching::Failed(error) => Err(error.clone()),
            Fetching::UnderWay(progress) => moved.map(|()| Some(*progress)).map_err(|_| Error::Closed),
        }
    }

    /// Waits until the blob is here. Puts no limit to the time: nobody may have it.
    pub async fn held(mut self) -> Result<(), Error> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

/// Reads a blob that is held, each piece verified.
pub struct BlobReader {
    store: Arc<dyn BlobStore>,
    space: SpaceId,
    blob: Blob,
    next: u32,
}

impl BlobReader {
    /// The blob.
    pub fn blob(&self) -> Blob {
        self.blob
    }

    /// From a piece on; pieces have [`PIECE_BYTES`](super::PIECE_BYTES), but for the last.
    pub fn from_piece(self, piece: u32) -> BlobReader {
        BlobReader { next: piece, ..self }
    }

    /// The next bytes, at most [`PIECE_BYTES`](super::PIECE_BYTES); `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.next >= self.blob.pieces().unwrap_or(0) {
            return Ok(None);
        }
        let (store, space, blob, piece) = (self.store.clone(), self.space, self.blob, self.next);
        self.next += 1;
        let read = blocking(move || store.read(&space, &blob, piece)).await??;
        read.map(|(bytes, _)| Some(bytes)).ok_or(Error::BlobFailed(BlobError::Damaged))
    }

    /// Writes all that is left.
    pub async fn copy_to(mut self, mut to: impl AsyncWrite + Unpin) -> Result<u64, Error> {
        let mut written = 0;
        while let Some(bytes) = self.next().await? {
            to.write_all(&bytes).await?;
            written += bytes.len() as u64;
        }
        to.flush().await?;
        Ok(written)
    }
}

impl Shared {
    /// The machine is told that a blob is whole now, or gone.
    pub(crate) async fn tell_blob(&self, space: SpaceId, blob: Blob, held: bool) {
        let pieces = blob.pieces().filter(|_| held).map(Pieces::all);
        // A node that closes tells nobody.
        let _ = self.command(Command::Blob(BlobInput::Has { space, blob, pieces })).await;
        if held {
            self.emit(NodeEvent::BlobHeld { space, blob });
        }
    }
}

impl Node {
    /// Stores what a reader gives as a blob of a space. It is durable when this returns, and stays for the time of grace; from
    /// then on it stays while a document refers to it ([`BlobRef`]). Reads on a thread of its own.
    pub async fn put_blob(&self, space: SpaceId, from: impl Read + Send + 'static) -> Result<BlobRef, Error> {
        self.shared().running()?;
        self.space(space)?;
        let (store, mut from) = (self.shared().blobs.store.clone(), from);
        let blob = blocking(move || store.put(&space, &mut from)).await??;
        self.shared().tell_blob(space, blob, true).await;
        Ok(blob.into())
    }

    /// A reader of a blob, if it is held here.
    pub async fn blob(&self, space: SpaceId, name: &BlobRef) -> Result<Option<BlobReader>, Error> {
        self.space(space)?;
        let (store, blob) = (self.shared().blobs.store.clone(), name.blob);
        let found = store.clone();
        let here = blob == Blob::of(&[])
            || blocking(move || found.find(&space, &blob)).await??.is_some_and(|pieces| pieces.is_all());
        Ok(here.then_some(BlobReader { store, space, blob, next: 0 }))
    }

    /// Fetches a blob from the connected peers that share the space, and from those that connect later. What came in earlier
    /// runs is verified and not fetched again. At most eight are fetched at once; others wait for their turn.
    pub async fn fetch_blob(&self, space: SpaceId, name: &BlobRef) -> Result<BlobFetch, Error> {
        self.shared().running()?;
        self.space(space)?;
        let (shared, blob) = (self.shared().clone(), name.blob);
        if self.blob(space, name).await?.is_some() {
            return Ok(BlobFetch { state: watch::Sender::new(Fetching::Held).subscribe() });
        }
        blob.pieces().ok_or(BlobError::TooLarge)?;
        let mut under_way = locked(&shared.blobs.under_way);
        if let Some(fetch) = under_way.get(&(space, blob)) {
            return Ok(BlobFetch { state: fetch.subscribe() });
        }
        if under_way.len() >= FETCHES_WAITING_MAX {
            return Err(Error::TooMuch { what: "blobs that are fetched or wait", max: FETCHES_WAITING_MAX });
        }
        let fetch = watch::Sender::new(Fetching::UnderWay(BlobProgress::default()));
        let state = fetch.subscribe();
        under_way.insert((space, blob), fetch.clone());
        drop(under_way);
        let task = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = run_fetch(&task, space, blob, &fetch).await {
                task.blobs.ended(space, blob, Err(error));
            }
        });
        Ok(BlobFetch { state })
    }

    /// The blobs of a space that are held whole.
    pub async fn blobs(&self, space: SpaceId) -> Result<Vec<BlobInfo>, Error> {
        self.space(space)?;
        let store = self.shared().blobs.store.clone();
        Ok(blocking(move || store.list(&space)).await??)
    }

    /// Counts a blob as put now, so that it stays for another time of grace. False: it is not held.
    pub async fn pin_blob(&self, space: SpaceId, name: &BlobRef) -> Result<bool, Error> {
        self.space(space)?;
        let (store, blob) = (self.shared().blobs.store.clone(), name.blob);
        Ok(blocking(move || store.touch(&space, &blob)).await??)
    }

    /// Removes a blob here. Others keep theirs.
    pub async fn remove_blob(&self, space: SpaceId, name: &BlobRef) -> Result<bool, Error> {
        self.space(space)?;
        let (store, blob) = (self.shared().blobs.store.clone(), name.blob);
        let gone = blocking(move || store.remove(&space, &blob)).await??;
        self.shared().tell_blob(space, blob, false).await;
        Ok(gone)
    }

    /// Removes the blobs of a space that no document refers to and whose time of grace has passed. Reads every document, if
    /// there is such a blob at all. Nothing is removed where only some documents are taken, or the least recently used go
    /// ([`BlobLimits::recent`](super::BlobLimits::recent)).
    pub async fn collect_blobs(&self, space: SpaceId) -> Result<Collected, Error> {
        collect::collect(self.shared(), space).await
    }
}

/// Waits for its turn, makes room, and gives the fetch to the driver; ends with it, or when nobody wants it any more.
async fn run_fetch(
    shared: &Arc<Shared>,
    space: SpaceId,
    blob: Blob,
    fetch: &watch::Sender<Fetching>,
) -> Result<(), Error> {
    let turn = tokio::select! {
        turn = shared.blobs.turns.clone().acquire_owned() => turn.map_err(|_| Error::Closed)?,
        () = fetch.closed() => return Err(Error::Closed),
    };
    let have = match begin(shared, space, blob).await {
        Err(Error::BlobFailed(BlobError::Quota { .. }))
            if !collect::collect(shared, space).await?.removed.is_empty() =>
        {
            begin(shared, space, blob).await?
        }
        begun => begun?,
    };
    shared.command(Command::Blob(BlobInput::Fetch { space, blob, have })).await?;
    let mut ended = fetch.subscribe();
    drop(ended.borrow_and_update());
    let wanted = async {
        // This task's own receiver does not count as somebody who waits.
        loop {
            if !matches!(&*ended.borrow_and_update(), Fetching::UnderWay(_)) {
                return true;
            }
            if fetch.receiver_count() <= 1 {
                return false;
            }
            tokio::select! {
                moved = ended.changed() => if moved.is_err() { return true },
                () = tokio::time::sleep(super::ABANDONED_AFTER) => {}
            }
        }
    };
    if !wanted.await {
        shared.command(Command::Blob(BlobInput::Cancel { space, blob })).await?;
        shared.blobs.ended(space, blob, Err(Error::Closed));
    }
    drop(turn);
    Ok(())
}

async fn begin(shared: &Shared, space: SpaceId, blob: Blob) -> Result<Pieces, Error> {
    let store = shared.blobs.store.clone();
    Ok(blocking(move || store.begin(&space, &blob)).await??)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Internal("work on blobs failed"))
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Io(error) => Error::Io(error),
            error => Error::BlobFailed(error),
        }
    }
}

impl Node {
    /// Stores a file as a blob.
    pub async fn put_blob_file(&self, space: SpaceId, path: impl Into<std::path::PathBuf>) -> Result<BlobRef, Error> {
        let path = path.into();
        let file = blocking(move || -> io::Result<std::fs::File> { std::fs::File::open(path) }).await??;
        self.put_blob(space, file).await
    }
}
