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
    /// Variables of the problem, for callers that branch on them.
    pub metadata: Vec<(&'static str, String)>,
}

impl Invalid {
    /// Names the field and what is wrong with it.
    pub fn new(
        reason: Reason,
        field: impl Into<Cow<'static, str>>,
        problem: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { reason, field: field.into(), problem: problem.into(), metadata: Vec::new() }
    }

    /// Names the field by this path instead of its own.
    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = field.into();
        self
    }

    /// Adds a variable of the problem.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
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
    fn from(Invalid { reason, field, problem, metadata }: Invalid) -> Self {
        let error = ApiError::invalid(reason, field, problem);
        metadata.into_iter().fold(error, |error, (key, value)| error.meta(key, value))
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        ApiError::from(invalid).into()
    }
}
