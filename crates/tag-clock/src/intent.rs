//! A write that was announced.

use std::time::{Duration, Instant};

/// The part of an intent's length after which a write must announce itself anew before it is acknowledged. The rest covers the way
/// to Redis and the difference between two machines' speed of time.
const LATE_AFTER: f64 = 0.5;

/// A write that was announced and has not ended. Dropping it leaves its stamps to run out.
#[derive(Debug)]
pub struct Intent {
    pub(crate) namespace: String,
    pub(crate) route: String,
    pub(crate) tags: Vec<String>,
    pub(crate) length: Duration,
    /// The epoch of the shard in which it began; 0 in memory.
    pub(crate) epoch: u64,
    /// The stamp that it set.
    pub(crate) until: u64,
    /// The moment before it was asked for.
    pub(crate) since: Instant,
}

impl Intent {
    /// Returns whether so much of its length has passed that the write must not be acknowledged before
    /// [`TagClock::extend`](crate::TagClock::extend).
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.since.elapsed() >= self.length.mul_f64(LATE_AFTER)
    }
}
