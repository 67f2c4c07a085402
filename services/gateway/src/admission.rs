//! Limits on what enters: connections, calls of a connection and of a caller, concurrency towards an upstream, and the memory that
//! slow clients hold.

pub(crate) mod adaptive_limit;
pub(crate) mod calls;
pub(crate) mod concurrency;
pub(crate) mod connection_slots;
pub(crate) mod connection_state;
pub(crate) mod gradient;
pub(crate) mod quota;
pub(crate) mod rapid_reset;
pub(crate) mod replay_memory;
pub(crate) mod token_bucket;
pub(crate) mod unread_answers;
