//! A field of a request that is wrong by itself. The types that parse fields return it, and know no service's errors.

use std::borrow::Cow;

use tonic::Status;

use crate::errors::api_error::ApiError;
use crate::errors::reason::Reason;

/// A field that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The reason that callers branch on.
    pub reason: Reason,
    /// The field's path in the request.
    pub field: Cow<'static, str>,
    /// The problem, and what would be right.
    pub problem: Cow<'static, str>,
}

impl Invalid {
    /// Names the field and what is wrong with it.
    pub fn new(
        reason: Reason,
        field: impl Into<Cow<'static, str>>,
        problem: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { reason, field: field.into(), problem: problem.into() }
    }

    /// Names the field by this path instead of its own.
    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = field.into();
        self
    }

    /// Names the field as one of `outer`: its path becomes `outer.field`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field).into();
        self
    }
}

impl From<Invalid> for ApiError {
    fn from(Invalid { reason, field, problem }: Invalid) -> Self {
        ApiError::invalid(reason, field, problem)
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        ApiError::from(invalid).into()
    }
}
