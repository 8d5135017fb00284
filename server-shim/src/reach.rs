//! The way from a verb to the store: through the process that owns it, or by opening it for the length of one command.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use commonhold_engine::local::{LocalClient, LocalError, LocalStream};
use commonhold_engine::tls::Tls;
use commonhold_engine::{Config, Knock, Node, Sockets};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::local::{CHUNK, hex, other_version, unhex};
use crate::operate::{self, Watching};
use crate::request::{Answered, BlobProgress, Doc, Envelope, Reply, Request, VERSION, Watched};
use crate::tls;

/// How long a command waits for another command that has the store open. A guess: far more than one edit takes, and short enough for a
/// person to wait.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

/// What a process that opens the store does with the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dial {
    /// Nothing.
    No,
    /// Connects to the configured peers and those that invited it.
    Out,
    /// Listens as well.
    AndListen,
}

/// A way to the store.
pub(crate) enum Reach {
    /// Another process serves it.
    Served(LocalClient),
    /// This process has it open.
    Own(Node),
}

impl Reach {
    /// Finds the way. `create`: the verb makes a store where there is none.
    pub(crate) async fn find(settings: &Settings, dial: Dial, create: bool) -> Result<Reach, Failure> {
        let data = settings.data();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(client) = LocalClient::connect(&data).await.map_err(|error| local_failure(error, &data))? {
                return Ok(Reach::Served(client));
            }
            if !create && !has_store(&data)? {
                return Err(Failure::not_found(
                    "no_store",
                    format!("there is no store in {}", data.display()),
                    "run `commonhold` once, or `commonhold join INVITE`, or name the folder with --data",
                ));
            }
            match open(settings, dial).await {
                // Another command is about to be done, or a serving process to be ready.
                Err(failure) if failure.exit == Exit::InUse && Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN).await;
                }
                opened => return opened.map(Reach::Own),
            }
        }
    }

    /// Asks for one thing.
    pub(crate) async fn ask(&mut self, request: Request) -> Answered {
        match self {
            Reach::Served(client) => {
                let envelope = Envelope { version: VERSION, request };
                client.call::<_, Answered>(&envelope).await.map_err(call_failure)?
            }
            Reach::Own(node) => operate::perform(node, request).await,
        }
    }

    /// Changes of a document as they come.
    pub(crate) async fn watch(self, doc: Doc) -> Result<Watch, Failure> {
        match self {
            Reach::Served(client) => {
                let envelope = Envelope { version: VERSION, request: Request::Watch(doc) };
                Ok(Watch::Served(client.stream(&envelope).await.map_err(call_failure)?))
            }
            Reach::Own(node) => match operate::watch(&node, &doc).await {
                Ok(watching) => Ok(Watch::Own(node, watching)),
                Err(failure) => Reach::Own(node).close().await.and(Err(failure)),
            },
        }
    }

    /// Writes an export or a backup. `progress` is told how many bytes were written.
    pub(crate) async fn copy(
        self,
        request: Request,
        to: &mut (dyn Write + Send),
        mut progress: impl FnMut(u64),
    ) -> Answered {
        let (code, name) = match request {
            Request::Backup { .. } => ("backup_file", "backup"),
            _ => ("export_file", "export"),
        };
        let cannot_write = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::hung_up(),
            _ => Failure::failed(
                code,
                format!("cannot write the {name}: {error}"),
                "check the folder and the free space",
            ),
        };
        let mut written = 0;
        let mut write = |to: &mut (dyn Write + Send), bytes: &[u8]| -> Result<(), Failure> {
            to.write_all(bytes).map_err(cannot_write)?;
            written += bytes.len() as u64;
            progress(written);
            Ok(())
        };
        match self {
            Reach::Served(client) => {
                let envelope = Envelope { version: VERSION, request };
                let mut stream = client.stream(&envelope).await.map_err(call_failure)?;
                while let Some(answered) = stream.next::<Answered>().await.map_err(call_failure)? {
                    match answered? {
                        Reply::Bytes(digits) => {
                            let bytes = unhex(&digits).ok_or_else(other_version)?;
                            write(to, &bytes)?;
                        }
                        reply => return to.flush().map(|()| reply).map_err(cannot_write),
                    }
                }
                Err(call_failure(LocalError::BrokenOff))
            }
            Reach::Own(node) => {
                let (writer, reader) = tokio::io::duplex(CHUNK);
                let copying = async {
                    // Ends with the copying, however that ends: the export must not wait for it.
                    let mut reader = reader;
                    let mut buffer = vec![0; CHUNK];
                    loop {
                        match reader.read(&mut buffer).await.map_err(cannot_write)? {
                            0 => return to.flush().map_err(cannot_write),
                            n => write(to, &buffer[..n])?,
                        }
                    }
                };
                let (exported, copied) = tokio::join!(operate::copy(&node, request, writer), copying);
                let closed = Reach::Own(node).close().await;
                copied?;
                let exported = exported?;
                closed.map(|()| exported)
            }
        }
    }

    /// Fetches a blob, if it is not here, and writes it. `progress` is told how far it is.
    pub(crate) async fn get_blob(
        self,
        space: Option<String>,
        blob: String,
        to: &mut (dyn Write + Send),
        mut progress: impl FnMut(&BlobProgress),
    ) -> Answered {
        let mut write = |reply: Reply| -> Result<Option<Reply>, Failure> {
            match reply {
                Reply::BlobProgress(far) => progress(&far),
                Reply::Bytes(digits) => {
                    let bytes = unhex(&digits).ok_or_else(other_version)?;
                    to.write_all(&bytes).map_err(cannot_write_blob)?;
                }
                reply => return to.flush().map(|()| Some(reply)).map_err(cannot_write_blob),
            }
            Ok(None)
        };
        match self {
            Reach::Served(client) => {
                let envelope = Envelope { version: VERSION, request: Request::GetBlob { space, blob } };
                let mut stream = client.stream(&envelope).await.map_err(call_failure)?;
                while let Some(answered) = stream.next::<Answered>().await.map_err(call_failure)? {
                    if let Some(reply) = write(answered?)? {
                        return Ok(reply);
                    }
                }
                Err(call_failure(LocalError::BrokenOff))
            }
            Reach::Own(node) => {
                let got = async {
                    let mut getting = operate::get_blob(&node, space, &blob).await?;
                    while let Some(reply) = getting.next().await? {
                        if let Some(reply) = write(reply)? {
                            return Ok(reply);
                        }
                    }
                    Err(call_failure(LocalError::BrokenOff))
                };
                let got: Answered = got.await;
                let closed = Reach::Own(node).close().await;
                got.and_then(|reply| closed.map(|()| reply))
            }
        }
    }

    /// Reads an export or another file that can be imported, or a storage folder as it is sent.
    pub(crate) async fn import(
        &mut self,
        space: Option<String>,
        folder: bool,
        mut from: impl AsyncRead + Unpin + Send + 'static,
    ) -> Answered {
        if let Reach::Own(node) = self {
            return operate::import(node, space, folder, from).await;
        }
        self.ask(Request::Import { space, folder }).await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = from.read(&mut buffer).await.map_err(|error| {
                Failure::failed("import_file", format!("cannot read the file: {error}"), "check the file")
            })?;
            match n {
                0 => return self.ask(Request::End).await,
                n => self.ask(Request::Bytes(hex(&buffer[..n]))).await?,
            };
        }
    }

    /// Leaves. A store that this process has open is durable and closed when this returns.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        match self {
            Reach::Served(_) => Ok(()),
            Reach::Own(node) => node.close().await.map_err(|error| operate::failure(&error)),
        }
    }
}

/// A document being watched.
pub(crate) enum Watch {
    Served(LocalStream),
    Own(Node, Watching),
}

impl Watch {
    /// The next change; `None`: the serving process stopped.
    pub(crate) async fn next(&mut self) -> Result<Option<Watched>, Failure> {
        match self {
            Watch::Served(stream) => match stream.next::<Answered>().await.map_err(call_failure)? {
                Some(Ok(Reply::Watched(watched))) => Ok(Some(watched)),
                Some(Ok(_)) => Err(other_version()),
                Some(Err(failure)) => Err(failure),
                None => Ok(None),
            },
            Watch::Own(_, watching) => watching.next().await,
        }
    }

    pub(crate) async fn close(self) -> Result<(), Failure> {
        match self {
            Watch::Served(_) => Ok(()),
            Watch::Own(node, _) => Reach::Own(node).close().await,
        }
    }
}

/// Opens the store in this process.
pub(crate) async fn open(settings: &Settings, dial: Dial) -> Result<Node, Failure> {
    let tls = Tls { certificate: None, roots: tls::roots(settings) };
    open_at(settings, dial, Sockets::default(), tls, None).await
}

/// The same, listening at sockets that this process was given, with this certificate, and with somebody at the gate.
pub(crate) async fn open_at(
    settings: &Settings,
    dial: Dial,
    sockets: Sockets,
    tls: Tls,
    gate: Option<mpsc::Sender<Knock>>,
) -> Result<Node, Failure> {
    let config = Config { sockets, tls, gate, ..operate::config(settings, dial)? };
    Node::open(config).await.map_err(|error| operate::open_failure(&error, settings))
}

fn cannot_write_blob(error: std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::hung_up(),
        _ => Failure::failed(
            "blob_file",
            format!("cannot write the blob: {error}"),
            "check the folder and the free space; the blob itself is held by this peer",
        ),
    }
}

/// Whether the data folder holds a store. One that cannot be looked into is an error, not an absence.
fn has_store(data: &Path) -> Result<bool, Failure> {
    data.join(operate::STORE_FILE).try_exists().map_err(|error| {
        Failure::new(
            Exit::Store,
            "data_folder",
            format!("cannot look into the data folder {}: {error}", data.display()),
            "check its permissions; `commonhold doctor` looks at everything",
        )
    })
}

fn call_failure(error: LocalError) -> Failure {
    match error {
        LocalError::Json(_) => other_version(),
        LocalError::TooLong(_) => Failure::failed(
            "too_large",
            error,
            "ask for a part: commonhold get DOC PATH, or stop the serving process first",
        ),
        LocalError::Refused(_) => Failure::failed("refused", error, "try again in a moment"),
        error => Failure::failed(
            "broke_off",
            format!("the process that serves this store did not answer: {}", crate::failure::chain(&error)),
            "see whether it still runs; without it, commands open the store themselves",
        ),
    }
}

/// A local socket that cannot be used.
pub(crate) fn local_failure(error: LocalError, data: &Path) -> Failure {
    match error {
        LocalError::AlreadyServed(_) => in_use(data, None),
        LocalError::OtherUser(_) => Failure::new(
            Exit::InUse,
            "other_user",
            format!("the store in {} is served by a process of another user", data.display()),
            "run this command as that user",
        ),
        error => Failure::new(
            Exit::Store,
            "local_socket",
            crate::failure::chain(&error),
            "check the permissions of the data folder; `commonhold doctor` looks at everything",
        ),
    }
}

/// Another process has the store.
pub(crate) fn in_use(data: &Path, pid: Option<u32>) -> Failure {
    let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    Failure::new(
        Exit::InUse,
        "store_in_use",
        format!("the store in {} is in use by {who}", data.display()),
        "use that process (all other verbs go through it), stop it, or name another folder with --data",
    )
}
