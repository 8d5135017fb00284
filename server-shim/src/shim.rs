//! HTTP for programs that cannot be peers (docs/http.md). It uses the engine's public API and nothing else, so any peer can serve it.

#![allow(unused_qualifications, reason = "utoipa's macros write paths out")]

mod about;
pub(crate) mod access;
mod blobs;
mod body;
mod braid;
mod changes;
mod documents;
mod events;
mod feed;
pub(crate) mod guard;
mod history;
pub(crate) mod jwt;
mod patch;
mod prefer;
mod presence;
pub(crate) mod problem;
mod replies;
mod spec;
mod version;
pub(crate) mod webhooks;
mod write;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Extension, Router};
use commonhold_engine::Node;
use tokio::sync::{Semaphore, watch};
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::services::ServeDir;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Settings;
use access::Access;
use body::Bodies;
use feed::Feeds;
use presence::Presence;
use problem::{Kind, Problem};
use replies::Replies;
use spec::Described;
use webhooks::Hooks;

/// Bytes of a body, but for blobs. Eight changes as large as the rules let a change be.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Requests that wait until a version arrives, at the same time: each follows a document meanwhile.
const WAITING_MAX: usize = 1_024;
/// How long a browser may remember what CORS allows.
const CORS_AGE: Duration = Duration::from_secs(600);

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Shim(Arc<Inner>);

pub(crate) struct Inner {
    node: Node,
    access: Arc<Access>,
    feeds: Feeds,
    bodies: Bodies,
    replies: Replies,
    /// Those whose pages may use the API; `*`: all.
    origins: Vec<HeaderValue>,
    /// Places for requests that wait until a version arrives.
    waiting: Semaphore,
    presence: Presence,
    /// None: the operator has not switched webhooks on.
    hooks: Option<Hooks>,
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
pub(crate) fn routes(
    node: &Node,
    settings: &Settings,
    access: Arc<Access>,
    hooks: Option<Hooks>,
    stopping: watch::Receiver<bool>,
) -> Router {
    let shim = Shim(Arc::new(Inner {
        node: node.clone(),
        access,
        feeds: Feeds::default(),
        bodies: hooks.as_ref().map(Hooks::bodies).unwrap_or_default(),
        replies: Replies::default(),
        origins: settings.http_origins(),
        waiting: Semaphore::new(WAITING_MAX),
        presence: Presence::default(),
        hooks,
        stopping,
    }));
    let documents = OpenApiRouter::new()
        .routes(routes!(documents::list, documents::create))
        .routes(routes!(documents::read, write::put, write::patch, documents::delete))
        .routes(routes!(write::read_at, write::put_at, write::delete_at))
        .routes(routes!(history::versions))
        .routes(routes!(history::conflicts))
        .routes(routes!(history::sync))
        .routes(routes!(history::receipts))
        .routes(routes!(history::changes, history::take_changes))
        .routes(routes!(changes::of_space))
        .routes(routes!(presence::read, presence::say))
        .routes(routes!(events::of_one))
        .routes(routes!(events::of_many))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::read, webhooks::change, webhooks::remove))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::redeliver))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let blobs = OpenApiRouter::new()
        .routes(routes!(blobs::post))
        .routes(routes!(blobs::put, blobs::read))
        // The space's quota of blobs bounds them.
        .layer(DefaultBodyLimit::disable());
    let (app, api) = OpenApiRouter::with_openapi(spec::base())
        .routes(routes!(about::spaces))
        .nest("/v1/spaces/{space}", documents.merge(blobs).layer(from_fn_with_state(shim.clone(), replies::once)))
        .routes(routes!(about::ticket))
        .routes(routes!(about::live))
        .routes(routes!(about::ready))
        .routes(routes!(about::well_known))
        .routes(routes!(spec::openapi))
        .split_for_parts();
    let app = app.layer(Extension(Described::of(api))).method_not_allowed_fallback(|| async {
        Problem::new(Kind::Method, "this resource does not know that method")
    });
    let nothing = || async { Problem::new(Kind::NotFound, "there is nothing here; docs/http.md lists what there is") };
    let app = match settings.http_files() {
        Some(folder) => app.fallback_service(ServeDir::new(folder).fallback(get(nothing))),
        None => app.fallback(nothing),
    };
    app.layer(from_fn_with_state(shim.clone(), guard::guard))
        .layer(CatchPanicLayer::custom(|_| {
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
            "subscribe",
            "version",
            "heartbeats",
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
            "subscribe",
            "current-version",
            "heartbeats",
        ]))
        .max_age(CORS_AGE);
    Some(layer)
}
