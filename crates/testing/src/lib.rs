//! Shared parts of tests: engines of a test's own. Only tests depend on it.

mod cluster;

pub use cluster::{Cluster, SlotMove};
