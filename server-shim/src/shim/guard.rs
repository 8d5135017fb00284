//! What stands before every request: pages of strangers are kept out, and bodies that stop coming end.
//!
//! A browser sends requests for any page. It says from which page, in `Origin`, where something may be changed. And a page whose name was made
//! to lead to this machine (DNS rebinding) may even read the answers: its name stands in `Host`.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header::{HOST, ORIGIN, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use commonhold_engine::Node;
use tower_http::timeout::{TimeoutBody, TimeoutError};

use super::Shim;
use super::access::is_anonymous;
use super::problem::{Kind, Problem};

/// How long the next part of a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// The address at which a connection was taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakenAt(pub(crate) SocketAddr);

/// The address from which it was made. Of all clients of a proxy it is the proxy's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CameFrom(pub(crate) SocketAddr);

pub(super) async fn guard(
    State(shim): State<Shim>,
    at: Option<Extension<TakenAt>>,
    from: Option<Extension<CameFrom>>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(refused) = from.and_then(|Extension(CameFrom(from))| refusal(&shim.node, from)) {
        return refused.into_response();
    }
    let (origins, headers) = (&shim.origins, request.headers());
    let changes = changes(request.method());
    if changes && !is_known_page(headers, origins) {
        let detail = "a page of that origin may change nothing here; http.origins names those that may";
        return Problem::new(Kind::NotAllowed, detail).into_response();
    }
    let is_local = at.is_some_and(|Extension(TakenAt(address))| address.ip().is_loopback());
    if is_local && shim.access.opens() && is_foreign(headers, request.uri(), origins) {
        let detail = "without a token, this peer answers to localhost, to addresses, and to the hosts of http.origins";
        return Problem::new(Kind::NotAllowed, detail).into_response();
    }
    next.run(if changes { impatient(request, BODY_PATIENCE) } else { request }).await
}

/// Why an address is answered nothing.
pub(crate) fn refusal(node: &Node, from: SocketAddr) -> Option<Problem> {
    if node.block_list().borrow().has_address(from.ip()) {
        return Some(Problem::new(Kind::Blocked, "this peer's operator has blocked your address"));
    }
    let meter = node.addresses();
    meter.is_over(from.ip()).then(|| {
        let detail = "your address has had all that it may on this peer until midnight UTC";
        Problem::new(Kind::TooMany, detail).header(RETRY_AFTER, HeaderValue::from(meter.until_tomorrow().as_secs() + 1))
    })
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn impatient(request: Request, patience: Duration) -> Request {
    request.map(|body| Body::new(TimeoutBody::new(patience, body)))
}

/// The problem of a body that did not come whole.
pub(super) fn broken(error: &(dyn Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutError>() {
            let detail = format!("nothing more of the body came for {} s", BODY_PATIENCE.as_secs());
            return Problem::new(Kind::Stalled, detail);
        }
        cause = error.source();
    }
    Problem::bad(format!("the body did not come whole: {error}"))
}

/// No page at all, one of this host, or one of an origin that the configuration names.
fn is_known_page(headers: &HeaderMap, origins: &[HeaderValue]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let same = origin.to_str().ok().and_then(authority).is_some_and(|page| Some(page) == host);
    same || origins.iter().any(|known| known == "*" || known == origin)
}

/// Asks without a token, by a name that anybody could have made lead here.
fn is_foreign(headers: &HeaderMap, uri: &Uri, origins: &[HeaderValue]) -> bool {
    if !uri.path().starts_with("/v1/") || !is_anonymous(headers, uri) {
        return false;
    }
    // Browsers always say it.
    let Some(host) = headers.get(HOST) else { return false };
    let Ok(host) = host.to_str() else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let local = bare.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost");
    let named = |origin: &HeaderValue| origin == "*" || origin.to_str().ok().and_then(authority) == Some(host);
    !local && !origins.iter().any(named)
}

/// Host and port of an origin.
fn authority(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, authority)| authority)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use futures_util::stream;
    use tower::ServiceExt;

    use super::super::documents::Content;
    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn names_that_may_lead_here_are_told_from_those_that_anybody_can_make() {
        let foreign = |host, uri: &'static str, origins: &[HeaderValue]| {
            is_foreign(&of(&[("host", host)]), &Uri::from_static(uri), origins)
        };
        let named = [HeaderValue::from_static("https://app.example.org")];
        for host in [
            "localhost",
            "localhost:7342",
            "me.localhost",
            "127.0.0.1:7342",
            "[::1]:7342",
            "192.168.0.7",
            "app.example.org",
        ] {
            assert!(!foreign(host, "/v1/spaces", &named), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7342",
            "localhost.evil.example",
            "app.example.org.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(foreign(host, "/v1/spaces", &named), "{host}");
            assert!(!foreign(host, "/livez", &named) && !foreign(host, "/v1/spaces?ticket=1", &named), "{host}");
            assert!(!foreign(host, "/v1/spaces", &[HeaderValue::from_static("*")]), "{host}");
        }
        assert!(!is_foreign(
            &of(&[("host", "evil.example"), ("authorization", "Bearer x")]),
            &Uri::from_static("/v1/spaces"),
            &[]
        ));
    }

    #[test]
    fn pages_of_other_origins_change_nothing() {
        let known = [HeaderValue::from_static("https://app.example.org")];
        let is_known = |origin| is_known_page(&of(&[("host", "127.0.0.1:7342"), ("origin", origin)]), &known);
        assert!(is_known("http://127.0.0.1:7342") && is_known("https://app.example.org"));
        assert!(!is_known("http://evil.example") && !is_known("null") && !is_known("http://127.0.0.1:1"));
        assert!(is_known_page(&of(&[("host", "127.0.0.1")]), &[]));
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_ends_with_408() {
        let routes = Router::new().route("/", post(|_: Content| async {})).layer(from_fn(
            |request: Request, next: Next| async { next.run(impatient(request, Duration::from_millis(1))).await },
        ));
        let begun = stream::iter([Ok::<_, std::io::Error>("a beginning")]);
        let body = Body::from_stream(futures_util::StreamExt::chain(begun, stream::pending()));
        let answer = routes.oneshot(Request::post("/").body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
