//! HAProxy. Its connection windows follow what is read, and cannot be set.

use std::path::Path;

use tokio::process::Command;

use super::{CALL_SECONDS_MAX, STREAM_WINDOW, STREAMS_MAX, Site};

pub(super) fn arguments(command: &mut Command, config: &Path) {
    // In the foreground, one process.
    command.arg("-db").arg("-f").arg(config);
}

pub(super) fn settings(site: &Site<'_>) -> String {
    let servers: String = site
        .upstreams
        .iter()
        .enumerate()
        .map(|(n, upstream)| format!("    server echo{n} {upstream} proto h2\n"))
        .collect();
    format!(
        "global
    nbthread {threads}
    maxconn 2000
    tune.h2.initial-window-size {STREAM_WINDOW}
    tune.h2.max-concurrent-streams {STREAMS_MAX}
defaults
    mode http
    timeout connect 1s
    timeout client 1h
    timeout server {CALL_SECONDS_MAX}s
listen bench
    bind {listen} proto h2
    http-reuse always
    balance random(2)
{servers}",
        threads = site.cpus.len(),
        listen = site.listen,
    )
}
