//! HTTP for programs that cannot be peers (docs/http.md). It uses the engine's public API and nothing else, so any peer can serve it.

mod about;
pub(crate) mod access;
mod blobs;
mod body;
mod documents;
mod events;
mod feed;
mod history;
mod patch;
mod prefer;
pub(crate) mod problem;
mod replies;
mod version;
mod write;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use commonhold_engine::Node;
use tokio::sync::watch;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::services::ServeDir;

use crate::config::Settings;
use access::{Access, Opened};
use body::Bodies;
use feed::Feeds;
use problem::{Kind, Problem};
use replies::Replies;

/// Bytes of a body, but for blobs. Eight changes as large as the rules let a change be.
const BODY_BYTES_MAX: usize = 8 << 20;
/// How long a browser may remember what CORS allows.
const CORS_AGE: Duration = Duration::from_secs(600);

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Shim(Arc<Inner>);

pub(crate) struct Inner {
    node: Node,
    access: Access,
    feeds: Feeds,
    bodies: Bodies,
    replies: Replies,
    /// True once the peer is about to stop.
    stopping: watch::Receiver<bool>,
}

impl Deref for Shim {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// What is answered.
/// `opened`: what everybody may do, which may change.
pub(crate) fn routes(
    node: &Node,
    settings: &Settings,
    opened: watch::Receiver<Vec<Opened>>,
    stopping: watch::Receiver<bool>,
) -> Router {
    let access = Access::new(&settings.data(), opened);
    let shim = Shim(Arc::new(Inner {
        node: node.clone(),
        access,
        feeds: Feeds::default(),
        bodies: Bodies::default(),
        replies: Replies::default(),
        stopping,
    }));
    let documents = Router::new()
        .route("/docs", get(documents::list).post(documents::create))
        .route("/docs/{doc}", get(documents::read).put(write::put).patch(write::patch).delete(documents::delete))
        .route("/docs/{doc}/at/{*rest}", get(write::read_at).put(write::put_at).delete(write::delete_at))
        .route("/docs/{doc}/versions", get(history::versions))
        .route("/docs/{doc}/conflicts", get(history::conflicts))
        .route("/docs/{doc}/sync", get(history::sync))
        .route("/docs/{doc}/changes", get(history::changes))
        .route("/docs/{doc}/events", get(events::of_one))
        .route("/events", get(events::of_many))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let blobs = Router::new()
        .route("/blobs", post(blobs::post))
        .route("/blobs/{rest}", put(blobs::put).get(blobs::read))
        // The space's quota of blobs bounds them.
        .layer(DefaultBodyLimit::disable());
    let app = Router::new()
        .route("/v1/spaces", get(about::spaces))
        .nest("/v1/spaces/{space}", documents.merge(blobs).layer(from_fn_with_state(shim.clone(), replies::once)))
        .route("/v1/tickets", post(about::ticket))
        .route("/livez", get(about::live))
        .route("/readyz", get(about::ready))
        .route("/.well-known/commonhold", get(about::well_known))
        .method_not_allowed_fallback(|| async {
            Problem::new(Kind::Method, "this resource does not know that method")
        });
    let nothing = || async { Problem::new(Kind::NotFound, "there is nothing here; docs/http.md lists what there is") };
    let app = match settings.http_files() {
        Some(folder) => app.fallback_service(ServeDir::new(folder).fallback(get(nothing))),
        None => app.fallback(nothing),
    };
    app.layer(CatchPanicLayer::custom(|_| {
        axum::response::IntoResponse::into_response(Problem::new(
            Kind::Internal,
            "a fault of this peer; please report it",
        ))
    }))
    .layer(option_layer(cors(settings.http_origins())))
    .with_state(shim)
}

/// Pages of these origins may use the API and read the headers that it answers with.
fn cors(origins: Vec<HeaderValue>) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let names = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect::<Vec<_>>();
    let any = origins.iter().any(|origin| origin == "*");
    let layer = CorsLayer::new()
        .allow_origin(if any { AllowOrigin::any() } else { AllowOrigin::list(origins) })
        // Browsers send cookies only where the origin is named.
        .allow_credentials(!any)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(names(&[
            "authorization",
            "content-type",
            "if-match",
            "if-none-match",
            "parents",
            "prefer",
            "idempotency-key",
            "last-event-id",
            "range",
        ]))
        .expose_headers(names(&[
            "etag",
            "version",
            "parents",
            "merged",
            "location",
            "link",
            "retry-after",
            "durable-at",
            "accept-patch",
            "content-range",
            "idempotency-replayed",
        ]))
        .max_age(CORS_AGE);
    Some(layer)
}
