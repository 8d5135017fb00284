//! Keeps connections: dials addresses again and again with backoff, and accepts on listeners. What comes of it goes to the
//! driver as an [`Attach`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use commonhold_sync::id::DeviceId;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, sleep_until};

use crate::backoff::Backoff;
use crate::shared::{Attach, Command, Mode, Shared, locked};
use crate::transport::{Address, Listener, TransportConfig, dial};

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
        match dial(address, config).await {
            Ok(link) => {
                away = false;
                backoff.connected(Instant::now());
                let (alive, ended) = oneshot::channel();
                let attach = Attach {
                    link,
                    dialled: true,
                    expected: *expected.borrow_and_update(),
                    address: Some(address.to_string()),
                    admission: None,
                    alive: Some(alive),
                };
                if shared.command(Command::Attach(attach)).await.is_err() {
                    return;
                }
                // The driver drops its end when the connection ends, and says so before if nobody needed it any more.
                if ended.await.is_ok() {
                    until_needed(shared).await;
                }
            }
            // Said once: an address that is away for a day is not news each minute.
            Err(error) if !std::mem::replace(&mut away, true) => {
                tracing::info!(%address, %error, "cannot connect; trying again");
            }
            Err(error) => tracing::debug!(%address, %error, "cannot connect"),
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

/// Tries the addresses of a peer in turn, once. What comes of it goes to the driver either way.
pub(crate) async fn dial_peer(
    shared: Arc<Shared>,
    config: Arc<TransportConfig>,
    device: DeviceId,
    addresses: Vec<String>,
) {
    for address in addresses.iter().filter_map(|address| address.parse::<Address>().ok()) {
        match dial(&address, &config).await {
            Ok(link) => {
                let (expected, address) = (Some(device), Some(address.to_string()));
                let attach = Attach { link, dialled: true, expected, address, admission: None, alive: None };
                let _ = shared.command(Command::Attach(attach)).await;
                return;
            }
            Err(error) => tracing::debug!(%device, %address, %error, "cannot connect"),
        }
    }
    let _ = shared.command(Command::DialFailed(device)).await;
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
            link: accepted.link,
            dialled: false,
            expected: None,
            address: accepted.remote.map(|remote| remote.to_string()),
            admission: Some(accepted.admission),
            alive: None,
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
