//! The rule when the driver asks another node after one refused or failed.

use scylla::errors::RequestAttemptError;
use scylla::policies::retry::{DefaultRetrySession, RequestInfo, RetryDecision, RetryPolicy, RetrySession};

use crate::store::cassandra::failure::missing;

/// The driver's own rule, and two cases more: a node that has not heard of a table yet, and a SERIAL read whose connection broke.
#[derive(Debug)]
pub(super) struct NextNode;

struct Session(DefaultRetrySession);

impl RetryPolicy for NextNode {
    fn new_session(&self) -> Box<dyn RetrySession> {
        Box::new(Session(DefaultRetrySession::new()))
    }
}

impl RetrySession for Session {
    fn decide_should_retry(&mut self, request: RequestInfo<'_>) -> RetryDecision {
        // Refused before anything was done. Each node is asked once: a plan ends.
        if missing(request.error).is_some() {
            return RetryDecision::RetryNextTarget(None);
        }
        let broken = matches!(request.error, RequestAttemptError::BrokenConnectionError(_));
        if broken && request.is_idempotent {
            return RetryDecision::RetryNextTarget(None);
        }
        self.0.decide_should_retry(request)
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}
