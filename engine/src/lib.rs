//! What apps embed: Automerge documents that peers share, offline and directly.

pub mod backoff;
pub mod device;
pub mod document;
pub mod lineage;
pub mod local;
pub mod storage;
pub mod store;
pub mod transport;
