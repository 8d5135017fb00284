//! Storage folders of automerge-repo (its adapter for Node's file system) and of samod, which keeps them alike: read here, by the person's own
//! process, and sent document by document to whoever has the store, which trusts them no more than a stranger's.
//!
//! Of a document with the id `abcdef…`, `ab/cdef…/snapshot/` holds whole documents and `ab/cdef…/incremental/` changes, each in a file that is
//! named by a hash, which nobody needs. What was synced with whom (`sync-state`) and the id of the storage are left alone. Links are not followed.
//!
//! What is sent is a row of frames: kind (1 byte), length (4 bytes, big end first), content. It is no format: both ends are of one version.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::SyncIoBridge;

use crate::config::Settings;
use crate::failure::Failure;
use crate::gateway::ids::RepoId;
use crate::local::CHUNK;
use crate::print::{self, bytes, count};
use crate::reach::{Dial, Reach};
use crate::request::{ImportedFolder, Reply};

/// Bytes of all files of one document, which are in memory at once where they are imported. automerge-repo makes one of many whenever the
/// many have more bytes than the one, so this is a document of some 64 MiB.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 128 << 20;
/// Files of one document.
const FILES_MAX: usize = 1 << 16;
/// How often it is told how far an import is.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Under which name a storage keeps its own id, split like a document's.
const STORAGE_ID: &str = "storage-adapter-id";

/// Kinds of frames.
const BEGIN: u8 = 1;
const PIECE: u8 = 2;
const END: u8 = 3;
const DONE: u8 = 4;

/// Reads a folder and has it imported.
pub(crate) async fn import(
    settings: &Settings,
    folder: &Path,
    space: Option<String>,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    let mut own = ImportedFolder::default();
    let documents = look(folder, &mut own)?;
    if documents.is_empty() {
        return Err(Failure::not_found(
            "import_folder",
            format!("there are no documents of automerge-repo or samod in {}", folder.display()),
            "name the folder that the storage adapter was given: it holds folders of two letters, and in them one for each document",
        ));
    }
    if dry_run {
        return tell(&documents, own, json);
    }
    let mut reach = Reach::find(settings, Dial::No, true).await?;
    let (writer, reader) = tokio::io::duplex(CHUNK);
    let shown = json || io::stderr().is_terminal();
    let reading = tokio::task::spawn_blocking(move || {
        let mut to = SyncIoBridge::new(writer);
        let mut last = None;
        let sent = send(&documents, &mut to, &mut own, |done| {
            let soon = last.is_some_and(|last: Instant| last.elapsed() < SHOW_EVERY) && done < documents.len();
            if !shown || soon {
                return;
            }
            last = Some(Instant::now());
            match json {
                true => eprintln!("{}", json!({"documents": done, "of": documents.len()})),
                false => eprint!("\r{done} of {} documents ", documents.len()),
            }
        });
        // Whoever takes it no more has failed, and says why.
        drop(sent);
        own
    });
    let answered = reach.import(space, true, reader).await;
    if shown && !json {
        eprintln!();
    }
    let closed = reach.close().await;
    let reply = match answered? {
        Reply::ImportedFolder(mut imported) => {
            let own = reading.await.unwrap_or_default();
            imported.skipped_more += own.skipped_more;
            own.skipped.into_iter().for_each(|skipped| imported.skip(skipped.what, skipped.why));
            Reply::ImportedFolder(imported)
        }
        reply => reply,
    };
    print::reply(&reply, json).and(closed)
}

/// What is in a folder, without reading the files.
fn tell(documents: &[Kept], mut own: ImportedFolder, json: bool) -> Result<(), Failure> {
    let (mut files, mut all) = (0, 0);
    for document in documents {
        for path in document.files(&mut own) {
            files += 1;
            all += fs::symlink_metadata(&path).map_or(0, |facts| facts.len());
        }
    }
    let documents = documents.len() as u64;
    if json {
        let skipped = json!({"skipped": own.skipped, "skipped_more": own.skipped_more});
        let mut found = json!({"documents": documents, "files": files, "bytes": all});
        found
            .as_object_mut()
            .into_iter()
            .for_each(|found| found.extend(skipped.as_object().cloned().unwrap_or_default()));
        return print::out(&format!("{found}\n"));
    }
    let text = format!("{}, {}, {}\n", count(documents, "document"), count(files, "file"), bytes(all));
    print::out(&(text + &print::skipped(&own)))
}

/// A document as it is kept.
#[derive(Debug)]
struct Kept {
    id: RepoId,
    folder: PathBuf,
    /// From the folder that was named on.
    name: String,
}

/// The documents of a folder, in the order of their ids. About 200 bytes each.
fn look(folder: &Path, own: &mut ImportedFolder) -> Result<Vec<Kept>, Failure> {
    let cannot = |error: io::Error| {
        Failure::not_found("import_folder", format!("cannot read {}: {error}", folder.display()), "check the path")
    };
    let mut documents = Vec::new();
    for outer in fs::read_dir(folder).map_err(cannot)? {
        let outer = outer.map_err(cannot)?;
        let first = outer.file_name().to_string_lossy().into_owned();
        // Beside the storage there may be anything.
        if first.chars().count() != 2 || !is_folder(&outer, &first, own) {
            continue;
        }
        let inner = match fs::read_dir(outer.path()) {
            Ok(inner) => inner,
            Err(error) => {
                own.skip(first, error.to_string());
                continue;
            }
        };
        for inner in inner.filter_map(Result::ok) {
            let rest = inner.file_name().to_string_lossy().into_owned();
            let (whole, name) = (format!("{first}{rest}"), format!("{first}/{rest}"));
            if whole == STORAGE_ID || !is_folder(&inner, &name, own) {
                continue;
            }
            match whole.parse() {
                Ok(id) => documents.push(Kept { id, folder: inner.path(), name }),
                Err(()) => own.skip(name, "its name is not the id of a document"),
            }
        }
    }
    documents.sort_unstable_by_key(|document| document.id);
    Ok(documents)
}

/// Whether it is a folder, and no link to one, which is told.
fn is_folder(entry: &DirEntry, name: &str, own: &mut ImportedFolder) -> bool {
    match entry.file_type() {
        Ok(kind) if kind.is_dir() => true,
        Ok(kind) if kind.is_symlink() => {
            own.skip(name, "it is a link, which is not followed");
            false
        }
        _ => {
            own.skip(name, "it is no folder");
            false
        }
    }
}

impl Kept {
    /// Its files: whole documents before changes.
    fn files(&self, own: &mut ImportedFolder) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for kind in ["snapshot", "incremental"] {
            let folder = self.folder.join(kind);
            match fs::symlink_metadata(&folder) {
                Ok(facts) if facts.is_dir() => {}
                Ok(_) => {
                    own.skip(format!("{}/{kind}", self.name), "it is no folder, or a link to one");
                    continue;
                }
                Err(_) => continue,
            }
            match fs::read_dir(&folder) {
                Ok(all) => files.extend(all.filter_map(Result::ok).map(|entry| entry.path())),
                Err(error) => own.skip(format!("{}/{kind}", self.name), error.to_string()),
            }
        }
        files
    }

    /// From the folder that was named on.
    fn name_of(&self, file: &Path) -> String {
        let rest = file.strip_prefix(&self.folder).unwrap_or(file);
        format!("{}/{}", self.name, rest.display())
    }

    fn send(&self, to: &mut impl Write, own: &mut ImportedFolder) -> io::Result<()> {
        let files = self.files(own);
        if files.len() > FILES_MAX {
            own.skip(
                &self.name,
                format!(
                    "it has {} files, of which {FILES_MAX} are read: open it in its app, which makes one of them",
                    files.len()
                ),
            );
            return Ok(());
        }
        let (mut pieces, mut all) = (Vec::new(), 0);
        for file in files {
            let name = self.name_of(&file);
            match read(&file, DOCUMENT_BYTES_MAX - all) {
                Ok(Some(bytes)) => {
                    all += bytes.len() as u64;
                    pieces.push((name, bytes));
                }
                Ok(None) => {
                    let max = DOCUMENT_BYTES_MAX >> 20;
                    own.skip(&self.name, format!("its files have more than {max} MiB together: open it in its app, which makes one of them, or import it as an .automerge file"));
                    return Ok(());
                }
                Err(error) => own.skip(name, error.to_string()),
            }
        }
        frame(to, BEGIN, &[self.id.to_string().as_bytes()])?;
        for (name, bytes) in pieces {
            let name = &name.as_bytes()[..name.len().min(255)];
            frame(to, PIECE, &[&[name.len() as u8], name, &bytes])?;
        }
        frame(to, END, &[])
    }
}

fn send(
    documents: &[Kept],
    to: &mut impl Write,
    own: &mut ImportedFolder,
    mut progress: impl FnMut(usize),
) -> io::Result<()> {
    for (done, document) in documents.iter().enumerate() {
        document.send(to, own)?;
        progress(done + 1);
    }
    frame(to, DONE, &[])?;
    to.flush()
}

/// A regular file of at most so many bytes; none if it has more. Neither a link nor anything that a read would wait for.
fn read(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        match fs::symlink_metadata(path).is_ok_and(|facts| facts.is_symlink()) {
            true => io::Error::other("it is a link, which is not followed"),
            false => error,
        }
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= max))
}

fn frame(to: &mut impl Write, kind: u8, content: &[&[u8]]) -> io::Result<()> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&[kind])?;
    to.write_all(&length.to_be_bytes())?;
    content.iter().try_for_each(|part| to.write_all(part))
}

/// The next document: its id, and the names and contents of its files; none after the last.
pub(crate) async fn next(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(RepoId, Vec<(String, Vec<u8>)>)>> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let (mut id, mut files, mut all) = (None, Vec::new(), 0);
    loop {
        let kind = from.read_u8().await?;
        let length = u64::from(from.read_u32().await?);
        all += length;
        if all > DOCUMENT_BYTES_MAX + (FILES_MAX as u64 + 1) * 256 {
            return Err(wrong());
        }
        // Grows as the bytes come: a length alone allocates nothing.
        let mut content = Vec::new();
        if (&mut *from).take(length).read_to_end(&mut content).await? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (kind, id) {
            (BEGIN, None) => {
                let text = std::str::from_utf8(&content).map_err(|_| wrong())?;
                id = Some(text.parse().map_err(|()| wrong())?);
            }
            (PIECE, Some(_)) if files.len() < FILES_MAX => {
                let (length, rest) = content.split_first().ok_or_else(wrong)?;
                let (name, _) = rest.split_at_checked(usize::from(*length)).ok_or_else(wrong)?;
                let name = String::from_utf8_lossy(name).into_owned();
                content.drain(..1 + usize::from(*length));
                files.push((name, content));
            }
            (END, Some(id)) => return Ok(Some((id, files))),
            (DONE, None) => return Ok(None),
            _ => return Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_read_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let id: RepoId = "11111111111111114Ki9Gx".parse().unwrap();
        let text = id.to_string();
        let (first, rest) = text.split_at(2);
        let document = folder.path().join(first).join(rest);
        for kind in ["snapshot", "incremental", "sync-state"] {
            fs::create_dir_all(document.join(kind)).unwrap();
            fs::write(document.join(kind).join("a"), kind).unwrap();
        }
        let mut own = ImportedFolder::default();
        let documents = look(folder.path(), &mut own).unwrap();
        let mut sent = Vec::new();
        send(&documents, &mut sent, &mut own, |_| ()).unwrap();
        assert_eq!(own, ImportedFolder::default());
        let mut from = &sent[..];
        let (read, files) = next(&mut from).await.unwrap().unwrap();
        let name = |kind: &str| format!("{first}/{rest}/{kind}/a");
        let expected = ["snapshot", "incremental"].map(|kind| (name(kind), kind.as_bytes().to_vec()));
        assert_eq!((read, files), (id, expected.to_vec()));
        assert_eq!(next(&mut from).await.unwrap(), None);
        // Up to the end of the document.
        for cut in 0..sent.len() - 5 {
            assert!(next(&mut &sent[..cut]).await.is_err(), "{cut}");
        }
        let long = [&[BEGIN][..], &u32::MAX.to_be_bytes()].concat();
        assert_eq!(next(&mut &long[..]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
