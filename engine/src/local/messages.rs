//! JSON values on a Unix socket, each behind its length as a big-endian u32.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{LocalError, MESSAGE_BYTES_MAX};

/// Room made for reading at once, until more than that has come.
const ROOM: usize = 8 << 10;

#[derive(Debug)]
pub(super) struct Messages {
    stream: UnixStream,
    inbox: Vec<u8>,
}

impl Messages {
    pub(super) fn new(stream: UnixStream) -> Self {
        Messages { stream, inbox: Vec::new() }
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<(), LocalError> {
        Ok(self.stream.write_all(&encode(message)?).await?)
    }

    /// The next message; `None` when the other side hung up between two. Cancel-safe.
    pub(super) async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LocalError> {
        loop {
            let mut wanted = 4;
            if let Some((length, rest)) = self.inbox.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MESSAGE_BYTES_MAX {
                    return Err(LocalError::TooLong(length));
                }
                if let Some(json) = rest.get(..length) {
                    let message = serde_json::from_slice(json);
                    self.inbox.drain(..4 + length);
                    if self.inbox.is_empty() {
                        self.inbox = Vec::new();
                    }
                    return Ok(Some(message?));
                }
                wanted += length;
            }
            // What is reserved follows what came, not what was announced.
            let missing = wanted - self.inbox.len();
            self.inbox.reserve(missing.min(self.inbox.len().max(ROOM)));
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return if self.inbox.is_empty() { Ok(None) } else { Err(LocalError::BrokenOff) };
            }
        }
    }

    /// Returns when the other side hung up or spoke out of turn. Cancel-safe.
    pub(super) async fn disturbed(&mut self) {
        if self.inbox.is_empty() {
            self.inbox.reserve(ROOM);
            // An error ends the connection as well.
            let _ = self.stream.read_buf(&mut self.inbox).await;
        }
    }

    /// Says something if that needs no waiting.
    pub(super) fn try_send(&mut self, message: &impl Serialize) {
        if let Ok(bytes) = encode(message) {
            // Best effort is what this is.
            let _ = self.stream.try_write(&bytes);
        }
    }
}

fn encode(message: &impl Serialize) -> Result<Vec<u8>, LocalError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MESSAGE_BYTES_MAX {
        return Err(LocalError::TooLong(length));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}
