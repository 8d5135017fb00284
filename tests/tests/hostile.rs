//! Hostile input on the real way in: a real peer receives real frames over a real secure channel from a liar, and the engine's
//! views apply what it admits. One test for each row of the table of known ways to break plain Automerge, and for each
//! admission rule. Run them again at each upgrade of Automerge.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "hostile/bytes.rs"]
mod bytes;
#[path = "hostile/chains.rs"]
mod chains;
#[path = "hostile/forge.rs"]
mod forge;
#[path = "hostile/harness.rs"]
mod harness;
#[path = "hostile/meaning.rs"]
mod meaning;
#[path = "hostile/rights.rs"]
mod rights;
#[path = "hostile/snapshots.rs"]
mod snapshots;
#[path = "hostile/wire.rs"]
mod wire;
