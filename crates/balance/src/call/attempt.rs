//! An attempt of a call at one endpoint: its pick, its span, and the status that ends both.

use std::net::SocketAddr;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::Span;

use crate::call::pick::Pick;
use crate::call::trace;
use crate::outcome::{Outcome, code_of, status_of};

/// An attempt. It ends once, with the first status it is given. If it is dropped before, the caller went away.
#[derive(Debug)]
pub(crate) struct Attempt {
    pick: Pick,
    span: Span,
    deadline: Option<Instant>,
    ended: bool,
}

impl Attempt {
    pub(crate) fn new(pick: Pick, span: Span, deadline: Option<Instant>) -> Attempt {
        Attempt { pick, span, deadline, ended: false }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.pick.address()
    }

    pub(crate) fn pick(&mut self) -> &mut Pick {
        &mut self.pick
    }

    /// Ends with the endpoint's own status, from trailers or from the headers of an answer without a body. Returns the status
    /// that replaces it for the caller, if any.
    pub(crate) fn end_with(&mut self, headers: &HeaderMap, http: http::StatusCode) -> Option<Status> {
        let code = code_of(http, headers);
        // tonic's servers answer CANCELLED when the deadline they were given passes, perhaps a moment before ours does.
        let late = code == Code::Cancelled && self.is_late();
        if late {
            self.end(Code::DeadlineExceeded, Outcome::TimedOut);
            return Some(self.deadline_exceeded());
        }
        self.end(code, Outcome::of_answer(http, headers));
        None
    }

    /// Ends with a broken stream. Returns the status for the caller.
    pub(crate) fn end_with_error(&mut self, error: &shoal_http2::Error) -> Status {
        let status = status_of(error, self.upstream(), self.address());
        if error.is_reset() && status.code() == Code::Cancelled && self.is_late() {
            return self.end_late();
        }
        self.end(status.code(), Outcome::of_stream_error(error));
        status
    }

    /// Ends with a deadline that passed. Returns the status for the caller.
    pub(crate) fn end_late(&mut self) -> Status {
        self.end(Code::DeadlineExceeded, Outcome::TimedOut);
        self.deadline_exceeded()
    }

    /// Ends an attempt that was never sent.
    pub(crate) fn end_unsent(&mut self, code: Code) {
        self.ended = true;
        trace::record_status(&self.span, code);
    }

    fn deadline_exceeded(&self) -> Status {
        Status::deadline_exceeded(format!("deadline exceeded at `{}` ({})", self.upstream(), self.address()))
    }

    fn upstream(&self) -> &str {
        self.pick.connection().upstream()
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn end(&mut self, code: Code, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        trace::record_status(&self.span, code);
        self.pick.outcome(outcome);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_late() {
            self.end(Code::DeadlineExceeded, Outcome::TimedOut);
        } else {
            self.end(Code::Cancelled, Outcome::CallerGone);
        }
    }
}
