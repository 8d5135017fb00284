//! Listening for HTTP: for announces to the tracker (`POST /v1/announce`), and for programs that cannot be peers ([`shim`]).
//!
//! Strangers call at both, so each has so many connections at once and no more, and who sends no request is hung up on. A connection for
//! announces carries one request and lives for a few seconds. Errors are problem details (RFC 9457).

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use commonhold_engine::sync::tracker::{TRACKER_TTL_S, TrackerRefusal};
use commonhold_engine::{ANNOUNCE_JSON_MAX, AddressMeter, AnnounceError, AnnounceRequest, BlockList, Node, Sockets};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::io::{InspectReader, InspectWriter};
use tracing::{debug, info};

use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::operate;
use crate::shim;
use crate::shim::access::{Access, Opened};
use crate::shim::guard::{CameFrom, TakenAt};
use crate::shim::jwt::Provider;
use crate::shim::webhooks::Hooks;
use crate::tls::{self, Door};

/// Announces: connections at once, more are hung up on; and the time for all of one, as an announce is a few KiB.
const ANNOUNCES_MAX: usize = 256;
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for programs. Streams of events hold theirs; a browser opens up to six.
const PROGRAMS_MAX: usize = 4_096;
/// Bytes read ahead of a connection, which is also the most that the head of a request may have.
const PROGRAM_BUFFER: usize = 64 << 10;
/// How long to wait for the head of a request, the next one of a connection included.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection without a request stays when this peer stops: who asks in this time is answered, and told to ask on another next
/// time. A guess: longer than a request is under way to here.
const LINGER: Duration = Duration::from_millis(500);

/// What is counted of the requests of programs. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    /// By the first digit of the answer's status.
    answered: Arc<[Counter; 6]>,
    /// From a request to the head of its answer.
    seconds: Histogram,
    places: Arc<Semaphore>,
}

impl Counted {
    fn new(places: Arc<Semaphore>) -> Counted {
        // From half a millisecond, doubling to 16 s.
        let seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        Counted { answered: Arc::default(), seconds, places }
    }

    fn count(&self, status: StatusCode, since: Instant) {
        if let Some(counter) = self.answered.get(usize::from(status.as_u16() / 100)) {
            counter.inc();
        }
        self.seconds.observe(since.elapsed().as_secs_f64());
    }

    pub(crate) fn requests(&self) -> u64 {
        self.answered.iter().map(Counter::get).sum()
    }

    /// Requests that this peer could not answer as it should.
    pub(crate) fn failures(&self) -> u64 {
        self.answered[5].get()
    }

    pub(crate) fn connections(&self) -> u64 {
        PROGRAMS_MAX.saturating_sub(self.places.available_permits()) as u64
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let family = Family::<Vec<(&'static str, String)>, Counter>::default();
        for (digit, counter) in self.answered.iter().enumerate().skip(1) {
            family.get_or_create(&vec![("status", format!("{digit}xx"))]).inc_by(counter.get());
        }
        registry.register("http_requests", "Requests of programs that were answered", family);
        registry.register("http_request_seconds", "From a request to the head of its answer", self.seconds.clone());
    }
}

/// Listening, until it is dropped.
pub(crate) struct Listening {
    /// With the ports that the system chose.
    pub(crate) announces: Vec<SocketAddr>,
    /// The same, for programs.
    pub(crate) programs: Vec<SocketAddr>,
    serving: JoinSet<()>,
    /// Connections of programs under way.
    places: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    opened: watch::Sender<Vec<Opened>>,
    pub(crate) counted: Counted,
    /// At work, if the operator has switched them on.
    pub(crate) hooks: Option<Hooks>,
}

impl Listening {
    /// From now on everybody may do this without a token.
    pub(crate) fn open(&self, opened: Vec<Opened>) {
        self.opened.send_replace(opened);
    }

    /// Takes no more connections, ends streams with a word, and waits for the requests that are under way. Webhooks end as well.
    pub(crate) async fn drain(mut self) {
        let _ = self.stop.send(true);
        self.serving.shutdown().await;
        let hooks = async {
            if let Some(hooks) = &self.hooks {
                hooks.end().await;
            }
        };
        let _ = tokio::join!(self.places.acquire_many(PROGRAMS_MAX as u32), hooks);
    }
}

/// Listens at the addresses that the configuration names, at sockets that were given where there are any.
pub(crate) async fn listen(
    node: &Node,
    settings: &Settings,
    sockets: &Sockets,
    door: &Door,
) -> Result<Listening, Failure> {
    let (stop, stopping) = watch::channel(false);
    let (opened, open) = watch::channel(settings.http_open());
    let places = Arc::new(Semaphore::new(PROGRAMS_MAX));
    let counted = Counted::new(places.clone());
    let access = Arc::new(Access::new(&settings.data(), open, provider(settings)?));
    let hooks = match settings.webhooks() {
        Some(allowed) => {
            let hooks = Hooks::start(node, access.clone(), allowed, &tls::roots(settings)).await;
            Some(hooks.map_err(|error| operate::failure(&error))?)
        }
        None => None,
    };
    let mut listening = Listening {
        announces: Vec::new(),
        programs: Vec::new(),
        serving: JoinSet::new(),
        places,
        stop,
        opened,
        counted,
        hooks: hooks.clone(),
    };
    for address in settings.announce_listen() {
        let listener = bind(sockets, address, "discovery.listen").await?;
        listening.announces.extend(listener.local_addr());
        let (routes, places) = (routes(node.clone()), Arc::new(Semaphore::new(ANNOUNCES_MAX)));
        let door = door.clone();
        listening.serving.spawn(accept(listener, places, move |stream, from, place| {
            let (routes, door) = (routes.clone().layer(Extension(from)), door.clone());
            async move {
                let _place = place;
                let answered = async {
                    if let Some(stream) = door.open(stream, from).await {
                        answer(stream, routes).await;
                    }
                };
                if timeout(PATIENCE, answered).await.is_err() {
                    debug!(%from, "gave up waiting for a request");
                }
            }
        }));
    }
    let programs = shim::routes(node, settings, access, hooks, stopping.clone());
    let programs = programs.layer(from_fn_with_state((stopping.clone(), listening.counted.clone()), answered));
    for address in settings.http_listen() {
        let listener = bind(sockets, address, "http.listen").await?;
        listening.programs.extend(listener.local_addr());
        let taken_at = Extension(TakenAt(listener.local_addr().unwrap_or(address)));
        let routes = programs.clone().layer(taken_at);
        let (places, stopping, list) = (listening.places.clone(), stopping.clone(), node.block_list());
        let (meter, door) = (node.addresses(), door.clone());
        listening.serving.spawn(accept(listener, places, move |stream, from, place| {
            let stream = metered(stream, &meter, from);
            let (routes, door) = (routes.clone().layer(Extension(CameFrom(from))), door.clone());
            let stopping = stopping.clone();
            let talk = async move {
                let opened = tokio::select! {
                    opened = door.open(stream, from) => opened,
                    () = lingered(stopping.clone()) => None,
                };
                if let Some(stream) = opened {
                    talk(stream, routes, stopping).await;
                }
            };
            let blocked = is_blocked(list.clone(), from);
            // Requests that are under way are answered also when nobody listens any more.
            drop(tokio::spawn(async move {
                tokio::select! {
                    () = talk => {}
                    () = blocked => debug!(%from, "blocked"),
                }
                drop(place);
            }));
            std::future::ready(())
        }));
    }
    info!(announces = ?listening.announces, programs = ?listening.programs, "listens for HTTP");
    Ok(listening)
}

/// The provider whose tokens are taken.
fn provider(settings: &Settings) -> Result<Option<Provider>, Failure> {
    let Some((path, issuer, audience)) = settings.http_jwt() else { return Ok(None) };
    if issuer.is_empty() || audience.is_empty() {
        return Err(Failure::usage(
            "jwt",
            "http.jwt_keys is set, and not whom its tokens are from and for",
            "set http.jwt_issuer and http.jwt_audience: a token for another service must not open this one",
        ));
    }
    Provider::new(path, issuer, audience).map(Some).map_err(|why| {
        Failure::usage("jwt", why, "http.jwt_keys names a file with the provider's key set, as its jwks_uri gives it")
    })
}

pub(crate) async fn bind(sockets: &Sockets, address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    sockets.bind(&[address]).await.map_err(|error| {
        Failure::new(
            Exit::InUse,
            "listen",
            format!("cannot listen for HTTP on {address}: {error}"),
            format!("choose another address or port for {key}, or stop what uses it"),
        )
    })
}

/// A connection of which every byte counts for the address that it came from.
pub(crate) fn metered(
    stream: TcpStream,
    meter: &AddressMeter,
    from: SocketAddr,
) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
    let (sends, receives) = (meter.clone(), meter.clone());
    let stream = InspectWriter::new(stream, move |bytes: &[u8]| sends.sent(from.ip(), bytes.len()));
    InspectReader::new(stream, move |bytes: &[u8]| receives.received(from.ip(), bytes.len()))
}

/// Returns when an address is blocked that is not now. Who is blocked when it connects is answered that.
pub(crate) fn is_blocked(mut list: watch::Receiver<Arc<BlockList>>, from: SocketAddr) -> impl Future<Output = ()> {
    let before = list.borrow().has_address(from.ip());
    async move {
        if before || list.wait_for(|list| list.has_address(from.ip())).await.is_err() {
            std::future::pending().await
        }
    }
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

/// Takes connections for as long as there are places; who comes when there are none is hung up on. What serves a connection keeps its place.
pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    places: Arc<Semaphore>,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
) {
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
        // Answers are small, and whoever asked waits for them.
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            debug!(%from, "too many connections");
            continue;
        };
        connections.spawn(serve(stream, from, place));
    }
}

/// One request of a stranger.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Router) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.keep_alive(false).max_buf_size(ANNOUNCE_JSON_MAX);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await {
        debug!(%error, "a request came to nothing");
    }
}

/// Returns when a handshake that is under way when this peer stops has had its time.
async fn lingered(mut stopping: watch::Receiver<bool>) {
    // Also when the sender is gone, as it is then.
    let _ = stopping.wait_for(|stopping| *stopping).await;
    sleep(LINGER).await;
}

/// The requests of a program, until it hangs up or this peer stops.
pub(crate) async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(PROGRAM_BUFFER);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)));
    let stop = async { drop(stopping.wait_for(|stopping| *stopping).await) };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        // A request that is on its way when a connection is closed comes to nothing, and its sender cannot know that.
        () = stop => match timeout(LINGER, &mut connection).await {
            Ok(ended) => ended,
            Err(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}

/// Counts answers. Once this peer stops, each is the last of its connection.
async fn answered(
    State((stopping, counted)): State<(watch::Receiver<bool>, Counted)>,
    request: Request,
    next: Next,
) -> Response {
    let since = Instant::now();
    let mut response = next.run(request).await;
    counted.count(response.status(), since);
    if *stopping.borrow() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
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
        AnnounceError::Blocked => (StatusCode::FORBIDDEN, None),
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
