//! Our gateway, with everything on, or with one thing switched off by its configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{CALL_SECONDS_MAX, CONNECTION_WINDOW, STREAM_WINDOW, STREAMS_MAX, Site};
use crate::echo;
use crate::process::Server;

/// What can be switched off, and how. Everything is on unless it is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Calls without a deadline get one, by default.
    Deadlines,
    /// Calls are kept to be made again.
    Retries,
    /// Spans of calls and attempts; one trace in a hundred is sampled and exported.
    Traces,
}

impl Switch {
    pub(crate) const ALL: [Switch; 3] = [Switch::Deadlines, Switch::Retries, Switch::Traces];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Switch::Deadlines => "deadlines",
            Switch::Retries => "retries",
            Switch::Traces => "trace context",
        }
    }
}

/// The configuration file, with `off` switched off.
pub(crate) fn settings(site: &Site<'_>, spans: SocketAddr, off: Option<Switch>) -> String {
    let part = |switch: Switch, on: String, without: &str| {
        if off == Some(switch) { without.to_owned() } else { on }
    };
    let traces = part(Switch::Traces, format!("otlp = 'http://{spans}'\ntrace_ratio = 0.01\n"), "");
    let deadlines =
        part(Switch::Deadlines, format!("[gateway.deadline]\ndefault = '{CALL_SECONDS_MAX}s'\n"), "");
    let retries = part(Switch::Retries, String::new(), "[gateway.retry]\nattempts = 1\nbody_bytes = 0\n");
    let upstreams: Vec<String> = site.upstreams.iter().map(|upstream| format!("'{upstream}'")).collect();
    format!(
        "{traces}[gateway]
cores = {cores}
[gateway.limits]
streams = {STREAMS_MAX}
stream_window = {STREAM_WINDOW}
connection_window = {CONNECTION_WINDOW}
answer_window = {STREAM_WINDOW}
{deadlines}{retries}[gateway.upstream.echo]
endpoints = [{upstreams}]
services = ['{service}']
",
        cores = site.cpus.len(),
        upstreams = upstreams.join(", "),
        service = echo::SERVICE,
    )
}

/// Starts it: this very binary, or a `shoal-gateway` of another build.
///
/// # Errors
/// When it does not listen in time, with what it said.
pub(crate) async fn start(
    program: Option<&PathBuf>,
    site: &Site<'_>,
    settings: &str,
) -> anyhow::Result<Server> {
    let config = site.dir.join("shoal.toml");
    std::fs::write(&config, settings)?;
    let mut command = match program {
        Some(program) => site.cpus.command(program),
        None => {
            let mut command = site.cpus.command(std::env::current_exe()?);
            command.args(["serve", "gateway"]);
            command
        }
    };
    command.args(["--admin", "127.0.0.1:0", "--listen", &site.listen.to_string()]);
    command.arg("--config").arg(&config);
    Server::spawn(command, site.listen).await
}
