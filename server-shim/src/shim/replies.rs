//! Requests that are sent twice, because the first answer was lost, and must be done once: those with an `Idempotency-Key`, or with a `Version`,
//! which Braid's programs draw for each edit.
//!
//! The answer to each is remembered for a day: in memory, and as a row in the store, from which it is read after a restart.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use commonhold_engine::Node;
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use tokio::sync::OnceCell;

use super::access::{Writer, unix_now};
use super::documents::VERSION;
use super::guard::broken;
use super::problem::{Kind, Problem};
use super::{BODY_BYTES_MAX, Shim};

static KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Seconds for which an answer is remembered, and how many bytes of them over all; the oldest goes first.
const LIFE_S: u64 = 24 * 3_600;
const KEPT_BYTES_MAX: usize = 32 << 20;
/// What an answer counts besides its body; so there are 32,768 at most.
const OVERHEAD_BYTES: usize = 1_024;
/// Bytes of a key; RFCs to be say nothing, UUIDs have 36.
const KEY_BYTES_MAX: usize = 256;

/// What the keys of rows begin with.
const ROWS: &[u8] = b"reply:";
/// Of a row.
const ROW_VERSION: u8 = 1;

/// A request: who sends it, where to, and its key.
type Name = [u8; 32];

#[derive(Debug, Clone)]
enum Reply {
    UnderWay,
    Done { request: [u8; 32], status: StatusCode, headers: HeaderMap, body: Bytes },
}

/// An answer in the store.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct Row {
    #[n(0)]
    version: u8,
    /// Seconds since 1970.
    #[n(1)]
    at: u64,
    /// BLAKE3 of the request's body.
    #[n(2)]
    request: ByteArray<32>,
    #[n(3)]
    status: u16,
    #[n(4)]
    headers: Vec<(String, ByteVec)>,
    #[n(5)]
    body: ByteVec,
}

impl Row {
    fn of(at: u64, request: [u8; 32], status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Row {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec().into()));
        let (headers, body) = (headers.collect(), body.to_vec().into());
        Row { version: ROW_VERSION, at, request: request.into(), status: status.as_u16(), headers, body }
    }

    /// What another version of this program wrote is forgotten.
    fn read(bytes: &[u8]) -> Option<(u64, Reply)> {
        let row: Row = minicbor::decode(bytes).ok().filter(|row: &Row| row.version == ROW_VERSION)?;
        let header = |(name, value): &(String, ByteVec)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::from_bytes(value).ok()?))
        };
        let headers = row.headers.iter().map(header).collect::<Option<HeaderMap>>()?;
        let (status, body) = (StatusCode::from_u16(row.status).ok()?, Vec::from(row.body).into());
        Some((row.at, Reply::Done { request: *row.request, status, headers, body }))
    }
}

fn row_key(name: &Name) -> Vec<u8> {
    [ROWS, name].concat()
}

/// Answers to requests with a key, from the first on.
#[derive(Debug, Default)]
pub(crate) struct Replies(OnceCell<Mutex<Kept>>);

impl Replies {
    /// What the store remembers is read once.
    async fn kept(&self, node: &Node) -> Result<MutexGuard<'_, Kept>, Problem> {
        let read = || async {
            let rows = node.app_rows(ROWS).await?;
            let read =
                |(key, row): (Vec<u8>, Vec<u8>)| Some((Name::try_from(&key[ROWS.len()..]).ok()?, Row::read(&row)?));
            let mut rows: Vec<(Name, (u64, Reply))> = rows.into_iter().filter_map(read).collect();
            rows.sort_by_key(|(_, (at, _))| *at);
            let mut kept = Kept::default();
            rows.into_iter().for_each(|(name, (at, reply))| kept.keep(name, at, reply));
            Ok::<_, Problem>(Mutex::new(kept))
        };
        Ok(self.0.get_or_try_init(read).await?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug, Default)]
struct Kept {
    of: BTreeMap<Name, Reply>,
    /// When they came, in order, with what they count.
    order: VecDeque<(u64, Name, usize)>,
    bytes: usize,
    /// Those whose rows are still to be taken out.
    forgotten: Vec<Name>,
}

impl Kept {
    fn keep(&mut self, name: Name, at: u64, reply: Reply) {
        let Reply::Done { body, .. } = &reply else { return };
        let bytes = body.len() + OVERHEAD_BYTES;
        self.of.insert(name, reply);
        self.order.push_back((at, name, bytes));
        self.bytes += bytes;
    }

    fn forget_the_oldest(&mut self, now: u64) {
        while let Some((at, name, bytes)) = self.order.front().copied()
            && (self.bytes > KEPT_BYTES_MAX || now.saturating_sub(at) > LIFE_S)
        {
            self.order.pop_front();
            self.of.remove(&name);
            self.forgotten.push(name);
            self.bytes -= bytes;
        }
    }
}

/// A request that is under way. However it ends, it is not under way for ever.
struct UnderWay {
    shim: Shim,
    name: Name,
}

impl UnderWay {
    async fn begin(shim: &Shim, name: Name) -> Result<Result<UnderWay, Reply>, Problem> {
        let mut kept = shim.replies.kept(&shim.node).await?;
        kept.forget_the_oldest(unix_now());
        Ok(match kept.of.get(&name) {
            Some(reply) => Err(reply.clone()),
            None => {
                kept.of.insert(name, Reply::UnderWay);
                Ok(UnderWay { shim: shim.clone(), name })
            }
        })
    }

    /// Before the answer leaves, it is on disk. What was done is done, so that it cannot be kept is told to the log alone.
    async fn done(self, request: [u8; 32], status: StatusCode, headers: HeaderMap, body: Bytes) {
        let (node, replies, at) = (&self.shim.node, &self.shim.replies, unix_now());
        let row = minicbor::to_vec(Row::of(at, request, status, &headers, &body)).unwrap_or_default();
        let written = async {
            let forgotten = std::mem::take(&mut replies.kept(node).await?.forgotten);
            let gone = forgotten.iter().map(|name| (row_key(name), None));
            Ok::<_, Problem>(node.put_app_rows(gone.chain([(row_key(&self.name), Some(row))]).collect()).await?)
        };
        if let Err(problem) = written.await {
            tracing::warn!(why = %problem.detail, "the answer to a request with a key is forgotten by a restart");
        }
        if let Ok(mut kept) = replies.kept(node).await {
            kept.keep(self.name, at, Reply::Done { request, status, headers, body });
            kept.forget_the_oldest(at);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(kept) = self.shim.replies.0.get() else { return };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(kept.of.get(&self.name), Some(Reply::UnderWay)) {
            kept.of.remove(&self.name);
        }
    }
}

/// Stands before every request of a space that may change something.
pub(crate) async fn once(State(shim): State<Shim>, request: Request, next: Next) -> Response {
    let changes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    let headers = request.headers();
    match headers.get(&KEY).or_else(|| headers.get(&VERSION)).cloned() {
        Some(key) if changes => keyed(&shim, key, request, next).await.unwrap_or_else(IntoResponse::into_response),
        _ => next.run(request).await,
    }
}

async fn keyed(shim: &Shim, key: HeaderValue, request: Request, next: Next) -> Result<Response, Problem> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Problem::bad(format!("an Idempotency-Key, or a Version, has at most {KEY_BYTES_MAX} bytes")));
    }
    let (mut head, body) = request.into_parts();
    // Nothing is read of, or remembered for, somebody who may not write.
    let Writer(writer) = Writer::from_request_parts(&mut head, shim).await?;
    head.extensions.insert(writer.caller.clone());
    let mut name = blake3::Hasher::new();
    let (caller, space) = (writer.caller.id(), writer.space.0);
    for part in [caller.as_bytes(), &space, head.method.as_str().as_bytes(), head.uri.path().as_bytes(), key.as_bytes()]
    {
        name.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| match broken(&error) {
        stalled if stalled.kind == Kind::Stalled => stalled,
        _ => {
            let detail = format!("with an Idempotency-Key, a body has at most {BODY_BYTES_MAX} bytes, and comes whole");
            Problem::new(Kind::TooLarge, detail)
        }
    })?;
    let request = *blake3::hash(&body).as_bytes();
    let under_way = match UnderWay::begin(shim, *name.finalize().as_bytes()).await? {
        Ok(under_way) => under_way,
        Err(Reply::UnderWay) => {
            return Err(Problem::new(Kind::Conflict, "the same request is under way; ask again when it is done"));
        }
        Err(Reply::Done { request: before, .. }) if before != request => {
            let detail = "this Idempotency-Key, or Version, was used for another body; draw a new one for each request";
            return Err(Problem::new(Kind::Unprocessable, detail));
        }
        Err(Reply::Done { status, headers, body, .. }) => {
            let mut response = (status, headers, body).into_response();
            response.headers_mut().insert(REPLAYED.clone(), HeaderValue::from_static("?1"));
            return Ok(response);
        }
    };
    // A task of its own: who hangs up before the answer is the one that will ask again.
    let answered = tokio::spawn(async move {
        let (answer, sent) = next.run(Request::from_parts(head, Body::from(body))).await.into_parts();
        let sent = to_bytes(sent, usize::MAX).await.unwrap_or_default();
        if is_final(answer.status) {
            under_way.done(request, answer.status, answer.headers.clone(), sent.clone()).await;
        }
        Response::from_parts(answer, Body::from(sent))
    });
    answered.await.map_err(|_| Problem::new(Kind::Internal, "a fault of this peer; please report it"))
}

/// Whether the same request would be answered like this at any time: what was done, and what can never be.
fn is_final(status: StatusCode) -> bool {
    let never = [400, 412, 413, 415, 422, 428];
    status.is_success() || never.contains(&status.as_u16())
}
