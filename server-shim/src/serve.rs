//! A process that owns the store: a listening peer that also answers the other verbs, until it is told to stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use commonhold_engine::device::IdentityError;
use commonhold_engine::local::LocalServer;
use commonhold_engine::{Error, Node};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::admin;
use crate::args::{Global, Serving, WritersArg};
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::gateway;
use crate::http::{self, Listening};
use crate::local;
use crate::operate;
use crate::policy::Policy;
use crate::print;
use crate::reach::{self, Dial};
use crate::reload::Reload;
use crate::request::{Reply, Request};
use crate::supervised;
use crate::tls::{self, Door};

/// How long local connections and HTTP requests may finish what they do when the process is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until a signal. `starter`: a store without spaces gets one, with what to try next (the program without a verb).
/// `handed`: sockets to listen at instead of new ones.
pub(crate) async fn serve(
    settings: &Settings,
    (global, serving): (&Global, &Serving),
    handed: ListenFd,
    starter: bool,
    json: bool,
) -> Result<(), Failure> {
    let mut stop = Stop::listen(serving.while_stdin)?;
    let tls = tls::of(settings)?;
    let door = Door::new(&tls);
    let mut reload = Reload::listen(global, serving, settings, &tls)?;
    let data = settings.data();
    let sockets = supervised::sockets(handed)?;
    let (policy, gate) = Policy::start(settings)?.unzip();
    let node = reach::open_at(settings, Dial::AndListen, sockets.clone(), tls, gate).await?;
    let policy = policy.map(|policy| AbortOnDropHandle::new(tokio::spawn(policy.run(node.clone()))));
    let local = match LocalServer::bind(&data).await {
        Ok(local) => local,
        Err(error) => {
            let failure = reach::local_failure(error, &data);
            return close(node).await.and(Err(failure));
        }
    };
    // A rotation may have been cut short, or the folder may come from another device.
    if let Err(error) = node.tell_root_keys().await
        && !matches!(&error, Error::Identity(identity) if matches!(**identity, IdentityError::None))
    {
        warn!(%error, "cannot tell the spaces of the identity's root key");
    }
    let listening = match http::listen(&node, settings, &sockets, &door).await {
        Ok(listening) => listening,
        Err(failure) => return close(node).await.and(Err(failure)),
    };
    let gateway = gateway::listen(&node, &settings.gateway_listen(), settings.gateway_space(), &sockets, &door).await;
    let gateway = match gateway {
        Ok(gateway) => gateway,
        Err(failure) => return close(node).await.and(Err(failure)),
    };
    let admin = admin::listen(&node, settings, listening.counted.clone(), listening.hooks.clone(), &sockets).await;
    let admin = match admin.and_then(|admin| supervised::all_taken(&sockets).map(|()| admin)) {
        Ok(admin) => admin,
        Err(failure) => return close(node).await.and(Err(failure)),
    };
    let at = At { listening: &listening, gateway: &gateway.addresses, admin: &admin.addresses, tls: door.has_tls() };
    let ready = match announce(&node, serving, at, starter, json).await {
        Ok(ready) => ready,
        Err(failure) => return close(node).await.and(Err(failure)),
    };
    supervised::tell(&[NotifyState::Ready]);

    let (draining, drained) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.requested() => break,
            accepted = local.accept() => match accepted {
                Ok(connection) => { connections.spawn(local::answer(node.clone(), connection, drained.clone())); }
                // Out of descriptors, most likely: others will be closed.
                Err(error) => {
                    warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = reload.wanted() => reload.again(&node, &listening).await,
        }
    }
    info!("stopping: a second signal stops at once");
    supervised::tell(&[NotifyState::Stopping]);
    tokio::spawn(async move {
        stop.requested().await;
        std::process::exit(Exit::Failed as i32);
    });
    drop((local, gateway, policy));
    if let Some(ready) = ready {
        // What cannot be removed names a process that is gone, which readers must expect after a kill anyway.
        let _ = std::fs::remove_file(ready);
    }
    // Nobody listens any more if all connections are gone.
    let _ = draining.send(true);
    let all = async {
        listening.drain().await;
        while connections.join_next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        warn!("gave up waiting for connections");
    }
    connections.shutdown().await;
    // To the last, so that it can be seen what a stop waits for.
    drop(admin);
    close(node).await
}

async fn close(node: Node) -> Result<(), Failure> {
    node.close().await.map_err(|error| operate::failure(&error))
}

/// Where this process listens beside its peer's addresses.
struct At<'a> {
    listening: &'a Listening,
    gateway: &'a [SocketAddr],
    admin: &'a [SocketAddr],
    /// Whether with TLS, but for `admin`.
    tls: bool,
}

/// Says where this peer is: to the person, and in the ready file. Gives the ready file's path.
async fn announce(
    node: &Node,
    serving: &Serving,
    At { listening, gateway, admin, tls }: At<'_>,
    starter: bool,
    json: bool,
) -> Result<Option<PathBuf>, Failure> {
    let mut first = false;
    if starter && node.spaces().is_empty() {
        operate::perform(node, Request::NewSpace { writers: WritersArg::Anyone }).await?;
        first = true;
    }
    let Reply::Me(me) = operate::perform(node, Request::Me).await? else { return Ok(None) };
    // Of the only space; with several, the person chooses.
    let invite = match operate::perform(node, Request::Invite { space: None, grant: None }).await {
        Ok(Reply::Invite(invite)) => Some(invite),
        _ => None,
    };
    let facts = json!({
        "pid": me.pid,
        "peer": me.peer,
        "addresses": me.addresses,
        "admin": admin,
        "announces": listening.announces,
        "gateway": gateway,
        "http": listening.programs,
        "invite": invite.as_ref().map(|invite| &invite.invite),
        "space": invite.as_ref().map(|invite| &invite.space),
        "tls": tls,
    });
    if let Some(path) = &serving.ready_file {
        write_atomically(path, format!("{facts}\n").as_bytes()).map_err(|error| {
            Failure::failed(
                "ready_file",
                format!("cannot write the ready file {}: {error}", path.display()),
                "name a file in a folder that this user can write to",
            )
        })?;
    }
    if json {
        print::out(&format!("{facts}\n"))?;
        return Ok(serving.ready_file.clone());
    }
    let mut text = format!("peer     {}\n", me.peer);
    for address in &me.addresses {
        text += &format!("listens  {address}\n");
    }
    let off = if node.announced().is_none() { " (refuses all: set discovery.tracker to true)" } else { "" };
    let (http, ws) = if tls { ("https", "wss") } else { ("http", "ws") };
    for address in &listening.announces {
        text += &format!("tracker  {http}://{address}{off}\n");
    }
    for address in gateway {
        text += &format!("gateway  {ws}://{address}/\n");
    }
    for address in &listening.programs {
        text += &format!("http     {http}://{address}/v1/spaces\n");
    }
    for address in admin {
        text += &format!("admin    http://{address}/admin\n");
    }
    if let Some(invite) = &invite {
        text += &format!("invite   {}\n", invite.invite);
        if first {
            text += "\nThis is a first run: it made a space for you. Whoever has this invite can read AND WRITE everything in it.\n\
                     For a space where you choose who writes: commonhold space new --writers granted\n";
        } else if invite.writers == Some(WritersArg::Anyone) {
            text += "         whoever has it can read and write in this space\n";
        }
    }
    if first {
        text += "\nTry next, in another terminal:\n  commonhold doc new --name hello\n  commonhold set hello greeting '\"hi\"'\n  \
                 commonhold get hello\n";
    }
    if starter {
        text += "\nCtrl-C stops it; everything is kept.\n";
    }
    print::out(&text)?;
    Ok(serving.ready_file.clone())
}

/// Whoever waits for the file sees all of it or nothing. It holds an invite, so it is for the owner's eyes.
fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(contents)?;
    std::fs::rename(&new, path)
}

/// What tells a process to stop.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// Closed when standard input ends, where that was asked for.
    input: Option<watch::Receiver<()>>,
}

impl Stop {
    pub(crate) fn listen(while_stdin: bool) -> Result<Self, Failure> {
        let signals = || Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
        let (terminate, interrupt) = signals().map_err(|error: io::Error| {
            Failure::failed("signals", format!("cannot listen for signals: {error}"), "free some file descriptors")
        })?;
        let input = while_stdin.then(|| {
            let (open, input) = watch::channel(());
            // A thread of its own: the runtime would wait for one of its threads to come back from the read.
            std::thread::spawn(move || {
                while matches!(io::stdin().read(&mut [0; 64]), Ok(1..)) {}
                drop(open);
            });
            input
        });
        Ok(Stop { terminate, interrupt, input })
    }

    /// Returns once for every signal, and once when standard input ends.
    pub(crate) async fn requested(&mut self) {
        let input = async {
            match &mut self.input {
                Some(input) => while input.changed().await.is_ok() {},
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            () = input => true,
        };
        if ended {
            self.input = None;
        }
    }

    /// Runs something until it is done or a signal comes.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        tokio::select! {
            done = &mut work => Some(done),
            () = self.requested() => None,
        }
    }
}

/// The content of a ready file.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Ready {
    pub(crate) peer: String,
    pub(crate) addresses: Vec<String>,
    #[serde(flatten)]
    _rest: BTreeMap<String, serde_json::Value>,
}
