//! What is observed of a call: one span, one count, one duration. Never a key or a value.

use redis::{Arg, Cmd, Pipeline};
use tokio::time::Instant;
use tracing::{Span, field};

use crate::config::Endpoint;
use crate::error::LinkError;

/// A call from its start to its end; a caller that gives up ends it as `cancelled`.
pub(crate) struct Call {
    pub(crate) span: Span,
    role: &'static str,
    started: Instant,
    outcome: &'static str,
}

impl Call {
    /// `name` is the span's name: the command's, or the script's.
    pub(crate) fn start(role: &'static str, operation: &str, name: &str) -> Call {
        let span = tracing::info_span!(
            "redis",
            otel.kind = "client",
            otel.name = name,
            otel.status_code = field::Empty,
            db.system.name = "redis",
            db.operation.name = operation,
            db.operation.batch.size = field::Empty,
            db.response.status_code = field::Empty,
            server.address = field::Empty,
            server.port = field::Empty,
            error.type = field::Empty,
            shoal.role = role,
        );
        Call { span, role, started: Instant::now(), outcome: "cancelled" }
    }

    pub(crate) fn command(role: &'static str, command: &Cmd) -> Call {
        let name = command_name(command);
        Call::start(role, &name, &name)
    }

    pub(crate) fn pipeline(role: &'static str, pipeline: &Pipeline) -> Call {
        let mut names = pipeline.cmd_iter().map(command_name);
        let first = names.next().unwrap_or_default();
        let batch = if pipeline.is_transaction() { "MULTI" } else { "PIPELINE" };
        let name =
            if names.all(|name| name == first) { format!("{batch} {first}") } else { batch.to_owned() };
        let call = Call::start(role, &name, &name);
        call.span.record("db.operation.batch.size", pipeline.len());
        call
    }

    pub(crate) fn goes_to(endpoint: &Endpoint) {
        let span = Span::current();
        span.record("server.address", endpoint.host.as_str());
        span.record("server.port", endpoint.port);
    }

    pub(crate) fn end<T>(mut self, result: Result<T, LinkError>) -> Result<T, LinkError> {
        self.outcome = "ok";
        if let Err(error) = &result {
            self.outcome = error.outcome();
            self.span.record("otel.status_code", "ERROR");
            self.span.record("error.type", self.outcome);
            if let LinkError::Server { code, .. } = error {
                self.span.record("db.response.status_code", code.as_str());
            }
        }
        result
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        metrics::counter!("redis_calls_total", "role" => self.role, "outcome" => self.outcome).increment(1);
        metrics::histogram!("redis_call_duration_seconds", "role" => self.role)
            .record(self.started.elapsed().as_secs_f64());
    }
}

/// The command's first word: the rest may be keys.
fn command_name(command: &Cmd) -> String {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => String::from_utf8_lossy(name).to_ascii_uppercase(),
        _ => "UNKNOWN".to_owned(),
    }
}
