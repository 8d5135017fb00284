//! Small files that only their owner may read and that are either old or new after a crash, never half.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Bytes of such a file at most; the longest holds a path.
const FILE_BYTES_MAX: u64 = 16 << 10;
const CHECKSUM_LEN: usize = 16;

/// What is wrong with a file or folder of secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    /// The system refused.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner have rights that they should not have.
    #[error("{} is open to other users (mode {mode:03o}): run chmod {wanted} {}", .path.display(), .path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What to give to chmod.
        wanted: &'static str,
    },
    /// The contents do not match their checksum, or another version wrote them.
    #[error("{} is damaged, or was written by another version", .0.display())]
    Damaged(PathBuf),
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError {
    let path = path.to_owned();
    move |source| PrivateFileError::Io { path, source }
}

/// Makes the folder (mode 0700) where it is missing; refuses one that others may write to.
pub(crate) fn ensure_dir(dir: &Path) -> Result<(), PrivateFileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_at(dir))?;
    let mode = fs::metadata(dir).map_err(io_at(dir))?.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(PrivateFileError::Exposed { path: dir.to_owned(), mode, wanted: "700" });
    }
    Ok(())
}

/// The contents behind `label`; `None` when there is no such file.
pub(crate) fn read(path: &Path, label: &str) -> Result<Option<Zeroizing<Vec<u8>>>, PrivateFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at(path)(error)),
    };
    let metadata = file.metadata().map_err(io_at(path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.to_owned(), mode, wanted: "600" });
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(PrivateFileError::Damaged(path.to_owned()));
    }
    // Of full size at once: growing would leave copies of a secret behind.
    let mut sealed = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut sealed).map_err(io_at(path))?;
    match unseal(label, &sealed) {
        Some(contents) => Ok(Some(Zeroizing::new(contents.to_vec()))),
        None => Err(PrivateFileError::Damaged(path.to_owned())),
    }
}

/// Writes a file durably, in place of an older one.
pub(crate) fn replace(path: &Path, label: &str, contents: &[u8]) -> Result<(), PrivateFileError> {
    let temporary = write_temporary(path, label, contents)?;
    fs::rename(&temporary, path).map_err(io_at(path))?;
    sync_parent(path)
}

/// Writes a file durably unless there is one; false when there is.
pub(crate) fn create(path: &Path, label: &str, contents: &[u8]) -> Result<bool, PrivateFileError> {
    let temporary = write_temporary(path, label, contents)?;
    // Unlike a rename, a link never replaces: of two processes that create a secret at once, one must lose.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(io_at(&temporary))?;
    match linked {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io_at(path)(error)),
    }
}

fn write_temporary(path: &Path, label: &str, contents: &[u8]) -> Result<PathBuf, PrivateFileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.new", u64::from_be_bytes(random()?)));
    let temporary = PathBuf::from(name);
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&seal(label, contents))?;
        file.sync_all()
    };
    if let Err(error) = written() {
        // What is left of it helps nobody; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(io_at(&temporary)(error));
    }
    Ok(temporary)
}

/// A renamed or linked name is durable once its folder is.
fn sync_parent(path: &Path) -> Result<(), PrivateFileError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_at(dir))
}

/// Bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], PrivateFileError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io_at(Path::new("the system's random generator"))(error.into()))?;
    Ok(bytes)
}

/// A line that says what it is and in which version, the contents, 16 bytes of BLAKE3 over both.
pub(crate) fn seal(label: &str, contents: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut sealed = Zeroizing::new(Vec::with_capacity(label.len() + 1 + contents.len() + CHECKSUM_LEN));
    sealed.extend_from_slice(label.as_bytes());
    sealed.push(b'\n');
    sealed.extend_from_slice(contents);
    let checksum = blake3::hash(&sealed);
    sealed.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_LEN]);
    sealed
}

/// The contents, if label and checksum are right.
pub(crate) fn unseal<'a>(label: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (covered, checksum) = sealed.split_last_chunk::<CHECKSUM_LEN>()?;
    let contents = covered.strip_prefix(label.as_bytes())?.strip_prefix(b"\n")?;
    (blake3::hash(covered).as_bytes()[..CHECKSUM_LEN] == *checksum).then_some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_holds_the_new_contents_and_leaves_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read(&path, "l").unwrap().is_none());
        assert!(create(&path, "l", b"one").unwrap());
        assert!(!create(&path, "l", b"two").unwrap());
        assert_eq!(**read(&path, "l").unwrap().unwrap(), *b"one");
        replace(&path, "l", b"three").unwrap();
        assert_eq!(**read(&path, "l").unwrap().unwrap(), *b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_flipped_bit_a_cut_and_another_label_are_noticed() {
        let sealed = seal("commonhold test 1", b"contents");
        assert_eq!(unseal("commonhold test 1", &sealed), Some(&b"contents"[..]));
        assert_eq!(unseal("commonhold test 2", &sealed), None);
        for at in 0..sealed.len() {
            let mut flipped = sealed.to_vec();
            flipped[at] ^= 1;
            assert_eq!(unseal("commonhold test 1", &flipped), None);
            assert_eq!(unseal("commonhold test 1", &sealed[..at]), None);
        }
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = ensure_dir(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("(mode 770): run chmod 700 {}", dir.path().display())), "{error}");
        let made = dir.path().join("a/b");
        ensure_dir(&made).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
