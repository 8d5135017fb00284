//! Everything with two peers in it: the scenario bench that drives real processes.

pub mod overlay_sim;
pub mod scenario;
