//! Our gateway, with everything on, or with one thing switched off by its configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{CALL_SECONDS_MAX, CONNECTION_WINDOW, STREAM_WINDOW, STREAMS_MAX, Site};
use crate::echo;
use crate::process::Server;

/// Features that can be switched off, with the configuration that does. Everything else is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Calls without a deadline get one, by default.
    Deadlines,
    /// Calls are kept to be made again.
    Retries,
    /// Every call is part of a trace, and those behind are told; one in a hundred is sampled and exported.
    Traces,
    /// Endpoints that fail are left alone.
    Ejection,
    /// Newcomers get little at first.
    SlowStart,
    /// The calls in flight at the upstream are limited by how its latency grows.
    Overload,
}

impl Switch {
    pub(crate) const ALL: [Switch; 6] = [
        Switch::Ejection,
        Switch::Deadlines,
        Switch::Retries,
        Switch::Traces,
        Switch::SlowStart,
        Switch::Overload,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Switch::Deadlines => "deadlines",
            Switch::Retries => "retries",
            Switch::Traces => "trace context",
            Switch::Ejection => "ejection",
            Switch::SlowStart => "slow start",
            Switch::Overload => "overload limit",
        }
    }

    /// Its part of the configuration file; what is of no section comes before all that is.
    fn text(self, on: bool, spans: SocketAddr) -> String {
        match (self, on) {
            (Switch::Traces, true) => format!("otlp = 'http://{spans}'\ntrace_ratio = 0.01\n"),
            (Switch::Deadlines, true) => format!("[gateway.deadline]\ndefault = '{CALL_SECONDS_MAX}s'\n"),
            // Far above what is in flight here: its measuring costs something, its limiting would lose calls.
            (Switch::Overload, true) => {
                "[gateway.overload]\nupstreams = ['echo']\nmin = 1000\nmax = 10000\n".to_owned()
            }
            (Switch::Retries, false) => "[gateway.retry]\nattempts = 1\nbody_bytes = 0\n".to_owned(),
            (Switch::Ejection, false) => "[gateway.ejection]\nenabled = false\n".to_owned(),
            (Switch::SlowStart, false) => "[gateway.balance]\nslow_start = '0s'\n".to_owned(),
            // The default.
            _ => String::new(),
        }
    }
}

/// The configuration file, with `off` switched off.
pub(crate) fn settings(site: &Site<'_>, spans: SocketAddr, off: Option<Switch>) -> String {
    let text = |switch: Switch| switch.text(off != Some(switch), spans);
    let sections: String = Switch::ALL.into_iter().filter(|s| *s != Switch::Traces).map(text).collect();
    let upstreams: Vec<String> = site.upstreams.iter().map(|upstream| format!("'{upstream}'")).collect();
    format!(
        "{traces}[gateway]
cores = {cores}
[gateway.limits]
streams = {STREAMS_MAX}
stream_window = {STREAM_WINDOW}
connection_window = {CONNECTION_WINDOW}
answer_window = {STREAM_WINDOW}
{sections}[gateway.upstream.echo]
endpoints = [{upstreams}]
services = ['{service}']
",
        traces = text(Switch::Traces),
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
