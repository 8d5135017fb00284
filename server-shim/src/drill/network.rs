//! The network between the processes. Where the system permits, each has a network namespace of its own, whose only interface ends in this
//! process, which is the router between them: it delays, loses and parts packets. Elsewhere all are on the loopback, with a forwarder on
//! each link, which can delay and part but not lose.
//!
//! A router of our own rather than veth, bridge and netem: netem is missing from many kernels, gives one delay for an interface where this gives
//! one for each pair, and draws without a seed. The namespaces have no name, so a drill that is killed leaves none behind.

mod doors;
#[cfg(target_os = "linux")]
mod router;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::process::{Child, Command};

use doors::Doors;

/// What the network does to what goes over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) seed: u64,
    pub(super) delay_ms: (u64, u64),
    /// Of a thousand packets.
    pub(super) lost_of_1000: u64,
}

impl Weather {
    /// One way, the same in both directions and for the whole drill.
    fn delay(&self, a: usize, b: usize) -> Duration {
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        let (least, most) = self.delay_ms;
        Duration::from_millis(fastrand::Rng::with_seed(self.seed ^ pair.wrapping_mul(0x9e37_79b9)).u64(least..=most))
    }

    /// For what one place sends.
    fn random(&self, place: usize) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_add(place as u64))
    }

    fn unlucky(&self, random: &mut fastrand::Rng) -> bool {
        random.u64(0..1_000) < self.lost_of_1000
    }
}

/// How the network was made, for the report.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Made {
    pub(super) by: &'static str,
    /// Why not better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) because: Option<String>,
    pub(super) delay: String,
    pub(super) loss: String,
    /// What the byte counts count.
    pub(super) bytes: &'static str,
}

/// Bytes and packets of one place.
#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    lost: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn clear(&self) {
        for counter in [&self.sent, &self.received, &self.lost] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// What went in and out at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Traffic {
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// Packets that the network lost on their way from here.
    pub(super) lost_packets: u64,
}

impl From<&Counters> for Traffic {
    fn from(counters: &Counters) -> Self {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            sent_bytes: of(&counters.sent),
            received_bytes: of(&counters.received),
            lost_packets: of(&counters.lost),
        }
    }
}

/// The network of one drill. Places are numbered from 0; a place has one process at a time.
pub(super) enum Network {
    #[cfg(target_os = "linux")]
    Router(router::Router),
    Doors(Doors),
}

impl Network {
    /// Lays a network of so many places. `plain`: on the loopback, even if namespaces could be had.
    pub(super) async fn lay(places: usize, weather: Weather, plain: bool) -> io::Result<(Network, Made)> {
        let (least, most) = weather.delay_ms;
        let delay = format!("{least} to {most} ms one way, drawn for each pair");
        let because = match plain {
            true => "that was asked for".to_owned(),
            #[cfg(target_os = "linux")]
            false => match router::Router::lay(places, weather).await {
                Ok(router) => {
                    let made = Made {
                        by: "a network namespace for each process, and the drill as the router between them (TUN)",
                        because: None,
                        delay,
                        loss: format!("{} % of packets", weather.lost_of_1000 as f64 / 10.0),
                        bytes: "IP packets, headers included",
                    };
                    return Ok((Network::Router(router), made));
                }
                Err(error) => format!("no namespaces: {error}"),
            },
            #[cfg(not(target_os = "linux"))]
            false => "no namespaces: this is not Linux".to_owned(),
        };
        let made = Made {
            by: "all processes on the loopback, a forwarder of TCP on each link",
            because: Some(because),
            delay,
            loss: format!(
                "none; {} % of reads wait {} ms more, as TCP waits for a lost packet",
                weather.lost_of_1000 as f64 / 10.0,
                doors::RETRANSMISSION.as_millis()
            ),
            bytes: "what TCP carried",
        };
        Ok((Network::Doors(Doors::lay(places, weather)), made))
    }

    /// What a process at a place is told to listen at.
    pub(super) fn listen(&self, place: usize) -> String {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(_) => router::address(place),
            Network::Doors(_) => {
                let _ = place;
                "ws://127.0.0.1:0/".to_owned()
            }
        }
    }

    /// What it puts into its invites.
    pub(super) async fn advertised(&mut self, place: usize) -> io::Result<String> {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(_) => Ok(router::address(place)),
            Network::Doors(doors) => doors.door(None, place).await,
        }
    }

    /// How one place dials another.
    pub(super) async fn dialled(&mut self, from: usize, to: usize) -> io::Result<String> {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(_) => Ok(router::address(to)),
            Network::Doors(doors) => doors.door(Some(from), to).await,
        }
    }

    /// Whom a place has to be told of that joins through an invite of another: one whose invites do not say who comes.
    pub(super) fn told_of(&self, host: usize) -> Option<usize> {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(_) => None,
            Network::Doors(_) => Some(host),
        }
    }

    /// Starts a process at a place, whose counts begin at nothing.
    pub(super) async fn spawn(&mut self, place: usize, mut command: Command) -> io::Result<Child> {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(router) => router.spawn(place, command).await,
            Network::Doors(doors) => {
                doors.clear(place);
                command.spawn()
            }
        }
    }

    /// Tells where the process at a place turned out to listen.
    pub(super) fn listens(&mut self, place: usize, address: &str) {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(_) => {}
            Network::Doors(doors) => doors.listens(place, address),
        }
    }

    /// Pulls the plug: nothing comes from there or goes there any more, and nobody is told.
    pub(super) fn unplug(&mut self, place: usize) {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(router) => router.unplug(place),
            Network::Doors(doors) => doors.unplug(place),
        }
    }

    /// Parts the places: only those of one side reach each other. `None` heals.
    pub(super) fn part(&self, sides: Option<Vec<bool>>) {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(router) => router.part(sides),
            Network::Doors(doors) => doors.part(sides),
        }
    }

    pub(super) fn traffic(&self, place: usize) -> Traffic {
        match self {
            #[cfg(target_os = "linux")]
            Network::Router(router) => router.traffic(place),
            Network::Doors(doors) => doors.traffic(place),
        }
    }
}

/// Which side each place is on, while there are sides.
#[derive(Debug, Default)]
struct Sides(std::sync::RwLock<Option<Vec<bool>>>);

impl Sides {
    fn set(&self, sides: Option<Vec<bool>>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = sides;
    }

    fn apart(&self, a: usize, b: usize) -> bool {
        let sides = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        sides.as_ref().is_some_and(|sides| sides.get(a) != sides.get(b))
    }

    fn any(&self) -> bool {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }
}

fn counters(places: usize) -> Vec<Arc<Counters>> {
    (0..places).map(|_| Arc::default()).collect()
}
