//! What one call tells of its endpoint, from the pick to the end: in flight, answered, how it went. Pure: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::Load;
use crate::load::outlier::Probed;
use crate::outcome::Outcome;

/// A call that timed out sooner than this says nothing of its endpoint: it was the caller who was in a hurry.
const STALLED_MIN: Duration = Duration::from_millis(100);

/// A call that takes longer than this while its endpoint answers others says nothing of how fast it is: it waits for something
/// to happen, or is more than others ask for.
const LONG: Duration = Duration::from_secs(5);

/// One call at one endpoint, whose load each method is given. To be ended by [`CallAccounting::end`].
#[derive(Debug)]
pub(crate) struct CallAccounting {
    started: Instant,
    /// When the first bytes of its answer came.
    answered: Option<Instant>,
    /// How many calls the endpoint had answered when this one was picked.
    answers_before: u64,
    /// Its answer may come when something happens, with its headers: nothing follows from waiting for it.
    may_stream: bool,
    stream: bool,
    /// It had to wait for a stream first, for how long is not known.
    queued: bool,
    /// It decides whether an ejected endpoint comes back, and has not decided yet.
    probe: bool,
}

/// What follows for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum EjectionChange {
    Nothing,
    /// It should be ejected, for this reason.
    Eject(String),
    /// It is not ejected any more.
    Readmitted,
}

impl CallAccounting {
    /// The call is in flight. `probe`: it decides over an ejected endpoint.
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

    /// There is no free stream for it: the endpoint will have it when others have ended, if ever.
    pub(crate) fn queue(&mut self) {
        self.queued = true;
    }

    /// Its method streams. To be said before it is sent; only the first call counts.
    pub(crate) fn expect_stream(&mut self, load: &Load) {
        if !std::mem::replace(&mut self.may_stream, true) {
            load.expects_stream();
        }
    }

    /// Whether its method streams.
    pub(crate) fn expects_stream(&self) -> bool {
        self.may_stream
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// When the first bytes of its answer came.
    pub(crate) fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// When its end is seen, if that is known without asking the clock: with the answer, but of a long stream.
    pub(crate) fn ends_with_its_answer(&self) -> Option<Instant> {
        self.answered.filter(|_| !self.stream)
    }

    /// The first bytes of its answer are here. To be called once.
    pub(crate) fn answer(&mut self, load: &Load, now: Instant) {
        self.answered = Some(now);
        load.answered(if self.may_stream { None } else { self.telling_wait(load, now) }, now);
    }

    /// It is a long stream. Only the first call counts.
    pub(crate) fn became_stream(&mut self, load: &Load, now: Instant) -> EjectionChange {
        if std::mem::replace(&mut self.stream, true) {
            return EjectionChange::Nothing;
        }
        load.became_stream();
        if self.answered.is_none() {
            return EjectionChange::Nothing;
        }
        // Its end may be hours away.
        self.probed(load, Probed::Well, now)
    }

    /// The headers of its answer are here and are no error; more will come.
    pub(crate) fn begun(&mut self, load: &Load, now: Instant) -> EjectionChange {
        // The end of a stream may be hours away; that of another call is not, and says more.
        if self.may_stream { self.probed(load, Probed::Well, now) } else { EjectionChange::Nothing }
    }

    /// How it went. `decides`: a failure may be the last one it takes to eject the endpoint.
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
                // Refused, perhaps. With an answer it had the call, and that says no more than it would of others.
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

    /// The endpoint had it, and answered with an error that is its caller's own: nothing follows from that, and a probe has
    /// been one.
    pub(crate) fn excused(&mut self, load: &Load, now: Instant) -> EjectionChange {
        self.probed(load, Probed::Unknown, now)
    }

    /// It is over; `sent` says whether the endpoint ever had it.
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

    /// What an outcome says of the endpoint; `None`: nothing.
    fn went_well(&self, load: &Load, outcome: Outcome, now: Instant) -> Option<bool> {
        match outcome {
            Outcome::Success | Outcome::Overloaded(_) => Some(true),
            Outcome::EndpointFault | Outcome::Pushback(_) | Outcome::ServerError => Some(false),
            // It has answered: what its caller made of that is the caller's.
            Outcome::TimedOut | Outcome::CallerGone if self.answered.is_some() => self.probe.then_some(true),
            // It had nothing to tell, or perhaps was never asked.
            Outcome::TimedOut if self.may_stream || self.queued => None,
            Outcome::TimedOut => {
                // Who answers others meanwhile is not stalled; this call alone was too long.
                let silent = self.probe || self.is_silent(load);
                let waited = now.saturating_duration_since(self.started);
                (silent && waited >= STALLED_MIN).then_some(false)
            }
            Outcome::CallerGone | Outcome::Neutral => None,
        }
    }

    /// How long it has waited, if that says something of the endpoint.
    fn telling_wait(&self, load: &Load, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.started);
        (waited <= LONG || self.is_silent(load)).then_some(waited)
    }

    /// Whether the endpoint has answered nobody since this call was picked.
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

        /// An endpoint whose probe is under way.
        fn probing() -> (Endpoint, CallAccounting) {
            let mut endpoint = Endpoint::new();
            endpoint.load.outlier.eject("test", endpoint.now);
            endpoint.now += 1_000 * MS;
            assert!(endpoint.load.outlier.claim_probe(endpoint.now));
            let accounting = endpoint.call(true);
            (endpoint, accounting)
        }

        /// What five calls that are given up after `waited` lead to.
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
    fn one_that_lets_everybody_time_out_is_to_be_ejected() {
        let change = Endpoint::new().given_up(100 * MS, Outcome::TimedOut, false);
        assert_eq!(change, EjectionChange::Eject("5 failures in a row".into()));
    }

    #[test]
    fn calls_that_had_to_wait_for_a_stream_say_nothing_when_they_time_out() {
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
    fn callers_in_a_hurry_and_callers_who_leave_say_nothing() {
        assert_eq!(Endpoint::new().given_up(99 * MS, Outcome::TimedOut, false), EjectionChange::Nothing);
        assert_eq!(
            Endpoint::new().given_up(10_000 * MS, Outcome::CallerGone, false),
            EjectionChange::Nothing
        );
        assert_eq!(Endpoint::new().given_up(10_000 * MS, Outcome::Neutral, false), EjectionChange::Nothing);
    }

    #[test]
    fn one_that_answers_others_meanwhile_is_not_stalled() {
        assert_eq!(Endpoint::new().given_up(1_000 * MS, Outcome::TimedOut, true), EjectionChange::Nothing);
    }

    fn ewma_s(endpoint: &Endpoint, at: Instant) -> f64 {
        endpoint.load.ewma_s(at)
    }

    /// Answers somebody else, a millisecond after it was asked `at`.
    fn answers_another(endpoint: &Endpoint, at: Instant) {
        let mut other = CallAccounting::new(&endpoint.load, false, at);
        other.answer(&endpoint.load, at + MS);
        let _ = other.outcome(&endpoint.load, Outcome::Success, true, at + MS);
        other.end(&endpoint.load, true, || at + MS);
    }

    #[test]
    fn a_stream_without_events_makes_its_endpoint_no_dearer() {
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
    fn a_stream_that_ends_without_an_answer_says_nothing() {
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
    fn a_stream_that_its_endpoint_fails_is_a_failure() {
        let endpoint = Endpoint::new();
        let mut change = EjectionChange::Nothing;
        for _ in 0..5 {
            let mut watch = endpoint.call(false);
            watch.expect_stream(&endpoint.load);
            change = watch.outcome(&endpoint.load, Outcome::EndpointFault, true, endpoint.now);
        }
        assert_eq!(change, EjectionChange::Eject("5 failures in a row".into()));
    }

    /// What the endpoint is believed to take after a call that was answered, or given up, after half a minute.
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
    fn a_long_poll_amid_other_answers_says_nothing_of_its_endpoint() {
        assert!(after_a_long_call(true, true) < 0.030);
        assert!(after_a_long_call(false, true) < 0.030);
        assert!(after_a_long_call(true, false) > 29.0);
        assert!(after_a_long_call(false, false) > 29.0);
    }

    #[test]
    fn a_call_that_times_out_amid_its_answer_says_nothing() {
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
    fn the_end_of_a_stream_is_not_of_the_time_of_its_answer() {
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
    fn the_end_of_a_probe_decides() {
        probe(Outcome::Success, true, false);
        probe(Outcome::Overloaded(None), true, false);
        probe(Outcome::ServerError, true, true);
        probe(Outcome::EndpointFault, false, true);
        probe(Outcome::TimedOut, false, true);
        probe(Outcome::TimedOut, true, false);
        probe(Outcome::CallerGone, true, false);
        probe(Outcome::CallerGone, false, true);
    }

    /// When the next probe is due after one that ended by `outcome`, if it did, 50 ms after it was picked.
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
    fn a_probe_that_the_endpoint_never_had_makes_way_for_another_at_once() {
        assert_eq!(next_probe(None, false, false), Duration::ZERO);
        assert_eq!(next_probe(Some(Outcome::Neutral), true, false), Duration::ZERO);
    }

    #[test]
    fn a_probe_that_nobody_waited_for_is_followed_by_another_after_the_present_sentence() {
        assert_eq!(next_probe(Some(Outcome::CallerGone), true, false), 1_000 * MS);
        assert_eq!(next_probe(Some(Outcome::TimedOut), true, false), 1_000 * MS, "a hurry");
        assert_eq!(next_probe(Some(Outcome::TimedOut), true, true), 1_000 * MS, "a stream without events");
        assert_eq!(next_probe(None, true, false), 1_000 * MS);
        assert_eq!(next_probe(Some(Outcome::EndpointFault), true, false), 2_000 * MS, "that says enough");
    }

    #[test]
    fn a_probe_whose_error_is_its_callers_own_does_not_hurry_the_next() {
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
    fn a_stream_readmits_by_its_headers_and_not_by_being_long() {
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
    fn the_headers_of_a_unary_answer_are_not_its_end() {
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
    fn a_probe_that_becomes_a_stream_went_well() {
        let (endpoint, mut accounting) = Endpoint::probing();
        accounting.answer(&endpoint.load, endpoint.now);
        assert_eq!(accounting.became_stream(&endpoint.load, endpoint.now), EjectionChange::Readmitted);
        assert_eq!(accounting.became_stream(&endpoint.load, endpoint.now), EjectionChange::Nothing);
        assert_eq!((endpoint.load.in_flight(), endpoint.load.streams()), (0, 1));
        accounting.end(&endpoint.load, true, || endpoint.now);
        assert_eq!((endpoint.load.in_flight(), endpoint.load.streams()), (0, 0));
    }
}
