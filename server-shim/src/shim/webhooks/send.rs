//! One attempt to deliver an event: a request within a time, of whose answer nothing counts but its status.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use commonhold_engine::tls::{Roots, TlsError};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout};

use super::destination::Connector;
use crate::failure::chain;

/// For all of an attempt, up to the head of the answer. Standard Webhooks recommends 15 to 30 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read, so that its connection can be used again, and how long that may take.
const ANSWER_BYTES_MAX: usize = 4 << 10;
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the head of an answer (the least that hyper takes), and lines in it.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEAD_LINES_MAX: usize = 64;
/// How long a connection is kept for the next event, and how many of one host are.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 2;
/// Characters of an error that are kept.
const ERROR_MAX: usize = 300;

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(super) struct Attempted {
    /// Or why there is none, for people.
    pub(super) answer: Result<StatusCode, String>,
    /// When the receiver wants to be asked again.
    pub(super) retry_after: Option<Duration>,
    pub(super) took: Duration,
}

/// Sends events.
pub(super) struct Sender {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    patience: Duration,
}

impl Sender {
    /// The error is for the log.
    pub(super) fn new(connector: Connector, patience: Duration, roots: &Roots) -> Result<Sender, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(roots)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http1_max_headers(HEAD_LINES_MAX)
            .build(connector);
        Ok(Sender { client, patience })
    }

    /// Follows no redirect.
    pub(super) async fn post(&self, uri: Uri, headers: HeaderMap, body: Bytes) -> Attempted {
        let began = Instant::now();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let (answer, retry_after) = match timeout(self.patience, self.client.request(request)).await {
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                let read = Limited::new(body, ANSWER_BYTES_MAX).collect();
                // What is longer, or slower, is left unread, and its connection closed.
                let _ = timeout(ANSWER_PATIENCE.min(self.patience), read).await;
                (Ok(head.status), head.headers.get(RETRY_AFTER).and_then(wait))
            }
            Ok(Err(error)) => (Err(chain(&error).chars().take(ERROR_MAX).collect()), None),
            Err(_) => (Err(format!("no answer within {} ms", self.patience.as_millis())), None),
        };
        Attempted { answer, retry_after, took: began.elapsed() }
    }
}

/// As for whom this peer dials itself. Without any roots webhooks over http go on.
fn tls(roots: &Roots) -> Result<ClientConfig, String> {
    match roots.client_config() {
        Ok(config) => {
            let mut config = ClientConfig::clone(&config);
            // The connector says itself what is spoken inside.
            config.alpn_protocols.clear();
            Ok(config)
        }
        Err(TlsError::NoRoots(_)) => {
            tracing::warn!(
                "this system has no root certificates (Debian: ca-certificates): webhooks over https will fail"
            );
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.map_err(|error| error.to_string())?;
            Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
        }
        Err(error) => Err(chain(&error)),
    }
}

/// `Retry-After`: seconds, or a date.
fn wait(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &'static str| wait(&HeaderValue::from_static(text));
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(read("Tue, 01 Jan 2999 00:00:00 GMT").is_some_and(|wait| wait > Duration::from_secs(1 << 30)));
        assert_eq!((read("soon"), read("-1"), read("")), (None, None, None));
    }
}
