//! The session service over real sockets, on engines that are started, stopped, frozen and cut off here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod captured;
mod cost;
mod faults;
mod forged;
mod idle;
mod key_fingerprints;
mod keys;
mod mesh;
mod proxy;
mod refusals;
mod restart;
mod secrecy;
mod watch;
