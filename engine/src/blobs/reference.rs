//! The name of a blob as documents hold it: `blob:<64 hex digits>?size=N&type=T`, anywhere in a string or text.

use std::fmt;
use std::str::FromStr;

use commonhold_sync::blobs::Blob;
use commonhold_sync::id::BlobHash;

const SCHEME: &str = "blob:";
/// Bytes of a media type: longer than any that is registered.
const TYPE_MAX: usize = 128;

/// The name of a blob. Its text form, in any string or text of a document, keeps the blob from being collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRef {
    /// Which.
    pub blob: Blob,
    /// Its media type, for whoever shows it. Empty: not said.
    pub media_type: String,
}

/// Text that is not the name of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a blob: it looks like blob:<64 hex digits>?size=<bytes>&type=<media type>")]
pub struct BlobRefError;

impl From<Blob> for BlobRef {
    fn from(blob: Blob) -> Self {
        BlobRef { blob, media_type: String::new() }
    }
}

impl BlobRef {
    /// With a media type. Characters that a media type does not have are left out, and so is what is too long.
    pub fn with_type(blob: Blob, media_type: &str) -> BlobRef {
        let media_type = media_type.chars().filter(|c| is_of_type(*c)).take(TYPE_MAX).collect();
        BlobRef { blob, media_type }
    }

    /// The name at the start of a text, and what follows it.
    fn at_start(text: &str) -> Option<(BlobRef, &str)> {
        let rest = text.strip_prefix(SCHEME)?;
        let hash: BlobHash = rest.get(..64)?.parse().ok()?;
        let rest = rest[64..].strip_prefix("?size=")?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let size = rest[..digits].parse().ok()?;
        let rest = &rest[digits..];
        let (media_type, rest) = match rest.strip_prefix("&type=") {
            Some(rest) => rest.split_at(rest.find(|c| !is_of_type(c)).unwrap_or(rest.len()).min(TYPE_MAX)),
            None => ("", rest),
        };
        Some((BlobRef { blob: Blob { hash, size }, media_type: media_type.to_owned() }, rest))
    }
}

fn is_of_type(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/.+-_".contains(c)
}

impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}?size={}", self.blob.hash, self.blob.size)?;
        if self.media_type.is_empty() { Ok(()) } else { write!(f, "&type={}", self.media_type) }
    }
}

impl FromStr for BlobRef {
    type Err = BlobRefError;

    fn from_str(text: &str) -> Result<BlobRef, BlobRefError> {
        match BlobRef::at_start(text) {
            Some((name, "")) => Ok(name),
            _ => Err(BlobRefError),
        }
    }
}

/// The names of blobs in a text.
pub fn references(text: &str) -> impl Iterator<Item = BlobRef> + '_ {
    text.match_indices(SCHEME).filter_map(|(at, _)| BlobRef::at_start(&text[at..])).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_its_text_and_is_found_in_others() {
        let blob = Blob::of(b"picture");
        for media_type in ["", "image/svg+xml"] {
            let name = BlobRef::with_type(blob, media_type);
            assert_eq!(name.to_string().parse(), Ok(name.clone()));
            let text = format!("see ![it]({name}), and blob:no, and {name}");
            assert_eq!(references(&text).collect::<Vec<_>>(), [name.clone(), name]);
        }
        for bad in ["", "blob:", "blob:00?size=1", &format!("blob:{}", blob.hash), &format!("blob:{}?size=", blob.hash)]
        {
            assert_eq!(bad.parse::<BlobRef>(), Err(BlobRefError), "{bad}");
            assert_eq!(references(bad).count(), 0);
        }
        assert_eq!(references("blob:é").count(), 0);
        assert_eq!(references(&format!("blob:{}é?size=1", &blob.hash.to_string()[..63])).count(), 0);
    }
}
