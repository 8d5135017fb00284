//! One verb, from the parsed command line to what is printed.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::CommandFactory;
use listenfd::ListenFd;
use serde_json::{Value as Json, json};

use crate::args::{BlobVerb, BlockVerb, Cli, ConfigVerb, DeviceVerb, DocRef, DocVerb, SpaceVerb, Verb};
use crate::config::{self, Settings};
use crate::editor::Draft;
use crate::failure::{Exit, Failure};
use crate::reach::{Dial, Reach};
use crate::request::{Doc, Reply, Request};
use crate::serve::Stop;
use crate::{backup, demo, doctor, drill, identity, logs, print, serve, storage_folder, tls, token};

/// Does what the command line says. `handed`: sockets for a serving process.
pub(crate) async fn run(cli: Cli, handed: ListenFd) -> Result<(), Failure> {
    // These must work whatever the configuration is.
    match &cli.verb {
        Some(Verb::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "commonhold", &mut script);
            return print::out(&String::from_utf8_lossy(&script));
        }
        Some(Verb::Man { out }) => return manual(out.as_deref()),
        Some(Verb::Demo { keep }) => return demo::run(*keep, cli.global.json).await,
        Some(Verb::Drill(arguments)) => return drill::run(arguments, cli.global.json).await,
        _ => {}
    }
    let serving = match &cli.verb {
        Some(Verb::Serve(serving)) => merged(cli.serving.clone(), serving.clone()),
        Some(_) => cli.serving.clone(),
        None => cli.serving.clone(),
    };
    let settings = config::load(&cli.global, &serving)?;
    logs::start(&settings);
    let json = cli.global.json;
    match cli.verb {
        None => serve::serve(&settings, (&cli.global, &serving), handed, true, json).await,
        Some(Verb::Serve(_)) => serve::serve(&settings, (&cli.global, &serving), handed, false, json).await,
        Some(Verb::Config(verb)) => configuration(&settings, &verb, json),
        Some(Verb::Token(verb)) => token::run(&settings, verb, json),
        Some(Verb::Identity(verb)) => identity::run(&settings, verb, json).await,
        Some(Verb::Doctor) => doctor::run(&settings, json).await,
        Some(Verb::Backup { file, without_blobs }) => backup::make(&settings, &file, !without_blobs, json).await,
        Some(Verb::Verify { file, quick, scratch }) => {
            backup::verify(&settings, file.as_deref(), quick, scratch, json).await
        }
        Some(Verb::Restore { file, dry_run, replace, scratch }) => {
            backup::restore(&settings, &file, backup::How { dry_run, replace, scratch }, json).await
        }
        Some(Verb::Watch { doc, count }) => watch(&settings, doc, count, json).await,
        Some(Verb::Edit { doc, patch, sync }) => {
            let request = match patch {
                Some(patch) => {
                    Request::Patch { doc: named(doc), patch: parse_json("the patch", &text_or_stdin(patch)?)? }
                }
                None => return edit(&settings, named(doc), sync.sync, json).await,
            };
            once(&settings, request, sync.sync, json).await
        }
        Some(Verb::Export { file, docs, space }) => export(&settings, &file, docs, space.space, json).await,
        Some(Verb::Import { file, dry_run, space }) if file.is_dir() => {
            storage_folder::import(&settings, &file, space.space, dry_run, json).await
        }
        Some(Verb::Import { dry_run: true, .. }) => Err(Failure::usage(
            "dry_run",
            "--dry-run is for storage folders, and this is none",
            "leave it out: what is in the file already is skipped",
        )),
        Some(Verb::Import { file, space, .. }) => import(&settings, &file, space.space, json).await,
        Some(Verb::Blob(BlobVerb::Get { blob, out, space })) => {
            get_blob(&settings, blob, out.as_deref(), space.space, json).await
        }
        Some(Verb::Doc(DocVerb::Receipts { doc, peers, wait })) => receipts(&settings, doc, peers, wait, json).await,
        Some(Verb::Status { doc, space, wait }) => status(&settings, doc, space.space, wait, json).await,
        Some(verb) => {
            let (request, sync) = request_of(verb)?;
            once(&settings, request, sync, json).await
        }
    }
}

/// The manual pages, made from the same text as `--help`.
fn manual(out: Option<&Path>) -> Result<(), Failure> {
    let cannot = |error: io::Error| {
        Failure::failed(
            "manual",
            format!("cannot write the manual: {error}"),
            "name a folder that this user can write to",
        )
    };
    if let Some(folder) = out {
        std::fs::create_dir_all(folder).map_err(cannot)?;
        return clap_mangen::generate_to(Cli::command(), folder).map_err(cannot);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(cannot)?;
    print::out(&String::from_utf8_lossy(&page))
}

/// Flags before the verb count as those after it.
fn merged(before: crate::args::Serving, mut after: crate::args::Serving) -> crate::args::Serving {
    after.listen.splice(0..0, before.listen);
    after.advertise.splice(0..0, before.advertise);
    after.connect.splice(0..0, before.connect);
    after.ready_file = after.ready_file.or(before.ready_file);
    after.while_stdin |= before.while_stdin;
    after
}

/// The verbs that are one request and one reply.
fn request_of(verb: Verb) -> Result<(Request, Option<u64>), Failure> {
    let request = match verb {
        Verb::Join { invite, wait } => Request::Join { invite, wait_ms: wait.saturating_mul(1_000) },
        Verb::Space(SpaceVerb::New { writers }) => Request::NewSpace { writers },
        Verb::Space(SpaceVerb::Ls) => Request::Spaces,
        Verb::Space(SpaceVerb::Publish { space, withdraw }) => Request::Publish { space, withdraw },
        Verb::Space(SpaceVerb::Invite { space, right, uses }) => {
            Request::Invite { space, grant: right.map(|right| (right, uses)) }
        }
        Verb::Members { space, all } => Request::Members { space: space.space, all },
        Verb::Grant { device, right, gateway, space } => Request::Grant { space: space.space, device, right, gateway },
        Verb::Device(DeviceVerb::Add { device, name, space }) => {
            Request::AddDevice { space: space.space, device, name }
        }
        Verb::Device(DeviceVerb::Ls { space }) => Request::Devices { space: space.space },
        Verb::Device(DeviceVerb::Rm { device, keep, space }) => {
            Request::RemoveDevice { space: space.space, device, keep }
        }
        Verb::Revoke { device, keep, space } => Request::Revoke { space: space.space, device, keep },
        Verb::Doc(DocVerb::New { kind, name, space }) => Request::NewDocument { space: space.space, kind, name },
        Verb::Doc(DocVerb::Erase { doc, note }) => Request::EraseDocument { doc: named(doc), note },
        Verb::Doc(DocVerb::Erasures { space }) => Request::Erasures { space: space.space },
        Verb::Doc(DocVerb::Release { doc }) => Request::ReleaseDocument(named(doc)),
        Verb::Doc(DocVerb::Succeed { doc }) => Request::SucceedDocument(named(doc)),
        Verb::Doc(DocVerb::Ls { kind, deleted, space }) => Request::Documents { space: space.space, kind, deleted },
        Verb::Doc(DocVerb::Rm { doc }) => Request::DeleteDocument(named(doc)),
        Verb::Get { doc, path } => Request::Get { doc: named(doc), path },
        Verb::Set { doc, path, value, sync } => {
            return Ok((Request::Set { doc: named(doc), path, value: parse_json("the value", &value)? }, sync.sync));
        }
        Verb::History { doc, last } => Request::History { doc: named(doc), last },
        Verb::Peers => Request::Peers { known: true },
        Verb::Usage => Request::Usage,
        Verb::Block(BlockVerb::Add { kind, what }) => Request::Block { kind, what, blocks: true },
        Verb::Block(BlockVerb::Rm { kind, what }) => Request::Block { kind, what, blocks: false },
        Verb::Block(BlockVerb::Ls) => Request::Blocked,
        Verb::Blob(BlobVerb::Put { file, media_type, space }) => {
            let path = std::path::absolute(&file).unwrap_or(file);
            Request::PutBlob { space: space.space, path, media_type }
        }
        Verb::Blob(BlobVerb::List { space }) => Request::Blobs { space: space.space },
        Verb::Blob(BlobVerb::Gc { space }) => Request::CollectBlobs { space: space.space },
        _ => return Err(Failure::failed("internal", "a verb without a request", "please report it")),
    };
    Ok((request, None))
}

fn named(doc: DocRef) -> Doc {
    Doc { space: doc.space.space, doc: doc.doc }
}

/// Asks for one thing and prints the reply.
async fn once(settings: &Settings, request: Request, sync: Option<u64>, json: bool) -> Result<(), Failure> {
    let create = matches!(request, Request::NewSpace { .. } | Request::Join { .. });
    let writes = writes(&request);
    let space = match &request {
        Request::Set { doc, .. } | Request::Patch { doc, .. } | Request::Edit { doc, .. } => doc.space.clone(),
        _ => None,
    };
    let dial = match request {
        Request::Join { wait_ms: 1.., .. } => Dial::Out,
        _ if sync.is_some() => Dial::Out,
        _ => Dial::No,
    };
    let mut reach = Reach::find(settings, dial, create).await?;
    let serves = matches!(reach, Reach::Served(_));
    let answered = reach.ask(request).await;
    let synced = match (&answered, sync) {
        (Ok(_), Some(seconds)) => Some(reach.ask(level(space, seconds)).await),
        _ => None,
    };
    // What was acknowledged is on disk already; a close that fails must still be told.
    let closed = reach.close().await;
    let reply = answered?;
    print::reply(&reply, json).and(closed)?;
    match synced {
        Some(Ok(synced)) if !json => print::reply(&synced, false)?,
        Some(Err(failure)) => return Err(failure),
        Some(Ok(_)) => {}
        None if writes && !serves && !json && !settings.connect().is_empty() && io::stderr().is_terminal() => {
            print::note("it will sync when this store is served; --sync does it now");
        }
        None => {}
    }
    Ok(())
}

fn level(space: Option<String>, seconds: u64) -> Request {
    Request::Level { space, wait_ms: seconds.saturating_mul(1_000) }
}

fn writes(request: &Request) -> bool {
    use Request::{
        AddDevice, DeleteDocument, Edit, Grant, NewDocument, NewSpace, Patch, Publish, RemoveDevice, Revoke, Set,
    };
    matches!(
        request,
        NewSpace { .. }
            | Publish { .. }
            | Grant { .. }
            | Revoke { .. }
            | AddDevice { .. }
            | RemoveDevice { .. }
            | NewDocument { .. }
            | DeleteDocument(_)
            | Set { .. }
            | Patch { .. }
            | Edit { .. }
    )
}

/// Shows who has signed that they have a document, and fails if those are fewer than were asked for.
async fn receipts(settings: &Settings, doc: DocRef, peers: u16, wait: u64, json: bool) -> Result<(), Failure> {
    // One is this peer's own.
    let mut reach = Reach::find(settings, if peers > 1 { Dial::Out } else { Dial::No }, false).await?;
    let answered = reach.ask(Request::Receipts { doc: named(doc), peers, wait_ms: wait.saturating_mul(1_000) }).await;
    let closed = reach.close().await;
    let reply = answered?;
    print::reply(&reply, json).and(closed)?;
    match &reply {
        Reply::Receipts(found) if found.receipts.len() < usize::from(peers) => Err(Failure::new(
            Exit::Unreachable,
            "too_few",
            format!("{} of {peers} peers signed within {wait} s", found.receipts.len()),
            "see `commonhold peers` for who is connected; a document without changes has no receipts",
        )),
        _ => Ok(()),
    }
}

async fn status(
    settings: &Settings,
    doc: Option<String>,
    space: Option<String>,
    wait: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let mut reach = Reach::find(settings, if wait.is_some() { Dial::Out } else { Dial::No }, false).await?;
    let asked = async {
        if let Some(seconds) = wait {
            reach.ask(level(space.clone(), seconds)).await?;
        }
        if let Some(doc) = doc {
            return Ok(vec![reach.ask(Request::Status(Doc { space, doc })).await?]);
        }
        Ok(vec![
            reach.ask(Request::Me).await?,
            reach.ask(Request::Spaces).await?,
            reach.ask(Request::Peers { known: false }).await?,
        ])
    };
    let asked: Result<Vec<Reply>, Failure> = asked.await;
    let closed = reach.close().await;
    let replies = asked?;
    let printed = match &replies[..] {
        [me, spaces, peers] if json => {
            print::out(&format!("{}\n", json!({"me": me.json(), "spaces": spaces.json(), "peers": peers.json()})))
        }
        replies => replies.iter().try_for_each(|reply| print::reply(reply, json)),
    };
    printed.and(closed)
}

/// Shows the document in the person's editor and applies what they changed. Nothing is held open meanwhile.
async fn edit(settings: &Settings, doc: Doc, sync: Option<u64>, json: bool) -> Result<(), Failure> {
    let mut reach = Reach::find(settings, Dial::No, false).await?;
    let got = reach.ask(Request::Get { doc: doc.clone(), path: String::new() }).await;
    reach.close().await?;
    let Reply::Value(shown) = got? else { return Err(Failure::failed("internal", "no value", "please report it")) };
    // The editor has the terminal and this thread; nothing else runs in this process.
    let (draft, after) = Draft::edit(&doc.doc, &shown.value)?;
    let request = Request::Edit { doc, before: shown.value, after };
    match once(settings, request, sync, json).await {
        Ok(()) => {
            draft.discard();
            Ok(())
        }
        Err(failure) => Err(draft.kept(failure)),
    }
}

async fn watch(settings: &Settings, doc: DocRef, count: Option<u64>, json: bool) -> Result<(), Failure> {
    let mut stop = Stop::listen(false)?;
    let reach = Reach::find(settings, Dial::Out, false).await?;
    let mut watch = reach.watch(named(doc)).await?;
    let mut seen = 0;
    let ended = loop {
        if count.is_some_and(|count| seen >= count) {
            break Ok(());
        }
        match stop.or(watch.next()).await {
            None => break Ok(()),
            Some(Ok(Some(watched))) => {
                if let Err(failure) = print::next_reply(&Reply::Watched(watched), json) {
                    break Err(failure);
                }
                seen += 1;
            }
            Some(Ok(None)) => {
                break Err(Failure::failed(
                    "watch_ended",
                    "the document was deleted, or the serving process stopped",
                    "watch again",
                ));
            }
            Some(Err(failure)) => break Err(failure),
        }
    };
    watch.close().await.and(ended)
}

async fn export(
    settings: &Settings,
    file: &Path,
    docs: Vec<String>,
    space: Option<String>,
    json: bool,
) -> Result<(), Failure> {
    let reach = Reach::find(settings, Dial::No, false).await?;
    if file == Path::new("-") {
        // The reply would end up in the file.
        return reach.copy(Request::Export { space, docs }, &mut io::stdout(), |_| {}).await.map(drop);
    }
    let reply = copy_to_file(reach, Request::Export { space, docs }, file, |_| {}).await?;
    print::reply(&reply, json)
}

/// Writes what is copied to a file, for this person's eyes only.
pub(crate) async fn copy_to_file(
    reach: Reach,
    request: Request,
    file: &Path,
    progress: impl FnMut(u64),
) -> Result<Reply, Failure> {
    // Under another name until it is whole, so that one that broke off is not taken for one.
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = file.with_file_name(name);
    let code = if matches!(request, Request::Backup { .. }) { "backup_file" } else { "export_file" };
    let cannot = |error: io::Error| {
        let what = format!("cannot write {}: {error}", file.display());
        Failure::failed(code, what, "check the folder and the free space")
    };
    let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    let mut out = match opened {
        Ok(out) => out,
        Err(error) => return reach.close().await.and(Err(cannot(error))),
    };
    let copied = reach.copy(request, &mut out, progress).await;
    let kept = copied.and_then(|reply| {
        // On the stick before it is pulled out.
        out.sync_all().and_then(|()| std::fs::rename(&partial, file)).map_err(cannot)?;
        Ok(reply)
    });
    kept.inspect_err(|_| drop(std::fs::remove_file(&partial)))
}

/// Writes a blob to a file or standard output. How far its fetch is goes to standard error, if a person is there.
async fn get_blob(
    settings: &Settings,
    blob: String,
    out: Option<&Path>,
    space: Option<String>,
    json: bool,
) -> Result<(), Failure> {
    let reach = Reach::find(settings, Dial::Out, false).await?;
    let shown = io::stderr().is_terminal();
    let progress = |far: &crate::request::BlobProgress| match (json, shown) {
        (true, _) => eprintln!("{}", json!(far)),
        (false, true) => {
            eprint!("\r{} of {} bytes from {} peers ", far.bytes, far.of, far.sources);
        }
        (false, false) => {}
    };
    let Some(file) = out else {
        // The reply would end up in the bytes.
        return reach.get_blob(space, blob, &mut io::stdout(), progress).await.map(drop);
    };
    let cannot = |error: io::Error| {
        let what = format!("cannot write {}: {error}", file.display());
        Failure::failed("blob_file", what, "check the folder and the free space")
    };
    // Under another name until it is whole.
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = file.with_file_name(name);
    let mut to = match File::create(&partial) {
        Ok(to) => to,
        Err(error) => return reach.close().await.and(Err(cannot(error))),
    };
    let got = reach.get_blob(space, blob, &mut to, progress).await;
    let kept = got.and_then(|reply| std::fs::rename(&partial, file).map(|()| reply).map_err(cannot));
    match kept {
        Ok(reply) => print::reply(&reply, json),
        Err(failure) => {
            let _ = std::fs::remove_file(&partial);
            Err(failure)
        }
    }
}

async fn import(settings: &Settings, file: &Path, space: Option<String>, json: bool) -> Result<(), Failure> {
    // Every Unix has this name for it, and tokio reads it like any file.
    let path = if file == Path::new("-") { Path::new("/dev/stdin") } else { file };
    let opened = tokio::fs::File::open(path).await.map_err(|error| {
        Failure::not_found("import_file", format!("cannot read {}: {error}", file.display()), "check the path")
    })?;
    let mut reach = Reach::find(settings, Dial::No, true).await?;
    let answered = reach.import(space, false, opened).await;
    let closed = reach.close().await;
    print::reply(&answered?, json).and(closed)
}

fn configuration(settings: &Settings, verb: &ConfigVerb, json: bool) -> Result<(), Failure> {
    match verb {
        ConfigVerb::Check => {
            tls::of(settings)?;
            let file = settings.file.as_ref().map(|path| path.display().to_string());
            match json {
                true => print::out(&format!("{}\n", json!({"ok": true, "file": file}))),
                false => print::out(&format!("ok, {}\n", file.unwrap_or_else(|| "no config file".into()))),
            }
        }
        ConfigVerb::Print if json => {
            let all = settings.all().map(|(key, setting)| {
                (key.name.to_owned(), json!({"value": setting.texts.join(","), "origin": setting.origin.to_string()}))
            });
            print::out(&format!("{}\n", Json::Object(all.collect())))
        }
        ConfigVerb::Print => print::out(&config::as_toml(settings)),
    }
}

pub(crate) fn text_or_stdin(text: String) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let mut read = String::new();
    io::stdin().read_to_string(&mut read).map_err(|error| {
        Failure::failed("stdin", format!("cannot read standard input: {error}"), "give the patch as an argument")
    })?;
    Ok(read)
}

fn parse_json(what: &str, text: &str) -> Result<Json, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::usage(
            "bad_json",
            format!("{what} is not JSON: {error}"),
            format!("quote strings for JSON and for the shell: '{}'", Json::from(text)),
        )
    })
}
