//! Simulates a stalled replica with the real selection, load, stall detector, ejection and accounting, on a simulated clock
//! with seeded randomness.
//!
//! Eleven endpoints under an open load: calls arrive at random times whatever happened to earlier ones. Then one endpoint stops
//! answering all its calls. No call is repeated; each is given up after a second.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::call::accounting::{CallAccounting, EjectionChange};
use crate::load::Load;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::selection::{Member, Selection};

const ENDPOINTS: usize = 11;
/// The endpoint that stops answering.
const STALLED: usize = 0;
/// The time a caller waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// The time before the stall.
const BEFORE: Duration = Duration::from_secs(10);

/// The load on the endpoints.
#[derive(Clone, Copy)]
struct Demand {
    calls_per_s: f64,
    /// The mean time a call takes; the times are exponentially distributed.
    service: Duration,
    /// The length of the stall.
    stall: Duration,
    /// The time after the stall during which calls are made.
    after: Duration,
}

/// The results.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The calls made during the stall.
    made: u32,
    /// The calls made during the stall that were answered before their callers gave up.
    answered: u32,
    /// The calls made in the last ten seconds, and those of them that the stalled endpoint got.
    last: u32,
    last_at_stalled: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Answer(usize),
    GivenUp(usize),
}

struct Simulation {
    rng: Rng,
    options: Options,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    scheduled: u64,
    loads: Vec<Arc<Load>>,
    selection: Selection,
    /// The running calls by number: the endpoint and the accounting.
    calls: Vec<Option<(usize, CallAccounting)>>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let now = Instant::now();
        let options = Options::new("fish", "test");
        let loads: Vec<Arc<Load>> = (0..ENDPOINTS).map(|_| Arc::new(Load::new(1, &options, now))).collect();
        for load in &loads {
            load.joined(None, now);
        }
        let mut simulation = Simulation {
            rng: Rng::with_seed(seed),
            options,
            now,
            events: BinaryHeap::new(),
            scheduled: 0,
            loads,
            selection: Selection::new(Vec::new(), Vec::new(), 8),
            calls: Vec::new(),
        };
        simulation.publish();
        simulation
    }

    fn run(mut self, demand: Demand) -> Seen {
        let stall = self.now + BEFORE..self.now + BEFORE + demand.stall;
        let end = stall.end + demand.after;
        let mut seen = Seen::default();
        self.schedule(Duration::ZERO, Event::Arrival);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrival if at >= end => {}
                Event::Arrival => {
                    let gap = self.exponential(Duration::from_secs_f64(1.0 / demand.calls_per_s));
                    self.schedule(gap, Event::Arrival);
                    let endpoint = self.call(demand.service, &stall);
                    seen.made += u32::from(stall.contains(&at));
                    if at + Duration::from_secs(10) >= end {
                        seen.last += 1;
                        seen.last_at_stalled += u32::from(endpoint == STALLED);
                    }
                }
                Event::Answer(number) => {
                    if let Some((endpoint, mut accounting)) = self.calls[number].take() {
                        seen.answered += u32::from(stall.contains(&accounting.started()));
                        accounting.answer(&self.loads[endpoint], at);
                        self.over(endpoint, accounting, Outcome::Success);
                    }
                }
                Event::GivenUp(number) => {
                    if let Some((endpoint, accounting)) = self.calls[number].take() {
                        self.over(endpoint, accounting, Outcome::TimedOut);
                    }
                }
            }
        }
        seen
    }

    /// Makes one more call. Returns its endpoint.
    fn call(&mut self, service: Duration, stall: &Range<Instant>) -> usize {
        let choice = self.selection.choose(&[], self.now, &mut self.rng, |_| true).expect("an endpoint");
        let (endpoint, probe) = (usize::from(choice.member.address.port()) - 1, choice.probe);
        let accounting = CallAccounting::new(&self.loads[endpoint], probe, self.now);
        let number = self.calls.len();
        self.calls.push(Some((endpoint, accounting)));
        let takes = self.exponential(service);
        let stalled = |at| endpoint == STALLED && stall.contains(&at);
        if !stalled(self.now) && !stalled(self.now + takes) {
            self.schedule(takes, Event::Answer(number));
        }
        self.schedule(PATIENCE, Event::GivenUp(number));
        endpoint
    }

    /// Makes a call at the endpoint `STALLED` that waits for an event: for half a minute, or for good as a stream.
    fn long(&mut self, is_known_to_stream: bool) {
        let load = &self.loads[STALLED];
        let mut accounting = CallAccounting::new(load, false, self.now);
        if is_known_to_stream {
            accounting.expect_stream(load);
            let _ = accounting.became_stream(load, self.now);
        }
        let number = self.calls.len();
        self.calls.push(Some((STALLED, accounting)));
        if !is_known_to_stream {
            self.schedule(Duration::from_secs(30), Event::Answer(number));
        }
    }

    fn over(&mut self, endpoint: usize, mut accounting: CallAccounting, outcome: Outcome) {
        let (now, load) = (self.now, self.loads[endpoint].clone());
        let change = accounting.outcome(&load, outcome, true, now);
        accounting.end(&load, true, || now);
        match change {
            EjectionChange::Nothing => return,
            EjectionChange::Readmitted => {}
            EjectionChange::Eject(reason) => {
                let rules = self.options.ejection.expect("who ejects has rules");
                let ejected = self.loads.iter().filter(|load| load.outlier.is_ejected()).count();
                if !rules.allows(ejected, ENDPOINTS) {
                    return;
                }
                load.outlier.eject(&reason, now);
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let member = |(port, load): (u16, &Arc<Load>)| {
            Member::new(SocketAddr::from(([127, 0, 0, 1], port)), load.clone(), [].into())
        };
        let panic_threshold = self.options.ejection.map_or(0.0, |rules| rules.panic_threshold);
        self.selection = Selection::of_serving(
            (1..).zip(&self.loads).map(member).collect(),
            ENDPOINTS,
            panic_threshold,
            8,
        );
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + after, self.scheduled, event)));
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.rng.f64()).ln())
    }
}

/// Checks the percentage of the calls made during a minute's stall that were answered within a second.
#[track_caller]
fn check(calls_per_s: f64, service_ms: u64) {
    let service = Duration::from_millis(service_ms);
    let demand = Demand { calls_per_s, service, stall: Duration::from_secs(60), after: Duration::ZERO };
    for seed in 1..=3 {
        let seen = Simulation::new(seed).run(demand);
        let share = f64::from(seen.answered) / f64::from(seen.made);
        assert!(share >= 0.999, "seed {seed}: {:.3} % of {}", share * 100.0, seen.made);
    }
}

#[test]
fn stall_under_light_load_costs_little() {
    check(50.0, 5);
}

#[test]
fn stall_under_heavy_load_costs_little() {
    check(1_000.0, 5);
}

#[test]
fn stall_among_long_calls_costs_little() {
    check(200.0, 30);
}

#[test]
fn stall_among_queued_calls_costs_little() {
    // Five calls are in flight at each endpoint when one stalls.
    check(1_000.0, 50);
}

#[test]
fn recovered_replica_regains_its_share() {
    let (stall, after) = (Duration::from_secs(20), Duration::from_secs(180));
    let demand = Demand { calls_per_s: 200.0, service: Duration::from_millis(5), stall, after };
    for seed in 1..=3 {
        let seen = Simulation::new(seed).run(demand);
        let share = f64::from(seen.last_at_stalled) / f64::from(seen.last);
        assert!(share > 0.5 / ENDPOINTS as f64, "seed {seed}: {seen:?}");
    }
}

/// Returns the smallest share of the calls, relative to a fair one, that an endpoint with one long call gets in ten seconds
/// that begin `later` after the call.
fn beside_a_long_call(is_known_to_stream: bool, later: Duration) -> f64 {
    let service = Duration::from_millis(5);
    let after = later.saturating_sub(BEFORE) + Duration::from_secs(10);
    let demand = Demand { calls_per_s: 200.0, service, stall: Duration::ZERO, after };
    let share = |seed| {
        let mut simulation = Simulation::new(seed);
        simulation.long(is_known_to_stream);
        let seen = simulation.run(demand);
        f64::from(seen.last_at_stalled) / f64::from(seen.last) * ENDPOINTS as f64
    };
    (1..=3).map(share).fold(f64::INFINITY, f64::min)
}

#[test]
fn idle_stream_does_not_starve_endpoint() {
    let least = beside_a_long_call(true, Duration::from_secs(20));
    assert!(least > 0.5, "{least}");
}

#[test]
fn long_poll_does_not_starve_endpoint() {
    // While it lasts it counts as a call in flight, and idle endpoints are preferred.
    for (later_s, share) in [(20, 0.05), (31, 0.5)] {
        let least = beside_a_long_call(false, Duration::from_secs(later_s));
        assert!(least > share, "{least} of what is fair, {later_s} s later");
    }
}
