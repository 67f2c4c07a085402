//! The registry of metrics: every family that a process of ours can show at `/metrics`, its labels, its meaning and what to
//! alert on. HELP lines, the series that exist from the start and `docs/metrics.md` are made from it.

use crate::role::Role;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows; zero when the process starts.
    Counter,
    /// A number as it is now.
    Gauge,
    /// Observations in buckets, with their sum and number.
    Histogram,
}

impl Kind {
    /// Returns the name of the type, as a scrape has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A family of the registry.
#[derive(Debug)]
pub struct Family {
    /// The full name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The labels, each with the values that it has from the start on.
    pub labels: &'static [(&'static str, &'static [&'static str])],
    /// The role whose start makes the series; none if what the family measures makes them.
    pub role: Option<Role>,
    /// The meaning, as HELP says it.
    pub help: &'static str,
    /// The condition to alert on; may be empty.
    pub alert: &'static str,
}

macro_rules! families {
    ($($kind:ident $name:ident $(of $role:ident)? { $($label:ident $(: $($value:literal)|+)?),* } $help:literal $alert:literal)*) => {
        /// All families, by part.
        pub const ALL: &[Family] = &[$(Family {
            name: stringify!($name),
            kind: Kind::$kind,
            labels: &[$((stringify!($label), &[$($($value),+)?])),*],
            role: families!(@role $($role)?),
            help: $help,
            alert: $alert,
        }),*];
    };
    (@role $role:ident) => { Some(Role::$role) };
    (@role) => { None };
}

families! {
    Gauge shoal_build_info {version}
        "The version of the program, as a label; always 1." ""
    Counter process_cpu_seconds_total {}
        "User and system CPU time of the process in seconds." "its rate near the number of cores"
    Gauge process_resident_memory_bytes {}
        "Resident memory of the process in bytes." "90 % of the container's limit"
    Gauge process_open_fds {}
        "Open file descriptors of the process." "80 % of `process_max_fds`"
    Gauge process_max_fds {}
        "The most file descriptors that the process may have open." ""
    Gauge process_start_time_seconds {}
        "Start of the process in seconds of Unix time." "changes that nobody made: restarts"

    Counter shoal_rpc_server_calls_total {role, clone, method, code}
        "Calls that a clone answered, by method and gRPC code. Methods that it does not have count as unknown."
        "the share of UNAVAILABLE, INTERNAL and UNKNOWN"
    Histogram shoal_rpc_server_call_duration_seconds {role, clone, method}
        "Time from the first byte of a call's headers to the end of its answer, at a clone."
        "the 99th percentile of your objective"
    Counter shoal_rpc_server_dropped_messages_total {message: "request" | "answer"}
        "Unfinished requests and unread answers that were dropped because slow peers held all the memory there is for them."
        "any rate that stays"
    Counter shoal_rpc_server_not_http2_total {protocol: "http/1" | "tls"}
        "Connections that did not begin with HTTP/2: HTTP/1 is answered with 426, TLS with an alert."
        "any rate that stays: a client is misconfigured"

    Gauge shoal_engine_up {role, engine}
        "1 while the engine of a role takes calls, 0 while it does not answer or its disk failed." "0 for a minute"
    Gauge shoal_engine_full {role, engine}
        "1 while the engine refuses writes for lack of memory or disk." "1"
    Gauge shoal_engine_read_only {role, engine}
        "1 while the engine refuses all writes." "1"
    Counter shoal_engine_calls_total {role, engine, outcome}
        "Calls to the engine by outcome: ok, unavailable, unknown, moving, full, read_only, denied, server, cancelled."
        "the share of all but ok and cancelled"
    Histogram shoal_engine_call_duration_seconds {role, engine}
        "Time of a call to the engine, with its wait for a connection; for an embedded engine of a write, with its wait in the queue."
        "the 99th percentile of your objective"

    Gauge shoal_data_clock_drift_seconds of Data {}
        "Difference of the host's clock to Cassandra's, positive if the host is ahead, without what the round trip leaves in doubt."
        "beyond 0.2 either way"
    Counter shoal_data_hedged_statements_total of Data {}
        "Statements to Cassandra without an answer within `data.speculative_delay`, which were sent to another node as well."
        "a rate that stays: a node is slow"
    Counter shoal_data_registry_retries_total of Data {}
        "Changes of the registry of tables that were repeated, because other clones contended for it or no answer came."
        ""

    Counter shoal_redis_connects_total {role, outcome: "ok" | "failed"}
        "Connections to Redis that were tried." "failed while `shoal_engine_up` is 1"
    Gauge shoal_redis_nodes_down {role}
        "Nodes of the Redis that are known and do not answer." "above 0"
    Counter shoal_redis_moves_total {role}
        "Times that a link went to another server: fail-overs and the like." "more than fail-overs you know of"
    Counter shoal_redis_moving_slot_waits_total {role}
        "Pauses of calls whose slot was being moved to another node." ""
    Counter shoal_redis_slot_transfers_total {role, outcome: "emptied" | "refused"}
        "Slots whose half-done move was ended by carrying their keys: emptied, or refused by the Redis." "refused: the move needs an operator"
    Counter shoal_redis_slot_keys_carried_total {role}
        "Keys that were carried to the new owner of their slot." ""
    Counter shoal_redis_returned_processes_total {role}
        "Redis processes that were given up and came back at their address as the same process." ""

    Gauge shoal_embedded_disk_bytes {role}
        "Bytes of the embedded engine's tables and journal." ""
    Gauge shoal_embedded_free_bytes {role}
        "Bytes that are free on the disk of the embedded engine." "less than a day's growth"
    Histogram shoal_embedded_commit_duration_seconds {role}
        "Time of one group commit of the embedded engine: the write of the journal, its fsync, and making it visible."
        "the 99th percentile above 0.1"
    Counter shoal_embedded_failures_total {role}
        "Failures of the embedded engine's disk, after each of which its files are opened again." "any"

    Counter shoal_session_created_total of Session {}
        "Sessions created." ""
    Counter shoal_session_revoked_total of Session {}
        "Sessions ended by calls. A repeated RevokeSession counts again; sessions that a user's limit ended do not count."
        "a sudden rise"
    Counter shoal_session_expired_total of Session {}
        "Sessions whose time ran out, counted when they are swept." ""
    Counter shoal_session_reuse_detected_total of Session {}
        "Tokens that were used after their replacement and its grace: each ended its session." "any: a token was stolen"

    Counter shoal_cache_hits_total {namespace, clone}
        "Reads that found an entry or a remembered absence." ""
    Counter shoal_cache_misses_total {namespace, clone, reason}
        "Reads that found nothing, by reason: absent, expired, invalidated, epoch (the store lost its state), too_old_for_caller, store_away."
        "the share of hits falls; any rate of epoch or store_away that stays"
    Gauge shoal_cache_waiters of Cache {}
        "Calls of Get that wait for a value which the holder of its lease loads." ""
    Histogram shoal_cache_invalidation_duration_seconds of Cache {}
        "Time of an Invalidate, Expire or ClearNamespace, from the call to the moment from which on nothing old is served."
        "the 99th percentile above 0.05"
    Counter shoal_cache_loads_total {namespace, clone}
        "Calls to loaders." ""
    Counter shoal_cache_load_failures_total {namespace, clone}
        "Calls to loaders that failed." "the share of loads"
    Counter shoal_cache_coalesced_waiters_total {namespace, clone}
        "Reads that waited for a load which another call had begun." ""
    Counter shoal_cache_refused_fills_total {namespace, clone}
        "Loads whose result was not stored, because the object was changed or deleted meanwhile." ""
    Counter shoal_cache_oversized_objects_total {namespace, clone}
        "Loads whose result was too large to be stored." "any rate that stays"
    Counter shoal_cache_bypass_loads_total {namespace, clone}
        "Loads while the store was not reachable, whose result was not stored." "any rate that stays"
    Counter shoal_cache_stale_answers_total {namespace, clone}
        "Expired entries that were served, because what would replace them could not be loaded in time, or to callers of Get who accept them." "any rate that stays"
    Counter shoal_cache_loader_calls_total {kind, clone, outcome}
        "Calls of a kind's loader, each for the objects of one batch, by outcome: ok, unreachable, timed_out, refused, protocol. The kind `data` is all tables that are not declared."
        "a share other than ok above 0.05"
    Gauge shoal_cache_breaker_state {kind, clone}
        "Breaker of a kind's loader: 0 closed, 1 recovering, 2 open, which is that the clone leaves the loader alone." "2"
    Histogram shoal_cache_load_duration_seconds {kind, clone}
        "Time of a call of a kind's loader, whatever its outcome."
        "the 99th percentile above half of the kind's load_timeout"

    Counter shoal_data_stalled_readers_total of Data {}
        "Streams of GetBlob, Scan and WatchTable that ended because their caller took no message for `data.stream_idle_max`."
        "a rate that stays: a caller stops reading"
    Counter shoal_data_feed_backlogs_total of Data {}
        "Looks at the end of a change feed on Cassandra that left changes for the next look, because more came than one look reads."
        "a rate that stays: watches fall behind"
    Histogram shoal_data_feed_lag_seconds of Data {}
        "Time from a write to its delivery to a watch of its table; of a watch that was resumed, with the time it was away."
        "the 99th percentile above 10 while no watch catches up"

    Counter shoal_data_view_stale_entries_total of Data {}
        "Entries of views that a VERIFIED query found stale and dropped: their row is not there or has another key in the view."
        "a rate near that of writes: callers write the same rows at the same time"
    Counter shoal_data_view_entries_left_total of Data {}
        "Entries that a write should have removed from views and could not, because Cassandra did not answer. VERIFIED queries drop them."
        "any rate that stays"
    Counter shoal_data_view_build_rows_total of Data {}
        "Rows that builds of views have read." ""
    Counter shoal_data_view_build_failures_total of Data {}
        "Steps of builds of views that failed and are tried again." "any rate that stays"

    Gauge shoal_jobs_queue_jobs {queue, state}
        "Jobs of a queue by state: scheduled, ready, running, retrying, dead. Read when metrics are asked for, of at most 100 queues; all clones show the same, so take the max."
        "ready that grows; dead above 0"
    Gauge shoal_jobs_queue_oldest_ready_seconds {queue}
        "Time since the job at the head of a queue was enqueued; 0 if none is ready. Read as the numbers of jobs are."
        "more than a job may wait"
    Counter shoal_jobs_leases_lost_total of Jobs {}
        "Jobs whose lease ran out without an answer of their worker, counted by the clone that gave them back."
        "any rate that stays: workers die or are too slow"

    Gauge shoal_gateway_connections of Gateway {}
        "Open connections of clients." "near what `process_max_fds` allows"
    Counter shoal_gateway_connections_closed_total of Gateway {reason: "age" | "idle" | "unused" | "slow" | "room"}
        "Connections that the gateway ended by its own limits: for their age, for being idle, unused (no first call) or slow (a header block or a frame without end), and to make room."
        "room: too many connections"
    Counter shoal_gateway_accept_errors_total of Gateway {}
        "Connections that could not be accepted, most often for lack of open files." "any"
    Counter shoal_gateway_refused_total of Gateway {limit: "calls" | "unread" | "connections_per_address"}
        "Calls and connections refused by a limit of the whole gateway." "any rate that stays"
    Counter shoal_gateway_headers_refused_total of Gateway {limit: "header_bytes" | "header_fields" | "repeated_header_bytes" | "answer_header_bytes" | "SETTINGS_MAX_HEADER_LIST_SIZE"}
        "Calls refused or failed for headers above a limit: a key of [gateway.limits], or what a clone allows."
        "any rate that stays"
    Counter shoal_gateway_callers_refused_total of Gateway {caller: "default" | "others", limit: "in_flight" | "rate"}
        "Calls refused by the quota of their caller; callers without a name are default, those past the table others."
        "a caller that you promised more"
    Counter shoal_gateway_unbuffered_calls_total of Gateway {}
        "Calls that cannot be repeated because the memory for copies of requests was used up." ""
    Counter shoal_gateway_calls_total {upstream, method, code}
        "Calls that ended. The upstream gateway is what the gateway answers itself; a method that no descriptor or route names is unknown, and past a thousand methods other." "the share of UNAVAILABLE, INTERNAL and UNKNOWN"
    Histogram shoal_gateway_call_duration_seconds {upstream, method}
        "Time from a call's headers to the end of its answer, at the gateway." "the 99th percentile of your objective"
    Counter shoal_gateway_retries_total {upstream}
        "Attempts after one that failed." "the share of calls"
    Counter shoal_gateway_retries_refused_total {upstream}
        "Attempts that were not made because the retry budget was used up." "any rate that stays"
    Counter shoal_gateway_hedges_total {upstream}
        "Second attempts beside a slow one." ""
    Counter shoal_gateway_hedges_won_total {upstream}
        "Second attempts that answered first." ""
    Counter shoal_gateway_shed_total {upstream}
        "Calls refused because their upstream is overloaded." "any rate that stays"
    Counter shoal_gateway_streams_refused_total {upstream}
        "Calls refused because the clones allow no further stream, or because too many wait for a connection that takes nothing."
        "any rate that stays"
    Gauge shoal_gateway_endpoints {upstream, state}
        "Clones of an upstream by state: ready, connecting, not_serving, ejected, other_store."
        "ready below what you run; other_store above 0"
    Gauge shoal_gateway_concurrency_limit {upstream, worker}
        "The limit on calls at once that protects an upstream from overload, where it is protected." ""
}

/// Tells the recorder the HELP line of every family.
pub(crate) fn describe() {
    for Family { name, kind, help, .. } in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
}

/// Makes the series of a role whose labels are known before anything happens, so that a rate has a first value.
pub fn begin(role: Role) {
    for family in ALL.iter().filter(|family| family.role == Some(role)) {
        register(family, &mut Vec::new());
    }
}

/// Makes the series that every process that serves has.
pub(crate) fn begin_serving() {
    let serving = |family: &&Family| family.name.starts_with("shoal_rpc_server_") && fixed(family);
    for family in ALL.iter().filter(serving) {
        register(family, &mut Vec::new());
    }
}

fn fixed(family: &Family) -> bool {
    family.labels.iter().all(|(_, values)| !values.is_empty())
}

fn register(family: &Family, labels: &mut Vec<metrics::Label>) {
    if let Some((label, values)) = family.labels.get(labels.len()) {
        for value in *values {
            labels.push(metrics::Label::from_static_parts(label, value));
            register(family, labels);
            labels.pop();
        }
        return;
    }
    match family.kind {
        Kind::Counter => metrics::counter!(family.name, labels.clone()).increment(0),
        Kind::Gauge => metrics::gauge!(family.name, labels.clone()).increment(0.0),
        Kind::Histogram => drop(metrics::histogram!(family.name, labels.clone())),
    }
}

/// Returns `docs/metrics.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for (part, prefix) in PARTS {
        page.push_str(&format!("\n## {part}\n\n| metric | type | unit | labels | meaning | alert on |\n|---|---|---|---|---|---|\n"));
        for family in ALL.iter().filter(|family| part_of(family.name) == Some(*prefix)) {
            let labels: Vec<_> = family.labels.iter().map(|(label, values)| shown(label, values)).collect();
            let Family { name, kind, help, alert, .. } = family;
            let (kind, unit, labels) = (kind.name(), unit(name), labels.join(", "));
            page.push_str(&format!("| `{name}` | {kind} | {unit} | {labels} | {help} | {alert} |\n"));
        }
    }
    page
}

fn shown(label: &str, values: &[&str]) -> String {
    if values.is_empty() { format!("`{label}`") } else { format!("`{label}` (`{}`)", values.join("`, `")) }
}

fn unit(name: &str) -> &'static str {
    let base = name.strip_suffix("_total").unwrap_or(name);
    let units = [("_seconds", "seconds"), ("_bytes", "bytes")];
    units.into_iter().find(|(suffix, _)| base.ends_with(suffix)).map_or("", |(_, unit)| unit)
}

/// The sections of the page, with the beginning of the names in each; the first that fits has a family.
const PARTS: &[(&str, &str)] = &[
    ("The process", "process_"),
    ("Every clone", "shoal_rpc_server_"),
    ("Engines", "shoal_engine_"),
    ("Redis", "shoal_redis_"),
    ("Data", "shoal_data_"),
    ("Embedded engines", "shoal_embedded_"),
    ("Gateway", "shoal_gateway_"),
    ("Session", "shoal_session_"),
    ("Cache", "shoal_cache_"),
    ("Jobs", "shoal_jobs_"),
];

fn part_of(name: &str) -> Option<&'static str> {
    if name == "shoal_build_info" {
        return Some("process_");
    }
    PARTS.iter().map(|(_, prefix)| *prefix).find(|prefix| name.starts_with(prefix))
}

const HEAD: &str = "# Metrics

<!-- Made from crates/kit/src/telemetry/families.rs: SHOAL_WRITE_DOCS=1 cargo test -p shoal-kit families -->

`/metrics` of the admin port has these families, in the Prometheus text format. Names begin with `shoal_` but for `process_*`,
which every Prometheus client calls so; times are in seconds, sizes in bytes, and counters end in `_total`. OpenTelemetry's
names (`rpc.server.call.duration`) are those of spans; no metric is exported by OTLP.

One thing has one label everywhere: `role`, `clone`, `engine`, `upstream`, `method` (`package.Service/Method`), `code` (the name of
the gRPC code, for example `NOT_FOUND`), `outcome`, `limit`, `reason`, `state`. Labels never have ids, keys or tokens.
The series whose label values are listed exist from the start of their role with the value 0; the others from their first value
on. The process figures are read when they are asked for, on Linux.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_keep_to_the_naming_rules() {
        for Family { name, kind, labels, help, .. } in ALL {
            assert!(name.starts_with("shoal_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
            assert!(*kind != Kind::Histogram || !unit(name).is_empty(), "{name} has a unit");
            assert!(part_of(name).is_some(), "{name} is in a section");
            let known =
                ["role", "clone", "engine", "upstream", "method", "code", "outcome", "limit", "reason"];
            let more =
                ["state", "namespace", "kind", "queue", "caller", "worker", "message", "protocol", "version"];
            for (label, _) in *labels {
                assert!(known.contains(label) || more.contains(label), "{name}: {label}");
            }
        }
    }

    #[test]
    fn names_of_families_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn page_of_metrics_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        if std::env::var_os("SHOAL_WRITE_DOCS").is_some() {
            std::fs::write(path, reference()).expect("written");
        }
        let page = std::fs::read_to_string(path).expect("docs/metrics.md");
        let command = "SHOAL_WRITE_DOCS=1 cargo test -p shoal-kit families";
        assert!(page == reference(), "docs/metrics.md is old: {command}");
    }

    #[test]
    fn a_role_begins_with_all_its_series() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || begin(Role::Gateway));
        let scrape = recorder.handle().render();
        let quota = r#"shoal_gateway_callers_refused_total{caller="others",limit="rate"} 0"#;
        assert!(scrape.lines().any(|line| line == quota), "{scrape}");
        assert!(scrape.lines().any(|line| line == "shoal_gateway_connections 0"), "{scrape}");
    }
}
