//! What apps embed: the pure core, given meaning and let out into the world.

pub mod backoff;
pub mod device;
pub mod lineage;
pub mod local;
pub mod store;
pub mod transport;
