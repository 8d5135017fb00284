//! One client: its frames in order, its documents side by side, and a queue of what it is to be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use commonhold_engine::transport::Stream;
use commonhold_engine::{DocId, Error, Wants, wants};
use futures_util::{Sink, SinkExt, StreamExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Upgrade};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tracing::debug;

use super::document::Talk;
use super::hub::Hub;
use super::ids::RepoId;
use super::wire::{FRAME_BYTES_MAX, Frame, Speech};
use crate::http::is_blocked;
use crate::shim::guard::refusal;
use crate::shim::problem::{MEDIA_TYPE, Problem};

/// For the upgrade, and again for the join.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between pings; clients answer them by themselves.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Without any frame for so long, three pings among them, a client is gone.
const IDLE: Duration = Duration::from_secs(70);
/// For one frame to leave. Who takes longer is hung up on, so that what waits for it has an end.
const WRITE: Duration = Duration::from_secs(30);
/// Frames that wait for a client. Each document has one sync message at most among them.
const QUEUE: usize = 16;
/// Messages of a client about one document that wait for the one before.
const SAID: usize = 4;
/// Documents that a client has open, at about 30 KB of memory each beside their content.
const DOCUMENTS_MAX: usize = 4_096;
/// Before a client is told that a document is not here: another may just have made it.
const UNAVAILABLE_AFTER: Duration = Duration::from_millis(500);
/// Documents that a client asked for and that may still come.
const WANTED_MAX: usize = 4_096;
/// Frames a second that a client may send for long, and at once. Beyond it they wait in its socket.
const FRAMES_PER_S: u32 = 1_000;
const FRAMES_AT_ONCE: f64 = 16_384.0;
/// Bytes of the reason of a close; a close frame holds 123.
const REASON_BYTES_MAX: usize = 120;

const BLOCKED: &str = "this peer's operator has blocked your address";

/// What a client did broke the rules.
pub(super) const CLOSE_POLICY: u16 = 1008;
/// Something failed here.
pub(super) const CLOSE_FAULT: u16 = 1011;
/// Another time it may go.
pub(super) const CLOSE_LATER: u16 = 1013;
/// The client said that it goes, or has come again.
const CLOSE_NORMAL: u16 = 1000;

/// What leaves for a client.
pub(super) enum Outgoing {
    Frame(Vec<u8>),
    /// The last: a frame that says why, and the close. Without a frame, an error is made of the reason.
    Close {
        code: u16,
        reason: String,
        frame: Option<Vec<u8>>,
    },
}

/// Serves a client until it is gone.
pub(super) async fn serve(hub: Arc<Hub>, stream: impl Stream, from: SocketAddr) {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(16 << 10)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let mut blocked = pin!(is_blocked(hub.node.block_list(), from));
    let refused = refusal(&hub.node, from);
    let answer = |_: &Upgrade, answer| refused.map_or(Ok(answer), |problem| Err(refused_upgrade(problem)));
    let socket = match timeout(HANDSHAKE, accept_hdr_async_with_config(stream, answer, Some(config))).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return debug!(%from, %error, "no upgrade"),
        Err(_) => return debug!(%from, "the upgrade took too long"),
    };
    let (sink, mut frames) = socket.split();
    let (queue, outgoing) = mpsc::channel(QUEUE);
    let (gone, replaced) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut writing = tokio::spawn(write(sink, outgoing, hub.name.clone(), gone.clone()));
    let mut connection = Connection {
        from,
        moves: hub.moves(),
        hub,
        queue,
        client: None,
        talks: BTreeMap::new(),
        wanted: BTreeSet::new(),
        unanswered: VecDeque::new(),
        running: JoinSet::new(),
        room: (FRAMES_AT_ONCE, Instant::now()),
    };
    let mut heard = Instant::now();
    let last = loop {
        let patience = if connection.client.is_some() { IDLE } else { HANDSHAKE };
        let due = connection.answer_due(heard + IDLE);
        let step = tokio::select! {
            frame = frames.next() => {
                let Some(Ok(frame)) = frame else { break None };
                if connection.client.is_some() {
                    heard = Instant::now();
                }
                if let Some(problem) = refusal(&connection.hub.node, from) {
                    break Some(Outgoing::Close { code: CLOSE_LATER, reason: problem.detail, frame: None });
                }
                match frame {
                    Message::Binary(bytes) => connection.frame(&bytes, &replaced).await,
                    Message::Text(_) => Err(Outgoing::policy("a text message; frames are binary")),
                    Message::Close(_) => break None,
                    _ => Ok(()),
                }
            }
            moved = connection.moves.recv() => connection.moved(moved).await,
            () = replaced.notified() => Err(Outgoing::normal("the same client has connected again")),
            () = gone.notified() => break None,
            () = &mut blocked => Err(Outgoing::policy(BLOCKED)),
            Some(_) = connection.running.join_next() => Ok(()),
            () = sleep_until(due) => connection.answer().await,
            () = sleep_until(heard + patience) => Err(Outgoing::policy("nothing came for too long")),
        };
        if let Err(last) = step {
            break Some(last);
        }
    };
    if let Some(Outgoing::Close { reason, .. }) = &last {
        debug!(%from, reason, "hanging up");
    }
    if let Some(client) = &connection.client {
        connection.hub.leave(client.number);
    }
    connection.running.shutdown().await;
    let told = match last {
        Some(last) => timeout(WRITE, connection.queue.send(last)).await.is_ok_and(|sent| sent.is_ok()),
        None => false,
    };
    if !told {
        writing.abort();
    }
    drop(connection);
    let _ = timeout(WRITE, &mut writing).await;
    writing.abort();
}

/// The answer to an upgrade that is not granted.
fn refused_upgrade(problem: Problem) -> ErrorResponse {
    let status = problem.kind.status();
    let mut response = ErrorResponse::new(serde_json::to_string(&problem.details()).ok());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// Sends what is queued, and pings.
async fn write(
    mut sink: impl Sink<Message> + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing>,
    name: String,
    gone: Arc<Notify>,
) {
    let mut pings = interval(PING_EVERY);
    let mut sends = async |message| matches!(timeout(WRITE, sink.send(message)).await, Ok(Ok(())));
    loop {
        let sent = tokio::select! {
            next = outgoing.recv() => match next {
                None => break,
                Some(Outgoing::Frame(frame)) => sends(Message::Binary(frame.into())).await,
                Some(Outgoing::Close { code, reason, frame }) => {
                    let frame = frame.unwrap_or_else(|| Speech { from: &name, to: "" }.error(&reason));
                    let reason = reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].into();
                    let close = CloseFrame { code: CloseCode::from(code), reason };
                    let _ = sends(Message::Binary(frame.into())).await && sends(Message::Close(Some(close))).await;
                    break;
                }
            },
            _ = pings.tick() => sends(Message::Ping(Bytes::new())).await,
        };
        if !sent {
            break;
        }
    }
    gone.notify_one();
}

impl Outgoing {
    fn policy(reason: impl Into<String>) -> Outgoing {
        Outgoing::Close { code: CLOSE_POLICY, reason: reason.into(), frame: None }
    }

    fn normal(reason: &str) -> Outgoing {
        Outgoing::Close { code: CLOSE_NORMAL, reason: reason.into(), frame: None }
    }
}

struct Connection {
    from: SocketAddr,
    hub: Arc<Hub>,
    queue: mpsc::Sender<Outgoing>,
    moves: tokio::sync::broadcast::Receiver<RepoId>,
    /// Who it is, once it has joined.
    client: Option<Joined>,
    talks: BTreeMap<RepoId, Open>,
    /// Asked for, and not here.
    wanted: BTreeSet<RepoId>,
    /// Those of them of which the client is not told yet that they are not here, and when it will be.
    unanswered: VecDeque<(Instant, RepoId)>,
    running: JoinSet<()>,
    /// Frames that may come at once, as of when.
    room: (f64, Instant),
}

#[derive(Clone)]
struct Joined {
    name: Arc<str>,
    number: u64,
}

/// A document that the client has open.
struct Open {
    doc: DocId,
    say: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

type Step = Result<(), Outgoing>;

impl Connection {
    async fn frame(&mut self, bytes: &[u8], replaced: &Arc<Notify>) -> Step {
        self.pace().await;
        let frame = Frame::read(bytes).map_err(|bad| Outgoing::policy(bad.to_string()))?;
        let joined = match (self.client.clone(), frame) {
            (None, Frame::Join { peer, storage, speaks }) => return self.join(peer, storage, speaks, replaced).await,
            (None, _) => return Err(Outgoing::policy("the first message must be a join")),
            (Some(_), Frame::Join { .. }) => return Err(Outgoing::policy("a second join")),
            (Some(joined), frame) => (joined, frame),
        };
        match joined {
            (_, Frame::Leave) => Err(Outgoing::normal("goodbye")),
            (joined, Frame::Sync { id, data }) => self.sync(&joined, id, data).await,
            (joined, Frame::Ephemeral(message)) => {
                self.hub.relay(joined.number, &message);
                Ok(())
            }
            (joined, Frame::Subscribe { add, remove }) => {
                self.hub.subscribe(joined.number, &add, &remove);
                Ok(())
            }
            (_, Frame::Join { .. } | Frame::Other) => Ok(()),
        }
    }

    /// Waits while the client sends more frames than it may.
    async fn pace(&mut self) {
        let now = Instant::now();
        let (room, at) = self.room;
        let room = (room + (now - at).as_secs_f64() * f64::from(FRAMES_PER_S)).min(FRAMES_AT_ONCE) - 1.0;
        self.room = (room, now);
        if room < 0.0 {
            sleep_until(now + Duration::from_secs(1) / FRAMES_PER_S).await;
        }
    }

    async fn join(&mut self, peer: &str, storage: Option<&str>, speaks: bool, replaced: &Arc<Notify>) -> Step {
        let (from, name): (&str, Arc<str>) = (&self.hub.name, peer.into());
        let speech = Speech { from, to: &name };
        if !speaks {
            let reason = "unsupported protocol version; this peer speaks version 1".to_owned();
            let frame = Some(speech.error(&reason));
            return Err(Outgoing::Close { code: CLOSE_POLICY, reason, frame });
        }
        let answer = speech.peer(&self.hub.storage);
        self.tell(answer).await?;
        let number = self.hub.join(peer, storage, self.queue.clone(), replaced.clone());
        debug!(from = %self.from, client = peer, number, "a client joined");
        self.client = Some(Joined { name, number });
        Ok(())
    }

    /// Queues a frame. Who does not take what is queued in time is cut off by the writer.
    async fn tell(&self, frame: Vec<u8>) -> Step {
        self.queue.send(Outgoing::Frame(frame)).await.map_err(|_| Outgoing::normal("gone"))
    }

    async fn sync(&mut self, joined: &Joined, id: RepoId, data: &[u8]) -> Step {
        let running = self.talks.get(&id).filter(|open| !open.task.is_finished());
        let say = match (running, self.hub.find(id)) {
            (Some(open), _) => open.say.clone(),
            (None, Some(doc)) => self.open(joined, id, doc, false).await?,
            (None, None) => {
                let speech = Speech { from: &self.hub.name, to: &joined.name };
                match wants(data).map_err(|bad| Outgoing::policy(format!("document {id}: {bad}")))? {
                    Wants::It if self.unanswered.len() < WANTED_MAX => {
                        if self.wanted.len() < WANTED_MAX {
                            self.wanted.insert(id);
                        }
                        self.unanswered.push_back((Instant::now() + UNAVAILABLE_AFTER, id));
                        return Ok(());
                    }
                    Wants::It => return self.tell(speech.unavailable(id)).await,
                    Wants::ToBeAsked(question) => return self.tell(speech.sync(id, &question)).await,
                    Wants::ToGive => match self.hub.create(id).await {
                        Ok(doc) => self.open(joined, id, doc, false).await?,
                        Err(error @ (Error::StoreFailed(_) | Error::Closed)) => {
                            return Err(Outgoing::Close { code: CLOSE_LATER, reason: error.to_string(), frame: None });
                        }
                        Err(error) => {
                            self.tell(speech.error(&format!("document {id}: {error}"))).await?;
                            return self.tell(speech.unavailable(id)).await;
                        }
                    },
                }
            }
        };
        // A talk that has just ended said why.
        let _ = say.send(data.to_vec()).await;
        Ok(())
    }

    /// When the next answer is due, or else this.
    fn answer_due(&self, or: Instant) -> Instant {
        self.unanswered.front().map_or(or, |(due, _)| *due)
    }

    /// Tells that documents are not here, where that is still so.
    async fn answer(&mut self) -> Step {
        let Some(joined) = &self.client else { return Ok(()) };
        while let Some((_, id)) = self.unanswered.pop_front_if(|(due, _)| *due <= Instant::now()) {
            if !self.talks.contains_key(&id) {
                self.tell(Speech { from: &self.hub.name, to: &joined.name }.unavailable(id)).await?;
            }
        }
        Ok(())
    }

    /// Begins to sync a document.
    async fn open(
        &mut self,
        joined: &Joined,
        id: RepoId,
        doc: DocId,
        begins: bool,
    ) -> Result<mpsc::Sender<Vec<u8>>, Outgoing> {
        if self.talks.len() >= DOCUMENTS_MAX && !self.talks.contains_key(&id) {
            return Err(Outgoing::policy(format!("more than {DOCUMENTS_MAX} documents on one connection")));
        }
        let (say, said) = mpsc::channel(SAID);
        let talk = Talk {
            hub: self.hub.clone(),
            client: joined.name.clone(),
            number: joined.number,
            id,
            doc,
            queue: self.queue.clone(),
        };
        let task = self.running.spawn(talk.run(said, begins));
        self.hub.set_open(joined.number, id, true);
        self.wanted.remove(&id);
        if let Some(before) = self.talks.insert(id, Open { doc, say: say.clone(), task }) {
            before.task.abort();
        }
        Ok(say)
    }

    /// An id means another document than before, or one at last. If too much was missed, each is looked at.
    async fn moved(&mut self, moved: Result<RepoId, RecvError>) -> Step {
        let Some(joined) = self.client.clone() else { return Ok(()) };
        let ids: Vec<RepoId> = match moved {
            Ok(id) => vec![id],
            Err(RecvError::Lagged(_)) => self.talks.keys().chain(&self.wanted).copied().collect(),
            // The hub goes with the gateway.
            Err(RecvError::Closed) => return Err(Outgoing::normal("the gateway closes")),
        };
        for id in ids {
            let Some(doc) = self.hub.find(id) else { continue };
            let open = self.talks.get(&id).is_some_and(|open| open.doc != doc);
            if open || self.wanted.contains(&id) {
                self.open(&joined, id, doc, true).await?;
            }
        }
        Ok(())
    }
}
