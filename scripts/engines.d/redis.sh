# shellcheck shell=bash disable=SC2154 # scripts/engines, which sources this, sets the rest
# One Redis, and a Redis Cluster of three primaries. Tests that kill or pause a server start their own.

# No persistence: a run's data ends with the run. noeviction: jobs and sessions must not vanish under
# memory pressure, so the tests see the error that a real deployment is told to configure.
redis_spawn() {
    local name=$1 port=$2
    shift 2
    mkdir -p "$run/$name"
    spawn "$name" "$(redis_server)" --bind 127.0.0.1 --port "$port" --dir "$run/$name" \
        --save '' --appendonly no --maxmemory-policy noeviction "$@"
}

redis_answers() { [[ $("$(redis_cli)" -p "$1" ping) == PONG ]]; }
cluster_answers() { "$(redis_cli)" -p "$1" cluster info | grep -q 'cluster_state:ok'; }

start_redis() {
    local port
    port=$(free_ports 1)
    redis_spawn redis "$port"
    await redis 20 redis_answers "$port"
    publish SHOAL_TEST_REDIS "redis://127.0.0.1:$port"
}

start_cluster() {
    local ports n
    read -ra ports <<<"$(free_ports 6)"
    for n in 0 1 2; do
        # The bus port is given: by default it is port + 10000, which nobody checked to be free.
        redis_spawn "cluster-$n" "${ports[n]}" --cluster-enabled yes --cluster-port "${ports[n + 3]}"
    done
    for n in 0 1 2; do
        await "cluster-$n" 20 redis_answers "${ports[n]}"
    done
    local addresses=("${ports[@]:0:3}")
    addresses=("${addresses[@]/#/127.0.0.1:}")
    "$(redis_cli)" --cluster create "${addresses[@]}" --cluster-replicas 0 --cluster-yes \
        >"$run/logs/cluster-create.log" 2>&1 || {
        tail -n 5 "$run/logs/cluster-create.log" >&2
        return 1
    }
    for n in 0 1 2; do
        await "cluster-$n" 30 cluster_answers "${ports[n]}"
    done
    addresses=("${addresses[@]/#/redis://}")
    publish SHOAL_TEST_REDIS_CLUSTER "$(IFS=, && echo "${addresses[*]}")"
}
