//! A deterministic simulator: several real peers, stores and views under a virtual clock, with a network and disks that fail
//! by a seed, and members that lie. The same seed gives the same run, to the byte.
//!
//! Needs the feature `simulator`. `docs/simulator.md` says what goes wrong in a run and what must hold; [`App`] puts an app's
//! own logic in.
//!
//! ```
//! use commonhold_engine::sim::{Options, Plan, Scribbler, run_with};
//!
//! let plan = Plan { peers: 3, ..Plan::of(4) };
//! let report = run_with(plan, Options::default(), |_machine| Box::new(Scribbler)).unwrap();
//! assert!(report.frames > 0);
//! ```

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
mod screen;
mod seeds;
mod world;

pub use crate::store::faulty::Rng;
pub use app::{App, Scribbler};
pub use plan::{Canary, Chances, Plan, Shape};
pub use seeds::Seeds;
pub use world::{Failure, Options, Report, run, run_with};
