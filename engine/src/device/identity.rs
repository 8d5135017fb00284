//! The secret of an identity: one seed, from which all its root keys come, as 24 words on paper and as a file beside the
//! device's secret. Whoever holds it adds devices to the identity and takes them out.

use std::fmt;
use std::path::Path;

use bip39::Mnemonic;
use commonhold_sync::authority::RootKeys;
use commonhold_sync::peer::Root;
use commonhold_sync::record::Subject;
use zeroize::Zeroizing;

use super::private_file::{self, PrivateFileError};

const FILE: &str = "identity.key";
const LABEL: &str = "commonhold identity 1";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file in the keys folder.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A node without a keys folder keeps no secrets.
    #[error("this peer has no keys folder to keep an identity in")]
    NoFolder,
    /// There is one already: two would be two persons.
    #[error("this keys folder holds the identity {0} already")]
    Exists(Subject),
    /// None was made or recovered here.
    #[error("this keys folder holds no identity")]
    None,
    /// Words that are no recovery phrase.
    #[error("not a recovery phrase: {0}")]
    Phrase(String),
}

/// The secret of an identity. Shown as the public id only.
pub struct IdentitySecret {
    seed: Zeroizing<[u8; 32]>,
    keys: RootKeys,
}

impl IdentitySecret {
    /// The identity of a keys folder, if it holds one.
    pub fn load(dir: &Path) -> Result<Option<IdentitySecret>, IdentityError> {
        let path = dir.join(FILE);
        let Some(contents) = private_file::read(&path, LABEL)? else { return Ok(None) };
        match <[u8; 32]>::try_from(contents.as_slice()) {
            Ok(seed) => Ok(Some(IdentitySecret::of(Zeroizing::new(seed)))),
            Err(_) => Err(PrivateFileError::Damaged(path).into()),
        }
    }

    /// Draws a new identity and writes it to a keys folder.
    pub fn create(dir: &Path) -> Result<IdentitySecret, IdentityError> {
        IdentitySecret::of(Zeroizing::new(private_file::random()?)).keep(dir)
    }

    /// Makes an identity again from its 24 words, and writes it to a keys folder. Case and the space between words do not matter.
    pub fn recover(dir: &Path, phrase: &str) -> Result<IdentitySecret, IdentityError> {
        let phrase = Zeroizing::new(phrase.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
        let words = Mnemonic::parse(&*phrase).map_err(|error| IdentityError::Phrase(error.to_string()))?;
        let (entropy, length) = words.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let seed = entropy.get(..length).and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        let seed =
            seed.ok_or_else(|| IdentityError::Phrase(format!("it has {} words, and 24 are due", words.word_count())))?;
        IdentitySecret::of(Zeroizing::new(seed)).keep(dir)
    }

    fn keep(self, dir: &Path) -> Result<IdentitySecret, IdentityError> {
        private_file::ensure_dir(dir)?;
        if private_file::create(&dir.join(FILE), LABEL, &*self.seed)? {
            return Ok(self);
        }
        match IdentitySecret::load(dir)? {
            Some(there) if there.id() == self.id() => Ok(self),
            Some(there) => Err(IdentityError::Exists(there.id())),
            None => Err(IdentityError::None),
        }
    }

    fn of(seed: Zeroizing<[u8; 32]>) -> IdentitySecret {
        let keys = RootKeys::of_seed(&seed);
        IdentitySecret { seed, keys }
    }

    /// Its public name: what is granted rights.
    pub fn id(&self) -> Subject {
        self.keys.identity()
    }

    /// The 24 words (BIP-39, English) that make it again.
    pub fn phrase(&self) -> Zeroizing<String> {
        let words = Mnemonic::from_entropy(&*self.seed).expect("32 bytes are 24 words");
        Zeroizing::new(words.to_string())
    }

    /// Its first root key.
    pub(crate) fn root(&self) -> Option<Root> {
        Some(Root { key: self.keys.key(0)?.clone(), first: self.keys.founding() })
    }
}

impl fmt::Debug for IdentitySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentitySecret of {:?}", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_comes_back_from_its_words() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(IdentitySecret::load(one.path()).unwrap().is_none());
        let made = IdentitySecret::create(one.path()).unwrap();
        let phrase = made.phrase();
        assert_eq!(phrase.split(' ').count(), 24);
        assert_eq!(IdentitySecret::load(one.path()).unwrap().unwrap().id(), made.id());
        assert!(matches!(IdentitySecret::create(one.path()), Err(IdentityError::Exists(id)) if id == made.id()));
        let typed = phrase.to_uppercase().replace(' ', "\n  ");
        assert_eq!(IdentitySecret::recover(other.path(), &typed).unwrap().id(), made.id());
        // Again, as who is not sure whether it worked does.
        assert_eq!(IdentitySecret::recover(other.path(), &phrase).unwrap().id(), made.id());
    }

    #[test]
    fn words_that_are_no_phrase_are_refused_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let made = IdentitySecret::create(&dir.path().join("other")).unwrap();
        let phrase = made.phrase();
        let words: Vec<&str> = phrase.split(' ').collect();
        let swapped =
            if words[0] == words[1] { vec!["zoo"; 24] } else { [&[words[1], words[0]], &words[2..]].concat() };
        for wrong in ["", "hello world", &words[..12].join(" "), &vec!["zoo"; 24].join(" ")] {
            assert!(matches!(IdentitySecret::recover(dir.path(), wrong), Err(IdentityError::Phrase(_))), "{wrong}");
        }
        // One in 256 orders passes its checksum; then it is another identity.
        if let Ok(other) = IdentitySecret::recover(&dir.path().join("swapped"), &swapped.join(" ")) {
            assert_ne!(other.id(), made.id());
        }
        assert!(IdentitySecret::load(dir.path()).unwrap().is_none());
    }
}
