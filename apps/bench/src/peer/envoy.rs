//! Envoy, without its admin port and its request ids. `exact_balance` spreads the connections evenly over its workers.

use std::path::Path;

use tokio::process::Command;

use super::{CALL_SECONDS_MAX, CONNECTION_WINDOW, STREAM_WINDOW, STREAMS_MAX, Site};

pub(super) fn arguments(command: &mut Command, config: &Path, cores: usize) {
    command.arg("-c").arg(config);
    command.args(["--concurrency", &cores.to_string(), "--disable-hot-restart", "-l", "error"]);
}

pub(super) fn settings(site: &Site<'_>) -> String {
    let address = |address: std::net::SocketAddr| {
        format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
    };
    let endpoints: Vec<String> = site
        .upstreams
        .iter()
        .map(|upstream| format!("        - endpoint: {{address: {}}}", address(*upstream)))
        .collect();
    let http2 = format!(
        "{{max_concurrent_streams: {STREAMS_MAX}, initial_stream_window_size: {STREAM_WINDOW}, \
         initial_connection_window_size: {CONNECTION_WINDOW}}}"
    );
    format!(
        "static_resources:
  listeners:
  - name: bench
    address: {listen}
    connection_balance_config: {{exact_balance: {{}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: HTTP2
          stat_prefix: bench
          generate_request_id: false
          http2_protocol_options: {http2}
          route_config:
            virtual_hosts:
            - name: bench
              domains: ['*']
              routes:
              - match: {{prefix: /}}
                route: {{cluster: echo, timeout: {CALL_SECONDS_MAX}s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: echo
    type: STATIC
    lb_policy: LEAST_REQUEST
    circuit_breakers:
      thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {http2}
    load_assignment:
      cluster_name: echo
      endpoints:
      - lb_endpoints:
{endpoints}
",
        listen = address(site.listen),
        endpoints = endpoints.join("\n"),
    )
}
