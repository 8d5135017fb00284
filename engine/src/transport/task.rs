//! One small task per connection, which owns both directions of a [`Link`]: frames come in through a queue that is
//! bounded in bytes, frames and the end go out to the one channel that all links share.
//!
//! Architecture Invariant: a link never waits for its owner to write, and its owner never waits for a link. A full event
//! channel stops reading (the socket then slows the other side down); a full queue refuses the frame.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use super::frame::Item;
use super::link::Link;
use super::{TransportConfig, TransportError};

/// What a queued frame costs beside its bytes, so that a queue of empty frames is bounded too.
const FRAME_COST: usize = 64;
/// Pings that may go unanswered.
const PINGS_MAX: u32 = 2;

/// What a link tells its owner. Per link: frames in order, then [`Closed`](LinkEvent::Closed) once, then nothing.
#[derive(Debug)]
pub enum LinkEvent {
    /// A frame came.
    Frame {
        /// The link.
        id: u64,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// A queue that was longer than [`TransportConfig::drained_bytes`], or had no room, is at most that long.
    Drained {
        /// The link.
        id: u64,
        /// What it still holds.
        bytes_pending: usize,
    },
    /// The link is gone.
    Closed {
        /// The link.
        id: u64,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a link ended.
#[derive(Debug)]
pub enum CloseReason {
    /// Its handle asked, or was dropped.
    Asked,
    /// The other side closed, and said this.
    Peer(String),
    /// The other side sent nothing for three keepalive times, two pings notwithstanding.
    Silent,
    /// The connection broke, or the other side broke the format.
    Failed(TransportError),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Asked => f.write_str("closed here"),
            CloseReason::Peer(reason) => write!(f, "closed by the other side: {reason:?}"),
            CloseReason::Silent => f.write_str("the other side fell silent"),
            CloseReason::Failed(error) => error.fmt(f),
        }
    }
}

/// Why a link did not take a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue is full: wait for [`LinkEvent::Drained`].
    #[error("the connection's queue is full")]
    Full,
    /// The frame is over the limit of a frame.
    #[error("the frame is too long")]
    TooLong,
    /// The link ended or is closing.
    #[error("the connection is closed")]
    Closed,
}

/// The owner's end of a link. Dropping it closes the link.
#[derive(Debug)]
pub struct LinkHandle {
    id: u64,
    queue: Arc<Queue>,
    config: Arc<TransportConfig>,
}

impl LinkHandle {
    /// The id that its events carry.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Queues one frame; does not wait. Frames that are queued together leave in one write. An empty queue takes any
    /// frame of allowed length.
    pub fn send(&self, frame: Vec<u8>) -> Result<(), SendError> {
        if frame.len() > self.config.frame_bytes_max {
            return Err(SendError::TooLong);
        }
        let waker = {
            let mut queue = self.queue.lock();
            if queue.closing || queue.close.is_some() {
                return Err(SendError::Closed);
            }
            let bytes = queue.bytes + frame.len() + FRAME_COST;
            if bytes > self.config.send_queue_bytes_max && queue.bytes > 0 {
                queue.drained_owed = true;
                return Err(SendError::Full);
            }
            queue.drained_owed |= bytes > self.config.drained_bytes;
            queue.bytes = bytes;
            queue.frames.push_back(frame);
            // A task that waits for the socket looks here by itself once the socket took what it has.
            if std::mem::take(&mut queue.idle) { queue.waker.take() } else { None }
        };
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Whether [`send`](Self::send) takes a frame of so many bytes now. If not, [`LinkEvent::Drained`] tells of room.
    pub fn has_room(&self, frame_bytes: usize) -> bool {
        let mut queue = self.queue.lock();
        let full = queue.bytes > 0 && queue.bytes + frame_bytes + FRAME_COST > self.config.send_queue_bytes_max;
        queue.drained_owed |= full;
        !full
    }

    /// Bytes that the link holds and the socket has not taken, 64 more for each frame.
    pub fn bytes_pending(&self) -> usize {
        self.queue.lock().bytes
    }

    /// Sends what is queued, then the reason (cut at 123 bytes), and ends the link: within [`TransportConfig::close`],
    /// whatever the other side does. Frames that still come are dropped.
    pub fn close(&self, reason: &str) {
        let waker = {
            let mut queue = self.queue.lock();
            if queue.closing || queue.close.is_some() {
                return;
            }
            queue.close = Some(reason.into());
            queue.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        self.close("");
    }
}

#[derive(Debug, Default)]
struct Queue(Mutex<Queued>);

#[derive(Debug, Default)]
struct Queued {
    frames: VecDeque<Vec<u8>>,
    /// Cost of the frames that are here and of those that the task took and the socket has not taken.
    bytes: usize,
    drained_owed: bool,
    /// The handle asked to close and the task has not seen it.
    close: Option<Box<str>>,
    /// The task has seen it, or the link ended.
    closing: bool,
    /// The task sleeps with nothing queued.
    idle: bool,
    /// The task's.
    waker: Option<Waker>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Queued> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a link to a task of its own. `events` may be shared by any number of links; `id` is told back in each event.
/// The configuration is shared too: one `Arc` for all links.
pub fn spawn(link: Link, id: u64, events: mpsc::Sender<LinkEvent>, config: Arc<TransportConfig>) -> LinkHandle {
    let (handle, task) = prepare(link, id, events, config);
    tokio::spawn(task);
    handle
}

/// The handle, and the future that drives the link.
pub(super) fn prepare(
    link: Link,
    id: u64,
    events: mpsc::Sender<LinkEvent>,
    config: Arc<TransportConfig>,
) -> (LinkHandle, impl Future<Output = ()> + Send) {
    let queue = Arc::new(Queue::default());
    let handle = LinkHandle { id, queue: queue.clone(), config: config.clone() };
    let task = Task {
        id,
        link,
        queue,
        taken: 0,
        events,
        blocked: None,
        drained: None,
        heard: Instant::now(),
        pings: 0,
        closing: None,
        config,
    };
    (handle, task.run())
}

type Room = Pin<Box<dyn Future<Output = Result<mpsc::OwnedPermit<LinkEvent>, mpsc::error::SendError<()>>> + Send>>;

struct Task {
    id: u64,
    link: Link,
    queue: Arc<Queue>,
    /// Cost of the frames in the link's buffer.
    taken: usize,
    events: mpsc::Sender<LinkEvent>,
    /// The event channel was full: the event that waits for room. Nothing is read meanwhile.
    blocked: Option<(Room, LinkEvent)>,
    /// A drained event that has not been sent, with its figure.
    drained: Option<usize>,
    /// When something last came from the other side.
    heard: Instant,
    /// Pings sent since then.
    pings: u32,
    /// The end of the other side's time to hear why we close, once we do.
    closing: Option<Instant>,
    config: Arc<TransportConfig>,
}

impl Task {
    /// Not an `async fn`: that would keep the task twice, as argument and as local.
    #[allow(clippy::manual_async_fn)]
    fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            let reason = {
                let mut timer = pin!(sleep_until(self.heard + self.config.keepalive));
                poll_fn(|cx| self.poll(cx, timer.as_mut())).await
            };
            *self.queue.lock() = Queued { closing: true, ..Queued::default() };
            // The owner may be gone as well: then nobody waits for these.
            if let Some((room, event)) = self.blocked.take()
                && let Ok(room) = room.await
            {
                room.send(event);
            }
            let _ = self.events.send(LinkEvent::Closed { id: self.id, reason }).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<CloseReason> {
        let mut reason = self.poll_write(cx);
        if reason.is_pending() {
            reason = self.poll_read(cx);
        }
        if let Some(end) = self.closing
            && timer.deadline() > end
        {
            timer.as_mut().reset(end);
        }
        while reason.is_pending() && timer.as_mut().poll(cx).is_ready() {
            reason = self.timer_fired(timer.as_mut());
            if reason.is_pending() {
                reason = self.poll_write(cx);
            }
        }
        let reason = ready!(reason);
        // One attempt to say why; the connection is given up either way.
        self.link.encode_close(&match &reason {
            CloseReason::Failed(TransportError::Fault(fault)) => fault.to_string(),
            CloseReason::Silent => "keepalive timed out".to_owned(),
            _ => String::new(),
        });
        let _ = self.link.poll_write(cx);
        Poll::Ready(reason)
    }

    /// Ready when the link is over; pending with the socket full or nothing to write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.hear_handle(cx);
        loop {
            if let Err(error) = ready!(self.link.poll_write(cx)) {
                return Poll::Ready(self.failed(error));
            }
            let mut queue = self.queue.lock();
            queue.bytes -= std::mem::take(&mut self.taken);
            if queue.drained_owed && queue.bytes <= self.config.drained_bytes {
                queue.drained_owed = false;
                self.drained = Some(queue.bytes);
            }
            if queue.frames.is_empty() {
                let Some(reason) = queue.close.take() else {
                    queue.idle = true;
                    return Poll::Pending;
                };
                queue.closing = true;
                drop(queue);
                // It may have been asked a moment ago, after the look at the start.
                self.closing.get_or_insert(Instant::now() + self.config.close);
                self.link.encode_close(&reason);
                continue;
            }
            while !self.link.wants_flush()
                && let Some(frame) = queue.frames.pop_front()
            {
                self.taken += frame.len() + FRAME_COST;
                self.link.encode(&frame);
            }
            if queue.frames.is_empty() {
                queue.frames = VecDeque::new();
            }
        }
    }

    /// The time to close runs from when the handle asked, also while the socket takes nothing.
    fn hear_handle(&mut self, cx: &mut Context<'_>) {
        let mut queue = self.queue.lock();
        if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            queue.waker = Some(cx.waker().clone());
        }
        if queue.close.is_some() {
            self.closing.get_or_insert(Instant::now() + self.config.close);
        }
    }

    /// Ready when the link is over; pending with nothing to read, or with no room for what was read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            if self.closing.is_none() {
                if ready!(self.poll_room(cx)).is_err() {
                    return Poll::Ready(CloseReason::Asked);
                }
                if let Some(bytes_pending) = self.drained.take() {
                    self.emit(LinkEvent::Drained { id: self.id, bytes_pending });
                    continue;
                }
            }
            let item = match ready!(self.link.poll_item(cx)) {
                Ok(Some(item)) => item,
                Ok(None) if self.closing.is_some() => return Poll::Ready(CloseReason::Asked),
                Ok(None) => {
                    let reason = self.link.peer_reason().unwrap_or_default().to_owned();
                    return Poll::Ready(CloseReason::Peer(reason));
                }
                Err(error) => return Poll::Ready(self.failed(error)),
            };
            (self.heard, self.pings) = (Instant::now(), 0);
            if let Item::Frame(bytes) = item
                && self.closing.is_none()
            {
                self.emit(LinkEvent::Frame { id: self.id, bytes });
            }
        }
    }

    /// Ready when an event can be emitted; an error when nobody listens any more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        if let Some((room, _)) = &mut self.blocked {
            let room = ready!(room.as_mut().poll(cx));
            let Some((_, event)) = self.blocked.take() else { return Poll::Ready(Ok(())) };
            match room {
                Ok(room) => drop(room.send(event)),
                Err(_) => return Poll::Ready(Err(())),
            }
        }
        Poll::Ready(if self.events.is_closed() { Err(()) } else { Ok(()) })
    }

    fn emit(&mut self, event: LinkEvent) {
        match self.events.try_send(event) {
            Ok(()) => {}
            // Allocates only under backpressure.
            Err(mpsc::error::TrySendError::Full(event)) => {
                self.blocked = Some((Box::pin(self.events.clone().reserve_owned()), event));
            }
            // The next look for room finds out.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// Ready when the other side is given up; else the timer is set anew.
    fn timer_fired(&mut self, timer: Pin<&mut Sleep>) -> Poll<CloseReason> {
        if self.closing.is_some() {
            return Poll::Ready(CloseReason::Asked);
        }
        let now = Instant::now();
        if self.blocked.is_some() {
            // We do not listen, so their silence means nothing.
            (self.heard, self.pings) = (now, 0);
        }
        if now >= self.heard + self.config.keepalive * (self.pings + 1) {
            if self.pings == PINGS_MAX {
                return Poll::Ready(CloseReason::Silent);
            }
            self.pings += 1;
            self.link.encode_ping();
        }
        timer.reset(self.heard + self.config.keepalive * (self.pings + 1));
        Poll::Pending
    }

    fn failed(&self, error: TransportError) -> CloseReason {
        if self.closing.is_some() { CloseReason::Asked } else { CloseReason::Failed(error) }
    }
}
