//! What operators see: metrics for Prometheus, the same as JSON, and one page. On the loopback alone, and for reading alone.
//!
//! Whoever can open a socket on this machine may read it. Pages in a browser on this machine may not, but for the one that is served here: a name
//! that somebody else's DNS points at the loopback is refused by its `Host`, and what another origin asks by what browsers say of it.

mod metrics;
mod status;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json as Answer;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use commonhold_engine::{DocId, DocumentQuery, Node, Sockets, SpaceId};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::config::Settings;
use crate::failure::Failure;
use crate::http::{self, Counted, accept, talk};
use crate::operate;
use crate::request::Request as Asked;
use crate::shim::webhooks::{self, Hooks};
use status::{Sample, Status};

/// Connections at once; more are hung up on. A browser opens six, a scraper one.
const CONNECTIONS_MAX: usize = 64;
/// How old a status may be that is shown: who asks again and again costs no more than that.
const AGE_MAX: Duration = Duration::from_secs(1);
/// The plots: a sample this often, for an hour. Each has about 100 bytes.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const SAMPLES_MAX: usize = 720;
/// Documents of one answer.
const DOCUMENTS_MAX: usize = 500;

static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Listening, until it is dropped.
pub(crate) struct Listening {
    /// With the ports that the system chose.
    pub(crate) addresses: Vec<SocketAddr>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Admin(Arc<Inner>);

struct Inner {
    node: Node,
    settings: Settings,
    counted: Counted,
    hooks: Option<Hooks>,
    since: Instant,
    latest: tokio::sync::Mutex<Option<(Instant, Arc<Status>)>>,
    samples: Mutex<VecDeque<Sample>>,
}

/// Listens at the addresses of `admin.listen`. `counted` is what HTTP counts, `hooks` are those that are at work.
pub(crate) async fn listen(
    node: &Node,
    settings: &Settings,
    counted: Counted,
    hooks: Option<Hooks>,
    sockets: &Sockets,
) -> Result<Listening, Failure> {
    let mut listening = Listening { addresses: Vec::new(), _serving: JoinSet::new() };
    let addresses = settings.admin_listen();
    if addresses.is_empty() {
        return Ok(listening);
    }
    let admin = Admin(Arc::new(Inner {
        node: node.clone(),
        settings: settings.clone(),
        counted,
        hooks,
        since: Instant::now(),
        latest: tokio::sync::Mutex::default(),
        samples: Mutex::default(),
    }));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for address in addresses {
        let listener = http::bind(sockets, address, "admin.listen").await?;
        listening.addresses.extend(listener.local_addr());
        let routes = routes(admin.clone());
        listening._serving.spawn(accept(listener, places.clone(), move |stream, _, place| {
            let routes = routes.clone();
            async move {
                let _place = place;
                // Ends with this listener.
                talk(stream, routes, watch::channel(false).1).await;
            }
        }));
    }
    listening._serving.spawn(sample(admin));
    info!(addresses = ?listening.addresses, "listens for its operator");
    Ok(listening)
}

fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/", get(async || Redirect::to("/admin")))
        .route("/metrics", get(scraped))
        .route("/admin", get(page))
        .route("/admin/status", get(shown))
        .route("/admin/history", get(history))
        .route("/admin/peers", get(peers))
        .route("/admin/usage", get(usage))
        .route("/admin/webhooks", get(webhooks_of_all))
        .route("/admin/spaces/{space}/documents", get(documents))
        .with_state(admin)
        .layer(from_fn(guarded))
}

/// Only programs, people and the page itself; only reading.
async fn guarded(request: Request, next: Next) -> Response {
    let refusal = refused(request.method(), request.headers());
    let mut response = match refusal {
        Some((status, why)) => {
            let mut response = problem(status, why);
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            response
        }
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refused(method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_loopback(host) {
        return Some((StatusCode::MISDIRECTED_REQUEST, "this is for localhost, 127.0.0.1 and [::1] only"));
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "there is nothing to change here"));
    }
    let site = headers.get(&FETCH_SITE).is_none_or(|site| site == "same-origin" || site == "none");
    let origin = headers.get(ORIGIN).is_none_or(|origin| origin.as_bytes() == format!("http://{host}").as_bytes());
    if !site || !origin {
        return Some((StatusCode::FORBIDDEN, "pages of other origins may not read this"));
    }
    None
}

/// Whether a `Host`, with or without a port, names this machine itself, whatever DNS says.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl Admin {
    async fn status(&self) -> Arc<Status> {
        // Who comes while it is looked up waits for the same.
        let mut latest = self.0.latest.lock().await;
        match &*latest {
            Some((at, status)) if at.elapsed() < AGE_MAX => status.clone(),
            _ => {
                let Inner { node, settings, counted, hooks, since, .. } = &*self.0;
                let status = Arc::new(Status::of(node, settings, counted, hooks.as_ref(), *since).await);
                *latest = Some((Instant::now(), status.clone()));
                status
            }
        }
    }
}

/// Remembers how things were, for the plots.
async fn sample(admin: Admin) {
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = admin.status().await.sample();
        let mut samples = admin.0.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

/// The page. Its script is told from what might be smuggled into it by a number that is drawn for each answer.
async fn page() -> Response {
    let mut nonce = [0; 16];
    if let Err(error) = getrandom::fill(&mut nonce) {
        warn!(%error, "no random numbers");
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the system gives no random numbers");
    }
    let nonce = crate::local::hex(&nonce);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let html = include_str!("admin/page.html").replace("NONCE", &nonce);
    let mut response = Html(html).into_response();
    response.headers_mut().extend(HeaderValue::try_from(policy).ok().map(|policy| (CONTENT_SECURITY_POLICY, policy)));
    response
}

async fn scraped(State(admin): State<Admin>) -> Response {
    match metrics::text(&*admin.status().await, &admin.0.counted) {
        Ok(text) => ([(CONTENT_TYPE, metrics::TYPE)], text).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written; please report it"),
    }
}

async fn shown(State(admin): State<Admin>) -> Answer<Json> {
    Answer(json!(*admin.status().await))
}

async fn history(State(admin): State<Admin>) -> Answer<Json> {
    let samples = admin.0.samples.lock().unwrap_or_else(PoisonError::into_inner);
    Answer(json!({ "every_s": SAMPLE_EVERY.as_secs(), "samples": *samples }))
}

/// Those that are connected, then those that are known, best first; at most 4,096.
async fn peers(State(admin): State<Admin>) -> Result<Answer<Json>, Response> {
    let reply = operate::perform(&admin.0.node, Asked::Peers { known: true }).await;
    reply.map(|reply| Answer(reply.json())).map_err(|failure| problem(StatusCode::SERVICE_UNAVAILABLE, &failure.what))
}

/// What is stored of each space and each identity, the fullest first.
async fn usage(State(admin): State<Admin>) -> Result<Answer<Json>, Response> {
    let reply = operate::perform(&admin.0.node, Asked::Usage).await;
    reply.map(|reply| Answer(reply.json())).map_err(|failure| problem(StatusCode::SERVICE_UNAVAILABLE, &failure.what))
}

/// Every webhook: whose it is, where it leads, and how it does.
async fn webhooks_of_all(State(admin): State<Admin>) -> Answer<Json> {
    match &admin.0.hooks {
        Some(hooks) => Answer(webhooks::overview(hooks).await),
        None => Answer(json!({ "webhooks": [] })),
    }
}

/// Where a list goes on.
#[derive(Deserialize)]
struct After {
    after: Option<String>,
}

/// The documents of a space, by id, so many at once.
async fn documents(
    State(admin): State<Admin>,
    Path(space): Path<String>,
    Query(after): Query<After>,
) -> Result<Answer<Json>, Response> {
    let bad = |what: &str| problem(StatusCode::BAD_REQUEST, what);
    let space: SpaceId = space.parse().map_err(|_| bad("a space is named by 64 hex digits"))?;
    let after =
        after.after.map(|id| id.parse::<DocId>().map_err(|_| bad("after is the id of a document"))).transpose()?;
    let query = DocumentQuery { after, limit: DOCUMENTS_MAX, deleted: true, ..DocumentQuery::default() };
    let failed = |error: commonhold_engine::Error| problem(StatusCode::NOT_FOUND, &error.to_string());
    let documents = admin.0.node.documents(space, query).await.map_err(failed)?;
    let next = (documents.len() == DOCUMENTS_MAX).then(|| documents.last().map(|last| last.id.to_string())).flatten();
    let rows: Vec<Json> = documents
        .iter()
        .map(|info| {
            json!({
                "id": info.id.to_string(), "kind": info.kind, "name": info.name,
                "creator": info.creator.to_string(), "deleted": info.deleted,
            })
        })
        .collect();
    Ok(Answer(json!({ "documents": rows, "next": next })))
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    (status, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_this_machine() {
        for host in
            ["localhost", "LocalHost:7344", "127.0.0.1:1", "127.1.2.3", "[::1]:7344", "[::1]", "[::ffff:127.0.0.1]:1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org:7344",
            "10.0.0.1:80",
            "[2001:db8::1]:1",
            "127.0.0.1.nip.io",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn pages_of_others_may_not_read_and_nobody_may_write() {
        let asks = |method: Method, pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            let all = [(HOST, HeaderValue::from_static("127.0.0.1:7344"))].into_iter().chain(headers);
            refused(&method, &all.collect()).map(|(status, _)| status.as_u16())
        };
        assert_eq!(asks(Method::GET, &[]), None);
        assert_eq!(asks(Method::GET, &[("origin", "http://127.0.0.1:7344"), ("sec-fetch-site", "same-origin")]), None);
        assert_eq!(asks(Method::GET, &[("sec-fetch-site", "none")]), None);
        for other in ["http://127.0.0.1:3000", "https://127.0.0.1:7344", "http://example.org", "null"] {
            assert_eq!(asks(Method::GET, &[("origin", other)]), Some(403), "{other}");
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(asks(Method::GET, &[("sec-fetch-site", site)]), Some(403));
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(asks(method, &[]), Some(405));
        }
    }
}
