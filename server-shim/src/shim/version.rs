//! Versions and ETags as they stand in headers, parameters and event ids.

use axum::http::{HeaderMap, HeaderValue};
use commonhold_engine::EntryId;

use super::problem::Problem;

/// Ids that a version names at most: what a change may depend on.
pub(crate) const HEADS_MAX: usize = 64;

/// Reads a version: ids of 64 hex digits with commas between, quoted (as in Braid's headers) or not. An empty text is the version
/// before everything.
pub(crate) fn parse(text: &str) -> Result<Vec<EntryId>, Problem> {
    let parts = text.split(',').map(|part| part.trim().trim_matches('"')).filter(|part| !part.is_empty());
    let mut heads: Vec<EntryId> = parts
        .map(|part| part.parse().map_err(|_| Problem::bad(format!("{part:?} is no version: expected 64 hex digits"))))
        .take(HEADS_MAX + 1)
        .collect::<Result<_, _>>()?;
    if heads.len() > HEADS_MAX {
        return Err(Problem::bad(format!("a version names at most {HEADS_MAX} ids")));
    }
    heads.sort_unstable();
    heads.dedup();
    Ok(heads)
}

/// What `Parents` says; its lines, if there are several, make one list.
pub(crate) fn parents(headers: &HeaderMap) -> Result<Option<Vec<EntryId>>, Problem> {
    let lines = headers.get_all("parents").iter().map(HeaderValue::to_str).collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(|_| Problem::bad("Parents is no text"))?;
    if lines.is_empty() {
        return Ok(None);
    }
    parse(&lines.join(",")).map(Some)
}

/// As in parameters and event ids.
pub(crate) fn text(heads: &[EntryId]) -> String {
    heads.iter().map(EntryId::to_string).collect::<Vec<_>>().join(",")
}

/// As in `Version` and `Parents`.
pub(crate) fn quoted(heads: &[EntryId]) -> String {
    heads.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(", ")
}

pub(crate) fn header(heads: &[EntryId]) -> HeaderValue {
    HeaderValue::try_from(quoted(heads)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The ETag of a body at a version: equal ones have equal bytes, whatever became of the version's meaning.
pub(crate) fn etag(heads: &[EntryId], body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    heads.iter().for_each(|id| _ = hasher.update(&id.0));
    hasher.update(body);
    format!("\"{}\"", &hasher.finalize().to_hex()[..24])
}

/// Whether a header that lists ETags, or `*`, names this one.
pub(crate) fn names(header: &HeaderValue, etag: &str) -> bool {
    let listed = header.to_str().unwrap_or_default();
    listed.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_print_back_and_nonsense_is_refused() {
        let (a, b) = (EntryId([1; 32]), EntryId([2; 32]));
        assert_eq!(parse(&text(&[a, b])).unwrap(), [a, b]);
        assert_eq!(parse(header(&[b, a]).to_str().unwrap()).unwrap(), [a, b]);
        assert_eq!(parse("").unwrap(), []);
        for bad in ["x", "\"12\"", &vec![a.to_string(); 65].join(",")] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parents_on_several_lines_make_one_list() {
        let (a, b) = (EntryId([1; 32]), EntryId([2; 32]));
        let mut headers = HeaderMap::new();
        assert_eq!(parents(&headers).unwrap(), None);
        headers.append("parents", header(&[a]));
        headers.append("parents", header(&[b]));
        assert_eq!(parents(&headers).unwrap(), Some(vec![a, b]));
        headers.append("parents", HeaderValue::from_static("x"));
        assert!(parents(&headers).is_err());
    }

    #[test]
    fn etags_are_found_in_lists() {
        let etag = etag(&[], b"x");
        let names = |text: String| names(&HeaderValue::from_str(&text).unwrap(), &etag);
        assert!(names(format!("\"a\", {etag}")) && names("*".into()) && names(format!("W/{etag}")));
        assert!(!names("\"a\"".into()) && !names(String::new()));
    }
}
