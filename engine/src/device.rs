//! The device's secret: an Ed25519 key in a folder of its own, apart from the store, so that no backup of the store
//! carries it. It is made once and never changed here; what it signs is others' business.

pub(crate) mod identity;
pub(crate) mod private_file;

use std::fmt;
use std::path::Path;

use commonhold_sync::id::DeviceId;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

pub use identity::{IdentityError, IdentitySecret, RecoveryPhrase};
pub use private_file::PrivateFileError;

const FILE: &str = "device.key";
const LABEL: &str = "commonhold device 1";

/// The secret of this device. Wiped from memory when dropped; shown as the public id only.
pub struct DeviceSecret(SigningKey);

impl DeviceSecret {
    /// Reads `device.key` in this folder, or draws a secret and writes it (mode 0600, in a folder of mode 0700) where
    /// there is none. A secret that is damaged or that others can read is refused, never replaced.
    pub fn load_or_create(dir: &Path) -> Result<Self, PrivateFileError> {
        private_file::ensure_dir(dir)?;
        let path = dir.join(FILE);
        if let Some(secret) = Self::load(&path)? {
            return Ok(secret);
        }
        let seed = Zeroizing::new(private_file::random::<32>()?);
        if private_file::create(&path, LABEL, &*seed)? {
            return Ok(Self::from_seed(&seed));
        }
        // Another process was faster; its secret is the device's.
        Self::load(&path)?.ok_or(PrivateFileError::Damaged(path))
    }

    fn load(path: &Path) -> Result<Option<Self>, PrivateFileError> {
        let Some(contents) = private_file::read(path, LABEL)? else { return Ok(None) };
        match <&[u8; 32]>::try_from(contents.as_slice()) {
            Ok(seed) => Ok(Some(Self::from_seed(seed))),
            Err(_) => Err(PrivateFileError::Damaged(path.to_owned())),
        }
    }

    /// The secret that a seed gives, for tests and for recovery from a phrase.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        DeviceSecret(SigningKey::from_bytes(seed))
    }

    /// The public name of this device.
    pub fn device_id(&self) -> DeviceId {
        DeviceId(self.0.verifying_key().to_bytes())
    }

    /// The key, to sign with.
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

impl fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSecret of {:?}", self.device_id())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let made = DeviceSecret::load_or_create(&keys).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&keys), mode(&keys.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);
        assert_eq!(DeviceSecret::load_or_create(&keys).unwrap().device_id(), made.device_id());
        let other = DeviceSecret::load_or_create(&dir.path().join("others")).unwrap();
        assert_ne!(other.device_id(), made.device_id());
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        DeviceSecret::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = DeviceSecret::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
    }

    #[test]
    fn a_damaged_secret_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        DeviceSecret::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[25] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(DeviceSecret::load_or_create(dir.path()), Err(PrivateFileError::Damaged(_))));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn processes_that_start_together_agree_on_one_secret() {
        let dir = tempfile::tempdir().unwrap();
        let start = std::sync::Barrier::new(8);
        let ids: Vec<DeviceId> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        DeviceSecret::load_or_create(dir.path()).unwrap().device_id()
                    })
                })
                .collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn debug_shows_the_public_id_only() {
        let secret = DeviceSecret::from_seed(&[0xab; 32]);
        let shown = format!("{secret:?}");
        assert!(shown.contains(&secret.device_id().to_string()[..8]) && !shown.contains("abab"), "{shown}");
    }
}
