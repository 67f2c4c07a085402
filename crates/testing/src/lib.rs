//! Shared parts of tests: engines of a test's own, and the judgement of histories. Only tests depend on it.

mod cluster;
mod cql_proxy;
mod engine;
pub mod history;
mod port;
mod redis_server;

pub use cluster::{Cluster, SlotMove};
pub use cql_proxy::{CqlProxy, Network, Passed};
pub use engine::{engine_of, engines_are_required};
pub use port::free_port;
pub use redis_server::RedisServer;
