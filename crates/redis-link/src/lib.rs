//! One way to talk to Redis for every service: whatever Redis does, a call is answered in bounded time, and its
//! error says whether the write may have happened.
//!
//! This crate is plumbing: it knows commands, scripts, nodes and connections, and no service's domain.
//!
//! * Each call has one deadline for everything, the wait for a connection included ([`LinkConfig::call_deadline`]).
//! * Each node has a breaker: after consecutive time-outs, or when it cannot be connected to, calls fail at once,
//!   until the node's watchdog has its PING answered. Only the watchdog connects, one attempt at a time.
//! * A `redis://` URL names one Redis, or a Cluster if the server says that it is a node of one; several, separated by commas,
//!   name a Cluster. A `redis+sentinel://` URL names the Sentinels that know the primary of one Redis. Its slot map is kept here, so that each primary has its own connections, breaker and watchdog.
//! * A link to one Redis follows its name to the primary: a server that became a replica, and addresses that are gone from the
//!   name, lose their connections to it.
//! * A Redis that refuses ([`LinkError::Full`], [`LinkError::ReadOnly`], [`LinkError::Denied`]) has done nothing. What becomes
//!   of it is told once for all links of a role ([`Health`]).
//! * Reads have connections of their own beside writes: where Redis holds writes back, reads go on.
//! * A script that touches keys it does not declare never runs on one half of a slot that moves: it waits until the slot has
//!   moved, or is refused ([`LinkError::Moving`]) before it has run.
//!   The keys of such a slot are carried to its new node meanwhile ([`LinkConfig::finish_moves`]).
//! * A connection is one ordered stream: a reply that takes longer than the deadline delays and fails
//!   those behind it, and is no sign of death while its bytes come. Large values belong on a [`Link`] of their own; [`Link::subscribe`] and [`Link::tail`] open
//!   connections of their own.

mod backoff;
mod call;
mod cluster;
mod config;
mod connection;
mod endpoint;
mod error;
mod health;
mod link;
mod meter;
mod node;
mod script;
mod slot;
mod topology;

pub use config::{LinkConfig, describe};
pub use connection::process::process_of;
pub use error::LinkError;
pub use health::Health;
pub use health::eviction::Eviction;
pub use link::{Entry, Link, StoreName, Subscription, SubscriptionEvent, Tail, TailEvent};
pub use script::Script;
