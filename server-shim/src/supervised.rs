//! A process that something watches over (systemd, or whatever speaks its protocol): it may hand us the sockets to listen at, which stay
//! open while one process follows another, and it is told when this one is ready, reloads and stops.

use std::net::TcpListener;

use commonhold_engine::Sockets;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::failure::{Exit, Failure};

/// What came with the environment (`LISTEN_FDS`). To be called once, while this process has one thread: it takes the variables out.
pub(crate) fn handed() -> ListenFd {
    ListenFd::from_env()
}

/// The sockets among it.
pub(crate) fn sockets(mut handed: ListenFd) -> Result<Sockets, Failure> {
    let refused = |at: usize, error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Usage,
            "handed_socket",
            format!("socket {} of those that were handed over cannot be used: {error}", at + 1),
            "hand over listening TCP sockets only (ListenStream=ADDRESS:PORT)",
        )
    };
    let mut sockets: Vec<TcpListener> = Vec::new();
    for at in 0..handed.len() {
        match handed.take_tcp_listener(at) {
            Ok(socket) => sockets.extend(socket),
            Err(error) => return Err(refused(at, &error)),
        }
    }
    let count = sockets.len();
    let sockets = Sockets::new(sockets).map_err(|error| refused(count, &error))?;
    if count > 0 {
        info!(addresses = ?sockets.left(), "was handed sockets");
    }
    Ok(sockets)
}

/// A socket that is left when all listen was meant for something: connections to it would wait for ever.
pub(crate) fn all_taken(sockets: &Sockets) -> Result<(), Failure> {
    let left = sockets.left();
    if left.is_empty() {
        return Ok(());
    }
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    Err(Failure::new(
        Exit::Usage,
        "handed_socket",
        format!("nothing listens at {}, for which a socket was handed over", left.join(", ")),
        "name the very same address and port in peer.listen, http.listen, gateway.listen, admin.listen or discovery.listen, \
         or take it out of the socket unit",
    ))
}

/// Tells who watches over this process, if anybody does.
pub(crate) fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell the service manager");
    }
}
