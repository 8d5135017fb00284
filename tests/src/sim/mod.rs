//! The deterministic simulator: several real peers, engine views and stores under a virtual clock, a network and disks that
//! fail by a seed. The same seed gives the same run, to the byte.
//!
//! A run has two phases. First faults (`nemesis`), during which nothing wrong may happen; then healing, after which
//! everybody must agree, miss nothing that was acknowledged, and fall silent within a budget (`check`). Peers here are
//! honest; what liars can do is tested elsewhere. A [`Canary`] breaks one peer on purpose: the checks must notice.

mod app;
mod check;
mod disk;
mod host;
mod ledger;
mod nemesis;
mod network;
mod plan;
mod snapshot;
mod world;

pub use plan::{Canary, Plan, Shape};
pub use world::{Failure, Options, Report, run};
