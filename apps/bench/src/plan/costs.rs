//! Costs of an action, summed from the measured costs of its calls.

use anyhow::Context as _;

use super::number;
use crate::report;
use crate::results::{Results, Table};

/// Calls of an action: how many of each.
pub(super) const MIX: [(f64, &str); 6] = [
    (1.0, "GetSession"),
    (2.0, "cache Get"),
    (0.2, "data Get"),
    (0.05, "data Mutate"),
    (0.02, "Enqueue"),
    (0.02, "job leased and completed"),
];

/// Jobs of a claim in the measurement.
const CLAIM: f64 = 32.0;

/// CPU microseconds of an action at each part, and what its calls cost the engines.
#[derive(Debug, Clone)]
pub(super) struct Costs {
    pub(super) gateway_us: f64,
    pub(super) session_us: f64,
    pub(super) cache_us: f64,
    pub(super) data_us: f64,
    pub(super) jobs_us: f64,
    /// Time of the one thread of the Redis that keeps sessions.
    pub(super) session_redis_us: f64,
    pub(super) cache_redis_us: f64,
    pub(super) jobs_redis_us: f64,
    /// Time of Redis for one job from Enqueue to CompleteJob.
    pub(super) job_redis_us: f64,
    /// Time of Redis for a cached object that is read.
    pub(super) hit_redis_us: f64,
    /// Memory of a session.
    pub(super) session_bytes: f64,
    /// Reads and writes of rows.
    pub(super) reads: f64,
    pub(super) writes: f64,
    /// Calls of an action.
    pub(super) calls: f64,
    rows: Vec<[String; 3]>,
}

/// Figures by table and row.
struct Figures<'r> {
    runs: &'r [Results],
}

impl Figures<'_> {
    fn table(&self, benchmark: &str, title: &str) -> anyhow::Result<&Table> {
        let run = self.runs.iter().find(|run| run.benchmark == benchmark);
        let table = run.and_then(|run| run.tables.iter().find(|table| table.title.starts_with(title)));
        table.with_context(|| {
            format!("no table `{title}` of `{benchmark}`: run `shoal bench {benchmark} --json docs/benchmarks/{benchmark}.json`")
        })
    }

    fn figure(&self, benchmark: &str, title: &str, row: &str, column: &str) -> anyhow::Result<f64> {
        let cell = self.table(benchmark, title)?.cell(row, column);
        let missing =
            || format!("`{benchmark}` has no `{column}` of `{row}`: run it again with this version");
        Ok(cell.with_context(missing)?.median)
    }

    /// CPU of a service for a call that it gets directly.
    fn service(&self, call: &str) -> anyhow::Result<f64> {
        self.figure("mesh", "Calls", &format!("{call}, direct"), "service_cpu_us")
    }

    fn gateway(&self, call: &str) -> anyhow::Result<f64> {
        self.figure("mesh", "Calls", &format!("{call}, through the gateway"), "gateway_cpu_us")
    }

    fn redis(&self, operation: &str) -> anyhow::Result<f64> {
        self.figure("engine", "Operations", operation, "redis_cpu_us")
    }
}

impl Costs {
    /// Reads the costs from results.
    ///
    /// # Errors
    /// When a figure is missing.
    pub(super) fn of(runs: &[Results]) -> anyhow::Result<Costs> {
        let figures = Figures { runs };
        let [sessions, gets, reads, writes, enqueues, completed] = MIX.map(|(count, _)| count);
        // A lease and a completion are calls of a job each; the gateway forwards both as it does a GetJob.
        let job_calls = enqueues + 2.0 * completed;
        let gateway_us = sessions * figures.gateway("GetSession")?
            + gets * figures.gateway("cache Get")?
            + (reads + writes) * figures.gateway("data Get")?
            + job_calls * figures.gateway("GetJob")?;
        let enqueue = figures.redis("Enqueue")?;
        let complete = figures.redis("LeaseJobs of 32, 32 CompleteJob")? / CLAIM;
        let get_session = figures.redis("GetSession")?;
        let hit = figures.redis("Get, a hit")?;
        let session_bytes =
            figures.figure("engine", "Memory", "session, three attributes, ten of their user", "bytes")?;
        let costs = Costs {
            gateway_us,
            session_us: sessions * figures.service("GetSession")?,
            cache_us: gets * figures.service("cache Get")?,
            data_us: (reads + writes) * figures.service("data Get")?,
            jobs_us: job_calls * figures.service("GetJob")?,
            session_redis_us: sessions * get_session,
            cache_redis_us: gets * hit,
            jobs_redis_us: enqueues * enqueue + completed * complete,
            job_redis_us: enqueue + complete,
            hit_redis_us: hit,
            session_bytes,
            reads,
            writes,
            calls: sessions + gets + reads + writes + job_calls,
            rows: Vec::new(),
        };
        let row = |part: &str, us: f64, from: &str| [part.to_owned(), format!("{us:.1}"), from.to_owned()];
        let rows = vec![
            row("gateway", costs.gateway_us, "mesh, through the gateway"),
            row("session", costs.session_us, "mesh, GetSession"),
            row("cache", costs.cache_us, "mesh, cache Get"),
            row("data", costs.data_us, "mesh, data Get; Mutate is taken for the same"),
            row("jobs", costs.jobs_us, "mesh, GetJob; the other calls are taken for the same"),
            row("Redis of sessions", costs.session_redis_us, "engine, GetSession"),
            row("Redis of the cache", costs.cache_redis_us, "engine, Get, a hit"),
            row(
                "Redis of jobs",
                costs.jobs_redis_us,
                "engine, Enqueue; LeaseJobs and CompleteJob by the job",
            ),
        ];
        Ok(Costs { rows, ..costs })
    }

    /// Returns the CPU of everything for an action.
    pub(super) fn all_us(&self) -> f64 {
        self.gateway_us + self.session_us + self.cache_us + self.data_us + self.jobs_us
    }

    /// Returns operations of Cassandra's nodes for an action.
    pub(super) fn cassandra_ops(&self) -> f64 {
        self.reads * super::CASSANDRA_READ_NODES + self.writes * super::CASSANDRA_COPIES
    }

    /// Returns the costs as a section of the page.
    pub(super) fn markdown(&self) -> String {
        let header = ["part", "CPU µs per action", "from"].map(str::to_owned);
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.to_vec()).collect();
        format!(
            "\n## What an action costs\n\nMeasured, per call, times the calls of an action. Redis does one thing at a time, so its time is \
             what bounds one of its nodes.\n\n{}\n\nA session takes {} bytes of Redis, so a million of them {} MiB.\n",
            report::markdown(&header, &rows),
            number(self.session_bytes),
            number(self.session_bytes * 1e6 / f64::from(1 << 20)),
        )
    }
}
