//! When a call is repeated or sent to a second endpoint, and how much of that is allowed. Pure: everything here is told the
//! time.

pub(crate) mod hedging;
pub(crate) mod latency_histogram;
pub(crate) mod pushback;
pub(crate) mod retry;
pub(crate) mod retry_budget;
