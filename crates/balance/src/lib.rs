//! Resolve → endpoints → pick → connection, for any gRPC upstream.
//!
//! [`discover`] turns a [`Source`] into a changing list of [`Target`]s. A [`Balancer`] keeps one HTTP/2 connection to
//! each of them, made in the background and never in a caller's request, and hands out [`Pick`]s: only endpoints that
//! are connected and SERVING, by power of two choices. [`Channel`] puts a tonic client on top of that.
//!
//! Knows no message of ours and no other crate of ours but `http2`; `grpc.health.v1` is the only protocol spoken here.
//!
//! From the top, where each part imports only those below it: `channel`, `balancer`, `supervisor` (the tasks that keep endpoints
//! connected), `upstream_state` (what the tasks and the handles share), `selection` (which endpoint takes a call), `call` (one
//! call at one endpoint), `endpoint` (its connections), `load` (what is measured of it), `fairness` (between the clients of
//! an upstream), `discovery` (where the endpoints come from), and the leaves `options`, `snapshot`, `outcome`, `stores`,
//! `unavailable`, `log_dedup`.

mod balancer;
mod call;
mod channel;
mod discovery;
mod endpoint;
mod fairness;
mod load;
mod log_dedup;
mod options;
mod outcome;
mod selection;
#[cfg(test)]
mod simulation;
mod snapshot;
mod stores;
mod supervisor;
mod unavailable;
mod upstream_state;

pub use balancer::Balancer;
pub use call::pick::{Pick, SendError};
pub use call::timeout::{format_timeout, parse_timeout};
pub use call::trace::inject;
pub use channel::{Channel, ChannelOptions};
pub use discovery::source::{ParseError, Source};
pub use discovery::target::Target;
pub use discovery::{ReResolution, discover, discover_with_re_resolution};
pub use fairness::share::Share;
pub use options::{Ejection, Options, Subset};
pub use outcome::{Outcome, code_of, code_of_reset, refused};
pub use snapshot::{EjectionSnapshot, EndpointSnapshot, EndpointState};
pub use stores::{Backing, Stores};
pub use unavailable::{Crowded, Unavailable};
