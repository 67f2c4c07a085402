//! The common part of every clone: settings, serving, health, reflection, drain, telemetry, errors, the admin port.
//! Knows no domain, no proto of ours and no engine.
//!
//! Wings, each of which imports only those after it: `process`, `settings`, `serving`, `telemetry`, `errors`.

mod errors;
pub mod page;
mod process;
pub mod role;
mod serving;
pub mod settings;
pub mod telemetry;

pub use errors::api_error::{ApiError, FAULT_OF};
pub use errors::engine_error::EngineError;
pub use errors::invalid::Invalid;
pub use errors::{chain, code, invalid, reason};
pub use process::{admin, cli, exit, open_files, shutdown};
pub use serving::answer::answer;
pub use serving::backing::{Backing, Probe};
pub use serving::budget::Memory;
pub use serving::preface::{Preface, read_preface, refuse};
pub use serving::rewound::Rewound;
pub use serving::rpc::call_timeout;
pub use serving::service::Service;
pub use serving::{backing, message, serve, service};
pub use settings::Settings;
pub use telemetry::seldom::Seldom;
pub use telemetry::{access, families, logs, metrics as metric, sampling};
