//! Announces over HTTP, for whoever has no connection to a tracker: `POST /v1/announce`. Errors are problem details (RFC 9457).
//!
//! Strangers call here, so a connection carries one request, lives for a few seconds, and there are so many at once and no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use commonhold_engine::sync::tracker::{TRACKER_TTL_S, TrackerRefusal};
use commonhold_engine::{ANNOUNCE_JSON_MAX, AnnounceError, AnnounceRequest, Node};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::failure::{Exit, Failure};

/// Connections at once; more are hung up on.
const CONNECTIONS_MAX: usize = 256;
/// For all of one connection: an announce is a few KiB.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listening, until it is dropped.
pub(crate) struct Listening {
    /// With the ports that the system chose.
    pub(crate) addresses: Vec<SocketAddr>,
    _serving: JoinSet<()>,
}

/// Listens at these addresses.
pub(crate) async fn listen(node: &Node, addresses: &[SocketAddr]) -> Result<Listening, Failure> {
    let (mut serving, mut bound) = (JoinSet::new(), Vec::new());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::new(
                Exit::InUse,
                "listen",
                format!("cannot listen for announces on {address}: {error}"),
                "choose another address or port for discovery.listen, or stop what uses it",
            )
        })?;
        bound.extend(listener.local_addr());
        serving.spawn(accept(listener, routes(node.clone()), places.clone()));
    }
    info!(addresses = ?bound, "takes announces over HTTP");
    Ok(Listening { addresses: bound, _serving: serving })
}

/// What is answered here.
fn routes(node: Node) -> Router {
    Router::new()
        .route("/v1/announce", post(announce))
        .layer(DefaultBodyLimit::max(ANNOUNCE_JSON_MAX))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "not-found", "there is nothing here") })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "method", "announces are posted")
        })
        .with_state(node)
}

async fn accept(listener: TcpListener, routes: Router, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most often no file descriptors are left; asking again at once would spin.
                debug!(%error, "accepting failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            debug!(%from, "too many connections");
            continue;
        };
        let routes = routes.clone().layer(Extension(from));
        connections.spawn(async move {
            let _place = place;
            if timeout(PATIENCE, answer(stream, routes)).await.is_err() {
                debug!(%from, "gave up waiting for a request");
            }
        });
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.keep_alive(false).max_buf_size(ANNOUNCE_JSON_MAX);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await {
        debug!(%error, "a request came to nothing");
    }
}

async fn announce(
    State(node): State<Node>,
    Extension(from): Extension<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return problem(rejection.status(), "body", &rejection.body_text()),
    };
    let answered = serde_json::from_slice::<AnnounceRequest>(&body)
        .map_err(|error| AnnounceError::Malformed(error.to_string()))
        .and_then(|request| node.take_announce(&request, from.ip()));
    let refused = match answered {
        Ok(answer) => return json_of(StatusCode::OK, "application/json", json!(answer).to_string()),
        Err(refused) => refused,
    };
    let (status, retry_s) = match &refused {
        AnnounceError::Malformed(_) => (StatusCode::BAD_REQUEST, None),
        AnnounceError::Refused(refusal) => match refusal {
            TrackerRefusal::Off => (StatusCode::FORBIDDEN, None),
            TrackerRefusal::BadSignature | TrackerRefusal::TooManyTopics => (StatusCode::UNPROCESSABLE_ENTITY, None),
            TrackerRefusal::Outdated => (StatusCode::CONFLICT, None),
            TrackerRefusal::TooOften => (StatusCode::TOO_MANY_REQUESTS, Some(60)),
            TrackerRefusal::Full => (StatusCode::SERVICE_UNAVAILABLE, Some(TRACKER_TTL_S)),
        },
    };
    let mut response = problem(status, refused.code(), &refused.to_string());
    if let Some(seconds) = retry_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body =
        json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "code": code, "detail": detail });
    json_of(status, "application/problem+json", body.to_string())
}

fn json_of(status: StatusCode, kind: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}
