# shellcheck shell=bash disable=SC2154 # scripts/engines, which sources this, sets the rest
# Jaeger with its spans in memory: OTLP by gRPC in, the query API by HTTP out.

jaeger_yaml() {
    cat <<YAML
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {receivers: [otlp], processors: [], exporters: [jaeger_storage_exporter]}
  telemetry:
    logs: {level: warn}
    metrics: {level: none}
extensions:
  jaeger_storage:
    backends:
      memory: {memory: {max_traces: 100000}}
  jaeger_query:
    # Its own requests would otherwise appear among the traces under test.
    enable_tracing: false
    storage: {traces: memory}
    http: {endpoint: "127.0.0.1:$2"}
    grpc: {endpoint: "127.0.0.1:$3"}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "127.0.0.1:$1"}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
YAML
}

jaeger_answers() {
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' \
        "http://127.0.0.1:$1/api/services"
}

start_jaeger() {
    local otlp query grpc
    read -r otlp query grpc <<<"$(free_ports 3)"
    jaeger_yaml "$otlp" "$query" "$grpc" >"$run/jaeger.yaml"
    spawn jaeger "$(jaeger_bin)" --config "file:$run/jaeger.yaml"
    await jaeger 30 jaeger_answers "$query"
    publish SHOAL_TEST_JAEGER_OTLP "http://127.0.0.1:$otlp"
    publish SHOAL_TEST_JAEGER_QUERY "http://127.0.0.1:$query"
}
