//! HTTP/2 (RFC 9113) as a proxy needs it: frames in, frames out, with as little in between as the protocol allows.
//!
//! A connection is a state machine without a socket ([`core`]), something that moves its bytes ([`io`]), and handles for the
//! owners of its streams ([`handle`]). It knows nothing of gRPC and nothing of balancing. What it leaves out: push,
//! priorities, CONNECT, and informational responses.

mod budget;
mod client;
mod config;
mod control;
mod core;
mod error;
mod foreign;
mod frame;
mod handle;
pub mod hpack;
mod io;
mod late;
mod line;
mod message;
mod numbers;
mod outbox;
mod receive;
mod send;
mod server;
mod share;
mod stream;
mod target;
mod unread;
mod window;

pub use client::{Connection as ClientConnection, Pings, SendRequest, Standing, connect};
pub use config::Config;
pub use error::{Error, Reason};
pub use handle::{RecvStream, ResponseFuture, SendResponse, SendStream};
pub use hpack::{ListLimit, ListTooLong};
pub use receive::Unfinished;
pub use send::SendError;
pub use server::{Accepted, Connection as ServerConnection, handshake};
pub use unread::Unread;
