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
mod tests;
