//! Computes what one endpoint costs to pick: peak-EWMA × queue, where the queue is 1 + in flight / weight.
//!
//! The weight divides the calls in flight and not the 1, so that idle endpoints cost the same and share by how often they are
//! drawn. With the 1 divided too, an idle heavy endpoint would always beat an idle light one.

pub(crate) mod connection_demand;
mod ewma;
pub(crate) mod outlier;
mod outlier_window;
mod penalty;
pub(crate) mod slow_start;
mod stall_detector;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use self::connection_demand::ConnectionDemand;
use self::ewma::{Ewma, INITIAL};
use self::outlier::Outlier;
use self::penalty::Penalty;
use self::slow_start::SlowStart;
use self::stall_detector::StallDetector;
use crate::options::Options;

/// The number of long streams that weigh like one call in flight. They are mostly idle, but an endpoint with a thousand of them
/// is busier than one with none.
const STREAMS_PER_CALL: u32 = 64;

/// The latency below which endpoints count as equally fast: a scheduler's hiccup is longer.
const LATENCY_FLOOR_S: f64 = 0.001;

/// The factor within which latencies count as equal. The peak-EWMAs of equal endpoints differ by the noise of their worst
/// sample. Taken literally, the endpoint that was lucky last would get every call while few are in flight.
const LATENCY_NOISE: f64 = 2.0;

/// The longest latency a stalled endpoint is believed to have: however long it was silent, it is tried again.
const BELIEVED_MAX: Duration = Duration::from_secs(60);

/// The counters and the latency of one endpoint, which outlive its connections.
#[derive(Debug)]
pub(crate) struct Load {
    ewma: Ewma,
    penalty: Penalty,
    /// The penalty for a failure without a pushback.
    penalty_time: Duration,
    slow_start: SlowStart,
    stall_detector: StallDetector,
    pub(crate) outlier: Outlier,
    pub(crate) connection_demand: ConnectionDemand,
    weight: AtomicU32,
    in_flight: AtomicU32,
    streams: AtomicU32,
    calls: AtomicU64,
    successes: AtomicU64,
    failures: AtomicU64,
    answers: AtomicU64,
}

/// The cost of picking an endpoint: latency × queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    latency_s: f64,
    queue: f64,
}

impl Cost {
    /// Returns whether this cost is clearly lower. Neither of two equal costs is.
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
    pub(crate) fn new(weight: u32, options: &Options, now: Instant) -> Load {
        Load {
            ewma: Ewma::new(INITIAL, now),
            penalty: Penalty::new(now),
            penalty_time: options.penalty,
            slow_start: SlowStart::new(options.slow_start, now),
            stall_detector: StallDetector::new(now),
            outlier: Outlier::new(options.ejection, now),
            connection_demand: ConnectionDemand::default(),
            weight: AtomicU32::new(weight.max(1)),
            in_flight: AtomicU32::new(0),
            streams: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            answers: AtomicU64::new(0),
        }
    }

    /// Returns the current cost; `share` is the endpoint's weight beside the mean.
    pub(crate) fn cost(&self, share: f64, now: Instant) -> Cost {
        let latency_s =
            self.ewma.get(now).max(self.stall_detector.get(now)).max(self.penalty(now).as_secs_f64());
        let busy = self.in_flight() + self.streams() / STREAMS_PER_CALL;
        Cost { latency_s: latency_s.max(LATENCY_FLOOR_S), queue: 1.0 + f64::from(busy) / share }
    }

    /// Returns its slow-start share, from 0.1 to 1.
    pub(crate) fn ramp(&self, now: Instant) -> f64 {
        self.slow_start.ramp(now)
    }

    /// Counts one more call from the pick on: connecting and queueing take time too.
    pub(crate) fn start(&self, now: Instant) {
        self.stall_detector.asked(now);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a call, whatever its outcome.
    pub(crate) fn finish(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Moves a call from those in flight to the long streams.
    pub(crate) fn became_stream(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a long stream.
    pub(crate) fn finish_stream(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records that the last call started may be a stream: its answer may come with an event, so that waiting for it says
    /// nothing.
    pub(crate) fn expects_stream(&self) {
        self.stall_detector.given_up();
    }

    /// Records an answer, with its `latency` if that says how fast the endpoint is.
    pub(crate) fn answered(&self, latency: Option<Duration>, now: Instant) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.stall_detector.answered();
        if let Some(latency) = latency {
            self.ewma.observe(latency, now);
        }
    }

    /// Records the end of a call without an answer, with the time `waited` if that is a lower bound of the latency. Otherwise a
    /// stalled endpoint whose callers give up would look as fast as before. `silent`: it answered no other call meanwhile.
    pub(crate) fn unanswered(&self, waited: Option<Duration>, silent: bool, now: Instant) {
        if silent {
            self.stall_detector.given_up();
        }
        if let Some(waited) = waited {
            self.ewma.observe_at_least(waited, now);
        }
    }

    /// Records that a call picked at `picked` timed out and that the endpoint has answered none meanwhile: its latency is
    /// believed to be that time, and doubles with each further time-out.
    pub(crate) fn stalled(&self, picked: Instant, now: Instant) {
        let doubled = 1 << (self.stall_detector.stalled(picked, now).max(1) - 1).min(16);
        let believed = now.saturating_duration_since(picked).saturating_mul(doubled);
        self.ewma.observe_at_least(believed.min(BELIEVED_MAX), now);
    }

    /// Counts a success.
    pub(crate) fn succeeded(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Avoids the endpoint for the time it asked for, or for the default penalty.
    pub(crate) fn shun(&self, pushback: Option<Duration>, now: Instant) {
        let time = pushback.filter(|_| !self.penalty_time.is_zero()).unwrap_or(self.penalty_time);
        self.penalty.add(time, now);
    }

    /// Starts afresh when the endpoint reports again that it serves.
    pub(crate) fn recovered(&self, now: Instant) {
        self.slow_start.begin(now);
    }

    /// Records that the same process is back on another connection.
    pub(crate) fn rejoined(&self, now: Instant) {
        self.outlier.joined(now);
    }

    /// Starts afresh on a new connection, since the old figures belong to another process. A newcomer is believed to cost what
    /// its peers do, `seconds`: at 30 ms beside peers of 0.3 ms it would get no traffic for τ × ln 100 = 46 s.
    pub(crate) fn joined(&self, seconds: Option<f64>, now: Instant) {
        self.ewma.reset(seconds.unwrap_or(INITIAL.as_secs_f64()), now);
        self.penalty.clear();
        self.slow_start.begin(now);
        self.outlier.joined(now);
    }

    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight.max(1), Ordering::Relaxed);
    }

    pub(crate) fn ewma_s(&self, now: Instant) -> f64 {
        self.ewma.get(now)
    }

    /// Returns the rest of the penalty.
    pub(crate) fn penalty(&self, now: Instant) -> Duration {
        self.penalty.left(now)
    }

    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the number of long streams, which `in_flight` does not count.
    pub(crate) fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    pub(crate) fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns the number of calls the endpoint has answered: a sign of life.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn load(weight: u32) -> (Load, Instant) {
        let now = Instant::now();
        (Load::new(weight, &Options::new("fish", "test"), now), now)
    }

    #[track_caller]
    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= expected * 0.001, "{actual} is not {expected}");
    }

    /// Returns latency × queue, in seconds.
    fn cost_s(load: &Load, now: Instant) -> f64 {
        let cost = load.cost(1.0, now);
        cost.latency_s * cost.queue
    }

    #[test]
    fn each_call_adds_one_latency() {
        let (load, now) = load(1);
        near(cost_s(&load, now), 0.030);
        load.start(now);
        load.start(now);
        near(cost_s(&load, now), 0.090);
        load.finish();
        near(cost_s(&load, now), 0.060);
    }

    #[test]
    fn weight_divides_queue_not_idle_cost() {
        let (load, now) = load(1);
        near(load.cost(2.0, now).queue, 1.0);
        near(load.cost(0.1, now).queue, 1.0);
        load.start(now);
        near(load.cost(2.0, now).queue, 1.5);
        near(load.cost(0.1, now).queue, 11.0);
    }

    #[test]
    fn fast_failure_costs_five_seconds() {
        let (load, now) = load(1);
        load.start(now);
        load.answered(Some(MS), now);
        load.finish();
        load.shun(None, now);
        near(cost_s(&load, now), 5.0);
        near(cost_s(&load, now + 4_000 * MS), 1.0);
        assert!(cost_s(&load, now + 5_000 * MS) < 0.030);
    }

    #[test]
    fn pushback_costs_the_named_time() {
        let (load, now) = load(1);
        load.shun(Some(800 * MS), now);
        near(cost_s(&load, now), 0.8);
        near(cost_s(&load, now + 800 * MS), 0.030 * (-0.08_f64).exp());
    }

    #[test]
    fn zero_penalty_avoids_nobody() {
        let now = Instant::now();
        let load = Load::new(1, &Options { penalty: Duration::ZERO, ..Options::new("fish", "test") }, now);
        load.shun(Some(800 * MS), now);
        load.shun(None, now);
        near(cost_s(&load, now), 0.030);
    }

    #[test]
    fn sixty_four_streams_weigh_one_call() {
        let (load, now) = load(1);
        for streams in 1..=64 {
            load.start(now);
            load.became_stream();
            near(cost_s(&load, now), if streams < 64 { 0.030 } else { 0.060 });
        }
        assert_eq!((load.in_flight(), load.streams()), (0, 64));
        load.finish_stream();
        near(cost_s(&load, now), 0.030);
    }

    #[test]
    fn abandoned_call_raises_cost() {
        let (load, now) = load(1);
        load.start(now);
        load.unanswered(Some(800 * MS), true, now);
        load.finish();
        near(cost_s(&load, now), 0.800);
    }

    #[test]
    fn consecutive_timeouts_double_latency() {
        let (load, now) = load(1);
        load.stalled(now, now + 1_000 * MS);
        near(load.ewma_s(now + 1_000 * MS), 1.0);
        load.stalled(now, now + 1_000 * MS);
        near(load.ewma_s(now + 1_000 * MS), 1.0);
        load.stalled(now + 2_000 * MS, now + 3_000 * MS);
        near(load.ewma_s(now + 3_000 * MS), 2.0);
        for _ in 0..40 {
            load.stalled(now + 4_000 * MS, now + 5_000 * MS);
        }
        near(load.ewma_s(now + 5_000 * MS), 4.0);
        for second in (6..60).step_by(2) {
            load.stalled(now + second * 1_000 * MS, now + (second + 1) * 1_000 * MS);
        }
        near(load.ewma_s(now + 59_000 * MS), 60.0);
    }

    #[test]
    fn newcomer_costs_like_its_peers() {
        let (load, now) = load(1);
        load.shun(None, now);
        load.joined(Some(0.002), now);
        near(cost_s(&load, now), 0.002);
        load.joined(None, now);
        near(cost_s(&load, now), 0.030);
    }

    #[test]
    fn idle_endpoint_is_never_free() {
        let (load, now) = load(1);
        near(cost_s(&load, now + 1_000 * crate::load::ewma::TAU), 0.001);
    }

    #[test]
    fn similar_latencies_compare_by_queue() {
        let cost = |latency_s, queue| Cost { latency_s, queue };
        assert!(!cost(0.010, 1.0).is_below(&cost(0.019, 1.0)));
        assert!(!cost(0.019, 1.0).is_below(&cost(0.010, 1.0)));
        assert!(cost(0.019, 1.0).is_below(&cost(0.010, 2.0)));
        assert!(cost(0.010, 1.0).is_below(&cost(0.021, 1.0)));
        assert!(cost(0.010, 2.0).is_below(&cost(0.021, 1.0)));
        assert!(!cost(0.010, 3.0).is_below(&cost(0.021, 1.0)));
    }
}
