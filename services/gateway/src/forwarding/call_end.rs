//! The end of a call, and what follows from it: its caller is told, it is counted, its span and its access line end.

use shoal_kit::access::Forwarded;
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use crate::admission::rapid_reset::PREMATURE;
use crate::error::Error;
use crate::forwarding::downstream::Downstream;
use crate::forwarding::span;
use crate::upstream::meter::Meter;
use crate::upstream::method_meter::MethodMeter;

/// The end of a call.
pub(super) enum CallEnd {
    /// The caller has an answer, or a reset that means this code.
    Answered(Code),
    /// The gateway failed the call, and the caller is to be told.
    Failed(Error),
    /// The caller left first.
    CallerGone,
}

impl CallEnd {
    pub(super) fn code(&self) -> Code {
        match self {
            CallEnd::Answered(code) => *code,
            CallEnd::Failed(error) => error.code(),
            CallEnd::CallerGone => Code::Cancelled,
        }
    }
}

/// The meters that count a call.
#[derive(Clone, Copy)]
pub(super) struct Meters<'m> {
    /// The meter of the upstream that the call was for, if there is one.
    pub(super) upstream: Option<&'m Meter>,
    pub(super) method: &'m MethodMeter,
}

/// Ends a call: tells its caller, and counts it.
pub(super) fn finish(
    end: CallEnd,
    caller: &mut Downstream,
    span: &Span,
    meters: Meters<'_>,
    started: Instant,
    forwarded: Option<Forwarded<'_>>,
) {
    let code = end.code();
    let took = started.elapsed();
    span::end_call(span, code);
    if let Some(upstream) = meters.upstream {
        upstream.call(code);
    }
    meters.method.record(code, took);
    caller.log_access(code, took, forwarded);
    match end {
        CallEnd::Answered(_) => {}
        CallEnd::Failed(error) => caller.fail(error),
        CallEnd::CallerGone if took < PREMATURE => caller.client().resets.premature(),
        CallEnd::CallerGone => {}
    }
}
