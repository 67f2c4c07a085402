//! Ports for the processes of a test.

use std::net::TcpListener;

/// Returns a port on which nothing listens now. Another program may take it before its use: start again with another port then.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}
