//! Network namespaces, and the router between them. The interface of each is a TUN device: what a process sends is read here as an IP packet,
//! waits for its time, and is written to the device of whom it is for.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tappers::{AddAddressV4, Tun};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::{Counters, Sides, Traffic, Weather, counters};

/// Each namespace is its own, so one port does for all. The one that `commonhold` has by default.
const PORT: u16 = 7340;
/// Addresses: 10.77.0.0/16, which nobody outside the namespaces sees.
const NETWORK: [u8; 2] = [10, 77];
const PREFIX: u8 = 16;
/// Of an Ethernet, which is what the kernel gives a TUN device too.
const PACKET_BYTES: usize = 1_500;
/// Packets under way to one place; more are lost, as in a router. 3 MB: what a place receives in 40 ms at 600 Mbit/s.
const QUEUE: usize = 2_048;

pub(in crate::drill) struct Router {
    paths: Arc<Paths>,
    ports: Vec<Option<Port>>,
}

/// What the tasks of all ports share.
struct Paths {
    weather: Weather,
    sides: Sides,
    ways: Vec<Way>,
}

struct Way {
    /// `None`: nobody is there.
    to: RwLock<Option<mpsc::Sender<Packet>>>,
    counters: Arc<Counters>,
}

struct Packet {
    due: Instant,
    bytes: Vec<u8>,
}

/// A plugged device. It is gone from its namespace when both tasks are.
struct Port {
    tasks: [AbortHandle; 2],
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// The address of a place.
pub(super) fn address(place: usize) -> String {
    format!("ws://{}:{PORT}/", ip(place))
}

fn ip(place: usize) -> Ipv4Addr {
    // .0.0 is the network itself.
    let [high, low] = u16::try_from(place + 1).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(NETWORK[0], NETWORK[1], high, low)
}

/// Whom an IPv4 packet is for. Others, such as a kernel's search for IPv6 neighbours, are for nobody.
fn destination(packet: &[u8]) -> Option<usize> {
    let header = packet.get(..20)?;
    let [a, b, high, low] = *header.get(16..20)? else { return None };
    let ours = header[0] >> 4 == 4 && [a, b] == NETWORK;
    usize::from(u16::from_be_bytes([high, low])).checked_sub(1).filter(|_| ours)
}

impl Router {
    /// Fails where this process may not make namespaces and devices.
    pub(super) async fn lay(places: usize, weather: Weather) -> io::Result<Router> {
        in_namespace(|| Tun::new().map(drop)).await?;
        let ways = counters(places).into_iter().map(|counters| Way { to: RwLock::default(), counters });
        let paths = Paths { weather, sides: Sides::default(), ways: ways.collect() };
        Ok(Router { paths: Arc::new(paths), ports: (0..places).map(|_| None).collect() })
    }

    pub(super) async fn spawn(&mut self, place: usize, mut command: Command) -> io::Result<Child> {
        self.unplug(place);
        let (from, into, child) = in_namespace(move || {
            let mut tun = Tun::new()?;
            let mut address = AddAddressV4::new(ip(place));
            address.set_netmask(PREFIX);
            tun.add_addr(address)?;
            tun.set_up()?;
            tun.set_nonblocking(true)?;
            // Not pipes, but read and written like them: what `AsyncFd` would do is unsafe.
            let end = || tun.as_fd().try_clone_to_owned();
            let from = pipe::Receiver::from_owned_fd_unchecked(end()?)?;
            let into = pipe::Sender::from_owned_fd_unchecked(end()?)?;
            Ok((from, into, command.spawn()?))
        })
        .await?;
        let (to, packets) = mpsc::channel(QUEUE);
        let way = &self.paths.ways[place];
        *way.to.write().unwrap_or_else(PoisonError::into_inner) = Some(to);
        way.counters.clear();
        let reading = tokio::spawn(read(from, place, self.paths.clone()));
        let writing = tokio::spawn(write(into, packets, way.counters.clone()));
        self.ports[place] = Some(Port { tasks: [reading.abort_handle(), writing.abort_handle()] });
        Ok(child)
    }

    pub(super) fn unplug(&mut self, place: usize) {
        *self.paths.ways[place].to.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.ports[place] = None;
    }

    pub(super) fn part(&self, sides: Option<Vec<bool>>) {
        self.paths.sides.set(sides);
    }

    pub(super) fn traffic(&self, place: usize) -> Traffic {
        Traffic::from(&*self.paths.ways[place].counters)
    }
}

/// Does something in a new network namespace, on a thread that ends with it: a thread never comes back from one.
async fn in_namespace<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (done, worked) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new().spawn(move || {
        let _entered = runtime.enter();
        #[expect(deprecated, reason = "it can part threads from their table of descriptors, which this does not")]
        let apart = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
        // Nobody waits any more if the drill was interrupted.
        let _ = done.send(apart.map_err(io::Error::from).and_then(|()| work()));
    })?;
    worked.await.map_err(|_| io::Error::other("the thread of a namespace ended"))?
}

/// From a device to the queues of the others.
async fn read(device: pipe::Receiver, place: usize, paths: Arc<Paths>) {
    let mut random = paths.weather.random(place);
    let from = &paths.ways[place].counters;
    let mut buffer = [0; PACKET_BYTES];
    loop {
        // Not `read`, which takes a read that did not fill the buffer for the last one.
        let n = match device.try_read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && device.readable().await.is_ok() => continue,
            Err(_) => return,
        };
        let packet = &buffer[..n];
        let Some((to, way)) = destination(packet).and_then(|to| Some((to, paths.ways.get(to)?))) else { continue };
        Counters::add(&from.sent, n);
        if paths.sides.apart(place, to) {
            continue;
        }
        let due = Instant::now() + paths.weather.delay(place, to);
        let lost = paths.weather.unlucky(&mut random) || {
            let queue = way.to.read().unwrap_or_else(PoisonError::into_inner);
            // Nobody there: the packet goes nowhere, without a word.
            queue.as_ref().is_some_and(|queue| queue.try_send(Packet { due, bytes: packet.to_vec() }).is_err())
        };
        if lost {
            Counters::add(&from.lost, 1);
        }
    }
}

/// From a queue to its device, each packet at its time.
async fn write(mut device: pipe::Sender, mut packets: mpsc::Receiver<Packet>, counters: Arc<Counters>) {
    let mut waiting: BTreeMap<(Instant, u64), Vec<u8>> = BTreeMap::new();
    let mut number = 0;
    // Never reached: only so that an empty table needs no case of its own.
    let never = Instant::now() + Duration::from_secs(365 * 24 * 3_600);
    loop {
        let next = waiting.first_key_value().map_or(never, |((due, _), _)| *due);
        tokio::select! {
            packet = packets.recv(), if waiting.len() < QUEUE => {
                let Some(packet) = packet else { return };
                number += 1;
                waiting.insert((packet.due, number), packet.bytes);
            }
            () = sleep_until(next) => {
                let Some((_, packet)) = waiting.pop_first() else { continue };
                // A device whose namespace has just ended.
                if device.write_all(&packet).await.is_err() {
                    return;
                }
                Counters::add(&counters.received, packet.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_where_its_address_says_and_junk_goes_nowhere() {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&ip(300).octets());
        assert_eq!(destination(&packet), Some(300));
        packet[16..20].copy_from_slice(&[10, 77, 0, 0]);
        assert_eq!(destination(&packet), None, "the network itself");
        packet[16..20].copy_from_slice(&[10, 78, 0, 1]);
        assert_eq!(destination(&packet), None, "another network");
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None, "IPv6");
        assert_eq!(destination(&packet[..19]), None);
    }
}
