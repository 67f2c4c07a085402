//! HTTP/2 (RFC 9113) as a proxy needs it: frames in, frames out, with as little in between as the protocol allows.
//!
//! A connection is a state machine without a socket ([`connection`]), a mover of its bytes ([`io`]), and handles for the
//! owners of its streams ([`handle`]). The crate knows nothing of gRPC and nothing of balancing. It leaves out push,
//! priorities, CONNECT, and informational responses.

mod client;
mod config;
mod connection;
mod error;
mod frame;
mod handle;
pub mod hpack;
mod io;
mod message;
mod pings;
mod server;
mod stream;
mod window;

pub use client::{Connection as ClientConnection, SendRequest, Standing, connect};
pub use config::Config;
pub use connection::{SendError, Unfinished};
pub use error::{Error, Reason};
pub use handle::{RecvStream, ResponseFuture, SendResponse, SendStream};
pub use hpack::{ListLimit, ListTooLong};
pub use pings::Pings;
pub use server::{Accepted, Connection as ServerConnection, handshake};
pub use stream::Unread;
