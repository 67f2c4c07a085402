//! The gateway towards its clients: sockets, a worker thread for each core, client connections and how long they live.

pub(crate) mod connection;
pub(crate) mod lifetime;
pub(crate) mod listener;
pub(crate) mod worker;
