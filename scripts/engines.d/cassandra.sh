# shellcheck shell=bash disable=SC2154 # scripts/engines, which sources this, sets the rest
# One Cassandra node, or a cluster of three (`cassandra3`), small and quick to start.

cassandra_room_kib=$((1024 * 1024))

# In memory when there is room (a container's /dev/shm is often 64 MB): `batch` syncs the commit log
# before each answer, which on a disk costs two thirds of the write rate.
cassandra_home() {
    local room
    room=$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1) || room=0
    if ((${room:-0} >= cassandra_room_kib)) && [[ -w /dev/shm ]]; then
        mktemp -d /dev/shm/shoal-cassandra-XXXXXX
    else
        mkdir -p "$run/$1-data"
        echo "$run/$1-data"
    fi
}

# cassandra_yaml HOME STORAGE_PORT NATIVE_PORT ADDRESS TOKEN
# The configuration puts no limit where the default is fine; what is here makes one node alone
# start fast and stay small. `batch`: an acknowledged write survives kill -9, as tests expect.
cassandra_yaml() {
    cat <<YAML
cluster_name: shoal-test
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
num_tokens: 1
initial_token: "$5"
auto_bootstrap: false
listen_address: $4
rpc_address: $4
storage_port: $2
native_transport_port: $3
start_native_transport: true
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{seeds: "127.0.0.1:$2"}]
data_file_directories: [$1/data]
commitlog_directory: $1/commitlog
saved_caches_directory: $1/saved_caches
hints_directory: $1/hints
cdc_raw_directory: $1/cdc
commitlog_segment_size: 8MiB
commitlog_sync: batch
auto_snapshot: false
memtable_allocation_type: heap_buffers
memtable_heap_space: 32MiB
disk_access_mode: standard
concurrent_reads: 4
concurrent_writes: 4
concurrent_counter_writes: 2
concurrent_compactors: 1
memtable_flush_writers: 1
native_transport_max_threads: 16
key_cache_size: 8MiB
counter_cache_size: 4MiB
YAML
}

# The messages are cut: Cassandra logs its whole configuration in one line.
cassandra_logback() {
    cat <<'XML'
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %d{HH:mm:ss.SSS} %logger{0} %.-600msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
XML
}

# An OPTIONS frame (CQL v4, opcode 5) is answered by SUPPORTED (opcode 6) without a login.
# In a subshell, which closes the connection.
cql_answers() (
    grep -q 'Startup complete' "$run/logs/$1.log" || exit
    exec 3<>"/dev/tcp/$2/$3" || exit
    printf '\x04\x00\x00\x00\x05\x00\x00\x00\x00' >&3
    reply=$(timeout 5 head -c 5 <&3 | od -An -tx1 | tr -d ' \n')
    [[ ${reply:0:2} == 84 && ${reply:8:2} == 06 ]]
)

spawn_cassandra() {
    local storage native jmx
    read -r storage native jmx <<<"$(free_ports 3)"
    echo "$native" >"$run/cassandra.port"
    prepare_node cassandra "$storage" "$native" 127.0.0.1 0
    spawn_node cassandra "$jmx"
}

start_cassandra() {
    local port
    port=$(<"$run/cassandra.port")
    await cassandra 180 cql_answers cassandra 127.0.0.1 "$port"
    publish SHOAL_TEST_CASSANDRA "127.0.0.1:$port"
}

# Three nodes on 127.0.0.1 to 127.0.0.3, with a third of the ring each: some 650 MB of memory each.
cassandra3_tokens=(-9223372036854775808 -3074457345618258603 3074457345618258602)

# shellcheck disable=SC2329 # scripts/engines calls it by its name
start_cassandra3() {
    local storage native n jmx
    read -r storage native <<<"$(free_ports 2)"
    for n in 1 2 3; do
        prepare_node "cassandra3-$n" "$storage" "$native" "127.0.0.$n" "${cassandra3_tokens[n - 1]}"
    done
    for n in 1 2 3; do
        jmx=$(free_ports 1)
        spawn_node "cassandra3-$n" "$jmx"
    done
    for n in 1 2 3; do
        await "cassandra3-$n" 240 cql_answers "cassandra3-$n" "127.0.0.$n" "$native"
    done
    publish SHOAL_TEST_CASSANDRA3 "127.0.0.1:$native,127.0.0.2:$native,127.0.0.3:$native"
    # Without the mark by which leftovers of tests are known: a node that is revived outlives the test.
    publish SHOAL_TEST_CASSANDRA3_NODE "env -u SHOAL_TEST_MARK SHOAL_RUN=$run $here/engines node"
}

# node freeze|thaw|kill|revive NUMBER: what a test does to one of the three.
node() {
    local name=cassandra3-$2 pid
    read -r pid _ <"$run/pids/$name"
    case $1 in
    freeze) kill -STOP "$pid" ;;
    thaw) kill -CONT "$pid" ;;
    kill)
        kill -KILL "$pid"
        while alive "$name"; do sleep 0.02; done
        ;;
    revive) spawn_node "$name" "$(free_ports 1)" ;;
    *) usage "a node can be frozen, thawed, killed and revived, not '$1'" ;;
    esac
}

# prepare_node NAME STORAGE_PORT NATIVE_PORT ADDRESS TOKEN: its folder, at $run/NAME, and its configuration.
prepare_node() {
    local home
    home=$(cassandra_home "$1")
    ln -sfn "$home" "$run/$1"
    mkdir -p "$home/conf"
    cassandra_yaml "$home" "$2" "$3" "$4" "$5" >"$home/conf/cassandra.yaml"
    cassandra_logback >"$home/conf/logback.xml"
}

# spawn_node NAME JMX_PORT
spawn_node() {
    local home lib
    home=$(readlink "$run/$1")
    lib=$(cassandra_lib)
    # The first compiler tier only: a test run is too short to earn back what the second one costs.
    # ring_delay and the gossip settings: nobody else is in this ring, so there is nobody to wait for.
    MALLOC_ARENA_MAX=4 spawn "$1" "$(java_home_bin java)" "@$here/engines.d/jvm17.options" \
        "-javaagent:$(echo "$lib"/jamm-*.jar)" \
        -Xms256M -Xmx512M -Xss512k -XX:+UseSerialGC -XX:MaxDirectMemorySize=256M \
        -XX:+ExitOnOutOfMemoryError -XX:+PerfDisableSharedMem -XX:TieredStopAtLevel=1 \
        -Djava.net.preferIPv4Stack=true \
        "-Dcassandra.config=file://$home/conf/cassandra.yaml" \
        "-Dcassandra.storagedir=$home" "-Dcassandra.logdir=$run/logs" \
        "-Dlogback.configurationFile=file:$home/conf/logback.xml" \
        -Dcassandra-foreground=yes "-Dcassandra.jmx.local.port=$2" \
        -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=30000 \
        -Dcassandra.superuser_setup_delay_ms=0 \
        -Dcassandra.consistent.rangemovement=false \
        -Dcassandra.consistent.simultaneousmoves.allow=true \
        -cp "$home/conf:$lib/*" org.apache.cassandra.service.CassandraDaemon
}
