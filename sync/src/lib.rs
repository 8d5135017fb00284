//! The pure core of Commonhold: what peers say to each other and what they believe of it.
//!
//! This crate is a value, not a service. It has no socket, file, clock, thread or randomness of its own: time and a
//! seed come in as arguments, work to be done leaves as [`peer::Output`]. It never interprets a document: it walks the
//! bytes of a change within bounds, and leaves meaning to `commonhold-engine`.

pub mod authority;
pub mod blobs;
pub mod chain;
pub mod change;
pub mod clock;
pub mod id;
pub mod ledger;
pub mod limits;
pub mod lines;
pub mod log;
pub mod merkle;
pub mod message;
pub mod overlay;
pub mod peer;
pub mod peer_record;
pub mod proof;
pub mod reconcile;
pub mod record;
pub mod secure;
pub mod space;
pub mod spending;
pub mod storage_receipt;
pub mod tracker;
pub mod usage;
pub mod violation;
pub mod waiting;
