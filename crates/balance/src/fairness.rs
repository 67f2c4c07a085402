//! Fairness between the clients that share an upstream: none takes all its streams, and none has endpoints ejected by its own bad
//! requests.

pub(crate) mod attribution;
pub(crate) mod fair_queue;
pub(crate) mod share;
