//! The one address of the mesh: forwards any gRPC call by the name of its service, frames in and frames out, and answers
//! health and reflection for everything behind it.
//!
//! The parts are wings with an order: each imports only from those below it.
//!
//! 1. [`gateway`] and [`process`]: the whole, its start and its end.
//! 2. [`server`]: sockets, worker threads, client connections.
//! 3. [`forwarding`]: a call from its first header to its last. No message is decoded on the way.
//! 4. [`service`]: the gateway's own services, health and reflection among them.
//! 5. [`routing`]: the table of routes and how it is kept current, beside the way of the calls.
//! 6. [`upstream`]: a group of endpoints and what each core knows of it.
//! 7. [`admission`]: limits on connections, calls and memory.
//! 8. [`resilience`]: retries, hedging, pushback.
//! 9. [`error`] and [`config`].

mod admission;
mod config;
mod error;
mod forwarding;
mod gateway;
mod process;
mod resilience;
mod routing;
mod server;
mod service;
mod upstream;

pub use config::{
    Balance, Callers, Config, Connection, Deadline, Ejection, Hedging, Limits, NamedCaller, Overload, Retry,
    UpstreamConfig,
};
pub use gateway::{Gateway, Readiness};
pub use process::run_process;
