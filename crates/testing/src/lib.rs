//! Shared parts of tests: engines of a test's own. Only tests depend on it.

mod cluster;
mod engine;
mod port;
mod redis_server;

pub use cluster::{Cluster, SlotMove};
pub use engine::{engine_of, engines_are_required};
pub use port::free_port;
pub use redis_server::RedisServer;
