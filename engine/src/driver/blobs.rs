//! What the machine wants done about blobs: on the blocking pool if the store waits for a disk.

use commonhold_sync::blobs::Blob;
use commonhold_sync::id::SpaceId;
use commonhold_sync::peer::{BlobInput, BlobOutput};

use super::{Done, Driver};
use crate::blobs::{BlobError, BlobProgress, fetch_failed};
use crate::error::Error;

/// What work on blobs came to.
pub(super) enum BlobDone {
    Input(BlobInput),
    Written { space: SpaceId, blob: Blob, piece: u32, bytes: usize, result: Result<(), BlobError> },
    Finished { space: SpaceId, blob: Blob, result: Result<(), BlobError> },
}

impl Driver {
    pub(super) fn blob(&mut self, output: BlobOutput) {
        let store = self.shared.blobs.store.clone();
        match output {
            BlobOutput::Find { space, blob } => self.blob_work(move || {
                let pieces = store.find(&space, &blob).unwrap_or_else(|error| {
                    tracing::warn!(%space, hash = %blob.hash, %error, "a blob cannot be read");
                    None
                });
                BlobDone::Input(BlobInput::Has { space, blob, pieces })
            }),
            BlobOutput::Read { op, space, blob, piece } => self.blob_work(move || {
                let piece = store.read(&space, &blob, piece).unwrap_or_else(|error| {
                    tracing::warn!(%space, hash = %blob.hash, piece, %error, "a piece of a blob cannot be read");
                    None
                });
                BlobDone::Input(BlobInput::Read { op, piece })
            }),
            BlobOutput::Store { space, blob, piece, bytes, proof } => {
                if let Some(machine) = &mut self.machine {
                    machine.storing_bytes += bytes.len();
                }
                self.blob_work(move || {
                    let result = store.write(&space, &blob, piece, &bytes, &proof);
                    BlobDone::Written { space, blob, piece, bytes: bytes.len(), result }
                });
            }
            BlobOutput::Finish { space, blob } => self.blob_work(move || {
                let result = store.finish(&space, &blob);
                BlobDone::Finished { space, blob, result }
            }),
            BlobOutput::Progress { space, blob, bytes, sources } => {
                self.shared.blobs.progress(space, blob, BlobProgress { bytes, sources });
            }
            BlobOutput::Refused { space, blob } => {
                self.shared.blobs.ended(space, blob, Err(Error::UnknownSpace(space)));
            }
        }
    }

    fn blob_work(&self, work: impl FnOnce() -> BlobDone + Send + 'static) {
        let (tell, run) = (self.tell.clone(), self.run);
        let told = move || _ = tell.send((run, Done::Blob(work())));
        match self.shared.blobs.store.blocks() {
            true => drop(tokio::task::spawn_blocking(told)),
            false => told(),
        }
    }

    pub(super) fn blob_done(&mut self, done: BlobDone) {
        match done {
            BlobDone::Input(input) => self.handle(commonhold_sync::peer::Input::Blob(input)),
            BlobDone::Written { space, blob, piece, bytes, result } => {
                if let Some(machine) = &mut self.machine {
                    machine.storing_bytes = machine.storing_bytes.saturating_sub(bytes);
                }
                match result {
                    Ok(()) => self.blob_input(BlobInput::Stored { space, blob, piece }),
                    Err(error) => {
                        fetch_failed(&self.shared, space, blob, error);
                        self.blob_input(BlobInput::Cancel { space, blob });
                    }
                }
            }
            BlobDone::Finished { space, blob, result: Ok(()) } => {
                let pieces = blob.pieces().map(crate::blobs::Pieces::all);
                self.blob_input(BlobInput::Has { space, blob, pieces });
                self.shared.blobs.ended(space, blob, Ok(()));
                self.shared.emit(crate::status::NodeEvent::BlobHeld { space, blob });
            }
            BlobDone::Finished { space, blob, result: Err(error) } => fetch_failed(&self.shared, space, blob, error),
        }
    }

    pub(super) fn blob_input(&mut self, input: BlobInput) {
        self.handle(commonhold_sync::peer::Input::Blob(input));
    }
}
