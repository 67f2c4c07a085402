//! Errors as callers see them: a gRPC code, a message that says what was wrong and what to do, and exactly one
//! `google.rpc.ErrorInfo` with domain `shoal`. Services turn their own errors into a [`ApiError`] in one place each.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::errors::reason::{self, Reason};

/// Domain of every `ErrorInfo` we make.
pub(crate) const DOMAIN: &str = "shoal";

/// Metadata by which a clone says whose an error is, where its code would have a balancer think it was the clone's.
pub const FAULT_OF: &str = "shoal-fault-of";

/// A status in the making. Boxed: it travels in many `Result`s and is rarely made.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    reason: Reason,
    message: String,
    metadata: HashMap<String, String>,
    violations: Vec<FieldViolation>,
    retry_after: Option<Duration>,
    of: Option<&'static str>,
}

impl ApiError {
    /// Begins with what every status has; the rest is added.
    pub fn new(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            reason,
            message: message.into(),
            metadata: HashMap::new(),
            violations: Vec::new(),
            retry_after: None,
            of: None,
        }))
    }

    /// INVALID_ARGUMENT for one field, with the violation in `BadRequest`.
    pub fn invalid(reason: Reason, field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (field.into(), problem.into());
        Self::new(Code::InvalidArgument, reason, format!("{field}: {problem}"))
            .meta("field", field.clone())
            .violation(field, problem)
    }

    /// INTERNAL; `detail` goes to the log, never to the caller.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        tracing::error!(%detail, "internal error");
        Self::new(Code::Internal, reason::INTERNAL, "internal error; the service's log has the details")
    }

    /// Adds a variable of the message.
    #[must_use]
    pub fn meta(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Says that something behind this clone made it, which every clone asks: a balancer is neither to hold it against
    /// this one nor to ask another.
    #[must_use]
    pub fn of_backend(mut self) -> Self {
        self.0.of = Some("backend");
        self
    }

    /// Adds a field violation.
    #[must_use]
    pub fn violation(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        self.0.violations.push(FieldViolation::new(field, problem));
        self
    }

    /// Says that waiting this long helps.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Says that the caller made it: whoever asks the same of another clone gets the same, and no balancer is to hold it
    /// against this one.
    #[must_use]
    pub fn of_caller(mut self) -> Self {
        self.0.of = Some("caller");
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The stable reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the variables of the message, as the `ErrorInfo` has them.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.0.metadata
    }
}

impl From<ApiError> for Status {
    fn from(ApiError(fault): ApiError) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(fault.reason.as_str(), DOMAIN, fault.metadata);
        if !fault.violations.is_empty() {
            details.set_bad_request(fault.violations);
        }
        if let Some(delay) = fault.retry_after {
            details.set_retry_info(Some(delay));
        }
        let mut status = Status::with_error_details(fault.code, fault.message, details);
        if let Some(of) = fault.of {
            status.metadata_mut().insert(FAULT_OF, MetadataValue::from_static(of));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_one_error_info() {
        let status: Status = ApiError::invalid(reason::EMPTY_NAME, "name", "must not be empty").into();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "name: must not be empty");
        let details = status.get_details_error_info().expect("ErrorInfo");
        assert_eq!((details.domain.as_str(), details.reason.as_str()), ("shoal", "EMPTY_NAME"));
        assert_eq!(details.metadata["field"], "name");
        assert_eq!(status.get_details_bad_request().expect("BadRequest").field_violations.len(), 1);
    }
}
