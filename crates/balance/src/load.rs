//! What one endpoint costs to pick: peak-EWMA × (in flight + 1) / weight, and its penalty. Pure: it is told the time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::ewma::{Ewma, INITIAL};

/// How long an endpoint is shunned after it failed a call, unless it failed again. An endpoint that fails at once is the
/// fastest of all: without this it would attract the traffic (DESIGN "Pick").
const PENALTY: Duration = Duration::from_secs(5);

/// Below this latencies are not told apart: a scheduler's hiccup is longer.
const LATENCY_FLOOR_S: f64 = 0.001;

/// Latencies within this factor are the same. The peak-EWMAs of equal endpoints differ by the noise of their worst
/// sample; taken literally, the one that was lucky last would get every call while few are in flight.
const LATENCY_NOISE: f64 = 2.0;

/// The counters and the latency of one endpoint. They outlive its connections.
#[derive(Debug)]
pub(crate) struct Load {
    ewma: Ewma,
    base: Instant,
    /// Milliseconds since `base` at which the penalty is over; 0 when there is none.
    penalty_until_ms: AtomicU64,
    weight: AtomicU32,
    in_flight: AtomicU32,
    calls: AtomicU64,
    failures: AtomicU64,
    answers: AtomicU64,
}

/// What picking an endpoint costs: latency × queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    latency_s: f64,
    /// (in flight + 1) / weight.
    queue: f64,
}

impl Cost {
    /// Whether this is the better choice; of two equal ones neither is.
    pub(crate) fn is_below(&self, other: &Cost) -> bool {
        let ratio = self.latency_s / other.latency_s;
        if ratio < LATENCY_NOISE && ratio > 1.0 / LATENCY_NOISE {
            self.queue < other.queue
        } else {
            self.latency_s * self.queue < other.latency_s * other.queue
        }
    }
}

impl Load {
    pub(crate) fn new(weight: u32, now: Instant) -> Load {
        Load {
            ewma: Ewma::new(INITIAL, now),
            base: now,
            penalty_until_ms: AtomicU64::new(0),
            weight: AtomicU32::new(weight.max(1)),
            in_flight: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            answers: AtomicU64::new(0),
        }
    }

    /// What picking it costs now.
    pub(crate) fn cost(&self, now: Instant) -> Cost {
        Cost {
            latency_s: self.ewma.get(now).max(self.penalty(now).as_secs_f64()).max(LATENCY_FLOOR_S),
            queue: f64::from(self.in_flight() + 1) / f64::from(self.weight()),
        }
    }

    /// One more call, counted from the pick: connections and queues take time too.
    pub(crate) fn start(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// The call is over, however it went.
    pub(crate) fn finish(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The endpoint began to answer after `latency`.
    pub(crate) fn answered(&self, latency: Duration, now: Instant) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.ewma.observe(latency, now);
    }

    /// The call ended after `waited` without an answer: the endpoint takes at least that long. Without this a stalled
    /// endpoint whose callers give up would look as fast as it once was.
    pub(crate) fn unanswered(&self, waited: Duration, now: Instant) {
        self.ewma.observe_at_least(waited, now);
    }

    /// The endpoint failed a call.
    pub(crate) fn failed(&self, now: Instant) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.penalty_until_ms.store(self.since_base_ms(now + PENALTY), Ordering::Relaxed);
    }

    /// A new connection: what was known is of another process. A newcomer is believed to cost what its peers do,
    /// `seconds`; at 30 ms beside peers of 0.3 ms it would get no traffic for τ × ln 100 = 46 s.
    pub(crate) fn joined(&self, seconds: Option<f64>, now: Instant) {
        self.ewma.reset(seconds.unwrap_or(INITIAL.as_secs_f64()), now);
        self.penalty_until_ms.store(0, Ordering::Relaxed);
    }

    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight.max(1), Ordering::Relaxed);
    }

    pub(crate) fn ewma_s(&self, now: Instant) -> f64 {
        self.ewma.get(now)
    }

    /// What is left of the penalty.
    pub(crate) fn penalty(&self, now: Instant) -> Duration {
        let until_ms = self.penalty_until_ms.load(Ordering::Relaxed);
        if until_ms == 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(until_ms.saturating_sub(self.since_base_ms(now)))
    }

    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// How many calls the endpoint has answered: a sign of life.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn since_base_ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn load(weight: u32) -> (Load, Instant) {
        let now = Instant::now();
        (Load::new(weight, now), now)
    }

    #[track_caller]
    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= expected * 0.001, "{actual} is not {expected}");
    }

    /// Latency × queue, in seconds.
    fn cost_s(load: &Load, now: Instant) -> f64 {
        let cost = load.cost(now);
        cost.latency_s * cost.queue
    }

    #[test]
    fn each_call_in_flight_adds_one_latency_to_the_cost() {
        let (load, now) = load(1);
        near(cost_s(&load, now), 0.030);
        load.start();
        load.start();
        near(cost_s(&load, now), 0.090);
        load.finish();
        near(cost_s(&load, now), 0.060);
    }

    #[test]
    fn a_weight_divides_the_cost() {
        let (load, now) = load(3);
        near(cost_s(&load, now), 0.010);
        load.set_weight(0);
        near(cost_s(&load, now), 0.030);
    }

    #[test]
    fn a_fast_failure_makes_dear_for_five_seconds_and_no_longer() {
        let (load, now) = load(1);
        load.answered(MS, now);
        load.failed(now);
        near(cost_s(&load, now), 5.0);
        near(cost_s(&load, now + 4_000 * MS), 1.0);
        assert!(cost_s(&load, now + 5_000 * MS) < 0.030);
        assert_eq!(load.failures(), 1);
    }

    #[test]
    fn a_call_nobody_waited_for_raises_the_cost() {
        let (load, now) = load(1);
        load.unanswered(800 * MS, now);
        near(cost_s(&load, now), 0.800);
    }

    #[test]
    fn a_newcomer_costs_what_its_peers_do() {
        let (load, now) = load(1);
        load.failed(now);
        load.joined(Some(0.002), now);
        near(cost_s(&load, now), 0.002);
        load.joined(None, now);
        near(cost_s(&load, now), 0.030);
    }

    #[test]
    fn an_idle_endpoint_is_never_free() {
        let (load, now) = load(1);
        near(cost_s(&load, now + 1_000 * crate::ewma::TAU), 0.001);
    }

    #[test]
    fn latencies_within_the_noise_are_told_apart_by_the_queue_alone() {
        let cost = |latency_s, queue| Cost { latency_s, queue };
        assert!(!cost(0.010, 1.0).is_below(&cost(0.019, 1.0)));
        assert!(!cost(0.019, 1.0).is_below(&cost(0.010, 1.0)));
        assert!(cost(0.019, 1.0).is_below(&cost(0.010, 2.0)));
        assert!(cost(0.010, 1.0).is_below(&cost(0.021, 1.0)));
        assert!(cost(0.010, 2.0).is_below(&cost(0.021, 1.0)));
        assert!(!cost(0.010, 3.0).is_below(&cost(0.021, 1.0)));
    }
}
