//! What HTTP costs: patches of one field that are durable when they are answered, and events to many pages at once.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::child::wall_ms;
use super::origin::Origin;
use super::runs::Built;
use super::{Report, Result};

const CLIENTS: usize = 50;
const WRITE_FOR: Duration = Duration::from_secs(10);
/// Events: pages, edits a second, and for how long.
const PAGES: usize = 500;
const EDITS_PER_S: u64 = 20;
const EVENTS_FOR_S: u64 = 10;

/// `docs`: documents that the clients share.
pub(super) async fn run(docs: usize) -> Result<Report> {
    let built = super::runs::build_many(docs).await?;
    let settings = [("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0"), ("COMMONHOLD_HTTP_OPEN", "*:write")];
    let origin = Origin::start(&built, &settings).await?;
    let host = origin.fact("http")?;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let url = document(&built, client % docs);
        let mut http = Client::connect(host).await?;
        clients.spawn(async move {
            let (begun, mut ms) = (Instant::now(), Vec::new());
            while begun.elapsed() < WRITE_FOR {
                let patch = json!({ "field": ms.len(), format!("client{client}"): ms.len() });
                let asked = Instant::now();
                http.ask("PATCH", &url, "application/merge-patch+json", &patch.to_string()).await?;
                ms.push(asked.elapsed().as_secs_f64() * 1_000.0);
            }
            Result::Ok((begun.elapsed().as_secs_f64(), ms))
        });
    }
    let (mut seconds, mut all) = (0f64, Vec::new());
    while let Some(done) = clients.join_next().await {
        let (took, ms) = done??;
        seconds = seconds.max(took);
        all.extend(ms);
    }
    let mut report = Report { size: docs as u64, seconds: Some(seconds), ..Report::default() };
    report.per_s = Some(all.len() as f64 / seconds);
    report.set_latencies(all);
    report.sse_p99_ms = Some(events(host, &built).await?);
    report.origin_rss_kb = Some(origin.rss_kb()?);
    origin.kill().await?;
    Ok(report)
}

fn document(built: &Built, at: usize) -> String {
    format!("/v1/spaces/{}/docs/{}", built.space(), built.docs()[at])
}

/// The latency from an edit to a page that one in a hundred exceeds.
async fn events(host: &str, built: &Built) -> Result<f64> {
    let url = document(built, 0);
    let (told, mut heard) = unbounded_channel();
    let mut pages = JoinSet::new();
    for _ in 0..PAGES {
        let page = Page::open(host, &format!("{url}/events")).await?;
        pages.spawn(page.listen(told.clone()));
    }
    drop(told);
    // All have the snapshot before the first edit.
    for _ in 0..PAGES {
        heard.recv().await.ok_or("a page got no snapshot")?;
    }
    let mut writer = Client::connect(host).await?;
    let mut every = tokio::time::interval(Duration::from_millis(1_000 / EDITS_PER_S));
    let edits = EDITS_PER_S * EVENTS_FOR_S;
    for _ in 0..edits {
        every.tick().await;
        let patch = json!({ "at": wall_ms() });
        writer.ask("PATCH", &url, "application/merge-patch+json", &patch.to_string()).await?;
    }
    let mut ms = Vec::new();
    while ms.len() < PAGES * edits as usize {
        ms.push(heard.recv().await.flatten_or("a page heard too little")?);
    }
    pages.shutdown().await;
    let mut report = Report::default();
    report.set_latencies(ms);
    report.p99_ms.ok_or_else(|| "no events".into())
}

trait FlattenOr {
    fn flatten_or(self, what: &'static str) -> Result<f64>;
}

impl FlattenOr for Option<Option<f64>> {
    fn flatten_or(self, what: &'static str) -> Result<f64> {
        self.flatten().ok_or_else(|| what.into())
    }
}

/// As little of an HTTP client as does, so that it is not what is measured.
struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    async fn connect(host: &str) -> Result<Client> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream), host: host.to_owned() })
    }

    async fn ask(&mut self, method: &str, url: &str, kind: &str, body: &str) -> Result<Vec<u8>> {
        let head = format!(
            "{method} {url} HTTP/1.1\r\nhost: {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await?;
        let (status, length) = self.head().await?;
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        match status {
            200..300 => Ok(answer),
            _ => Err(format!("{status}: {}", String::from_utf8_lossy(&answer)).into()),
        }
    }

    async fn head(&mut self) -> Result<(u16, usize)> {
        let (mut status, mut length, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err("the origin hung up".into());
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3).unwrap_or_default().parse()?;
            }
            if let Some(rest) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = rest.trim().parse()?;
            }
            if line == "\r\n" {
                return Ok((status, length));
            }
        }
    }
}

/// A page that follows a document.
struct Page(Client);

impl Page {
    async fn open(host: &str, url: &str) -> Result<Page> {
        let mut client = Client::connect(host).await?;
        let head = format!("GET {url} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        client.stream.write_all(head.as_bytes()).await?;
        match client.head().await? {
            (200, _) => Ok(Page(client)),
            (status, _) => Err(format!("no stream of events: {status}").into()),
        }
    }

    /// Tells of the snapshot, and then of each patch how long it took.
    async fn listen(mut self, told: UnboundedSender<Option<f64>>) {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let now = wall_ms();
            let Ok(data) = serde_json::from_str::<Json>(data) else { continue };
            let sent = if data["patch"].is_array() { data["patch"][0]["value"].as_f64() } else { None };
            let _ = told.send(sent.map(|sent| now - sent));
        }
    }
}
