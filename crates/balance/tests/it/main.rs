//! The balancer and the channel over real sockets, against servers that are killed, lie, or stall.

#![allow(clippy::unwrap_used, reason = "a harness that cannot start its servers has nothing else to do")]

mod balance;
mod bodies;
mod channel;
mod connections;
mod ejection;
mod endpoints;
mod frames;
mod limits;
mod peer;
mod raw;
mod stores;
mod stream_errors;
mod tracing_context;
