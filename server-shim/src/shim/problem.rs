//! What an answer says when there is none: problem details (RFC 9457) whose `type` stays the same in all versions.

use std::collections::BTreeMap;

use axum::Json as Answer;
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{BadMessage, EditError, EditFailure, Error, ForeignSyncError};
use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::failure::chain;

/// What went wrong; `docs/http.md` and the OpenAPI document say it of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    BadRequest,
    NoToken,
    NotAllowed,
    Blocked,
    NotFound,
    Gone,
    Method,
    NotAcceptable,
    Conflict,
    Stale,
    Precondition,
    TooLarge,
    MediaType,
    Unprocessable,
    Stalled,
    TooMany,
    Quota,
    NotYet,
    Unavailable,
    Internal,
}

impl Kind {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Kind::BadRequest => StatusCode::BAD_REQUEST,
            Kind::NoToken => StatusCode::UNAUTHORIZED,
            Kind::NotAllowed | Kind::Blocked => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Gone => StatusCode::GONE,
            Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
            Kind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Stale => StatusCode::PRECONDITION_FAILED,
            Kind::Precondition => StatusCode::PRECONDITION_REQUIRED,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Stalled => StatusCode::REQUEST_TIMEOUT,
            Kind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Kind::Quota => StatusCode::INSUFFICIENT_STORAGE,
            Kind::NotYet | Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The last part of its `type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::BadRequest => "bad-request",
            Kind::NoToken => "no-token",
            Kind::NotAllowed => "not-allowed",
            Kind::Blocked => "blocked",
            Kind::NotFound => "not-found",
            Kind::Gone => "gone",
            Kind::Method => "method",
            Kind::NotAcceptable => "not-acceptable",
            Kind::Conflict => "conflict",
            Kind::Stale => "stale",
            Kind::Precondition => "precondition",
            Kind::TooLarge => "too-large",
            Kind::MediaType => "media-type",
            Kind::Unprocessable => "unprocessable",
            Kind::Stalled => "stalled",
            Kind::TooMany => "too-many",
            Kind::Quota => "quota",
            Kind::NotYet => "not-yet",
            Kind::Unavailable => "unavailable",
            Kind::Internal => "internal",
        }
    }

    /// What it says, in general.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Kind::BadRequest => "the request cannot be read: a header, a parameter or the body",
            Kind::NoToken => "no token, or one that is unknown, expired or revoked",
            Kind::NotAllowed => {
                "the token gives no right to do that here, this peer has none itself, its operator has not switched that on, or a page of a strange origin or host asks"
            }
            Kind::Blocked => "the operator of this peer has blocked the caller's address, the space or the document",
            Kind::NotFound => "nothing is there, or nothing that the caller may know of",
            Kind::Gone => "the version is not held here, the document was deleted, or the token is of another store",
            Kind::Method => "the resource does not know this method",
            Kind::NotAcceptable => "none of the forms that were asked for exists",
            Kind::Conflict => {
                "what is there stands against it: a test of a patch that fails, the same request under way, somebody else's id at a document, a webhook that is off or has a newer event, a space with as many webhooks as it may"
            }
            Kind::Stale => "the document is not as `If-Match` or `If-None-Match` says",
            Kind::Precondition => "a whole document is only replaced with `If-Match` or `Parents`",
            Kind::TooLarge => "the body, or a value in it, is larger than this peer or the rules of the space take",
            Kind::MediaType => "the body is of a type that this resource does not take",
            Kind::Unprocessable => "the body can be read, and does not fit the document, or names what may not be",
            Kind::Stalled => "the body stopped coming",
            Kind::TooMany => "too many at once, or the caller's address has had all that it may in a day",
            Kind::Quota => {
                "the space, its blobs or the document take more than they may on this peer, this peer has as many webhooks as it may, or the disk is full"
            }
            Kind::Unavailable => "the store fails at present, or the peer is stopping",
            Kind::Internal => "a fault of this peer",
            Kind::NotYet => "what was asked for has not arrived in the time that the request gave",
        }
    }

    /// Its `type`.
    pub(crate) fn urn(self) -> String {
        format!("urn:commonhold:problem:{}", self.name())
    }
}

/// Of problem details.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// Why there is no answer: problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Details {
    /// Which problem it is; the same in all versions.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The status in words.
    pub(super) title: String,
    pub(super) status: u16,
    /// For people: what was wrong, and what to do.
    pub(super) detail: String,
    /// The log has it as well.
    pub(super) trace_id: String,
    /// For programs: `version` and `etag` of a document that has changed, `snapshot` in place of a version that is gone.
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Json>,
}

/// An answer that is none.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    /// For people: what was wrong, and what to do.
    pub(crate) detail: String,
    /// For programs, beside the standard members.
    pub(super) more: BTreeMap<String, Json>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem { kind, detail: detail.into(), more: BTreeMap::new(), headers: Vec::new() }
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Problem {
        Problem::new(Kind::BadRequest, detail)
    }

    pub(crate) fn with(mut self, member: &str, value: impl Into<Json>) -> Problem {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    /// What a program reads, for who answers without axum.
    pub(crate) fn details(self) -> Details {
        let status = self.kind.status();
        // So that a person's complaint and a line of the log can be brought together.
        let trace = format!("{:016x}", fastrand::u64(..));
        // What a caller did not wait for is no fault, and callers could fill the log with it.
        match status.is_server_error() && self.kind != Kind::NotYet {
            true => tracing::warn!(%trace, status = status.as_u16(), detail = %self.detail, "answered with a problem"),
            false => {
                tracing::debug!(%trace, status = status.as_u16(), detail = %self.detail, "answered with a problem")
            }
        }
        Details {
            kind: self.kind.urn(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            trace_id: trace,
            more: self.more,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let (kind, more) = (self.kind, std::mem::take(&mut self.headers));
        let mut response = (kind.status(), Answer(self.details())).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        match kind {
            Kind::NoToken => _ = headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Kind::TooMany | Kind::Unavailable | Kind::NotYet => {
                _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))
            }
            Kind::NotAcceptable => _ = headers.insert(ACCEPT, HeaderValue::from_static("application/json")),
            _ => {}
        }
        for (name, value) in more {
            headers.insert(name, value);
        }
        response
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Problem {
        let kind = match &error {
            EditError::TooLarge { .. } | EditError::TooDeep { .. } => Kind::TooLarge,
            EditError::UnknownVersion => Kind::Gone,
            EditError::NotFound(_) => Kind::NotFound,
            EditError::NoChain | EditError::ChainForked | EditError::Broken | EditError::Full => Kind::Unavailable,
            _ => Kind::Unprocessable,
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let kind = match &error {
            Error::Edit(inner) => return inner.clone().into(),
            Error::UnknownSpace(_) | Error::UnknownDocument(_) => Kind::NotFound,
            Error::Deleted(_) => Kind::Gone,
            Error::NotAllowed(_) => Kind::NotAllowed,
            Error::Blocked(_) => Kind::Blocked,
            Error::Quota | Error::Quarantined { .. } => Kind::Quota,
            Error::SpaceNotReady(_) | Error::NotTaken(_) => Kind::NotYet,
            Error::TooMuch { .. } => Kind::TooMany,
            Error::BlobFailed(_) => match error.code() {
                "blob_quota" => Kind::Quota,
                "blob_too_large" => Kind::TooLarge,
                _ => Kind::Unavailable,
            },
            Error::StoreFailed(_) if error.code() == "store_full" => Kind::Quota,
            Error::Closed | Error::StoreFailed(_) | Error::Damaged { .. } | Error::DoesNotFit(_) => Kind::Unavailable,
            Error::Import(_) => Kind::Unprocessable,
            _ => Kind::Internal,
        };
        Problem::new(kind, chain(&error))
    }
}

impl From<ForeignSyncError> for Problem {
    fn from(error: ForeignSyncError) -> Problem {
        let kind = match error {
            ForeignSyncError::Engine(inner) => return inner.into(),
            ForeignSyncError::Message(BadMessage::TooMuch { .. } | BadMessage::TooManyWait { .. }) => Kind::TooLarge,
            ForeignSyncError::Message(_) => Kind::BadRequest,
            _ => Kind::Unprocessable,
        };
        Problem::new(kind, chain(&error))
    }
}

impl From<EditFailure<Problem>> for Problem {
    fn from(failure: EditFailure<Problem>) -> Problem {
        match failure {
            EditFailure::App(problem) => problem,
            EditFailure::Engine(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 20] = [
        Kind::BadRequest,
        Kind::NoToken,
        Kind::NotAllowed,
        Kind::Blocked,
        Kind::NotFound,
        Kind::Gone,
        Kind::Method,
        Kind::NotAcceptable,
        Kind::Conflict,
        Kind::Stale,
        Kind::Precondition,
        Kind::TooLarge,
        Kind::MediaType,
        Kind::Unprocessable,
        Kind::Stalled,
        Kind::TooMany,
        Kind::Quota,
        Kind::NotYet,
        Kind::Unavailable,
        Kind::Internal,
    ];

    #[test]
    fn the_guide_lists_every_problem() {
        let guide = include_str!("../../../docs/http.md");
        for kind in ALL {
            let row = format!("| `{}` | {} | {} |", kind.name(), kind.status().as_u16(), kind.meaning());
            assert!(guide.contains(&row), "docs/http.md lacks: {row}");
        }
    }
}
