//! The data service over real sockets, on the embedded engine and on Cassandra.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod blob;
mod bulk;
mod callers;
mod face;
mod mesh;
mod restart;
mod stalled;
