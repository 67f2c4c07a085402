//! The flags that every command which runs clones has, and what holds where none is given.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Defaults;
use crate::telemetry::logs::LogFormat;

/// Flags in common. Each but `--config` is also a variable (`SHOAL_REDIS`) and a key of the file (`redis`; `--data` is
/// `data_dir` there).
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct CommonArgs {
    /// Configuration in TOML; flags and SHOAL_* variables beat it
    #[arg(long, value_name = "FILE", env = "SHOAL_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address to listen on for gRPC: IP:PORT or localhost:PORT  [default: 127.0.0.1:7000]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Address of the admin port, HTTP/1: /metrics, /livez, /readyz, /status  [default: 127.0.0.1:7001]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Allow listening on addresses that are not loopback: connections are plaintext, so put TLS of your own in front
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Number of clones of each service: N, or ROLE=N,ROLE=N  [default: 2]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clones: Option<String>,
    /// Folder where the embedded engines keep their files  [default in `up`: ./.shoal]
    #[arg(long = "data", value_name = "DIR", conflicts_with = "ephemeral")]
    #[serde(rename = "data_dir", skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Keep nothing when the process ends: embedded engines in a temporary folder, without fsync
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// Redis for session, cache and jobs: redis://[USER:PASSWORD@]HOST:PORT; several, separated by commas, for a Cluster; redis+sentinel://HOST:PORT/NAME asks Sentinels  [default in `up`: embedded engines]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
    /// Cassandra or ScyllaDB contact points for data, port 9042 if none is given; user and password are SHOAL_DATA__USERNAME and SHOAL_DATA__PASSWORD  [default in `up`: embedded engine]
    #[arg(long, value_name = "HOST:PORT,...")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<String>,
    /// OTLP gRPC endpoint that traces are sent to, e.g. http://127.0.0.1:4317; SHOAL_TRACE_RATIO=0.1 keeps a tenth of them  [default: no traces]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<String>,
    /// Name the addresses of engines in the errors that callers see
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub show_addresses: bool,
    /// Where the clones of other roles are: ROLE=IP:PORT,IP:PORT or ROLE=dns:HOST:PORT or ROLE=srv:NAME or ROLE=file:PATH; several roles are separated by `;`
    #[arg(long, value_name = "ROLE=SOURCE;...")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Format of log lines, which go to stderr  [default: pretty]
    #[arg(long, value_enum, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Log filter, e.g. info,shoal_gateway=debug  [default: info,scylla=off, in `up` warn,scylla=off]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Log a line for each call that ended: method, code, duration, peer, request id, trace id, clone
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub access_log: bool,
    /// How long calls in flight may still take after SIGINT, SIGTERM or SIGHUP told the process to stop; a second SIGINT or SIGTERM stops it at once  [default: 10s]
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
}

/// Where a single role listens when nothing is said.
#[must_use]
pub fn serve_defaults() -> Defaults {
    Defaults {
        listen: ([127, 0, 0, 1], 7000).into(),
        admin: ([127, 0, 0, 1], 7001).into(),
        // A driver that cannot connect says so of each attempt; our own line says it once.
        log: "info,scylla=off",
    }
}
