//! Everything with two peers in it: the simulator, and the scenario bench that drives real processes.

pub mod scenario;
pub mod sim;
