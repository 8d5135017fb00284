//! Two processes in two network namespaces on one bridge find each other by mDNS, and everything that crosses the bridge is looked
//! at: no id of a space, document or device and no name is in it. Skipped where namespaces cannot be made.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::fs::File;
use std::io::ErrorKind;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Home, Served, until};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NAME: &str = "Secret plans";

/// Three namespaces: two hosts, and the bridge between them. Gone when dropped.
struct Network {
    hosts: [String; 2],
    bridge: String,
}

impl Network {
    /// None where this is not permitted, with the reason.
    fn new() -> Result<Network, String> {
        let name = |part: &str| format!("commonhold-{}-{part}", std::process::id());
        let network = Network { hosts: [name("a"), name("b")], bridge: name("bridge") };
        for namespace in network.hosts.iter().chain([&network.bridge]) {
            ip(&["netns", "add", namespace])?;
        }
        let bridge = &network.bridge;
        ip(&["-n", bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        for (at, host) in network.hosts.iter().enumerate() {
            let port = format!("port{at}");
            ip(&["-n", bridge, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", host])?;
            ip(&["-n", bridge, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", host, "address", "add", &format!("10.77.0.{}/24", at + 1), "dev", "eth0"])?;
            ip(&["-n", host, "link", "set", "lo", "up"])?;
            ip(&["-n", host, "link", "set", "eth0", "up"])?;
            ip(&["-n", host, "route", "add", "224.0.0.0/4", "dev", "eth0"])?;
        }
        ip(&["-n", bridge, "link", "set", "br0", "up"])?;
        Ok(network)
    }

    fn serve(&self, at: usize, home: &Home) -> Served {
        let program = env!("CARGO_BIN_EXE_commonhold");
        let mut command = home.command_of("ip");
        command.args(["netns", "exec", &self.hosts[at], program, "serve", "--listen", "ws://0.0.0.0:0/"]);
        command.env("COMMONHOLD_DISCOVERY_LAN", "true");
        home.serve_as(command)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().chain([&self.bridge]) {
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("cannot run ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Every frame on the bridge, until told to stop.
struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    fn start(namespace: &str) -> Capture {
        let (stop, path) = (Arc::new(AtomicBool::new(false)), format!("/run/netns/{namespace}"));
        let stopped = stop.clone();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // Of this thread alone.
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&File::open(path).unwrap()),
                Some(LinkNameSpaceType::Network),
            )
            .unwrap();
            let socket =
                socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::NONBLOCK, Some(eth::ALL)).unwrap();
            ready.send(()).unwrap();
            let (mut frames, mut buffer) = (Vec::new(), vec![0u8; 65_536]);
            loop {
                match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                    Ok((length, _)) => frames.push(buffer[..length].to_vec()),
                    Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => {
                        if stopped.load(Ordering::Relaxed) {
                            return frames;
                        }
                        std::thread::park_timeout(Duration::from_millis(2));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        started.recv().unwrap();
        Capture { stop, thread }
    }

    fn stop(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn contains(frame: &[u8], wanted: &[u8]) -> bool {
    frame.windows(wanted.len()).any(|window| window == wanted)
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn two_on_one_network_find_each_other_and_tell_it_nothing() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(why) => return eprintln!("skipped, since namespaces cannot be made here: {why}"),
    };
    let (one, other) = (Home::new(), Home::new());
    let space = one.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let doc = one.run(&["doc", "new", "--name", NAME]).text().to_owned();
    // Made while nobody listens, so that it says where nobody is.
    let invite = one.run(&["space", "invite"]).text().to_owned();
    other.run(&["join", &invite, "--wait", "0"]).text();

    let capture = Capture::start(&network.bridge);
    let (served, found) = (network.serve(0, &one), network.serve(1, &other));
    until("the document on the other host", || {
        let listed = other.run(&["doc", "ls", "--json"]).json();
        (listed[0]["name"] == NAME).then_some(())
    });
    let peers = other.run(&["peers", "--json"]).json();
    assert_eq!((&peers[0]["peer"], &peers[0]["connected"]), (&served.facts["peer"], &true.into()), "{peers}");
    let frames = capture.stop();
    let count = |wanted: &[u8]| frames.iter().filter(|frame| contains(frame, wanted)).count();
    // What is looked for would be seen: the service is.
    assert!(count(b"_commonhold") >= 2, "{} frames", frames.len());
    assert!(count(b"commonhold.1") >= 1, "the upgrade to a WebSocket");
    assert_eq!(count(NAME.as_bytes()), 0);
    for id in
        [space.as_str(), doc.as_str(), served.facts["peer"].as_str().unwrap(), found.facts["peer"].as_str().unwrap()]
    {
        assert_eq!((count(id.as_bytes()), count(&unhex(id)), count(&id.as_bytes()[..16])), (0, 0, 0), "{id}");
        assert_eq!(count(&unhex(id)[..8]), 0, "the beginning of {id}");
    }
    println!("{} frames on the bridge, {} of them of mDNS", frames.len(), count(b"_commonhold"));
}
