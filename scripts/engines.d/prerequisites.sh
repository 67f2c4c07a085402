# shellcheck shell=bash
# What the machine itself must bring. Everything missing is named at once, before anything is
# installed: nobody should find out the third tool after ten minutes of building with the first two.

java_home_bin() { printf '%s' "${JAVA_HOME:+$JAVA_HOME/bin/}$1"; }

check_prerequisites() {
    local missing=() java version
    need() { command -v "$1" >/dev/null || missing+=("$1: $2"); }

    need cargo 'install Rust with rustup (the toolchain is named in Cargo.toml, rust-version)'
    need cc 'apt-get install build-essential'
    need go 'install Go 1.24 or later and put its bin folder on PATH'
    need python3 'apt-get install python3 python3-venv'
    need mvn 'apt-get install maven'
    need flock 'apt-get install util-linux'

    if command -v cargo >/dev/null; then
        cargo fmt --version >/dev/null 2>&1 || missing+=('cargo fmt: rustup component add rustfmt')
        cargo clippy --version >/dev/null 2>&1 || missing+=('cargo clippy: rustup component add clippy')
    fi

    if command -v python3 >/dev/null && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        missing+=('python3 venv: apt-get install python3-venv')
    fi

    # Cassandra 5.0 runs on 11 and 17; its options file here is the one for 17.
    java=$(java_home_bin java)
    if ! command -v "$java" >/dev/null; then
        missing+=('java 17: apt-get install openjdk-17-jdk-headless')
    else
        version=$("$java" -XshowSettings:none -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
        [[ $version == 17 ]] ||
            missing+=("java 17: found ${version:-an unknown version}; apt-get install openjdk-17-jdk-headless and point JAVA_HOME at it")
    fi
    # The JDK, not the bare runtime: Cassandra opens packages of the jdk.compiler module.
    command -v "$(java_home_bin javac)" >/dev/null ||
        missing+=('javac 17: apt-get install openjdk-17-jdk-headless')

    # Only a machine without Redis needs the package manager and the right to use it.
    if ! command -v redis-server >/dev/null || ! command -v redis-cli >/dev/null; then
        if ! command -v apt-get >/dev/null; then
            missing+=('redis-server, redis-cli 7: no apt-get here; install both by the means of this system')
        elif ((EUID != 0)); then
            missing+=('redis-server, redis-cli 7: run "apt-get install redis-server redis-tools" as root, or run this as root')
        fi
    fi

    ((${#missing[@]} == 0)) && return
    {
        echo 'Missing on this machine:'
        printf '  - %s\n' "${missing[@]}"
        echo 'Install these, then run the same command again.'
    } >&2
    exit 1
}
