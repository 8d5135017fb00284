//! Requests that are sent twice, because the first answer was lost, and must be done once: those with an `Idempotency-Key`, or with a `Version`,
//! which Braid's programs draw for each edit.
//!
//! The answer to each is remembered for a day, in memory: after a restart of the process nothing is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::Writer;
use super::documents::VERSION;
use super::guard::broken;
use super::problem::{Kind, Problem};
use super::{BODY_BYTES_MAX, Shim};

static KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How long an answer is remembered, and how many bytes of them over all; the oldest goes first.
const LIFE: Duration = Duration::from_secs(24 * 3_600);
const KEPT_BYTES_MAX: usize = 32 << 20;
/// What an answer counts besides its body.
const OVERHEAD_BYTES: usize = 1_024;
/// Bytes of a key; RFCs to be say nothing, UUIDs have 36.
const KEY_BYTES_MAX: usize = 256;

/// A request: who sends it, where to, and its key.
type Name = [u8; 32];

#[derive(Debug, Clone)]
enum Reply {
    UnderWay,
    Done { request: [u8; 32], status: StatusCode, headers: HeaderMap, body: Bytes },
}

/// Answers to requests with a key.
#[derive(Debug, Default)]
pub(crate) struct Replies(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    of: BTreeMap<Name, Reply>,
    /// In the order of coming, with what they count.
    order: VecDeque<(Instant, Name, usize)>,
    bytes: usize,
}

impl Kept {
    fn forget_the_oldest(&mut self, now: Instant) {
        while let Some((at, name, bytes)) = self.order.front().copied()
            && (self.bytes > KEPT_BYTES_MAX || now - at > LIFE)
        {
            self.order.pop_front();
            self.of.remove(&name);
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
    fn begin(shim: &Shim, name: Name) -> Result<UnderWay, Reply> {
        let mut kept = shim.replies.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.forget_the_oldest(Instant::now());
        match kept.of.get(&name) {
            Some(reply) => Err(reply.clone()),
            None => {
                kept.of.insert(name, Reply::UnderWay);
                Ok(UnderWay { shim: shim.clone(), name })
            }
        }
    }

    fn done(self, reply: Reply, bytes: usize) {
        let mut kept = self.shim.replies.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.of.insert(self.name, reply);
        kept.order.push_back((now, self.name, bytes));
        kept.bytes += bytes;
        kept.forget_the_oldest(now);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut kept = self.shim.replies.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    let under_way = match UnderWay::begin(shim, *name.finalize().as_bytes()) {
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
            let (status, headers) = (answer.status, answer.headers.clone());
            under_way.done(Reply::Done { request, status, headers, body: sent.clone() }, sent.len() + OVERHEAD_BYTES);
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
