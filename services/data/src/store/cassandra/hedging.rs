//! Speculative execution: a statement that may be repeated and has no answer is sent to another node as well.
//!
//! One node that is frozen or pauses then costs a delay, not an error. When most statements are late it is no single node, and
//! twice the statements would make it worse: then none is sent twice.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use scylla::policies::speculative_execution::{Context, SpeculativeExecutionPolicy};

/// Most nodes that are asked besides the first.
const OTHERS_MAX: usize = 2;
/// Share of late statements, in thousandths, above which none is sent to a second node.
const LATE_MAX: u32 = 600;
/// Weight of one statement in the share: one of so many.
const WINDOW: u32 = 64;

/// Decides when a statement is sent to a second node.
#[derive(Debug)]
pub(super) struct Hedging {
    delay: Duration,
    /// The share of statements that were answered after the delay, in thousandths of thousandths.
    late: AtomicU32,
    sent: metrics::Counter,
    /// The statements that the driver has asked about.
    #[cfg(test)]
    pub(super) asked: std::sync::atomic::AtomicUsize,
}

impl Hedging {
    /// Makes a rule that waits for `delay`; without any, statements are sent once.
    pub(super) fn new(delay: Duration) -> Self {
        let sent = metrics::counter!("shoal_data_hedged_statements_total");
        Self {
            delay,
            late: AtomicU32::new(0),
            sent,
            #[cfg(test)]
            asked: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// Notes how long a statement took that may have been sent twice.
    pub(super) fn note(&self, elapsed: Duration) {
        if self.delay.is_zero() {
            return;
        }
        let late = elapsed > self.delay;
        if late && self.allowed() {
            self.sent.increment(1);
        }
        let to = if late { 1_000_000 } else { 0 };
        // A lost update costs nothing.
        let share = self.late.load(Ordering::Relaxed);
        self.late.store(share - share / WINDOW + to / WINDOW, Ordering::Relaxed);
    }

    fn allowed(&self) -> bool {
        !self.delay.is_zero() && self.late.load(Ordering::Relaxed) <= LATE_MAX * 1000
    }
}

/// The rule as the driver asks it.
#[derive(Debug)]
pub(super) struct Policy(pub(super) std::sync::Arc<Hedging>);

impl SpeculativeExecutionPolicy for Policy {
    fn max_retry_count(&self, _: &Context) -> usize {
        #[cfg(test)]
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        if self.0.allowed() { OTHERS_MAX } else { 0 }
    }

    fn retry_interval(&self, _: &Context) -> Duration {
        self.0.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_millis(200);

    #[test]
    fn one_late_node_is_hedged() {
        let hedging = Hedging::new(Duration::from_millis(100));
        for i in 0..1000 {
            hedging.note(if i % 3 == 0 { LATE } else { SOON });
            assert!(hedging.allowed(), "after {i}");
        }
    }

    #[test]
    fn late_cluster_is_not_hedged() {
        let hedging = Hedging::new(Duration::from_millis(100));
        for _ in 0..200 {
            hedging.note(LATE);
        }
        assert!(!hedging.allowed());
        for _ in 0..200 {
            hedging.note(SOON);
        }
        assert!(hedging.allowed(), "it recovers");
    }

    #[test]
    fn no_delay_hedges_nothing() {
        assert!(!Hedging::new(Duration::ZERO).allowed());
    }
}
