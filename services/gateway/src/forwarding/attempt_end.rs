//! The end of an attempt, and what it leaves behind.

use std::time::Duration;

use http::Response;
use shoal_balance::Outcome;
use shoal_http2::Error as Broken;
use tonic::Code;

use crate::admission::unread_answers::NotTaken;
use crate::forwarding::upstream_stream::UpstreamStream;
use crate::resilience::pushback::Pushback;
use crate::resilience::retry::FailedAttempt;

/// The end of an attempt.
#[derive(Debug)]
pub(crate) enum AttemptEnd {
    /// The endpoint's answer was handed on to its end.
    Answered(Code),
    /// The endpoint answered UNAVAILABLE and nothing else. Nothing was handed on.
    Withheld(Response<()>),
    /// The endpoint gave up because the caller's time was up.
    Late,
    /// The endpoint's stream broke.
    Broken(Broken),
    /// The caller went away, and the endpoint was told.
    CallerGone,
    /// The caller is there, and did not send all of its request in time.
    NotSent,
    /// The caller is there, and does not take the answer.
    NotTaken(NotTaken),
}

/// The summary of an attempt that has ended.
pub(crate) struct AttemptSummary {
    pub(crate) stream: UpstreamStream,
    pub(crate) failed_hedge: Option<FailedAttempt>,
    /// The time from the first attempt to the first byte of the answer.
    pub(crate) latency: Option<Duration>,
    /// The endpoint's wish for further attempts.
    pub(crate) pushback: Option<Pushback>,
    /// The outcome that its answer means for the endpoint.
    pub(crate) outcome: Outcome,
}
