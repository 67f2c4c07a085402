//! What every clone does alike: settings, serving, health, reflection, drain, telemetry, errors, the admin port.
//! Knows no domain, no proto of ours and no engine.

pub mod admin;
mod body;
pub mod cli;
pub mod fault;
pub mod logs;
mod methods;
pub mod metric;
mod preface;
pub mod role;
mod routes;
mod rpc;
pub mod sampling;
pub mod serve;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod telemetry;

pub use fault::Fault;
pub use preface::{Preface, read_preface, refuse_http1};
pub use service::Service;
pub use settings::Settings;
