//! Telemetry of a call: one span, one count and one duration. Keys and values are never recorded.

use std::fmt;

use redis::{Arg, Cmd, Pipeline};
use tokio::time::Instant;
use tracing::{Span, field};

use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::meter::{CANCELLED, Meter};

/// A call from its start to its end. A call that its caller drops counts as `cancelled`.
pub(crate) struct Call<'a> {
    pub(crate) span: Span,
    meter: &'a Meter,
    started: Instant,
    outcome: &'static str,
}

impl<'a> Call<'a> {
    /// Starts the clock and the span of a call. `name` is the span's name: the command's, or the script's. The span is made only
    /// within another one, so that the background work of a service begins no traces.
    pub(crate) fn start(
        settings: &'a Settings,
        operation: impl fmt::Display,
        name: impl fmt::Display,
    ) -> Self {
        let within = !Span::current().is_none();
        let span = if within { client_span(settings.role, operation, name) } else { Span::none() };
        Call { span, meter: &settings.meter, started: Instant::now(), outcome: CANCELLED }
    }

    pub(crate) fn command(settings: &'a Settings, command: &Cmd) -> Self {
        Call::start(settings, Name(command), Name(command))
    }

    pub(crate) fn pipeline(settings: &'a Settings, pipeline: &Pipeline) -> Self {
        let call = Call::start(settings, Batch(pipeline), Batch(pipeline));
        call.span.record("db.operation.batch.size", pipeline.len());
        call
    }

    pub(crate) fn goes_to(endpoint: &Endpoint) {
        let span = Span::current();
        if !span.is_disabled() {
            span.record("server.address", endpoint.host.as_str());
            span.record("server.port", endpoint.port);
        }
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

fn client_span(role: &str, operation: impl fmt::Display, name: impl fmt::Display) -> Span {
    tracing::info_span!(
        "redis",
        otel.kind = "client",
        otel.name = %name,
        otel.status_code = field::Empty,
        db.system.name = "redis",
        db.operation.name = %operation,
        db.operation.batch.size = field::Empty,
        db.response.status_code = field::Empty,
        server.address = field::Empty,
        server.port = field::Empty,
        error.type = field::Empty,
        shoal.role = role,
    )
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.meter.record(self.outcome, self.started.elapsed().as_secs_f64());
    }
}

/// The first word of a command; the other words may be keys.
struct Name<'a>(&'a Cmd);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.args_iter().next() {
            Some(Arg::Simple(name)) => f.write_str(&String::from_utf8_lossy(name).to_ascii_uppercase()),
            _ => f.write_str("UNKNOWN"),
        }
    }
}

/// `PIPELINE` or `MULTI`, with the command if all are the same.
struct Batch<'a>(&'a Pipeline);

impl fmt::Display for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_transaction() { "MULTI" } else { "PIPELINE" })?;
        let mut names = self.0.cmd_iter().map(|command| Name(command).to_string());
        match names.next() {
            Some(first) if names.all(|name| name == first) => write!(f, " {first}"),
            _ => Ok(()),
        }
    }
}
