//! What a peer says of itself to whoever asks: that it lives, that it is ready, who it is and what it takes.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value as Json, json};

use super::access::{Asks, Caller};
use super::problem::{Kind, Problem};
use super::{BODY_BYTES_MAX, Shim};

pub(crate) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Whether requests can be answered: the store is open, and the peer is not stopping.
pub(crate) async fn ready(State(shim): State<Shim>) -> Result<StatusCode, Problem> {
    if *shim.stopping.borrow() {
        return Err(Problem::new(Kind::Unavailable, "the peer is stopping"));
    }
    // Answers only if the store does.
    shim.node.accounts().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn well_known(State(shim): State<Shim>) -> Answer<Json> {
    let node = &shim.node;
    Answer(json!({
        "peer": node.device().to_string(),
        "program": concat!("commonhold/", env!("CARGO_PKG_VERSION")),
        "addresses": node.listening(),
        "tracker": node.announced().is_some(),
        "http": { "version": 1, "body_bytes_max": BODY_BYTES_MAX },
        "peers": node.known_peers().iter().flat_map(|peer| peer.addresses.first().cloned()).take(16).collect::<Vec<_>>(),
    }))
}

/// The spaces that the caller may know of.
pub(crate) async fn spaces(State(shim): State<Shim>, Asks(caller): Asks) -> Answer<Json> {
    let may = |space| shim.access.may(&caller, space);
    let spaces = shim.node.spaces();
    let rows: Vec<Json> = spaces
        .iter()
        .filter_map(|info| {
            let may = may(&info.id)?;
            Some(json!({ "id": info.id.to_string(), "may": may, "documents": info.documents, "ready": info.ready }))
        })
        .collect();
    Answer(json!({ "spaces": rows }))
}

/// A ticket: for `EventSource`, which sends no headers.
pub(crate) async fn ticket(
    State(shim): State<Shim>,
    Asks(caller): Asks,
) -> Result<(StatusCode, Answer<Json>), Problem> {
    if caller == Caller::Anybody {
        return Err(Problem::new(
            Kind::NoToken,
            "a ticket stands for a token; where none is needed, no ticket is either",
        ));
    }
    let ticket = shim.access.ticket(caller)?;
    Ok((StatusCode::CREATED, Answer(json!({ "ticket": ticket, "expires_in": 60 }))))
}
