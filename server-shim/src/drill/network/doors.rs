//! A forwarder of TCP on each link of a network that is all on the loopback. Each pair that is configured has a door of its own; what strangers
//! dial, having read it in an invite, is a door of which nobody knows who comes through it, so it is shut while the network is parted.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{Counters, Sides, Traffic, Weather, counters};

/// The least time in which TCP sends again what was lost, on Linux.
pub(super) const RETRANSMISSION: Duration = Duration::from_millis(200);
/// Bytes of one read.
const CHUNK: usize = 16 * 1024;
/// Reads that are under way in one direction of a connection: 1 MiB, then the sender has to wait.
const QUEUE: usize = 64;
/// Connections through one door at once; more are refused. Peers that were configured dial once.
const CONNECTIONS_MAX: usize = 256;

pub(in crate::drill) struct Doors {
    streets: Arc<Streets>,
    doors: BTreeMap<(Option<usize>, usize), (String, AbortHandle)>,
}

struct Streets {
    weather: Weather,
    sides: Sides,
    /// Raised whenever a connection may have to end: a partition, a plug.
    changed: watch::Sender<u64>,
    places: Vec<Place>,
}

struct Place {
    /// `None`: nobody is there.
    listens: RwLock<Option<SocketAddr>>,
    counters: Arc<Counters>,
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.doors.values().for_each(|(_, task)| task.abort());
    }
}

impl Doors {
    pub(super) fn lay(places: usize, weather: Weather) -> Doors {
        let places = counters(places).into_iter().map(|counters| Place { listens: RwLock::default(), counters });
        let (sides, changed) = (Sides::default(), watch::channel(0).0);
        let streets = Streets { weather, sides, changed, places: places.collect() };
        Doors { streets: Arc::new(streets), doors: BTreeMap::new() }
    }

    /// The address of a door, which is made when it is first asked for.
    pub(super) async fn door(&mut self, from: Option<usize>, to: usize) -> io::Result<String> {
        if let Some((address, _)) = self.doors.get(&(from, to)) {
            return Ok(address.clone());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("ws://{}/", listener.local_addr()?);
        let task = tokio::spawn(keep(listener, from, to, self.streets.clone()));
        self.doors.insert((from, to), (address.clone(), task.abort_handle()));
        Ok(address)
    }

    pub(super) fn listens(&mut self, place: usize, address: &str) {
        let socket = address.trim_start_matches("ws://").trim_end_matches('/').parse().ok();
        *self.streets.places[place].listens.write().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    /// Counts from nothing again.
    pub(super) fn clear(&self, place: usize) {
        self.streets.places[place].counters.clear();
    }

    pub(super) fn unplug(&mut self, place: usize) {
        *self.streets.places[place].listens.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.streets.changed.send_modify(|times| *times += 1);
    }

    pub(super) fn part(&self, sides: Option<Vec<bool>>) {
        self.streets.sides.set(sides);
        self.streets.changed.send_modify(|times| *times += 1);
    }

    pub(super) fn traffic(&self, place: usize) -> Traffic {
        Traffic::from(&*self.streets.places[place].counters)
    }
}

impl Streets {
    /// Where a door leads, if it is open.
    fn open(&self, from: Option<usize>, to: usize) -> Option<SocketAddr> {
        let target = *self.places[to].listens.read().unwrap_or_else(PoisonError::into_inner);
        let shut = from.map_or_else(|| self.sides.any(), |from| self.sides.apart(from, to));
        // Whoever is gone does not dial either, but what it had dialled must end.
        let gone =
            from.is_some_and(|from| self.places[from].listens.read().unwrap_or_else(PoisonError::into_inner).is_none());
        target.filter(|_| !shut && !gone)
    }
}

/// A door: whoever comes is led through it. All under way ends with it.
async fn keep(listener: TcpListener, from: Option<usize>, to: usize, streets: Arc<Streets>) {
    let mut through = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (Ok((stream, _)), true) = (accepted, through.len() < CONNECTIONS_MAX) else { continue };
                through.spawn(lead(stream, from, to, streets.clone()));
            }
            Some(_) = through.join_next() => {}
        }
    }
}

/// One connection, until one end closes it or the door is shut.
async fn lead(near: TcpStream, from: Option<usize>, to: usize, streets: Arc<Streets>) {
    let mut changed = streets.changed.subscribe();
    let Some(target) = streets.open(from, to) else { return };
    let Ok(far) = TcpStream::connect(target).await else { return };
    // What is delayed here must not be delayed again by Nagle's algorithm.
    let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let counters = |place: Option<usize>| place.map(|place| streets.places[place].counters.clone());
    let lane = |sender: Option<usize>, receiver: Option<usize>| Lane {
        delay: streets.weather.delay(from.unwrap_or(to), to),
        weather: streets.weather,
        random: streets.weather.random(sender.unwrap_or(to)),
        sender: counters(sender),
        receiver: counters(receiver),
    };
    let shut = async { while changed.changed().await.is_ok() && streets.open(from, to) == Some(target) {} };
    tokio::select! {
        () = lane(from, Some(to)).carry(near_in, far_out) => {}
        () = lane(Some(to), from).carry(far_in, near_out) => {}
        () = shut => {}
    }
}

/// One direction of a connection.
struct Lane {
    delay: Duration,
    weather: Weather,
    random: fastrand::Rng,
    sender: Option<Arc<Counters>>,
    receiver: Option<Arc<Counters>>,
}

impl Lane {
    /// Carries in order, each read at its time, until there is no more.
    async fn carry(mut self, mut input: OwnedReadHalf, mut output: OwnedWriteHalf) {
        let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
        let reading = async move {
            let mut buffer = vec![0; CHUNK];
            while let Ok(n @ 1..) = input.read(&mut buffer).await {
                let mut due = Instant::now() + self.delay;
                if self.weather.unlucky(&mut self.random) {
                    due += RETRANSMISSION;
                }
                if let Some(sender) = &self.sender {
                    Counters::add(&sender.sent, n);
                }
                if queue.send((due, buffer[..n].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let writing = async move {
            while let Some((due, bytes)) = queued.recv().await {
                sleep_until(due).await;
                if output.write_all(&bytes).await.is_err() {
                    return;
                }
                if let Some(receiver) = &self.receiver {
                    Counters::add(&receiver.received, bytes.len());
                }
            }
        };
        tokio::join!(reading, writing);
    }
}
