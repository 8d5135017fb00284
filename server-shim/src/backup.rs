//! Backups: made of a store that is served or not, checked and restored. The file and what is in it are the engine's
//! (`commonhold_engine::backup`).

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use commonhold_engine::backup::{self, BackupError, Manifest, Verified};
use commonhold_engine::local::LocalClient;
use serde_json::{Value as Json, json};

use crate::config::Settings;
use crate::failure::{Exit, Failure, chain};
use crate::operate::{STORE_FILE, store_failure};
use crate::print::{self, bytes, count};
use crate::reach::{self, Dial, Reach};
use crate::request::{Reply, Request};
use crate::run::copy_to_file;

/// Damaged places that are told of one by one.
const TOLD_MAX: usize = 10;

/// Writes a backup.
pub(crate) async fn make(settings: &Settings, file: &Path, blobs: bool, json: bool) -> Result<(), Failure> {
    let mut reach = Reach::find(settings, Dial::No, false).await?;
    let about = match reach.ask(Request::BackupSize { blobs }).await {
        Ok(Reply::BackupSize(about)) => about,
        Ok(_) => return reach.close().await.and(Err(crate::local::other_version())),
        Err(failure) => return reach.close().await.and(Err(failure)),
    };
    let mut progress = Progress::new("written", Some(about), json);
    let request = Request::Backup { blobs };
    if file == Path::new("-") {
        // The reply would end up in the file.
        let copied = reach.copy(request, &mut io::stdout(), |bytes| progress.at(bytes)).await;
        progress.end();
        return copied.map(drop);
    }
    let copied = copy_to_file(reach, request, file, |bytes| progress.at(bytes)).await;
    progress.end();
    print::reply(&copied?, json)
}

/// Checks a backup, or the store.
pub(crate) async fn verify(
    settings: &Settings,
    file: Option<&Path>,
    quick: bool,
    scratch: Option<PathBuf>,
    json: bool,
) -> Result<(), Failure> {
    let Some(file) = file else { return verify_store(settings, json).await };
    let verified = looked_at(file, (!quick).then_some(scratch), json).await?;
    tell(&verified, json, "sound", json!({}))
}

/// What restoring may do.
pub(crate) struct How {
    pub(crate) dry_run: bool,
    pub(crate) replace: bool,
    pub(crate) scratch: Option<PathBuf>,
}

/// Makes the store of a backup.
pub(crate) async fn restore(settings: &Settings, file: &Path, how: How, json: bool) -> Result<(), Failure> {
    let data = settings.data();
    // Whoever serves it would go on with what is not there any more.
    let served = LocalClient::connect(&data).await.map_err(|error| reach::local_failure(error, &data))?.is_some();
    let exists = data.join(STORE_FILE).exists();
    if how.dry_run {
        let verified = looked_at(file, Some(how.scratch), json).await?;
        let does = match (served, exists, how.replace) {
            (true, ..) => "nothing would be restored: a process serves the store; stop it first",
            (_, true, false) => "nothing would be restored: there is a store; --replace keeps it aside",
            (_, true, true) => "it would be restored, and the store that is there kept aside",
            (_, false, _) => "it would be restored",
        };
        let would = !served && (how.replace || !exists);
        return tell(
            &verified,
            json,
            does,
            json!({ "would_restore": would, "store_exists": exists, "served": served }),
        );
    }
    if served {
        return Err(reach::in_use(&data, None));
    }
    let (path, to) = (file.to_owned(), data.clone());
    let mut progress = Progress::new("read", size(file), json);
    let restored = blocking(move || {
        let restored = backup::restore(open(&path)?, &to, how.replace, &mut |bytes| progress.at(bytes));
        progress.end();
        restored.map_err(|error| failure(error, &path, &to))
    });
    let restored = restored.await?;
    let aside = restored.replaced.as_ref().map(|folder| folder.display().to_string());
    let does = match &aside {
        Some(folder) => format!("restored to {}; what was there is in {folder}", data.display()),
        None => format!("restored to {}", data.display()),
    };
    tell(&restored.verified, json, &does, json!({ "data": data, "replaced": aside }))
}

/// Reads a backup; with a scratch folder (or, inside, the system's), checks the store in it as well.
async fn looked_at(file: &Path, scratch: Option<Option<PathBuf>>, json: bool) -> Result<Verified, Failure> {
    let path = file.to_owned();
    let mut progress = Progress::new("read", size(file), json);
    blocking(move || {
        let made = scratch.map(|folder| match folder {
            Some(folder) => tempfile::tempdir_in(folder),
            None => tempfile::tempdir(),
        });
        let made = made.transpose().map_err(|error| {
            Failure::failed(
                "scratch",
                format!("cannot make a folder for the check: {error}"),
                "name one with --scratch that has room for the store, or compare digests only with `verify --quick`",
            )
        })?;
        let verified = backup::verify(open(&path)?, made.as_ref().map(|folder| folder.path()), &mut |bytes| {
            progress.at(bytes);
        });
        progress.end();
        verified.map_err(|error| failure(error, &path, made.as_ref().map_or(Path::new(""), |folder| folder.path())))
    })
    .await
}

async fn verify_store(settings: &Settings, json: bool) -> Result<(), Failure> {
    let mut reach = Reach::find(settings, Dial::No, false).await?;
    let checked = reach.ask(Request::Check).await;
    let blobs = match &checked {
        Ok(_) => Some(reach.ask(Request::CheckBlobs).await),
        Err(_) => None,
    };
    let closed = reach.close().await;
    let (Reply::Checked(checked), Some(Reply::CheckedBlobs(blobs))) = (checked?, blobs.transpose()?) else {
        return Err(crate::local::other_version());
    };
    closed?;
    let faults = checked.faults.len() + blobs.damaged.len();
    match json {
        true => print::out(&format!("{}\n", json!({ "sound": faults == 0, "store": checked, "blobs": blobs })))?,
        false => {
            let mut text = format!(
                "store  {}, {}, {}, {}\nblobs  {}, {}\n",
                count(checked.spaces, "space"),
                count(checked.documents, "document"),
                count(checked.entries, "change"),
                bytes(checked.store_bytes),
                count(blobs.blobs, "blob"),
                bytes(blobs.bytes),
            );
            checked.faults.iter().take(TOLD_MAX).for_each(|fault| text += &format!("fault  {fault}\n"));
            blobs.damaged.iter().take(TOLD_MAX).for_each(|blob| text += &format!("fault  blob {blob} is damaged\n"));
            text += if faults == 0 { "sound\n" } else { "" };
            print::out(&text)?;
        }
    }
    match faults {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Store,
            "store_unsound",
            format!("{} of the store are at fault", count(faults as u64, "place")),
            "restore a backup, or move the data folder away and join the spaces again; damaged blobs are fetched again",
        )),
    }
}

fn tell(verified: &Verified, json: bool, does: &str, more: Json) -> Result<(), Failure> {
    let Verified { manifest, bytes: size, check } = verified;
    if json {
        let mut object = json!({
            "sound": true,
            "bytes": size,
            "manifest": manifest,
            "check": check.as_ref().map(|check| json!({
                "spaces": check.spaces, "documents": check.documents, "entries": check.entries,
            })),
        });
        if let (Some(object), Json::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        return print::out(&format!("{object}\n"));
    }
    let mut text = format!("backup   of {}, {}\n", when(manifest), bytes(*size));
    text += &format!("store    {}, {}\n", print::short(&manifest.store), count(manifest.rows(), "row"));
    text += &format!("blobs    {}, {}\n", count(manifest.blobs, "blob"), bytes(manifest.blob_bytes));
    text += &match check {
        Some(check) => format!(
            "checked  {}, {}, {}: ids, trees and signatures\n",
            count(check.spaces as u64, "space"),
            count(check.documents as u64, "document"),
            count(check.entries, "change")
        ),
        None => "checked  digests only\n".to_owned(),
    };
    print::out(&format!("{text}{does}\n"))
}

fn when(manifest: &Manifest) -> String {
    let made = i64::try_from(manifest.made_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    made.map_or_else(|| "an unknown time".to_owned(), |made| made.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn open(file: &Path) -> Result<Box<dyn Read>, Failure> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file).map_err(|error| {
        Failure::not_found("backup_file", format!("cannot read {}: {error}", file.display()), "check the path")
    });
    Ok(Box::new(io::BufReader::with_capacity(256 << 10, opened?)))
}

fn size(file: &Path) -> Option<u64> {
    std::fs::metadata(file).ok().map(|facts| facts.len()).filter(|size| *size > 0)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::failed("internal", error, "please report it")))
}

fn failure(error: BackupError, file: &Path, folder: &Path) -> Failure {
    let named = |what: String| format!("{}: {what}", file.display());
    match error {
        BackupError::NotABackup => {
            Failure::failed("not_a_backup", named(error.to_string()), "check the path; nothing was restored")
        }
        BackupError::NewerFormat { found, known } => Failure::failed(
            "backup_newer_format",
            named(format!("the backup has format {found}, this program knows formats up to {known}")),
            "use a newer version of commonhold",
        ),
        BackupError::Damaged(damage) => {
            let places: Vec<String> = damage
                .iter()
                .take(TOLD_MAX)
                .map(|place| format!("bytes {} to {}: {}", place.from, place.to, place.what))
                .collect();
            let more = damage.len().saturating_sub(TOLD_MAX);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let what = format!("the backup is damaged: {}{more}", places.join("; "));
            Failure::failed("backup_damaged", named(what), "take another backup; nothing was restored")
        }
        BackupError::Unsound(report) => {
            let rows = report.damaged_rows.iter().map(|(table, key)| format!("row {key} of table {table}"));
            let faults =
                report.faults.iter().map(|(space, doc, why)| format!("document {doc} of space {space}: {why}"));
            let faults: Vec<String> = rows.chain(faults).take(TOLD_MAX).collect();
            Failure::failed(
                "backup_unsound",
                named(format!("the store in it does not hold together: {}", faults.join("; "))),
                "take another backup; nothing was restored",
            )
        }
        BackupError::Exists => Failure::failed(
            "store_exists",
            format!("there is a store in {}", folder.display()),
            "name another folder with --data, or put the backup in its place with --replace: it is kept aside",
        ),
        BackupError::Store(error) => store_failure(&error),
        error => Failure::failed(
            "restore",
            chain(&error),
            format!("check the file and the free space in {}", folder.display()),
        ),
    }
}

/// How far something is, for people at a terminal, or as a line of JSON a second.
struct Progress {
    doing: &'static str,
    of: Option<u64>,
    json: bool,
    shown: bool,
    told: Option<Instant>,
}

impl Progress {
    fn new(doing: &'static str, of: Option<u64>, json: bool) -> Progress {
        Progress { doing, of, json, shown: json || io::stderr().is_terminal(), told: None }
    }

    fn at(&mut self, bytes: u64) {
        let every = Duration::from_millis(if self.json { 1_000 } else { 100 });
        if !self.shown || self.told.is_some_and(|told| told.elapsed() < every) {
            return;
        }
        self.told = Some(Instant::now());
        match (self.json, self.of) {
            (true, of) => eprintln!("{}", json!({ "bytes": bytes, "of_about": of })),
            (false, Some(of)) => eprint!("\r{} {} of about {} ", self.doing, print::bytes(bytes), print::bytes(of)),
            (false, None) => eprint!("\r{} {} ", self.doing, print::bytes(bytes)),
        }
    }

    fn end(&self) {
        if !self.json && self.told.is_some() {
            eprintln!();
        }
    }
}
