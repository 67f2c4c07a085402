# shellcheck shell=bash disable=SC2154 # scripts/engines, which sources this, sets the rest
# Processes that outlive this script: started on free loopback ports, watched until they answer,
# ended by pid. A pid file holds "PID START_TIME", since a pid alone may by now be somebody else's.

# Ports below the range the kernel hands out for outgoing connections, so that nothing takes one
# between this look and the engine's bind; drawn at random, so that parallel runs do not meet.
free_ports() {
    python3 - "$1" <<'PY'
import random, socket, sys
try:
    top = int(open("/proc/sys/net/ipv4/ip_local_port_range").read().split()[0])
except OSError:
    top = 32768
top = max(top, 20000)
held = []
for port in random.sample(range(10000, top), min(2000, top - 10000)):
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", port))
    except OSError:
        continue
    held.append(s)
    if len(held) == int(sys.argv[1]):
        print(*(s.getsockname()[1] for s in held))
        break
else:
    sys.exit("no free loopback ports")
PY
}

# Field 22 of /proc/PID/stat, counted after the command's name, which may hold spaces. A zombie has ended.
start_time() {
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    read -ra stat <<<"${stat##*) }"
    [[ ${stat[0]} != Z ]] && echo "${stat[19]}"
}

# spawn NAME COMMAND...: in its own session, so that Ctrl-C at the terminal reaches only the tests,
# with its output in logs/NAME.log.
spawn() {
    local name=$1
    shift
    setsid "$@" </dev/null >"$run/logs/$name.log" 2>&1 &
    echo "$! $(start_time $!)" >"$run/pids/$name"
    disown # or bash would comment on its end
}

alive() {
    local pid started
    read -r pid started <"$run/pids/$1"
    [[ -n $started && $(start_time "$pid") == "$started" ]]
}

# await NAME SECONDS COMMAND...: until COMMAND succeeds. Gives up at once when the process has ended.
await() {
    local name=$1 limit=$2 began=$SECONDS told=0 waited
    shift 2
    until "$@" >/dev/null 2>&1; do
        waited=$((SECONDS - began))
        if ! alive "$name"; then
            failed "$name" "ended after $waited s"
        elif ((waited >= limit)); then
            failed "$name" "does not answer after $limit s"
        elif ((waited >= told + 5)); then
            say "$name: still starting ($waited s)"
            told=$waited
        fi
        sleep 0.1
    done
}

failed() {
    echo "$1 $2. The end of its log:" >&2
    tail -n 25 "$run/logs/$1.log" | cut -c 1-300 | sed 's/^/  | /' >&2
    exit 1
}

# Everything they wrote goes too, so nothing would be gained by a graceful end.
end_all() {
    local file name pid
    for file in "$run"/pids/*; do
        [[ -e $file ]] || continue
        name=$(basename "$file")
        if alive "$name"; then
            read -r pid _ <"$file"
            kill -KILL "$pid" 2>/dev/null || true
            while alive "$name"; do sleep 0.02; done
        fi
        rm "$file"
    done
}
