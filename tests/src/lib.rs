//! Everything with two peers in it: the simulator, and what scenarios share.

pub mod sim;
