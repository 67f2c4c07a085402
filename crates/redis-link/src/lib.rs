//! Talks to Redis for every service: whatever Redis does, a call is answered in bounded time, and its error says whether the
//! write may have happened.
//!
//! This crate is plumbing: it knows commands, scripts, nodes and connections, and nothing of a service's domain.
//!
//! * Each call has one deadline for everything, the wait for a connection included ([`LinkConfig::call_deadline`]).
//! * Each node has a breaker: after consecutive time-outs, or when no connection can be made, calls fail at once, until the node
//!   answers the PING of its watchdog. Only the watchdog connects, one attempt at a time.
//! * A `redis://` URL names one Redis, or a Cluster if the server says that it is a node of one. Several URLs, separated by
//!   commas, name a Cluster. The link keeps the slot map of a Cluster, so that each primary has its own connections, breaker
//!   and watchdog. A `redis+sentinel://` URL names the Sentinels that know the primary of one Redis.
//! * A link to one Redis follows its name to the primary. It closes its connections to a server that became a replica, and to
//!   addresses that the name no longer has.
//! * A Redis that refuses a call ([`LinkError::Full`], [`LinkError::ReadOnly`], [`LinkError::Denied`]) has done nothing.
//!   [`Health`] reports a refusal and its end once for all links of a role.
//! * Reads and writes have separate connections: reads go on where Redis holds writes back.
//! * A script that touches keys it does not declare never runs on one half of a slot that moves: it waits until the slot has
//!   moved, or is refused ([`LinkError::Moving`]) before it has run. The link carries the keys of such a slot to its new node
//!   meanwhile ([`LinkConfig::finish_moves`]).
//! * A connection is one ordered stream: a reply that takes longer than the deadline delays and fails the calls behind it, but
//!   the connection counts as alive while bytes come. Large values belong on a [`Link`] of their own ([`Link::bulk`]).
//!   [`Link::subscribe`] and [`Link::tail`] open connections of their own.

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
