//! One document of one client: what the client says of it goes to the engine, what the engine has for it goes to the client.

use std::sync::Arc;

use commonhold_engine::{DocId, Error, ForeignSync, ForeignSyncError, Received};
use tokio::sync::mpsc;
use tracing::debug;

use super::connection::{CLOSE_FAULT, CLOSE_LATER, CLOSE_POLICY, Outgoing};
use super::hub::Hub;
use super::ids::RepoId;
use super::wire::Speech;

/// The client and the document.
pub(super) struct Talk {
    pub(super) hub: Arc<Hub>,
    pub(super) client: Arc<str>,
    pub(super) number: u64,
    pub(super) id: RepoId,
    pub(super) doc: DocId,
    pub(super) queue: mpsc::Sender<Outgoing>,
}

/// How a talk went on after a step.
enum Next {
    On,
    End,
}

impl Talk {
    /// Syncs until the client is gone or nothing more can be said. `begins`: this peer speaks first.
    pub(super) async fn run(self, mut said: mpsc::Receiver<Vec<u8>>, begins: bool) {
        let document = match self.hub.node.open_document(self.hub.space, self.doc).await {
            Ok(document) => document,
            Err(error) => return self.fails(error.into()).await,
        };
        let mut sync = document.foreign_sync();
        let mut speaks = begins;
        loop {
            if !speaks {
                tokio::select! {
                    message = said.recv() => match message {
                        None => return,
                        Some(message) => if let Next::End = self.receive(&mut sync, &message).await { return },
                    },
                    () = sync.changed() => {}
                }
            }
            speaks = false;
            // There is one message for whatever happened while the client was busy with the last.
            let Ok(room) = self.queue.reserve().await else { return };
            match sync.generate().await {
                Ok(Some(message)) => room.send(Outgoing::Frame(self.speech().sync(self.id, &message))),
                Ok(None) => {}
                Err(error) => {
                    drop(room);
                    return self.fails(error).await;
                }
            }
        }
    }

    fn speech(&self) -> Speech<'_> {
        Speech { from: &self.hub.name, to: &self.client }
    }

    async fn receive(&self, sync: &mut ForeignSync, message: &[u8]) -> Next {
        match sync.receive(message).await {
            Ok(received) => {
                self.hub.heads(self.number, self.id, sync.their_heads());
                if received.taken > 0 {
                    debug!(client = %self.client, number = self.number, id = %self.id, taken = received.taken, "changes taken");
                }
                self.tell_refused(&received).await;
                Next::On
            }
            Err(error) => {
                self.fails(error).await;
                Next::End
            }
        }
    }

    /// Changes that were refused stay with the client, which is told.
    async fn tell_refused(&self, received: &Received) {
        let Some((change, why)) = received.refused.first() else { return };
        let change = change.map_or_else(String::new, |id| format!(" change {id}:"));
        let more = match received.refused.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let text = format!("document {}:{change} {why}{more}", self.id);
        debug!(client = %self.client, text, "changes refused");
        let _ = self.queue.send(Outgoing::Frame(self.speech().error(&text))).await;
    }

    /// Says why there is no more, so that whoever asks knows, and ends the connection if it is of no use.
    async fn fails(&self, error: ForeignSyncError) {
        debug!(client = %self.client, id = %self.id, %error, "a document is not synced");
        let close = match &error {
            ForeignSyncError::Message(_) => Some(CLOSE_POLICY),
            ForeignSyncError::Engine(Error::StoreFailed(_) | Error::Closed) => Some(CLOSE_LATER),
            ForeignSyncError::Engine(
                Error::Deleted(_)
                | Error::UnknownDocument(_)
                | Error::NotTaken(_)
                | Error::NotAllowed(_)
                | Error::Blocked(_)
                | Error::Quota
                | Error::Quarantined { .. }
                | Error::Damaged { .. },
            )
            | ForeignSyncError::Forked => None,
            _ => Some(CLOSE_FAULT),
        };
        self.hub.set_open(self.number, self.id, false);
        let text = format!("document {}: {error}", self.id);
        let last = match close {
            Some(code) => Outgoing::Close { code, reason: text, frame: None },
            None => Outgoing::Frame(self.speech().unavailable(self.id)),
        };
        let _ = self.queue.send(last).await;
    }
}
