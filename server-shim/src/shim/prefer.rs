//! What `Prefer` (RFC 7240) asks for: how long to wait, on how many disks an edit should be, and whether to show what became of it.

use std::time::Duration;

use axum::http::HeaderMap;

/// Longest wait of one request.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    wait_s: u64,
    /// Peers that should hold the edit on disk, this one included.
    pub(crate) durability: usize,
    /// Show nothing but the headers.
    pub(crate) minimal: bool,
}

impl Prefer {
    /// What is not understood is not preferred, as the RFC wants it.
    pub(crate) fn of(headers: &HeaderMap) -> Prefer {
        let mut prefer = Prefer::default();
        let all = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for one in all.flat_map(|value| value.split([',', ';'])) {
            match one.trim().split_once('=').map(|(key, value)| (key.trim(), value.trim().trim_matches('"'))) {
                Some(("wait", seconds)) => prefer.wait_s = seconds.parse().unwrap_or(0),
                Some(("durability", peers)) => prefer.durability = peers.parse().unwrap_or(0),
                Some(("return", "minimal")) => prefer.minimal = true,
                _ => {}
            }
        }
        prefer
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_s).min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn preferences_are_read_and_nonsense_is_none() {
        let of =
            |text| Prefer::of(&HeaderMap::from_iter([("prefer".parse().unwrap(), HeaderValue::from_static(text))]));
        assert_eq!(of("wait=5, durability=2"), Prefer { wait_s: 5, durability: 2, minimal: false });
        assert_eq!(of("return=minimal; wait=99999").wait(), WAIT_MAX);
        assert_eq!(of("wait=soon, respond-async"), Prefer::default());
    }
}
