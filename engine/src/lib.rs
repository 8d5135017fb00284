//! What apps embed: the pure core, given meaning and let out into the world.

pub mod backoff;
pub mod device;
pub mod lineage;
#[cfg(unix)]
pub mod local;
pub mod transport;
