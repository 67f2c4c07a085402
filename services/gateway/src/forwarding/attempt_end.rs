//! How an attempt ended, and what it leaves behind.

use std::time::Duration;

use http::Response;
use shoal_balance::Outcome;
use shoal_http2::Error as Broken;
use tonic::Code;

use crate::admission::unread_answers::NotTaken;
use crate::forwarding::upstream_stream::UpstreamStream;
use crate::resilience::pushback::Pushback;
use crate::resilience::retry::FailedAttempt;

/// How an attempt ended.
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

/// What an attempt leaves when it has ended.
pub(crate) struct AttemptSummary {
    pub(crate) stream: UpstreamStream,
    pub(crate) failed_hedge: Option<FailedAttempt>,
    /// From the first attempt to the first byte of the answer.
    pub(crate) latency: Option<Duration>,
    /// What the endpoint wants of further attempts.
    pub(crate) pushback: Option<Pushback>,
    /// What its answer says of the endpoint.
    pub(crate) outcome: Outcome,
}
