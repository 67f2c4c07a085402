//! Resolve → endpoints → pick → connection, for any gRPC upstream.
//!
//! [`discover`] turns a [`Source`] into a changing list of [`Target`]s. A [`Balancer`] keeps one HTTP/2 connection to
//! each of them, made in the background and never in a caller's request, and hands out [`Pick`]s: only endpoints that
//! are connected and SERVING, by power of two choices. [`Channel`] puts a tonic client on top of that.
//!
//! Knows no message of ours and no other crate of ours; `grpc.health.v1` is the only protocol spoken here.

mod attempt;
mod backoff;
mod balancer;
mod blame;
mod body;
mod channel;
mod claim;
mod connection;
mod crowd;
mod discover;
mod draw;
mod endpoint;
mod ewma;
mod health;
mod keepalive;
mod keeper;
mod line;
mod load;
mod options;
mod outcome;
mod outlier;
mod penalty;
mod pick;
mod pool;
mod room;
mod share;
mod silence;
#[cfg(test)]
mod simulation;
mod slow_start;
mod source;
mod stores;
mod streams;
mod subset;
mod target;
mod timeout;
mod told;
mod trace;
mod unavailable;
mod window;

pub use balancer::Balancer;
pub use channel::{Channel, ChannelOptions};
pub use discover::{Poke, discover, discover_poked};
pub use endpoint::{EjectionSnapshot, EndpointSnapshot, EndpointState};
pub use options::{Ejection, Options, Subset};
pub use outcome::{Outcome, code_of};
pub use pick::{Pick, SendError, refused};
pub use share::Share;
pub use source::{ParseError, Source};
pub use stores::{Backing, Stores};
pub use target::Target;
pub use timeout::{format_timeout, parse_timeout};
pub use trace::inject;
pub use unavailable::{Crowded, Unavailable};
