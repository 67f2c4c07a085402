//! The one address of the mesh: forwards any gRPC call by the name of its service, frames in and frames out, and answers
//! health and reflection for everything behind it.
//!
//! The way of a call: [`connection`] takes it off a client's connection, [`call`] finds its route and its endpoint,
//! [`exchange`] moves both halves of it, and only what goes wrong here is answered here ([`error`], [`answer`]). No
//! message is decoded on the way. What the gateway knows of its upstreams it learns beside that way ([`catalog`]).

mod answer;
mod budget;
mod call;
mod caller;
mod callers;
mod catalog;
mod claims;
mod client;
mod config;
mod connection;
mod core;
mod descriptors;
mod doubt;
mod download;
mod error;
mod exchange;
mod framing;
mod gate;
mod gateway;
mod gradient;
mod headers;
mod hedge;
mod in_flight;
mod kept;
mod latency;
mod lifetime;
mod limiter;
mod listener;
mod local;
mod meter;
mod ownership;
mod process;
mod pushback;
mod rate;
mod replay;
mod request;
mod resets;
mod retry;
mod rules;
mod seats;
mod service;
mod span;
mod status;
mod table;
mod tally;
mod unread;
mod upload;
mod upstream;

pub use config::{
    Balance, Callers, Config, Connection, Deadline, Ejection, Hedging, Limits, NamedCaller, Overload, Retry,
    UpstreamConfig,
};
pub use gateway::{Gateway, Readiness};
pub use process::run_process;
