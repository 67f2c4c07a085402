//! Serves one clone on a listener: from a connection's first bytes to the last trailer, its health and its drain. Knows no
//! configuration and no process.

pub(crate) mod answer;
pub mod backing;
mod body;
pub(crate) mod budget;
mod connection;
mod framework_error;
mod health;
mod incoming;
pub mod message;
mod methods;
pub(crate) mod preface;
pub(crate) mod rewound;
mod routes;
pub(crate) mod rpc;
pub mod serve;
pub mod service;
