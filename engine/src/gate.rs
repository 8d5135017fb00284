//! Whether a connection is kept is asked of the app, before anything is told to its other side.

use std::net::IpAddr;

use commonhold_sync::id::DeviceId;
use tokio::sync::{mpsc, oneshot};

/// Somebody who proved who it is, and waits for whether a connection is kept with it. Dropped, it is not.
#[derive(Debug)]
pub struct Knock {
    /// Who.
    pub device: DeviceId,
    /// Where it came from, if it came over TCP and was not dialled.
    pub remote: Option<IpAddr>,
    /// Whether this node dialled it, since it was configured, invited or found.
    pub dialled: bool,
    answer: oneshot::Sender<bool>,
}

impl Knock {
    /// The connection is kept.
    pub fn admit(self) {
        // The connection may be gone.
        let _ = self.answer.send(true);
    }

    /// Says so at the gate. The answer; `false` if there was no place to wait.
    pub(crate) fn at(
        gate: &mpsc::Sender<Knock>,
        device: DeviceId,
        remote: Option<IpAddr>,
        dialled: bool,
    ) -> impl Future<Output = bool> + Send + 'static {
        let (answer, said) = oneshot::channel();
        // Refused: the knock is dropped, and the answer with it.
        let _ = gate.try_send(Knock { device, remote, dialled, answer });
        async move { said.await.unwrap_or(false) }
    }
}
