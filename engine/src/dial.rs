//! Makes connections: keeps addresses dialled with backoff, accepts on listeners, and dials single peers on request. What comes of
//! it goes to the driver as an [`Attach`], and how it went to the address book.

mod once;

use std::sync::Arc;
use std::time::{Duration, Instant};

use commonhold_sync::id::DeviceId;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, sleep_until};

use crate::backoff::Backoff;
use crate::shared::{Attach, Command, Mode, Shared, locked};
use crate::transport::{Address, Listener, TransportConfig, dial};
pub(crate) use once::{Dialled, Dialler, Whom};

/// How long a peer that had no use for a connection is left alone, unless every other is lost.
const RELEASED: Duration = Duration::from_secs(600);

/// Dials until the node closes or the sender of `expected` is gone: who must answer.
pub(crate) async fn keep_dialled(
    shared: Arc<Shared>,
    config: Arc<TransportConfig>,
    address: Address,
    expected: watch::Receiver<Option<DeviceId>>,
) {
    let (mut mode, mut wanted) = (shared.mode.subscribe(), expected.clone());
    tokio::select! {
        () = dial_again_and_again(&shared, &config, &address, expected) => {}
        () = async { while wanted.changed().await.is_ok() {} } => {}
        _ = mode.wait_for(|mode| matches!(mode, Mode::Closed)) => {}
    }
}

async fn dial_again_and_again(
    shared: &Shared,
    config: &TransportConfig,
    address: &Address,
    mut expected: watch::Receiver<Option<DeviceId>>,
) {
    let mut backoff = Backoff::default();
    let mut away = false;
    loop {
        shared.until_affordable().await;
        let wanted = *expected.borrow_and_update();
        // The sender is in shared.
        let _ = shared.blocked.subscribe().wait_for(|list| !list.blocks_dial(wanted.as_ref(), address)).await;
        match dial(address, config).await {
            Ok(link) => {
                away = false;
                backoff.connected(Instant::now());
                let (alive, ended) = oneshot::channel();
                let attach = Attach {
                    expected: wanted,
                    address: Some(address.to_string()),
                    remote: address.ip(),
                    alive: Some(alive),
                    ..Attach::new(link, true)
                };
                if shared.command(Command::Attach(attach)).await.is_err() {
                    return;
                }
                // The driver drops its end when the connection ends, and says so before if nobody needed it any more.
                if ended.await.is_ok() {
                    until_needed(shared).await;
                }
            }
            Err(error) => {
                wanted.iter().for_each(|device| shared.note_failed(device));
                // Said once: an address that is away for a day is not news each minute.
                match std::mem::replace(&mut away, true) {
                    // Who is away comes back; this stays as it is until somebody does something.
                    false if error.is_for_people() => tracing::warn!(%address, %error, "cannot connect; trying again"),
                    false => tracing::info!(%address, %error, "cannot connect; trying again"),
                    true => tracing::debug!(%address, %error, "cannot connect"),
                }
            }
        }
        let next = backoff.failed(Instant::now(), random());
        tokio::select! {
            () = sleep_until(next.into()) => {}
            // Who did not answer before may be another than who is wanted now.
            Ok(()) = expected.changed() => {}
        }
    }
}

/// Waits until a connection that was given up for lack of use may be of use again.
async fn until_needed(shared: &Shared) {
    let mut progress = shared.progress.subscribe();
    let alone = async { while !locked(&shared.peers).is_empty() && progress.changed().await.is_ok() {} };
    tokio::select! {
        () = alone => {}
        () = sleep(RELEASED) => {}
    }
}

/// Accepts until the node closes.
pub(crate) async fn accept(shared: Arc<Shared>, mut listener: Listener) {
    let mut mode = shared.mode.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = mode.wait_for(|mode| matches!(mode, Mode::Closed)) => return,
        };
        let attach = Attach {
            address: accepted.remote.map(|remote| remote.to_string()),
            remote: accepted.remote.map(|remote| remote.ip()),
            admission: Some(accepted.admission),
            ..Attach::new(accepted.link, false)
        };
        if shared.command(Command::Attach(attach)).await.is_err() {
            return;
        }
    }
}

/// Without randomness the wait is the longest, which is safe.
fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
