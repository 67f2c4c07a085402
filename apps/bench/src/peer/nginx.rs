//! nginx. To an upstream it makes one call at a time on a connection, so it needs as many kept as calls in flight; what
//! `http2_max_requests` was is `keepalive_requests` since 1.19.7, and its default would close connections all the time.

use std::path::Path;

use tokio::process::Command;

use super::{CALL_SECONDS_MAX, STREAMS_MAX, Site};

pub(super) fn arguments(command: &mut Command, config: &Path, dir: &Path) {
    command.args(["-e", "stderr"]).arg("-p").arg(dir).arg("-c").arg(config);
}

pub(super) fn settings(site: &Site<'_>) -> String {
    let servers: String =
        site.upstreams.iter().map(|upstream| format!("        server {upstream};\n")).collect();
    let dir = site.dir.display();
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("    {what}_temp_path {dir}/{what};\n"))
        .collect();
    format!(
        "daemon off;
user root root;
pid {dir}/nginx.pid;
error_log stderr crit;
worker_processes {workers};
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    http2_max_concurrent_streams {STREAMS_MAX};
    http2_body_preread_size 1m;
    client_body_buffer_size 1m;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    keepalive_time 1h;
{folders}    upstream echo {{
        random two least_conn;
{servers}        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
        keepalive_time 1h;
    }}
    server {{
        listen {listen} http2 reuseport;
        location / {{
            grpc_pass grpc://echo;
            grpc_read_timeout {CALL_SECONDS_MAX}s;
            grpc_send_timeout {CALL_SECONDS_MAX}s;
        }}
    }}
}}
",
        workers = site.cpus.len(),
        listen = site.listen,
    )
}
