//! Bounds and timers of an overlay, with where each number comes from and what it costs.

/// Bounds and timers of one overlay. All tables together stay below 1 MiB for one space, whatever peers send, and take a few KiB in
/// a quiet space of ordinary size.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverlayLimits {
    /// Links known here, neighbours or not: more are released. About 200 bytes each and at most 2.5 KiB with the longest record.
    pub links: usize,
}

impl Default for OverlayLimits {
    fn default() -> OverlayLimits {
        OverlayLimits { links: 256 }
    }
}
