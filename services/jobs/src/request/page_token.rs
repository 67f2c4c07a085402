//! Page tokens: opaque to callers, and checked when they come back.

use shoal_kit::{Invalid, reason};

use crate::job::State;

/// Longest page token that is looked at.
const BYTES_MAX: usize = 1024;

/// Makes the token of a list of jobs in a state from the store's own token.
#[must_use]
pub(crate) fn of_jobs(state: State, next: &str) -> String {
    format!("{}:{next}", state as u8)
}

/// Returns the store's own token; `None` stands for the first page.
///
/// # Errors
/// When it is not a token of jobs in this state.
pub(crate) fn parse_of_jobs(state: State, token: &str) -> Result<Option<String>, Invalid> {
    match check(token)? {
        "" => Ok(None),
        token => {
            let (of, rest) = token.split_once(':').ok_or_else(invalid)?;
            if of != (state as u8).to_string() {
                return Err(invalid());
            }
            Ok(Some(rest.to_owned()))
        }
    }
}

/// Returns the token if it is not too long.
///
/// # Errors
/// When it is too long.
pub(crate) fn check(token: &str) -> Result<&str, Invalid> {
    if token.len() > BYTES_MAX { Err(invalid()) } else { Ok(token) }
}

/// Refuses a page token that is none of ours.
pub(crate) fn invalid() -> Invalid {
    Invalid::new(
        reason::INVALID_PAGE_TOKEN,
        "page_token",
        "must be the next_page_token of the same list, or empty",
    )
}
