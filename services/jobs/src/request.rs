//! Requests of callers and workers: their fields, checked against their limits before the domain sees them. (A job to enqueue
//! is checked in [`new_job`](crate::job::new_job).)

pub(crate) mod batch;
pub(crate) mod lease;
pub(crate) mod page_token;
