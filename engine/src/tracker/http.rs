//! Announcing over HTTP: one request on one connection, within a time and a size.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use commonhold_sync::message::{Announce, Peers};
use ed25519_dalek::SigningKey;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{AnnounceAnswer, AnnounceRequest, PEERS_JSON_MAX};
use crate::transport::{TransportConfig, connect};

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A tracker that is reached over HTTP: `http://host:port`, or `https://host:port` (port 443 if it is missing).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpTracker {
    /// As in a URL, an IPv6 address in brackets.
    host: String,
    port: u16,
    tls: bool,
}

/// Text that does not name one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a tracker such as http://example.org:7341, found {0:?}")]
pub struct HttpTrackerError(String);

impl FromStr for HttpTracker {
    type Err = HttpTrackerError;

    fn from_str(text: &str) -> Result<Self, HttpTrackerError> {
        let fault = || HttpTrackerError(text.chars().take(80).collect());
        let (tls, rest) = match text.strip_prefix("http://") {
            Some(rest) => (false, rest),
            None => (true, text.strip_prefix("https://").ok_or_else(fault)?),
        };
        let uri: hyper::http::uri::Authority = rest.trim_end_matches('/').parse().map_err(|_| fault())?;
        if uri.host().is_empty() || uri.as_str().contains('@') {
            return Err(fault());
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(HttpTracker { host: uri.host().to_owned(), port, tls })
    }
}

impl fmt::Display for HttpTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }
}

/// Announces, and gives what the tracker answered; its records are not verified yet.
pub(crate) async fn announce(
    tracker: &HttpTracker,
    key: &SigningKey,
    announce: &Announce,
    config: &TransportConfig,
) -> Result<Peers, String> {
    let body = serde_json::to_vec(&AnnounceRequest::sign(key, announce)).map_err(|error| error.to_string())?;
    let asking = ask(tracker, body, config);
    timeout(PATIENCE, asking).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?
}

async fn ask(tracker: &HttpTracker, body: Vec<u8>, config: &TransportConfig) -> Result<Peers, String> {
    let host = tracker.host.trim_matches(['[', ']']);
    let stream = connect(host, tracker.port, tracker.tls, config).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::post("/v1/announce")
        .header(HOST, format!("{}:{}", tracker.host, tracker.port))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), PEERS_JSON_MAX).collect().await;
        Ok::<_, String>((status, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    // Whatever ends the connection early ends the answer too.
    let driving = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    let (status, body) = tokio::select! {
        answered = answering => answered?,
        never = driving => match never {},
    };
    if status != StatusCode::OK {
        let shown: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        return Err(format!("it answered {status}: {shown}"));
    }
    let answer: AnnounceAnswer = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(answer.peers())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_prints_back_to_the_text_that_names_it() {
        for (text, shown) in [
            ("http://example.org", "http://example.org:80"),
            ("http://127.0.0.1:7341/", "http://127.0.0.1:7341"),
            ("http://[::1]:7341", "http://[::1]:7341"),
            ("https://example.org", "https://example.org:443"),
            ("https://example.org:7341/", "https://example.org:7341"),
        ] {
            assert_eq!(text.parse::<HttpTracker>().unwrap().to_string(), shown);
        }
        for bad in ["", "https://", "https://a/b", "ws://a", "http://", "http://a/b", "http://u@a", "http://a b"] {
            assert!(bad.parse::<HttpTracker>().is_err(), "{bad}");
        }
    }
}
