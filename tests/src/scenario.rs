//! The scenario bench: real processes over loopback, and what the machine itself needs for the same work (the floor).
//!
//! The origin is this same program started again as a child; peers are nodes in this process or, where there are many,
//! in another child. Absolute figures are for a quiet machine: the ratio to the floor of the same run is what counts.

mod blobs;
mod child;
mod floor;
mod gateway;
mod http;
mod origin;
mod proxy;
mod report;
mod runs;
mod trace;

pub use blobs::Manner;
pub use child::{Child, ChildCommand, serve_child};
pub use floor::{Floor, floor};
pub use proxy::Proxy;
pub use report::Report;
pub use runs::{Sizes, run};
pub use trace::{Trace, TraceError};

/// What goes wrong in a bench is told to a person and ends it.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
