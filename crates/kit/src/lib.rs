//! What every clone does alike: settings, serving, health, reflection, drain, telemetry, errors, the admin port.
//! Knows no domain, no proto of ours and no engine.

pub mod admin;
mod answer;
pub mod backing;
mod body;
mod budget;
pub mod chain;
pub mod cli;
pub mod code;
mod engine;
pub mod exit;
pub mod fault;
mod health;
pub mod invalid;
pub mod logs;
pub mod message;
mod methods;
pub mod metric;
pub mod open_files;
pub mod page;
mod preface;
pub mod reason;
mod rewound;
pub mod role;
mod routes;
mod rpc;
pub mod sampling;
mod seldom;
pub mod serve;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod telemetry;

pub use answer::answer;
pub use backing::{Backing, Probe};
pub use budget::Memory;
pub use engine::EngineError;
pub use fault::Fault;
pub use invalid::Invalid;
pub use preface::{Preface, read_preface, refuse};
pub use rewound::Rewound;
pub use seldom::Seldom;
pub use service::Service;
pub use settings::Settings;
