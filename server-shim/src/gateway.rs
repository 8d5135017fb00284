//! A gateway for apps on `@automerge/automerge-repo`: a WebSocket at which its clients sync documents of one space unchanged.
//!
//! They sign nothing, so this peer vouches for their changes; what they send is bounded here (frames, by `wire`) and in the engine
//! (what is in them). `hub` is what connections share, `ids` maps their ids of documents to ours, `connection` is one client,
//! `document` one document of a client. docs/gateway.md is for users.

mod connection;
mod document;
mod hub;
pub(crate) mod ids;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use commonhold_engine::{Node, Sockets, SpaceId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::info;

use crate::failure::{Exit, Failure};
use crate::http::{accept, metered};
use crate::tls::Door;
use hub::Hub;

/// Connections at once; more are hung up on. What one may cost stands with the limits of `connection`.
const CONNECTIONS_MAX: usize = 1_024;

/// Listening, until it is dropped.
pub(crate) struct Listening {
    /// With the ports that the system chose.
    pub(crate) addresses: Vec<SocketAddr>,
    _serving: JoinSet<()>,
}

/// Listens at these addresses, at sockets that were given where there are any, for documents of this space.
pub(crate) async fn listen(
    node: &Node,
    addresses: &[SocketAddr],
    space: Option<SpaceId>,
    sockets: &Sockets,
    door: &Door,
) -> Result<Listening, Failure> {
    let (mut serving, mut bound) = (JoinSet::new(), Vec::new());
    if addresses.is_empty() {
        return Ok(Listening { addresses: bound, _serving: serving });
    }
    let space = space_of(node, space)?;
    let (hub, changes) = Hub::open(node.clone(), space).await.map_err(|error| crate::operate::failure(&error))?;
    let hub = Arc::new(hub);
    serving.spawn(hub::follow(hub.clone(), changes));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for address in addresses {
        let listener = sockets.bind(&[*address]).await.map_err(|error| {
            Failure::new(
                Exit::InUse,
                "listen",
                format!("cannot listen for automerge-repo clients on {address}: {error}"),
                "choose another address or port for gateway.listen, or stop what uses it",
            )
        })?;
        bound.extend(listener.local_addr());
        let (hub, door) = (hub.clone(), door.clone());
        serving.spawn(accept(listener, places.clone(), move |stream, from, place| {
            let (hub, door) = (hub.clone(), door.clone());
            async move {
                let _place = place;
                let stream = metered(stream, &hub.node.addresses(), from);
                if let Some(stream) = door.open(stream, from).await {
                    connection::serve(hub, stream, from).await;
                }
            }
        }));
    }
    info!(addresses = ?bound, %space, "takes automerge-repo clients");
    Ok(Listening { addresses: bound, _serving: serving })
}

/// The space that clients' documents are in: the one that was named, or the only one.
fn space_of(node: &Node, named: Option<SpaceId>) -> Result<SpaceId, Failure> {
    let held: Vec<SpaceId> = node.spaces().iter().map(|info| info.id).collect();
    match (named, held.as_slice()) {
        (Some(named), held) if held.contains(&named) => Ok(named),
        (Some(named), _) => Err(Failure::not_found(
            "gateway_space",
            format!("gateway.space is {named}, which this peer does not hold"),
            "join that space first (commonhold join INVITE), or name one of `commonhold space ls`",
        )),
        (None, [only]) => Ok(*only),
        (None, []) => Err(Failure::not_found(
            "gateway_space",
            "gateway.listen is set, and there is no space for the documents of its clients",
            "make one first: commonhold space new",
        )),
        (None, _) => Err(Failure::usage(
            "gateway_space",
            "gateway.listen is set, and this peer holds several spaces",
            "set gateway.space to the id of the one whose documents clients may have",
        )),
    }
}
