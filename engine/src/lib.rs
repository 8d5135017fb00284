//! What apps embed: Automerge documents that peers share, offline and directly.

pub mod store;
