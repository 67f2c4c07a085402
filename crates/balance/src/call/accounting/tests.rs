//! Tests of the accounting: the effect of each end of a call on ejection, load and probes.

use super::*;
use crate::options::Options;

const MS: Duration = Duration::from_millis(1);

struct Endpoint {
    load: Load,
    now: Instant,
}

impl Endpoint {
    fn new() -> Endpoint {
        let now = Instant::now();
        Endpoint { load: Load::new(1, &Options::new("fish", "test"), now), now }
    }

    fn call(&self, probe: bool) -> CallAccounting {
        CallAccounting::new(&self.load, probe, self.now)
    }

    /// Creates an endpoint with a probe under way.
    fn probing() -> (Endpoint, CallAccounting) {
        let mut endpoint = Endpoint::new();
        endpoint.load.outlier.eject("test", endpoint.now);
        endpoint.now += 1_000 * MS;
        assert!(endpoint.load.outlier.claim_probe(endpoint.now));
        let accounting = endpoint.call(true);
        (endpoint, accounting)
    }

    /// Returns the change after five calls that are given up after `waited`.
    fn given_up(&self, waited: Duration, outcome: Outcome, answers_others: bool) -> EjectionChange {
        let mut calls: Vec<CallAccounting> = (0..5).map(|_| self.call(false)).collect();
        if answers_others {
            let mut other = self.call(false);
            other.answer(&self.load, self.now);
            other.end(&self.load, true, || self.now);
        }
        let mut change = EjectionChange::Nothing;
        for accounting in &mut calls {
            change = accounting.outcome(&self.load, outcome, true, self.now + waited);
            accounting.end(&self.load, true, || self.now + waited);
        }
        assert_eq!(self.load.in_flight(), 0);
        change
    }
}

#[test]
fn repeated_timeouts_eject_silent_endpoint() {
    let change = Endpoint::new().given_up(100 * MS, Outcome::TimedOut, false);
    assert_eq!(change, EjectionChange::Eject("5 failures in a row".into()));
}

#[test]
fn queued_calls_ignored_on_timeout() {
    let endpoint = Endpoint::new();
    for _ in 0..10 {
        let mut accounting = endpoint.call(false);
        accounting.queue();
        let at = endpoint.now + 1_000 * MS;
        assert_eq!(accounting.outcome(&endpoint.load, Outcome::TimedOut, true, at), EjectionChange::Nothing);
        accounting.end(&endpoint.load, true, || at);
    }
    assert_eq!(endpoint.load.failures(), 0);
}

#[test]
fn short_deadlines_and_cancellations_are_ignored() {
    assert_eq!(Endpoint::new().given_up(99 * MS, Outcome::TimedOut, false), EjectionChange::Nothing);
    assert_eq!(Endpoint::new().given_up(10_000 * MS, Outcome::CallerGone, false), EjectionChange::Nothing);
    assert_eq!(Endpoint::new().given_up(10_000 * MS, Outcome::Neutral, false), EjectionChange::Nothing);
}

#[test]
fn endpoint_answering_others_is_not_stalled() {
    assert_eq!(Endpoint::new().given_up(1_000 * MS, Outcome::TimedOut, true), EjectionChange::Nothing);
}

fn ewma_s(endpoint: &Endpoint, at: Instant) -> f64 {
    endpoint.load.ewma_s(at)
}

/// Answers another call a millisecond after it was made `at`.
fn answers_another(endpoint: &Endpoint, at: Instant) {
    let mut other = CallAccounting::new(&endpoint.load, false, at);
    other.answer(&endpoint.load, at + MS);
    let _ = other.outcome(&endpoint.load, Outcome::Success, true, at + MS);
    other.end(&endpoint.load, true, || at + MS);
}

#[test]
fn idle_stream_does_not_raise_cost() {
    let endpoint = Endpoint::new();
    let (load, now) = (&endpoint.load, endpoint.now);
    let mut watch = endpoint.call(false);
    watch.expect_stream(load);
    watch.expect_stream(load);
    let _ = watch.became_stream(load, now + 1_000 * MS);
    assert_eq!((load.in_flight(), load.streams()), (0, 1));
    let idle = Load::new(1, &Options::new("fish", "test"), now);
    let dearer = |at| idle.cost(1.0, at).is_below(&load.cost(1.0, at));
    assert!(!dearer(now + 2_000 * MS), "nobody waits for its answer");
    watch.answer(load, now + 300_000 * MS);
    assert!(ewma_s(&endpoint, now + 300_000 * MS) < 0.001, "{}", ewma_s(&endpoint, now + 300_000 * MS));
    assert_eq!(load.answers(), 1, "a sign of life");
    watch.end(load, true, || now + 300_000 * MS);
    assert_eq!((load.in_flight(), load.streams()), (0, 0));
}

#[test]
fn unanswered_stream_is_ignored() {
    for outcome in [Outcome::TimedOut, Outcome::CallerGone] {
        let endpoint = Endpoint::new();
        for _ in 0..10 {
            let mut watch = endpoint.call(false);
            watch.expect_stream(&endpoint.load);
            let at = endpoint.now + 3_000 * MS;
            assert_eq!(watch.outcome(&endpoint.load, outcome, true, at), EjectionChange::Nothing);
            watch.end(&endpoint.load, true, || at);
            assert!(ewma_s(&endpoint, at) <= 0.030, "{outcome:?}");
        }
        assert_eq!((endpoint.load.failures(), endpoint.load.in_flight()), (0, 0));
    }
}

#[test]
fn failed_stream_counts_as_failure() {
    let endpoint = Endpoint::new();
    let mut change = EjectionChange::Nothing;
    for _ in 0..5 {
        let mut watch = endpoint.call(false);
        watch.expect_stream(&endpoint.load);
        change = watch.outcome(&endpoint.load, Outcome::EndpointFault, true, endpoint.now);
    }
    assert_eq!(change, EjectionChange::Eject("5 failures in a row".into()));
}

/// Returns the believed latency after a call that was answered, or given up, after half a minute.
fn after_a_long_call(answered: bool, answers_others: bool) -> f64 {
    let endpoint = Endpoint::new();
    let (load, now) = (&endpoint.load, endpoint.now);
    let mut poll = endpoint.call(false);
    if answers_others {
        answers_another(&endpoint, now + 10_000 * MS);
    }
    let at = now + 30_000 * MS;
    if answered {
        poll.answer(load, at);
    }
    poll.end(load, true, || at);
    ewma_s(&endpoint, at)
}

#[test]
fn long_poll_among_answers_is_ignored() {
    assert!(after_a_long_call(true, true) < 0.030);
    assert!(after_a_long_call(false, true) < 0.030);
    assert!(after_a_long_call(true, false) > 29.0);
    assert!(after_a_long_call(false, false) > 29.0);
}

#[test]
fn timeout_after_answer_is_ignored() {
    let endpoint = Endpoint::new();
    let mut accounting = endpoint.call(false);
    accounting.answer(&endpoint.load, endpoint.now);
    for _ in 0..10 {
        assert_eq!(
            accounting.outcome(&endpoint.load, Outcome::TimedOut, true, endpoint.now + 1_000 * MS),
            EjectionChange::Nothing
        );
    }
    assert_eq!(endpoint.load.failures(), 0);
}

#[test]
fn stream_end_differs_from_its_answer() {
    let endpoint = Endpoint::new();
    let mut accounting = endpoint.call(false);
    assert_eq!(accounting.ends_with_its_answer(), None);
    accounting.answer(&endpoint.load, endpoint.now);
    assert_eq!(accounting.ends_with_its_answer(), Some(endpoint.now));
    let _ = accounting.became_stream(&endpoint.load, endpoint.now + 1_000 * MS);
    assert_eq!(accounting.ends_with_its_answer(), None);
}

#[track_caller]
fn probe(outcome: Outcome, answered: bool, ejected: bool) {
    let (endpoint, mut accounting) = Endpoint::probing();
    if answered {
        accounting.answer(&endpoint.load, endpoint.now);
    }
    let change = accounting.outcome(&endpoint.load, outcome, true, endpoint.now + 200 * MS);
    accounting.end(&endpoint.load, true, || endpoint.now + 200 * MS);
    assert_eq!(endpoint.load.outlier.is_ejected(), ejected, "{outcome:?}");
    assert_eq!(change == EjectionChange::Readmitted, !ejected, "{outcome:?}");
}

#[test]
fn probe_outcome_decides_readmission() {
    probe(Outcome::Success, true, false);
    probe(Outcome::Overloaded(None), true, false);
    probe(Outcome::ServerError, true, true);
    probe(Outcome::EndpointFault, false, true);
    probe(Outcome::TimedOut, false, true);
    probe(Outcome::TimedOut, true, false);
    probe(Outcome::CallerGone, true, false);
    probe(Outcome::CallerGone, false, true);
}

/// Returns the time until the next probe after one that ended by `outcome`, if it did, 50 ms after its pick.
fn next_probe(outcome: Option<Outcome>, sent: bool, may_stream: bool) -> Duration {
    let (endpoint, mut accounting) = Endpoint::probing();
    assert!(!endpoint.load.outlier.claim_probe(endpoint.now));
    if may_stream {
        accounting.expect_stream(&endpoint.load);
    }
    let at = endpoint.now + 50 * MS;
    if let Some(outcome) = outcome {
        assert_eq!(accounting.outcome(&endpoint.load, outcome, true, at), EjectionChange::Nothing);
    }
    accounting.end(&endpoint.load, sent, || at);
    endpoint.load.outlier.snapshot(at).expect("ejected").next_probe
}

#[test]
fn unsent_probe_is_repeated_at_once() {
    assert_eq!(next_probe(None, false, false), Duration::ZERO);
    assert_eq!(next_probe(Some(Outcome::Neutral), true, false), Duration::ZERO);
}

#[test]
fn abandoned_probe_keeps_current_ejection_time() {
    assert_eq!(next_probe(Some(Outcome::CallerGone), true, false), 1_000 * MS);
    assert_eq!(next_probe(Some(Outcome::TimedOut), true, false), 1_000 * MS, "a hurry");
    assert_eq!(next_probe(Some(Outcome::TimedOut), true, true), 1_000 * MS, "a stream without events");
    assert_eq!(next_probe(None, true, false), 1_000 * MS);
    assert_eq!(next_probe(Some(Outcome::EndpointFault), true, false), 2_000 * MS, "that says enough");
}

#[test]
fn caller_error_does_not_hurry_probe() {
    let (endpoint, mut accounting) = Endpoint::probing();
    let at = endpoint.now + 50 * MS;
    assert_eq!(accounting.excused(&endpoint.load, at), EjectionChange::Nothing);
    accounting.end(&endpoint.load, true, || at);
    assert_eq!(endpoint.load.outlier.snapshot(at).expect("ejected").next_probe, 1_000 * MS);

    let (endpoint, mut accounting) = Endpoint::probing();
    accounting.answer(&endpoint.load, at);
    assert_eq!(
        accounting.outcome(&endpoint.load, Outcome::Neutral, true, at),
        EjectionChange::Nothing,
        "malformed"
    );
    accounting.end(&endpoint.load, true, || at);
    let next = endpoint.load.outlier.snapshot(at).expect("ejected").next_probe;
    assert!(next >= 900 * MS, "{next:?}");
}

#[test]
fn stream_headers_readmit_but_duration_does_not() {
    let (endpoint, mut accounting) = Endpoint::probing();
    accounting.expect_stream(&endpoint.load);
    let at = endpoint.now + 1_000 * MS;
    assert_eq!(accounting.became_stream(&endpoint.load, at), EjectionChange::Nothing);
    assert!(endpoint.load.outlier.is_ejected());
    accounting.answer(&endpoint.load, at + MS);
    assert_eq!(accounting.begun(&endpoint.load, at + MS), EjectionChange::Readmitted);
    assert_eq!(accounting.begun(&endpoint.load, at + MS), EjectionChange::Nothing);
}

#[test]
fn unary_headers_do_not_readmit() {
    let (endpoint, mut accounting) = Endpoint::probing();
    accounting.answer(&endpoint.load, endpoint.now);
    assert_eq!(accounting.begun(&endpoint.load, endpoint.now), EjectionChange::Nothing);
    assert_eq!(
        accounting.outcome(&endpoint.load, Outcome::ServerError, true, endpoint.now),
        EjectionChange::Nothing
    );
    assert!(endpoint.load.outlier.is_ejected());
}

#[test]
fn probe_becoming_stream_readmits() {
    let (endpoint, mut accounting) = Endpoint::probing();
    accounting.answer(&endpoint.load, endpoint.now);
    assert_eq!(accounting.became_stream(&endpoint.load, endpoint.now), EjectionChange::Readmitted);
    assert_eq!(accounting.became_stream(&endpoint.load, endpoint.now), EjectionChange::Nothing);
    assert_eq!((endpoint.load.in_flight(), endpoint.load.streams()), (0, 1));
    accounting.end(&endpoint.load, true, || endpoint.now);
    assert_eq!((endpoint.load.in_flight(), endpoint.load.streams()), (0, 0));
}
