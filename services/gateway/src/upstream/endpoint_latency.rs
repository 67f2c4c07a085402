//! The latencies of each endpoint on one core, found by its address on the way of every call.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::resilience::latency_histogram::{LatencyHistogram, Summary};

/// The endpoints that have answered a call, by address.
pub(crate) struct EndpointLatencies {
    base: Instant,
    /// Few and seldom changed: a search costs less than hashing an address.
    known: ArcSwap<Vec<(SocketAddr, Arc<LatencyHistogram>)>>,
    adding: Mutex<()>,
}

impl EndpointLatencies {
    pub(crate) fn new(now: Instant) -> EndpointLatencies {
        EndpointLatencies { base: now, known: ArcSwap::default(), adding: Mutex::new(()) }
    }

    /// An endpoint began to answer after `latency`. When it is a new one, those that are not among the `living` are
    /// forgotten: addresses come and go, and this must not grow for ever.
    pub(crate) fn answered(
        &self,
        endpoint: SocketAddr,
        latency: Duration,
        now: Instant,
        living: impl FnOnce() -> HashSet<SocketAddr>,
    ) {
        let since = now - self.base;
        {
            let known = self.known.load();
            if let Ok(at) = known.binary_search_by_key(&endpoint, |(address, _)| *address) {
                return known[at].1.record(latency, since);
            }
        }
        let _one_at_a_time = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let living = living();
        let mut known = Vec::clone(&self.known.load());
        known.retain(|(address, _)| living.contains(address) && *address != endpoint);
        let latencies = LatencyHistogram::new();
        latencies.record(latency, since);
        known.push((endpoint, Arc::new(latencies)));
        known.sort_by_key(|(address, _)| *address);
        self.known.store(Arc::new(known));
    }

    /// Adds what an endpoint's latencies were lately to `sum`.
    pub(crate) fn add_to(&self, endpoint: SocketAddr, sum: &mut Summary, now: Instant) {
        let known = self.known.load();
        if let Ok(at) = known.binary_search_by_key(&endpoint, |(address, _)| *address) {
            known[at].1.add_to(sum, now - self.base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_endpoints_are_forgotten() {
        let now = Instant::now();
        let endpoint_latencies = EndpointLatencies::new(now);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let add = |port, ms, living: &[u16]| {
            let living: HashSet<_> = living.iter().map(|port| address(*port)).collect();
            endpoint_latencies.answered(address(port), Duration::from_millis(ms), now, || living);
        };
        let count = |port| {
            let mut sum = Summary::default();
            endpoint_latencies.add_to(address(port), &mut sum, now);
            sum.count()
        };
        add(2, 10, &[2]);
        add(1, 20, &[1, 2]);
        add(2, 30, &[]);
        assert_eq!((count(1), count(2), count(3)), (1, 2, 0));
        add(3, 10, &[2, 3]);
        assert_eq!((count(1), count(2), count(3)), (0, 2, 1));
    }
}
