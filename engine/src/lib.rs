//! What apps embed: the pure core, given meaning and let out into the world.

pub mod backoff;
pub mod device;
pub mod document;
pub mod lineage;
pub mod local;
pub mod storage;
pub mod store;
pub mod transport;
