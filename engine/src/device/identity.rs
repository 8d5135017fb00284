//! The secret of an identity: 24 words on paper, from which all its root keys come, and a file beside the device's secret with
//! those root keys that are in use. Whoever has the file adds devices to the identity and takes them out; only who has the
//! words can put a new root key in the place of one that got into other hands.

use std::fmt;
use std::path::Path;

use bip39::Mnemonic;
use commonhold_sync::authority::{ROOT_KEYS_MAX, RootKeys};
use commonhold_sync::record::Subject;
use zeroize::Zeroizing;

use super::private_file::{self, PrivateFileError};

const FILE: &str = "identity.key";
/// Behind it: what the last key commits to, then the keys, the first one first; 32 bytes each.
const LABEL: &str = "commonhold identity 2";

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
    /// The root key was replaced elsewhere.
    #[error("the root key of the identity was replaced since; recover the identity here from its 24 words")]
    KeyReplaced,
    /// There is no root key after the one in force.
    #[error(
        "the identity has had all of its {ROOT_KEYS_MAX} root keys; make a new one and let it take the place of this one"
    )]
    NoKeyLeft,
}

/// The 24 words (BIP-39, English) of an identity: all its root keys, those to come included. Never shown but on purpose.
pub struct RecoveryPhrase(Zeroizing<[u8; 32]>);

impl RecoveryPhrase {
    /// From words as typed. Case and the space between them do not matter.
    pub fn parse(typed: &str) -> Result<RecoveryPhrase, IdentityError> {
        let typed = Zeroizing::new(typed.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
        let words = Mnemonic::parse(&*typed).map_err(|error| IdentityError::Phrase(error.to_string()))?;
        let (entropy, length) = words.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let seed = entropy.get(..length).and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        let count = || IdentityError::Phrase(format!("it has {} words, and 24 are due", words.word_count()));
        Ok(RecoveryPhrase(Zeroizing::new(seed.ok_or_else(count)?)))
    }

    /// The words.
    pub fn words(&self) -> Zeroizing<String> {
        let words = Mnemonic::from_entropy(&*self.0).expect("32 bytes are 24 words");
        Zeroizing::new(words.to_string())
    }

    /// The identity that they make.
    pub fn id(&self) -> Subject {
        RootKeys::of_seed(&self.0, 1).identity()
    }
}

impl fmt::Debug for RecoveryPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryPhrase of {:?}", self.id())
    }
}

/// The root keys of an identity that are in use. Shown as the public id only.
pub struct IdentitySecret {
    keys: RootKeys,
}

impl IdentitySecret {
    /// The identity of a keys folder, if it holds one.
    pub fn load(dir: &Path) -> Result<Option<IdentitySecret>, IdentityError> {
        let path = dir.join(FILE);
        let Some(contents) = private_file::read(&path, LABEL)? else { return Ok(None) };
        let damaged = || PrivateFileError::Damaged(path);
        let (words, []) = contents.as_chunks::<32>() else { return Err(damaged().into()) };
        let keys = words.split_first().and_then(|(next, secrets)| RootKeys::of_secrets(secrets, *next));
        Ok(Some(IdentitySecret { keys: keys.ok_or_else(damaged)? }))
    }

    /// Draws a new identity and writes it to a keys folder. Only the words that come with it bring it back, and replace its root
    /// key: they are not kept.
    pub fn create(dir: &Path) -> Result<(IdentitySecret, RecoveryPhrase), IdentityError> {
        let phrase = RecoveryPhrase(Zeroizing::new(private_file::random()?));
        private_file::ensure_dir(dir)?;
        let made = IdentitySecret { keys: RootKeys::of_seed(&phrase.0, 1) };
        match private_file::create(&dir.join(FILE), LABEL, &made.contents())? {
            true => Ok((made, phrase)),
            false => {
                Err(IdentitySecret::load(dir)?.map_or(IdentityError::None, |there| IdentityError::Exists(there.id())))
            }
        }
    }

    /// Makes an identity again from its words, with its first `count` root keys, and writes it to a keys folder: as many as are
    /// [known](crate::Node::root_keys) in its spaces. Where the folder holds the same identity with more, it stays so.
    pub fn recover(dir: &Path, phrase: &RecoveryPhrase, count: usize) -> Result<IdentitySecret, IdentityError> {
        private_file::ensure_dir(dir)?;
        let there = IdentitySecret::load(dir)?;
        let keys = RootKeys::of_seed(&phrase.0, count.min(ROOT_KEYS_MAX));
        match there {
            Some(there) if there.id() != keys.identity() => return Err(IdentityError::Exists(there.id())),
            Some(there) if there.root_keys() >= keys.keys().len() => return Ok(there),
            _ => {}
        }
        let recovered = IdentitySecret { keys };
        private_file::replace(&dir.join(FILE), LABEL, &recovered.contents())?;
        Ok(recovered)
    }

    /// Takes the root key after the newest that this folder holds, or of which `known` says that it is in force somewhere. The
    /// identity's spaces are told by [`Node::tell_root_keys`](crate::Node::tell_root_keys).
    pub fn rotate(dir: &Path, phrase: &RecoveryPhrase, known: usize) -> Result<IdentitySecret, IdentityError> {
        let held = IdentitySecret::load(dir)?.filter(|held| held.id() == phrase.id());
        let count = held.map_or(1, |held| held.root_keys()).max(known) + 1;
        match count > ROOT_KEYS_MAX {
            true => Err(IdentityError::NoKeyLeft),
            false => IdentitySecret::recover(dir, phrase, count),
        }
    }

    fn contents(&self) -> Zeroizing<Vec<u8>> {
        let mut contents = Zeroizing::new(Vec::with_capacity(32 * (1 + self.root_keys())));
        contents.extend_from_slice(&self.keys.next());
        self.keys.keys().iter().for_each(|key| contents.extend_from_slice(&*Zeroizing::new(key.to_bytes())));
        contents
    }

    /// Its public name: what is granted rights.
    pub fn id(&self) -> Subject {
        self.keys.identity()
    }

    /// How many root keys it has had, the one in use included.
    pub fn root_keys(&self) -> usize {
        self.keys.keys().len()
    }

    pub(crate) fn keys(&self) -> &RootKeys {
        &self.keys
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

    fn words_of(phrase: &RecoveryPhrase) -> Vec<String> {
        phrase.words().split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn an_identity_is_made_once_and_comes_back_from_its_words() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(IdentitySecret::load(one.path()).unwrap().is_none());
        let (made, phrase) = IdentitySecret::create(one.path()).unwrap();
        assert_eq!((words_of(&phrase).len(), phrase.id()), (24, made.id()));
        assert_eq!(IdentitySecret::load(one.path()).unwrap().unwrap().id(), made.id());
        assert!(matches!(IdentitySecret::create(one.path()), Err(IdentityError::Exists(id)) if id == made.id()));
        let typed = RecoveryPhrase::parse(&phrase.words().to_uppercase().replace(' ', "\n  ")).unwrap();
        assert_eq!(IdentitySecret::recover(other.path(), &typed, 1).unwrap().id(), made.id());
        // Again, as who is not sure whether it worked does.
        assert_eq!(IdentitySecret::recover(other.path(), &typed, 1).unwrap().id(), made.id());
        let (_, stranger) = IdentitySecret::create(&other.path().join("stranger")).unwrap();
        for refused in
            [IdentitySecret::recover(one.path(), &stranger, 1), IdentitySecret::rotate(one.path(), &stranger, 1)]
        {
            assert!(matches!(refused, Err(IdentityError::Exists(id)) if id == made.id()));
        }
    }

    #[test]
    fn the_folder_holds_the_keys_in_use_and_neither_the_words_nor_a_key_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let (made, phrase) = IdentitySecret::create(dir.path()).unwrap();
        for used in 1..ROOT_KEYS_MAX {
            let file = std::fs::read(dir.path().join(FILE)).unwrap();
            let all = RootKeys::of_seed(&phrase.0, ROOT_KEYS_MAX);
            let holds = |secret: &[u8]| file.windows(32).any(|window| window == secret);
            assert!(!holds(&*phrase.0));
            assert!(all.keys().iter().enumerate().all(|(index, key)| holds(&key.to_bytes()) == (index < used)));
            let rotated = IdentitySecret::rotate(dir.path(), &phrase, 0).unwrap();
            assert_eq!((rotated.id(), rotated.root_keys()), (made.id(), used + 1));
            // What is older than what is there changes nothing.
            assert_eq!(IdentitySecret::recover(dir.path(), &phrase, 1).unwrap().root_keys(), used + 1);
        }
        assert!(matches!(IdentitySecret::rotate(dir.path(), &phrase, 0), Err(IdentityError::NoKeyLeft)));
        assert_eq!(IdentitySecret::load(dir.path()).unwrap().unwrap().root_keys(), ROOT_KEYS_MAX);
        // A folder that has seen nothing takes the key after those that spaces know.
        let other = dir.path().join("other");
        assert_eq!(IdentitySecret::rotate(&other, &phrase, 3).unwrap().root_keys(), 4);
    }

    #[test]
    fn words_that_are_no_phrase_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (made, phrase) = IdentitySecret::create(dir.path()).unwrap();
        let words = words_of(&phrase);
        let mut swapped = words.clone();
        swapped.swap(0, 1);
        for wrong in ["", "hello world", &words[..12].join(" "), &vec!["zoo"; 24].join(" ")] {
            assert!(matches!(RecoveryPhrase::parse(wrong), Err(IdentityError::Phrase(_))), "{wrong}");
        }
        // One in 256 orders passes its checksum; then it is another identity.
        if words[0] != words[1]
            && let Ok(other) = RecoveryPhrase::parse(&swapped.join(" "))
        {
            assert_ne!(other.id(), made.id());
        }
    }
}
