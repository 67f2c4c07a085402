//! Stages of growth: what stands where, and what each of its parts holds.

use super::costs::Costs;
use super::{ACTION_EVERY_S, CASSANDRA_OPS, CORES, SUBSET, USED, WATCHES_OF_CLONE, number};

/// A part of a stage that is used up at some load.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) resource: String,
    /// Actions a second that it holds.
    pub(super) actions: f64,
    /// Sentence that says what to do when it is the first to break.
    pub(super) then: String,
}

/// A stage.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) name: &'static str,
    pub(super) layout: String,
    /// Calls of an action.
    pub(super) calls: f64,
    pub(super) bounds: Vec<Bound>,
}

/// Machines and engine nodes of a stage.
#[derive(Debug, Clone, Copy)]
struct Layout {
    gateways: f64,
    session: f64,
    cache: f64,
    data: f64,
    jobs: f64,
    session_primaries: f64,
    cache_primaries: f64,
    jobs_primaries: f64,
    cassandra: f64,
}

/// Returns the actions a second of so many machines at so much CPU an action.
fn machines(count: f64, us: f64) -> f64 {
    count * CORES * USED * 1e6 / us
}

/// Returns the actions a second of so many single threads.
fn threads(count: f64, us: f64) -> f64 {
    count * USED * 1e6 / us
}

fn bound(resource: impl Into<String>, actions: f64, then: &str) -> Bound {
    Bound { resource: resource.into(), actions, then: then.to_owned() }
}

const CLUSTER: &str = "Add primaries: Redis Cluster moves slots while clones go on, and the clones follow redirects \
                       ([redis.md](redis.md)). A key, and so a queue, stays on one node.";

impl Layout {
    /// Returns the fewest machines and nodes that hold so many actions a second, two of each at least, and three nodes of
    /// Cassandra.
    fn of(actions: f64, costs: &Costs) -> Layout {
        let at_least = |least: f64, one_holds: f64| (actions / one_holds).ceil().max(least);
        Layout {
            gateways: at_least(2.0, machines(1.0, costs.gateway_us)),
            session: at_least(2.0, machines(1.0, costs.session_us)),
            cache: at_least(2.0, machines(1.0, costs.cache_us)),
            data: at_least(2.0, machines(1.0, costs.data_us)),
            jobs: at_least(2.0, machines(1.0, costs.jobs_us)),
            session_primaries: at_least(1.0, threads(1.0, costs.session_redis_us)),
            cache_primaries: at_least(1.0, threads(1.0, costs.cache_redis_us)),
            jobs_primaries: at_least(1.0, threads(1.0, costs.jobs_redis_us)),
            cassandra: at_least(3.0, CASSANDRA_OPS * USED / costs.cassandra_ops()),
        }
    }

    /// Returns what stands there, and the connections between gateways and clones.
    fn words(&self) -> String {
        // One clone a machine; each core of a gateway has connections of its own.
        let connections = |clones: f64| self.gateways * CORES * f64::min(SUBSET, clones) / clones;
        format!(
            "Machines: {} gateways, {} session, {} cache, {} data, {} jobs. Primaries of Redis, each with a replica: {} for sessions, {} for \
             the cache, {} for jobs. Cassandra: {} nodes. Each core of a gateway connects to at most {SUBSET:.0} clones of a role, so a \
             clone of cache has {} connections.",
            self.gateways,
            self.session,
            self.cache,
            self.data,
            self.jobs,
            self.session_primaries,
            self.cache_primaries,
            self.jobs_primaries,
            self.cassandra,
            number(connections(self.cache)),
        )
    }

    fn bounds(&self, costs: &Costs) -> Vec<Bound> {
        let machine = |name: &str, count: f64, us: f64, then: &str| {
            bound(format!("CPUs of {count:.0} {name} machines"), machines(count, us), then)
        };
        let primaries = |of: &str, count: f64, us: f64| {
            let resource = match count {
                1.0 => format!("the one thread of the Redis of {of}"),
                _ => format!("the threads of {count:.0} primaries of the Redis of {of}"),
            };
            bound(resource, threads(count, us), CLUSTER)
        };
        vec![
            machine(
                "gateway",
                self.gateways,
                costs.gateway_us,
                "Add gateways: they share nothing but what stands behind them.",
            ),
            machine(
                "session",
                self.session,
                costs.session_us,
                "Add clones: any clone answers for any session.",
            ),
            machine("cache", self.cache, costs.cache_us, "Add clones: what they keep is in Redis."),
            machine("data", self.data, costs.data_us, "Add clones: they keep nothing."),
            machine("jobs", self.jobs, costs.jobs_us, "Add clones: any clone serves any queue."),
            primaries("sessions", self.session_primaries, costs.session_redis_us),
            primaries("the cache", self.cache_primaries, costs.cache_redis_us),
            primaries("jobs", self.jobs_primaries, costs.jobs_redis_us),
            bound(
                format!("{:.0} Cassandra nodes", self.cassandra),
                self.cassandra * CASSANDRA_OPS * USED / costs.cassandra_ops(),
                "Add nodes: rows are spread by partition key. A partition stays on its three nodes.",
            ),
        ]
    }
}

/// Returns all stages, from the smallest.
pub(super) fn all(costs: &Costs) -> Vec<Stage> {
    let stage =
        |name, layout: &str, bounds| Stage { name, layout: layout.to_owned(), calls: costs.calls, bounds };
    let mut stages = vec![stage(
        "One process",
        "`shoal up` on one machine, with embedded engines. A restart is an outage of seconds, a lost disk is a loss.",
        vec![bound(
            "the CPUs of the machine",
            machines(1.0, costs.all_us()),
            "Take the engines out of the process, then the services onto machines of their own; callers notice neither.",
        )],
    )];
    let redis_us = costs.session_redis_us + costs.cache_redis_us + costs.jobs_redis_us;
    stages.push(stage(
        "One machine, real engines",
        "`shoal up --redis --cassandra`, engines on machines of their own: one Redis for all roles, three Cassandra nodes. The mesh \
         restarts without losing anything.",
        vec![
            bound(
                "the CPUs of the machine",
                machines(1.0, costs.all_us()),
                "Run `shoal serve` for each role, two machines at least for each, and two gateways: from here on no single \
                 machine is an outage.",
            ),
            bound("the one thread of the Redis", threads(1.0, redis_us), "Give the cache a Redis of its own, then jobs."),
            bound(
                "3 Cassandra nodes",
                3.0 * CASSANDRA_OPS * USED / costs.cassandra_ops(),
                "Add nodes.",
            ),
        ],
    ));
    let pairs = Layout {
        gateways: 2.0,
        session: 2.0,
        cache: 2.0,
        data: 2.0,
        jobs: 2.0,
        session_primaries: 1.0,
        cache_primaries: 1.0,
        jobs_primaries: 1.0,
        cassandra: 3.0,
    };
    stages.push(stage(
        "Two of everything",
        "Two gateways behind an L4 balancer (or two addresses in DNS), two machines of clones a role, a Redis a role with a replica, three \
         Cassandra nodes.",
        pairs.bounds(costs),
    ));
    for (name, where_, regions, users) in [
        ("A cluster", "One place, gateways behind an L4 balancer with consistent hashing.", 1.0, 4e6),
        ("A region", "One region, gateways behind ECMP or anycast.", 1.0, 4e7),
        (
            "Ten regions",
            "Ten cells, each a region that shares nothing with the others. A user has a home region, where the sessions and jobs are; \
             DNS or anycast leads there. What has to be everywhere is published.",
            10.0,
            4e8,
        ),
    ] {
        let layout = Layout::of(users / regions / ACTION_EVERY_S, costs);
        let mut bounds = layout.bounds(costs);
        for bound in &mut bounds {
            bound.actions *= regions;
        }
        let each = if regions > 1.0 { " In each:" } else { "" };
        stages.push(stage(name, &format!("{where_}{each} {}", layout.words()), bounds));
    }
    stages
}

/// Returns what no number of machines changes, with its figures.
pub(super) fn beyond(costs: &Costs) -> String {
    let region = Layout::of(4e7 / ACTION_EVERY_S, costs);
    let gateways = region.gateways;
    let clones = 1_000.0;
    let cores = gateways * CORES;
    let connections = |subset: f64| cores * f64::min(subset, clones) / clones;
    let hot_key = threads(1.0, costs.hit_redis_us);
    let queue = threads(1.0, costs.job_redis_us);
    let users = 1e6;
    format!(
        "
## What more machines do not change

- **A hot key.** A key of the cache is on one primary, which answers at most {hot_key} hits a second for it. Concurrent loads are
  one load, but hits are not kept in the clones. Beyond that: several keys for the same object, or publication (below).
- **A queue.** A queue is on one node: {queue} jobs a second from Enqueue to CompleteJob, all its workers together. Place work in
  several queues by a hash of its subject, and give each worker several of them.
- **A partition.** All rows of a partition key are on the same three Cassandra nodes: {partition} reads a second at most, if
  nothing else is on them. Split partitions that grow with all users rather than with one.
- **Connections.** The {gateways:.0} gateways of a region, {cores_each:.0} cores each, would have {all} connections to each of {clones} clones. A core
  connects to {subset:.0} clones at most (`[gateway.balance] subset`, drawn at random): {some} connections a clone. Where that is too many,
  take fewer and larger gateways, or more clones: subsets are drawn for each core.
- **Watchers.** A clone of jobs holds {watches} WatchJob streams, half of them of one job: {watchers} watchers need {watch_clones} clones, and each
  change of a job reaches every clone that watches its queue. What a million people watch is no job: publish it.
- **Publication.** What is the same for many (a page, a price list, the result of a job that all want) leaves the mesh: a worker
  writes it to object storage behind a CDN, and the mesh is asked once for each change instead of once for each reader. At
  {action_every:.0} s an action, {users} readers are {reads} calls a second, and with a CDN as many as there are changes.
- **Sessions.** {users} sessions take {session_gib} GiB of Redis, spread over its primaries by token.
",
        hot_key = number(hot_key),
        queue = number(queue),
        partition = number(3.0 * CASSANDRA_OPS * USED / super::CASSANDRA_READ_NODES),
        cores_each = CORES,
        clones = number(clones),
        all = number(connections(f64::INFINITY)),
        subset = SUBSET,
        some = number(connections(SUBSET)),
        watches = number(WATCHES_OF_CLONE),
        watchers = number(users),
        watch_clones = number((users / WATCHES_OF_CLONE).ceil()),
        action_every = ACTION_EVERY_S,
        users = number(users),
        reads = number(users / ACTION_EVERY_S),
        session_gib = number(users * costs.session_bytes / f64::from(1 << 30)),
    )
}
