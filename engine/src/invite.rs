//! An invite: one line of text that names a space and who can be asked for it.
//!
//! Text: `commonhold1`, then base 32 (lower case, without `l`, `o`, `0`, `1`) of the CBOR and the first four bytes of its
//! BLAKE3. A slip of the keyboard passes the checksum once in four thousand million times.

use std::fmt;
use std::str::FromStr;

use commonhold_sync::id::{DeviceId, EntryId, SpaceId};
use commonhold_sync::record::Genesis;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

const PREFIX: &str = "commonhold1";
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Longest text taken: room for eight addresses of the longest kind.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Addresses of one invite.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// Addresses of others in an invite: each makes its text some 40 characters longer.
pub(crate) const OTHERS_MAX: usize = 4;

/// Text that is not an invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It does not begin like one.
    #[error("not an invite: one begins with {PREFIX}")]
    Prefix,
    /// Longer than any invite.
    #[error("not an invite: {0} bytes are too long")]
    TooLong(usize),
    /// A character that invites do not have.
    #[error("the invite has a character that does not belong in one ({0:?}); copy it again")]
    Character(char),
    /// Something was changed or cut off.
    #[error("the invite is damaged or incomplete; copy it again, from its first to its last character")]
    Checksum,
    /// The text is whole, its content is not understood.
    #[error("the invite was made by a newer version of the program ({0}); upgrade")]
    Content(String),
}

/// Names a space, and who can be asked for it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Invite {
    /// The space.
    #[n(0)]
    pub space: SpaceId,
    /// Canonical genesis, if it was known to who made the invite.
    #[n(1)]
    genesis: Option<ByteVec>,
    /// Who made it.
    #[n(2)]
    pub peer: Option<DeviceId>,
    /// Where that peer can be dialled.
    #[n(3)]
    pub addresses: Vec<String>,
    /// A right for whoever has this text.
    #[n(4)]
    pub(crate) grant: Option<InviteGrant>,
    /// Where others hold the space, best first, should that peer be gone for good. Whoever answers there must know the space to be
    /// of use, so it is not said who they are.
    #[n(5)]
    others: Option<Vec<String>>,
}

/// The secret half of an invite that brings a right.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct InviteGrant {
    /// The record of the invite in the space.
    #[n(0)]
    pub(crate) record: EntryId,
    /// Seed of the key whose hash the record names.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) seed: [u8; 32],
}

impl fmt::Debug for InviteGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteGrant({})", self.record)
    }
}

impl Invite {
    /// An invite to a space.
    pub fn new(space: SpaceId, genesis: Option<&Genesis>, peer: Option<DeviceId>, addresses: Vec<String>) -> Invite {
        let addresses = addresses.into_iter().take(ADDRESSES_MAX).collect();
        Invite { space, genesis: genesis.map(|g| g.to_bytes().into()), peer, addresses, grant: None, others: None }
    }

    /// With addresses at which others hold the space, the first 4 of these.
    pub fn with_others(self, others: impl IntoIterator<Item = String>) -> Invite {
        let others: Vec<String> = others.into_iter().take(OTHERS_MAX).collect();
        Invite { others: (!others.is_empty()).then_some(others), ..self }
    }

    /// Where others than [`Invite::peer`] hold the space, best first.
    pub fn others(&self) -> &[String] {
        self.others.as_deref().unwrap_or_default()
    }

    /// Whether it brings a right to whoever has it ([`Node::redeem`](crate::Node::redeem)).
    pub fn brings_a_right(&self) -> bool {
        self.grant.is_some()
    }

    pub(crate) fn with_grant(self, grant: InviteGrant) -> Invite {
        Invite { grant: Some(grant), ..self }
    }

    /// The same without the right that it brings.
    pub(crate) fn without_grant(&self) -> Invite {
        Invite { grant: None, ..self.clone() }
    }

    /// The genesis of the space, if it is in the invite.
    pub fn genesis(&self) -> Option<Genesis> {
        Genesis::from_bytes(self.genesis.as_ref()?).ok().filter(|genesis| genesis.space() == self.space)
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = minicbor::to_vec(self).expect("writing to a Vec cannot fail");
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        write!(f, "{PREFIX}{}", encode(&bytes))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Space around the text and line breaks inside it are ignored: mail programs add them.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(InviteError::TooLong(text.len()));
        }
        let text: String = text.split_whitespace().collect::<String>().to_lowercase();
        let bytes = decode(text.strip_prefix(PREFIX).ok_or(InviteError::Prefix)?)?;
        let (content, check) = bytes.split_last_chunk::<4>().ok_or(InviteError::Checksum)?;
        if blake3::hash(content).as_bytes()[..4] != check[..] {
            return Err(InviteError::Checksum);
        }
        let invite: Invite = minicbor::decode(content).map_err(|e| InviteError::Content(e.to_string()))?;
        if invite.addresses.len() > ADDRESSES_MAX || invite.others().len() > ADDRESSES_MAX {
            return Err(InviteError::Content("too many addresses".into()));
        }
        if invite.genesis.is_some() && invite.genesis().is_none() {
            return Err(InviteError::Content("its genesis does not fit its space".into()));
        }
        Ok(invite)
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        (held, bits) = (held << 8 | u32::from(*byte), bits + 8);
        while bits >= 5 {
            bits -= 5;
            text.push(ALPHABET[(held >> bits) as usize & 31] as char);
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(ALPHABET[(held << (5 - bits)) as usize & 31] as char);
    }
    text
}

fn decode(text: &str) -> Result<Vec<u8>, InviteError> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0u32, 0);
    for c in text.chars() {
        let digit = ALPHABET.iter().position(|a| *a as char == c).ok_or(InviteError::Character(c))?;
        (held, bits) = (held << 5 | digit as u32, bits + 5);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
        held &= (1 << bits) - 1;
    }
    // What is left over is filling; another one would be a second text for the same invite.
    if held == 0 && bits < 5 { Ok(bytes) } else { Err(InviteError::Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use commonhold_sync::record::{Privacy, Writers};

    fn invite() -> Invite {
        let genesis = Genesis {
            root: DeviceId([1; 32]).into(),
            privacy: Privacy::Public,
            writers: Writers::Anyone,
            rules: 1,
            nonce: [9; 16],
        };
        let addresses = vec!["ws://192.0.2.7:9443/".to_owned()];
        Invite::new(genesis.space(), Some(&genesis), Some(DeviceId([1; 32])), addresses)
    }

    #[test]
    fn an_invite_survives_its_text_and_the_mail() {
        let text = invite().to_string();
        assert!(text.starts_with(PREFIX) && text.len() < 400, "{} characters", text.len());
        assert_eq!(text.parse(), Ok(invite()));
        let folded = format!("  {}\n  {} \n", &text[..60], text[60..].to_uppercase());
        assert_eq!(folded.parse(), Ok(invite()));
    }

    #[test]
    fn an_invite_says_where_others_are() {
        let others = (0..9).map(|n| format!("ws://192.0.2.{n}:7340/"));
        let invite = invite().with_others(others);
        assert_eq!((invite.others().len(), &*invite.others()[0]), (OTHERS_MAX, "ws://192.0.2.0:7340/"));
        assert_eq!(invite.to_string().parse(), Ok(invite));
    }

    #[test]
    fn every_typing_error_is_noticed_and_named() {
        let text = invite().to_string();
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let error = String::from_utf8(bytes).unwrap().parse::<Invite>().unwrap_err();
            assert_eq!(error, InviteError::Checksum, "at {at}");
        }
        assert_eq!(text[..text.len() - 3].parse::<Invite>(), Err(InviteError::Checksum));
        assert_eq!("hello".parse::<Invite>(), Err(InviteError::Prefix));
        assert_eq!(format!("{PREFIX}l0").parse::<Invite>(), Err(InviteError::Character('l')));
    }
}
