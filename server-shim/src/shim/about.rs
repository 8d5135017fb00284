//! What a peer says of itself to whoever asks: that it lives, that it is ready, who it is and what it takes.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::{Asks, Caller, May};
use super::problem::{Kind, Problem};
use super::spec::{Called, Readies, Tickets};
use super::{BODY_BYTES_MAX, Shim};

/// Whether the process answers.
#[utoipa::path(get, path = "/livez", tag = "peer", operation_id = "is_alive", responses((status = 204, description = "It lives")), security(()))]
pub(crate) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Whether requests can be answered: the store is open, and the peer is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "peer", operation_id = "is_ready", responses((status = 204, description = "They can"), Readies), security(()))]
pub(crate) async fn ready(State(shim): State<Shim>) -> Result<StatusCode, Problem> {
    if *shim.stopping.borrow() {
        return Err(Problem::new(Kind::Unavailable, "the peer is stopping"));
    }
    // Answers only if the store does.
    shim.node.accounts().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a peer says of itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Itself {
    /// Its id.
    peer: String,
    program: String,
    /// Where other peers connect.
    addresses: Vec<String>,
    /// Whether it is a tracker for others.
    tracker: bool,
    http: Http,
    /// Addresses of other peers that it knows, 16 at most.
    peers: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Http {
    /// Of this API.
    version: u32,
    /// Bytes of a body, but for blobs.
    body_bytes_max: usize,
}

/// Who this peer is, and what it takes.
#[utoipa::path(
    get, path = "/.well-known/commonhold", tag = "peer", operation_id = "read_peer", security(()),
    responses((status = 200, description = "What it says of itself", body = Itself)),
)]
pub(crate) async fn well_known(State(shim): State<Shim>) -> Answer<Itself> {
    let node = &shim.node;
    let others = node.known_peers();
    Answer(Itself {
        peer: node.device().to_string(),
        program: concat!("commonhold/", env!("CARGO_PKG_VERSION")).to_owned(),
        addresses: node.listening().iter().map(ToString::to_string).collect(),
        tracker: node.announced().is_some(),
        http: Http { version: 1, body_bytes_max: BODY_BYTES_MAX },
        peers: others.iter().filter_map(|peer| peer.addresses.first()).map(ToString::to_string).take(16).collect(),
    })
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Spaces {
    spaces: Vec<Space>,
}

/// A space that this peer holds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Space {
    id: String,
    /// What the caller may do in it.
    may: May,
    documents: u64,
    /// Whether all that it begins with is here.
    ready: bool,
}

/// The spaces that the caller may know of.
#[utoipa::path(get, path = "/v1/spaces", tag = "spaces", operation_id = "list_spaces", responses((status = 200, description = "Those", body = Spaces), Called))]
pub(crate) async fn spaces(State(shim): State<Shim>, Asks(caller): Asks) -> Answer<Spaces> {
    let spaces = shim.node.spaces().into_iter().filter_map(|info| {
        let may = shim.access.may(&caller, &info.id)?;
        Some(Space { id: info.id.to_string(), may, documents: info.documents, ready: info.ready })
    });
    Answer(Spaces { spaces: spaces.collect() })
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ticket {
    /// For `?ticket=`, once.
    ticket: String,
    /// Seconds.
    expires_in: u64,
}

/// A ticket: for `EventSource`, which sends no headers.
#[utoipa::path(
    post, path = "/v1/tickets", tag = "spaces", operation_id = "draw_ticket",
    responses((status = 201, description = "In place of the token, once", body = Ticket), Tickets),
)]
pub(crate) async fn ticket(
    State(shim): State<Shim>,
    Asks(caller): Asks,
) -> Result<(StatusCode, Answer<Ticket>), Problem> {
    if caller == Caller::Anybody {
        return Err(Problem::new(
            Kind::NoToken,
            "a ticket stands for a token; where none is needed, no ticket is either",
        ));
    }
    let ticket = shim.access.ticket(caller)?;
    Ok((StatusCode::CREATED, Answer(Ticket { ticket, expires_in: 60 })))
}
