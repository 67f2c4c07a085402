# shellcheck shell=bash disable=SC2034
# What is installed, pinned: each version is part of a cache folder's name, so changing one here
# installs it anew beside the old one, and an unchanged one costs nothing.

cassandra_version=5.0.9
grpcurl_version=1.9.4
go_interop_version=1.85.0
h2spec_version=2.2.1
python_grpc_version=1.85.1
buf_version=1.75.0
# Cassandra's own driver, and the checksum of rows, for a foreign reader of the stored layout.
python_cassandra_version=3.30.1
python_xxhash_version=4.1.0
jaeger_version=1.76.0
# As with the gateways below, Debian's revisions replace each other.
prometheus_version=2.42.0
cargo_deny_version=0.20.2
cargo_fuzz_version=0.13.2
# The load generator that `shoal bench generator` runs beside ours.
ghz_version=0.93.0

# Gateways that `shoal bench gateway` runs beside ours. Debian's revisions of a version replace each other, so
# only the version is pinned.
envoy_version=1.40.0
haproxy_version=2.6.12
nginx_version=1.22.1
