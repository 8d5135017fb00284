//! What a node promises, with one or two of them in this process. Scenarios with many peers and processes are elsewhere.

mod blobs;
mod blocks;
mod budgets;
mod discovery;
mod disk;
mod ends;
mod files;
mod fixture;
mod foreign_syncs;
mod life;
mod losses;
mod partial;
mod peers;
mod quarantine;
#[cfg(feature = "quic")]
mod quic;
mod support;
mod watches;
