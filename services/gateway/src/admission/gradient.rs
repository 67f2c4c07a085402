//! Computes how many calls an upstream is given at once: as many as it answers about as fast as ever. Follows Netflix's Gradient2
//! (concurrency-limits, `Gradient2Limit` over `WindowedLimit`), with three differences: the headroom is the square root of the
//! limit and a rise is taken at once, as in Envoy's adaptive concurrency filter; and while an upstream is slower than tolerated,
//! what counts as "ever" moves ten times more slowly, or a long overload would become the measure of itself. Pure: it is told the
//! time.

use std::time::Duration;

use tokio::time::Instant;

/// A limit holds for at least this long, and is judged by at least this many answers.
const WINDOW: Duration = Duration::from_secs(1);
const SAMPLES_MIN: u32 = 20;

/// The first windows are averaged; after them each moves the long-term latency by 2/601 (Netflix's default).
const LONG_WARMUP: u32 = 10;
const LONG_FACTOR: f64 = 2.0 / 601.0;
/// The long factor while the upstream is slow.
const LONG_FACTOR_SLOW: f64 = LONG_FACTOR / 10.0;
/// A long-term latency more than twice the present one is that of a load that is over: it falls by this each window.
const LONG_DECAY: f64 = 0.95;

/// The lowest gradient of one window: it lowers the limit to half at most, and of that step a fifth is taken.
const GRADIENT_MIN: f64 = 0.5;
const SMOOTHING: f64 = 0.2;

/// Bounds of the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The multiple of the long-term latency up to which latency is taken for normal.
    pub(crate) tolerance: f64,
}

/// The limit, and what it is judged by.
#[derive(Debug)]
pub(crate) struct Gradient {
    bounds: Bounds,
    limit: f64,
    /// Seconds; 0 before the first window.
    long: f64,
    windows: u32,
    began: Instant,
    samples: u32,
    sum: f64,
    in_flight_max: usize,
}

impl Gradient {
    /// Begins at the lower bound.
    pub(crate) fn new(bounds: Bounds, now: Instant) -> Gradient {
        Gradient {
            bounds,
            limit: bounds.min,
            long: 0.0,
            windows: 0,
            began: now,
            samples: 0,
            sum: 0.0,
            in_flight_max: 0,
        }
    }

    /// The most calls at once.
    pub(crate) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A call was answered after `latency`, when `in_flight` were unanswered, itself included. Says whether the limit is
    /// another one now.
    pub(crate) fn answered(&mut self, latency: Duration, in_flight: usize, now: Instant) -> bool {
        self.samples += 1;
        self.sum += latency.as_secs_f64();
        self.in_flight_max = self.in_flight_max.max(in_flight);
        if self.samples < SAMPLES_MIN || now.saturating_duration_since(self.began) < WINDOW {
            return false;
        }
        let (short, in_flight) = (self.sum / f64::from(self.samples), self.in_flight_max);
        (self.began, self.samples, self.sum, self.in_flight_max) = (now, 0, 0.0, 0);
        let before = self.limit();
        self.window(short, in_flight);
        self.limit() != before
    }

    fn window(&mut self, short: f64, in_flight: usize) {
        let well = self.windows < LONG_WARMUP || short <= self.bounds.tolerance * self.long;
        self.windows = self.windows.saturating_add(1);
        let factor = match well {
            true if self.windows <= LONG_WARMUP => 1.0 / f64::from(self.windows),
            true => LONG_FACTOR,
            false => LONG_FACTOR_SLOW,
        };
        self.long += (short - self.long) * factor;
        if self.long > 2.0 * short {
            self.long *= LONG_DECAY;
        }
        // A limit that was not used says nothing about more.
        if (in_flight as f64) < self.limit / 2.0 {
            return;
        }
        let gradient = (self.bounds.tolerance * self.long / short).clamp(GRADIENT_MIN, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        let next = if next < self.limit { self.limit + (next - self.limit) * SMOOTHING } else { next };
        self.limit = next.clamp(self.bounds.min, self.bounds.max);
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, VecDeque};

    use fastrand::Rng;

    use super::*;

    /// An upstream of so many workers that take 8 to 12 ms a call, one call each, and a queue without end.
    struct Model {
        rng: Rng,
        start: Instant,
        now_us: u64,
        idle: usize,
        queue: VecDeque<u64>,
        /// When a worker is done, and when its call came.
        busy: BinaryHeap<Reverse<(u64, u64)>>,
    }

    #[derive(Default)]
    struct Seen {
        answered: u32,
        shed: u32,
        latencies_us: Vec<u64>,
    }

    impl Model {
        fn new(workers: usize, start: Instant) -> Model {
            let (queue, busy) = (VecDeque::new(), BinaryHeap::new());
            Model { rng: Rng::with_seed(11), start, now_us: 0, idle: workers, queue, busy }
        }

        /// Offers `per_second` calls at random times for `seconds`; `slower` times as slow as it is.
        fn load(&mut self, gradient: &mut Gradient, per_second: f64, seconds: u64, slower: u64) -> Seen {
            let mut seen = Seen::default();
            let end_us = self.now_us + seconds * 1_000_000;
            let mut next_us = self.now_us;
            while next_us < end_us {
                while let Some(Reverse((done, came))) = self.busy.peek().copied().filter(|r| r.0.0 <= next_us)
                {
                    self.busy.pop();
                    self.idle += 1;
                    let unanswered = self.busy.len() + self.queue.len() + 1;
                    let at = self.start + Duration::from_micros(done);
                    gradient.answered(Duration::from_micros(done - came), unanswered, at);
                    seen.answered += 1;
                    seen.latencies_us.push(done - came);
                    if let Some(came) = self.queue.pop_front() {
                        self.work(done, came, slower);
                    }
                }
                self.now_us = next_us;
                if self.busy.len() + self.queue.len() >= gradient.limit() {
                    seen.shed += 1;
                } else if self.idle > 0 {
                    self.work(next_us, next_us, slower);
                } else {
                    self.queue.push_back(next_us);
                }
                // Exponential, so that calls come in bursts as they do.
                next_us += (-(1.0 - self.rng.f64()).ln() / per_second * 1e6) as u64;
            }
            seen.latencies_us.sort_unstable();
            seen
        }

        fn work(&mut self, from_us: u64, came_us: u64, slower: u64) {
            self.idle -= 1;
            self.busy.push(Reverse((from_us + slower * self.rng.u64(8_000..12_000), came_us)));
        }
    }

    impl Seen {
        fn ms(&self, share: f64) -> f64 {
            let at = (self.latencies_us.len() as f64 * share) as usize;
            self.latencies_us[at.min(self.latencies_us.len() - 1)] as f64 / 1e3
        }
    }

    fn bounds(min: f64) -> Bounds {
        Bounds { min, max: 10_000.0, tolerance: 2.0 }
    }

    /// Five workers answer 500 calls a second.
    fn overloaded(minutes: u64) -> Seen {
        let now = Instant::now();
        let (mut model, mut gradient) = (Model::new(5, now), Gradient::new(bounds(5.0), now));
        model.load(&mut gradient, 250.0, 30, 1);
        model.load(&mut gradient, 1_500.0, 60 * minutes - 20, 1);
        model.load(&mut gradient, 1_500.0, 20, 1)
    }

    #[test]
    fn triple_overload_is_shed_in_time() {
        let seen = overloaded(1);
        assert!(seen.answered >= 20 * 475, "{} answered of 10000 possible", seen.answered);
        assert!(seen.ms(0.5) < 40.0 && seen.ms(0.99) < 60.0, "{} {}", seen.ms(0.5), seen.ms(0.99));
        assert!(seen.shed > 0);
    }

    #[test]
    fn lasting_overload_is_not_the_norm() {
        let seen = overloaded(8);
        assert!(seen.answered >= 20 * 475, "{}", seen.answered);
        assert!(seen.ms(0.99) < 60.0, "{}", seen.ms(0.99));
    }

    #[test]
    fn nothing_is_shed_below_capacity() {
        let now = Instant::now();
        let (mut model, mut gradient) = (Model::new(20, now), Gradient::new(bounds(100.0), now));
        for per_second in [200.0, 1_500.0, 50.0, 1_700.0, 900.0] {
            let seen = model.load(&mut gradient, per_second, 30, 1);
            assert_eq!(seen.shed, 0, "{per_second} calls a second");
        }
    }

    #[test]
    fn unused_limit_does_not_grow() {
        let now = Instant::now();
        let (mut model, mut gradient) = (Model::new(20, now), Gradient::new(bounds(50.0), now));
        model.load(&mut gradient, 500.0, 60, 1);
        assert_eq!(gradient.limit(), 50, "at most a dozen calls were unanswered at once");
    }

    #[test]
    fn growing_upstream_gets_more() {
        let now = Instant::now();
        let (mut model, mut gradient) = (Model::new(20, now), Gradient::new(bounds(10.0), now));
        model.load(&mut gradient, 3_000.0, 60, 1);
        let before = gradient.limit();
        model.idle += 180;
        model.load(&mut gradient, 18_000.0, 60, 1);
        assert!(gradient.limit() >= 180 && before < 100, "{before} to {}", gradient.limit());
    }

    #[test]
    fn permanently_slower_upstream_recovers_its_share() {
        let now = Instant::now();
        let (mut model, mut gradient) = (Model::new(20, now), Gradient::new(bounds(10.0), now));
        model.load(&mut gradient, 1_000.0, 60, 1);
        // Twenty workers of 40 ms each answer 500.
        let seen = model.load(&mut gradient, 400.0, 60, 4);
        let (shed, all) = (f64::from(seen.shed), f64::from(seen.shed + seen.answered));
        assert!(shed / all < 0.4, "{shed} of {all}");
        // The minimum of twenty is all it can use.
        let (mut model, mut gradient) = (Model::new(20, now), Gradient::new(bounds(50.0), now));
        model.load(&mut gradient, 1_000.0, 60, 1);
        assert_eq!(model.load(&mut gradient, 400.0, 60, 4).shed, 0);
    }
}
