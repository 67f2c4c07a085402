//! Accounts for one call at its endpoint, from the pick to the end: in flight, answered, failed. Takes the time as an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::Load;
use crate::load::outlier::Probed;
use crate::outcome::Outcome;

/// The shortest time-out that says something about the endpoint. A caller with a shorter deadline was in a hurry.
const STALLED_MIN: Duration = Duration::from_millis(100);

/// The longest wait that is sampled as latency while the endpoint answers other calls. A longer call waits for an event, or
/// asks for more work than others do.
const LONG: Duration = Duration::from_secs(5);

/// The accounting of one call at one endpoint. Each method is given the endpoint's load. [`CallAccounting::end`] must be
/// called.
#[derive(Debug)]
pub(crate) struct CallAccounting {
    started: Instant,
    /// The time of the first bytes of the answer.
    answered: Option<Instant>,
    /// The number of calls the endpoint had answered when this one was picked.
    answers_before: u64,
    /// Set when the method streams: headers may come with the first event, so that waiting for them says nothing.
    may_stream: bool,
    stream: bool,
    /// Set when the call had to wait for a free stream for an unknown time.
    queued: bool,
    /// Set while the call has yet to decide whether an ejected endpoint is readmitted.
    probe: bool,
}

/// The change of the endpoint's ejection that a call leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum EjectionChange {
    Nothing,
    /// The endpoint should be ejected, for this reason.
    Eject(String),
    /// The endpoint is no longer ejected.
    Readmitted,
}

impl CallAccounting {
    /// Counts a call as in flight. `probe`: the call decides whether an ejected endpoint is readmitted.
    pub(crate) fn new(load: &Load, probe: bool, now: Instant) -> CallAccounting {
        load.start(now);
        let answers_before = load.answers();
        CallAccounting {
            started: now,
            answered: None,
            answers_before,
            may_stream: false,
            stream: false,
            queued: false,
            probe,
        }
    }

    /// Records that there is no free stream for the call: it is sent when other streams have ended.
    pub(crate) fn queue(&mut self) {
        self.queued = true;
    }

    /// Records that the method streams. Must be called before the request is sent; only the first call counts.
    pub(crate) fn expect_stream(&mut self, load: &Load) {
        if !std::mem::replace(&mut self.may_stream, true) {
            load.expects_stream();
        }
    }

    /// Returns whether the method is known to stream.
    pub(crate) fn expects_stream(&self) -> bool {
        self.may_stream
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The time of the first bytes of the answer.
    pub(crate) fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// Returns the time of the call's end if it is known without reading the clock: the time of the answer, unless the call is
    /// a long stream.
    pub(crate) fn ends_with_its_answer(&self) -> Option<Instant> {
        self.answered.filter(|_| !self.stream)
    }

    /// Records the first bytes of the answer. Must be called once.
    pub(crate) fn answer(&mut self, load: &Load, now: Instant) {
        self.answered = Some(now);
        load.answered(if self.may_stream { None } else { self.telling_wait(load, now) }, now);
    }

    /// Records that the call is a long stream. Only the first call counts.
    pub(crate) fn became_stream(&mut self, load: &Load, now: Instant) -> EjectionChange {
        if std::mem::replace(&mut self.stream, true) {
            return EjectionChange::Nothing;
        }
        load.became_stream();
        if self.answered.is_none() {
            return EjectionChange::Nothing;
        }
        // The end of the stream may be hours away.
        self.probed(load, Probed::Well, now)
    }

    /// Records that the headers of the answer came without an error, and that more follows.
    pub(crate) fn begun(&mut self, load: &Load, now: Instant) -> EjectionChange {
        // The end of a stream may be hours away. The end of another call is near, and says more than its headers.
        if self.may_stream { self.probed(load, Probed::Well, now) } else { EjectionChange::Nothing }
    }

    /// Records how the call went. `decides`: a failure may be the last one needed to eject the endpoint.
    pub(crate) fn outcome(
        &mut self,
        load: &Load,
        outcome: Outcome,
        decides: bool,
        now: Instant,
    ) -> EjectionChange {
        match outcome {
            Outcome::Success => load.succeeded(),
            Outcome::EndpointFault => load.shun(None, now),
            Outcome::Pushback(time) => load.shun(Some(time), now),
            Outcome::Overloaded(pushback) => load.shun(pushback, now),
            Outcome::ServerError | Outcome::TimedOut | Outcome::CallerGone | Outcome::Neutral => {}
        }
        let went_well = self.went_well(load, outcome, now);
        if went_well == Some(false) || matches!(outcome, Outcome::Overloaded(_)) {
            load.failed();
        }
        if outcome == Outcome::TimedOut && went_well == Some(false) {
            load.stalled(self.started, now);
        }
        if self.probe {
            let probed = match went_well {
                Some(true) => Probed::Well,
                Some(false) => Probed::Badly,
                // Without an answer the call may have been refused. With an answer the endpoint had the call, which says no
                // more of a probe than of another call.
                None if outcome == Outcome::Neutral && self.answered.is_none() => Probed::Unsent,
                None => Probed::Unknown,
            };
            return self.probed(load, probed, now);
        }
        match went_well {
            Some(true) => load.outlier.succeeded(self.started, now),
            Some(false) => {
                let eject = load.outlier.failed(self.started, decides, now);
                return eject.map_or(EjectionChange::Nothing, EjectionChange::Eject);
            }
            None => {}
        }
        EjectionChange::Nothing
    }

    /// Records that the endpoint answered with an error that is the caller's own. It says nothing of the endpoint, and a probe
    /// was used up.
    pub(crate) fn excused(&mut self, load: &Load, now: Instant) -> EjectionChange {
        self.probed(load, Probed::Unknown, now)
    }

    /// Ends the call. `sent`: the endpoint received the request.
    pub(crate) fn end(&mut self, load: &Load, sent: bool, now: impl Fn() -> Instant) {
        if self.answered.is_none() && !self.may_stream {
            let now = now();
            let waited = sent.then(|| self.telling_wait(load, now)).flatten();
            load.unanswered(waited, self.is_silent(load), now);
        }
        if self.stream {
            load.finish_stream();
        } else {
            load.finish();
        }
        if self.probe {
            let probed = if sent { Probed::Unknown } else { Probed::Unsent };
            let _ = self.probed(load, probed, now());
        }
    }

    /// Returns whether `outcome` is a success or a failure of the endpoint; `None` if it is neither.
    fn went_well(&self, load: &Load, outcome: Outcome, now: Instant) -> Option<bool> {
        match outcome {
            Outcome::Success | Outcome::Overloaded(_) => Some(true),
            Outcome::EndpointFault | Outcome::Pushback(_) | Outcome::ServerError => Some(false),
            // The endpoint has answered. The rest depends on the caller.
            Outcome::TimedOut | Outcome::CallerGone if self.answered.is_some() => self.probe.then_some(true),
            // The endpoint had no event to send, or was never asked.
            Outcome::TimedOut if self.may_stream || self.queued => None,
            Outcome::TimedOut => {
                // An endpoint that answers other calls is not stalled; only this call was too long.
                let silent = self.probe || self.is_silent(load);
                let waited = now.saturating_duration_since(self.started);
                (silent && waited >= STALLED_MIN).then_some(false)
            }
            Outcome::CallerGone | Outcome::Neutral => None,
        }
    }

    /// Returns how long the call has waited, if that says something about the endpoint.
    fn telling_wait(&self, load: &Load, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.started);
        (waited <= LONG || self.is_silent(load)).then_some(waited)
    }

    /// Returns whether the endpoint has answered no call since this one was picked.
    fn is_silent(&self, load: &Load) -> bool {
        load.answers() == self.answers_before
    }

    fn probed(&mut self, load: &Load, probed: Probed, now: Instant) -> EjectionChange {
        let readmitted = std::mem::take(&mut self.probe) && load.outlier.probed(self.started, probed, now);
        if readmitted { EjectionChange::Readmitted } else { EjectionChange::Nothing }
    }
}

#[cfg(test)]
mod tests {
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
            assert_eq!(
                accounting.outcome(&endpoint.load, Outcome::TimedOut, true, at),
                EjectionChange::Nothing
            );
            accounting.end(&endpoint.load, true, || at);
        }
        assert_eq!(endpoint.load.failures(), 0);
    }

    #[test]
    fn short_deadlines_and_cancellations_are_ignored() {
        assert_eq!(Endpoint::new().given_up(99 * MS, Outcome::TimedOut, false), EjectionChange::Nothing);
        assert_eq!(
            Endpoint::new().given_up(10_000 * MS, Outcome::CallerGone, false),
            EjectionChange::Nothing
        );
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
}
