//! The origin is restarted under load, twice, as a service manager does it: the listening sockets stay open, one process follows another at
//! them. No write fails, no event of a stream is lost or comes twice, and all peers end up with all that was answered for.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use common::{Home, PATIENCE, Served};
use commonhold_engine::{Config, DocId, Node, SpaceId};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const WRITERS: usize = 8;
const DOCUMENTS: usize = 4;
const STREAMS: usize = 100;
const PEERS: usize = 100;
/// Edits of each writer before the first restart, between the two, and after the second.
const EDITS: [usize; 3] = [6, 20, 34];

/// Holds the sockets, and starts one process after the other at them.
struct Manager {
    home: Home,
    peers: TcpListener,
    http: TcpListener,
}

impl Manager {
    fn new() -> Manager {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        Manager { home: Home::new(), peers: bind(), http: bind() }
    }

    fn http(&self) -> SocketAddr {
        self.http.local_addr().unwrap()
    }

    fn start(&self) -> Served {
        let mut command = self.home.command();
        let sockets = [&self.peers, &self.http].map(|socket| socket.try_clone().unwrap().into());
        let mappings = (3..).zip(sockets).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        command
            .arg("serve")
            .env("LISTEN_FDS", "2")
            .env("COMMONHOLD_PEER_LISTEN", format!("ws://{}/", self.peers.local_addr().unwrap()))
            .env("COMMONHOLD_HTTP_LISTEN", self.http().to_string())
            .env("COMMONHOLD_HTTP_OPEN", "*:write")
            .fd_mappings(mappings.collect())
            .unwrap();
        self.home.serve_as(command)
    }
}

/// How an answer can fail to come.
#[derive(Debug)]
enum Unanswered {
    /// Nobody took the connection.
    Refused,
    /// The connection ended first.
    Broken,
}

/// A client that keeps its connection for as long as the other side does.
struct Client {
    host: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    fn new(host: SocketAddr) -> Client {
        Client { host, connection: None }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unanswered> {
        let usable = match &mut self.connection {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TcpStream::connect(self.host).await.map_err(|_| Unanswered::Refused)?;
            let (sender, talk) = handshake(TokioIo::new(stream)).await.map_err(|_| Unanswered::Broken)?;
            tokio::spawn(talk);
            self.connection = Some(sender);
        }
        let answered = self.connection.as_mut().unwrap().send_request(request).await;
        answered.map_err(|_| {
            self.connection = None;
            Unanswered::Broken
        })
    }
}

fn request(method: &str, path: &str) -> hyper::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "localhost")
}

/// Adds a key to a document again and again, as many as are allowed, and never gives one up. Gives those that were answered for.
async fn write(
    mut client: Client,
    path: String,
    writer: usize,
    mut allowed: watch::Receiver<usize>,
    written: Arc<[AtomicUsize]>,
    unanswered: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut done = Vec::new();
    while done.len() < EDITS[2] {
        allowed.wait_for(|allowed| done.len() < *allowed).await.unwrap();
        let key = format!("w{writer}-{}", done.len());
        let body = Bytes::from(json!({ &key: done.len() }).to_string());
        let answer = loop {
            let edit = request("PATCH", &path)
                .header("content-type", "application/merge-patch+json")
                .header("idempotency-key", &key)
                .body(Full::new(body.clone()));
            match client.send(edit.unwrap()).await {
                Ok(answer) => break answer,
                Err(Unanswered::Refused) => panic!("a connection was refused"),
                Err(Unanswered::Broken) => unanswered.fetch_add(1, Ordering::Relaxed),
            };
        };
        assert_eq!(answer.status(), 200, "{key}");
        // The connection is free for the next request only then.
        answer.into_body().collect().await.unwrap();
        done.push(key);
        written[writer].fetch_add(1, Ordering::Relaxed);
    }
    done
}

/// What a page knows that follows a document.
#[derive(Default)]
struct Page {
    version: String,
    /// How often each key came.
    told: BTreeMap<String, usize>,
    connections: usize,
}

impl Page {
    /// Takes what one event says. `false`: it was the last of its connection.
    fn take(&mut self, event: &str) -> bool {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let Some(name) = field("event:") else { return true };
        let data: Json = serde_json::from_str(field("data:").unwrap()).unwrap();
        match name {
            "bye" => {
                assert_eq!(data["reason"], "stopping");
                return false;
            }
            "snapshot" => {
                assert!(self.version.is_empty(), "what was missed was told as the whole document");
                self.told = data["document"].as_object().unwrap().keys().map(|key| (key.clone(), 1)).collect();
            }
            "patch" => {
                assert_eq!(data["parents"], self.version.as_str(), "something is missing between two events");
                for operation in data["patch"].as_array().unwrap() {
                    assert_eq!(operation["op"], "add");
                    let key = operation["path"].as_str().unwrap().trim_start_matches('/');
                    let times = self.told.entry(key.to_owned()).or_default();
                    *times += 1;
                    assert_eq!(*times, 1, "{key} came twice, the second time over connection {}", self.connections);
                }
            }
            other => panic!("an event {other}"),
        }
        self.version = field("id:").unwrap().to_owned();
        true
    }
}

/// Follows a document until so many keys were told, over as many connections as it takes.
async fn follow(host: SocketAddr, path: String, keys: usize, ready: Arc<AtomicUsize>) -> Page {
    let mut page = Page::default();
    while page.told.len() < keys {
        let mut ask = request("GET", &path);
        if !page.version.is_empty() {
            ask = ask.header("last-event-id", &page.version);
        }
        // A stream has a connection of its own.
        let answer = match Client::new(host).send(ask.body(Full::default()).unwrap()).await {
            Ok(answer) => answer,
            Err(Unanswered::Refused) => panic!("a connection was refused"),
            Err(Unanswered::Broken) => continue,
        };
        assert_eq!(answer.status(), 200);
        page.connections += 1;
        let (mut body, mut text) = (answer.into_body(), String::new());
        'connection: while page.told.len() < keys {
            let Some(Ok(frame)) = body.frame().await else { break };
            text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                if !page.take(&event) {
                    break 'connection;
                }
            }
            if page.connections == 1 && !page.version.is_empty() {
                ready.fetch_max(1, Ordering::Relaxed);
            }
        }
    }
    page
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while !holds() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited too long for {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_fails_no_write_and_loses_no_event() {
    let manager = Manager::new();
    let space: SpaceId = manager.home.run(&["space", "new", "--writers", "anyone"]).text().parse().unwrap();
    let docs: Vec<DocId> = (0..DOCUMENTS)
        .map(|n| manager.home.run(&["doc", "new", "--name", &format!("list-{n}")]).text().parse().unwrap())
        .collect();
    // So that each has a version.
    (0..DOCUMENTS).for_each(|n| _ = manager.home.run(&["set", &format!("list-{n}"), "begun", "1"]).text());
    let mut served = manager.start();
    let path = |n: usize| format!("/v1/spaces/{space}/docs/{}", docs[n % DOCUMENTS]);

    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let peer = Node::open(Config::default()).await.unwrap();
        peer.join(&served.invite().parse().unwrap()).await.unwrap();
        peers.push(peer);
    }
    let origin = served.facts["peer"].as_str().unwrap().parse().unwrap();
    for peer in &peers {
        timeout(PATIENCE, peer.wait_level(space, origin)).await.unwrap().unwrap();
    }
    let keys = 1 + WRITERS / DOCUMENTS * EDITS[2];
    let ready: Vec<_> = (0..STREAMS).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let mut streams = JoinSet::new();
    for (n, ready) in ready.iter().enumerate() {
        streams.spawn(follow(manager.http(), format!("{}/events", path(n)), keys, ready.clone()));
    }
    until("all streams", || ready.iter().all(|ready| ready.load(Ordering::Relaxed) > 0)).await;

    let (allow, allowed) = watch::channel(EDITS[0]);
    let written: Arc<[AtomicUsize]> = (0..WRITERS).map(|_| AtomicUsize::new(0)).collect();
    let unanswered = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let client = Client::new(manager.http());
        writers.spawn(write(client, path(n), n, allowed.clone(), written.clone(), unanswered.clone()));
    }
    let mut pauses = Vec::new();
    for edits in [EDITS[1], EDITS[2]] {
        until("the first edits", || {
            written.iter().all(|written| written.load(Ordering::Relaxed) >= *allow.borrow() - 2)
        })
        .await;
        // All writers go on while the process is told to stop.
        allow.send_replace(edits);
        let begun = Instant::now();
        served.signal(Signal::TERM);
        let (status, _, log) = tokio::task::block_in_place(|| served.ended());
        assert!(status.success() && !log.contains("gave up waiting"), "{log}");
        served = tokio::task::block_in_place(|| manager.start());
        pauses.push(begun.elapsed());
    }

    let mut answered = BTreeSet::new();
    while let Some(done) = timeout(PATIENCE, writers.join_next()).await.unwrap() {
        answered.extend(done.unwrap());
    }
    assert_eq!(answered.len(), WRITERS * EDITS[2]);
    answered.insert("begun".to_owned());
    let mut connections = 0;
    while let Some(page) = timeout(PATIENCE, streams.join_next()).await.unwrap() {
        let page = page.unwrap();
        assert!(page.told.values().all(|times| *times == 1), "an event came twice");
        assert!(page.told.keys().all(|key| answered.contains(key)));
        connections += page.connections;
    }
    for peer in &peers {
        for doc in &docs {
            let document = peer.open_document(space, *doc).await.unwrap();
            let all = async {
                let mut watch = document.watch();
                while document.read(|view| view.to_json().as_object().unwrap().len()).await.unwrap() < keys {
                    watch.next().await.unwrap();
                }
            };
            timeout(PATIENCE, all).await.unwrap();
        }
    }
    // The connections of writers break only where a request crosses the end of an idle connection.
    assert_eq!(unanswered.load(Ordering::Relaxed), 0, "requests without an answer");
    println!("restarts took {pauses:?}; {connections} streams for {STREAMS} pages");
    let (status, _, log) = tokio::task::block_in_place(|| served.stop());
    assert!(status.success(), "{log}");
}

#[test]
fn a_socket_at_which_nothing_listens_is_refused() {
    let manager = Manager::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let run = |socket: &TcpListener| {
        let mut command = manager.home.command();
        let mapping = FdMapping { parent_fd: socket.try_clone().unwrap().into(), child_fd: 3 };
        command.arg("serve").env("LISTEN_FDS", "1").fd_mappings(vec![mapping]).unwrap();
        common::finish(&mut command)
    };
    let address = other.local_addr().unwrap().to_string();
    run(&other).fails(2, &["nothing listens at", &address, "http.listen"]);
}

/// The files of `dist` fit each other: what systemd listens at is what the configuration names, and systemd takes the units.
#[test]
fn the_units_are_those_of_their_configuration() {
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let text = |name: &str| std::fs::read_to_string(dist.join(name)).unwrap();
    let printed =
        Home::new().run(&["config", "print", "--json", "--config", dist.join("config.toml").to_str().unwrap()]);
    let printed = printed.json();
    let named: Vec<&str> = ["peer.listen", "http.listen"].map(|key| printed[key]["value"].as_str().unwrap()).into();
    let socket = text("commonhold.socket");
    let streams: Vec<&str> = socket.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    assert_eq!(streams.len(), named.len());
    assert!(streams.iter().all(|at| named.iter().any(|named| named == at || *named == format!("ws://{at}/"))));

    let folder = tempfile::tempdir().unwrap();
    let here = text("commonhold.service")
        .replace("/usr/bin/commonhold", env!("CARGO_BIN_EXE_commonhold"))
        .replace("Documentation=", "#");
    std::fs::write(folder.path().join("commonhold.service"), here).unwrap();
    std::fs::write(folder.path().join("commonhold.socket"), socket).unwrap();
    let mut analyze = std::process::Command::new("systemd-analyze");
    analyze.arg("verify").args(["commonhold.service", "commonhold.socket"].map(|name| folder.path().join(name)));
    match analyze.output() {
        Ok(said) => assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr)),
        Err(error) => eprintln!("skipped: no systemd-analyze here ({error})"),
    }
}
