//! The deterministic simulator: several real peers, engine views and stores under a virtual clock, a network and disks that
//! fail by a seed. The same seed gives the same run, to the byte.
//!
//! A run has two phases. First faults (`nemesis`), during which nothing wrong may happen; then healing, after which
//! everybody must agree, miss nothing that was acknowledged, and fall silent within a budget (`check`). With `liars`, some
//! members sign several histories, break rules, accuse, withhold and replay; then all honest peers must show what is to be
//! shown of all that their stores hold together (`oracle`). A [`Canary`] breaks one peer on purpose: the checks must notice.

mod app;
mod check;
mod disk;
mod host;
mod ledger;
mod liars;
mod nemesis;
mod network;
mod oracle;
mod plan;
mod seeds;
mod snapshot;
mod world;

pub use plan::{Canary, Plan, Shape};
pub use seeds::Seeds;
pub use world::{Failure, Options, Report, run};
