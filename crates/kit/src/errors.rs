//! Errors: the one shape that callers see, its reasons and codes, and what makes one. Knows no transport but tonic's `Status`.

pub(crate) mod api_error;
pub mod chain;
pub mod code;
pub(crate) mod engine_error;
pub mod invalid;
pub mod reason;
