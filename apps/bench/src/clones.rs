//! Clones for the scale experiment: real processes on loopback behind a gateway, each with the capacity of a machine of its
//! own, which a pacing process before it sees to.
//!
//! What this simulates: a fleet in which each clone has K workers, each of which takes T for a call, or longer when the clone,
//! the gateway's way to it or the engine behind it takes longer than T. What is shared by design (the engine, the gateway,
//! locks and messages between clones) is as real as in a fleet, and shows as soon as it costs more than T hides.
//! What it does not: the clones, the gateway, the engine and the load share this machine's CPUs, its memory and its
//! loopback. A clone's own CPU, NIC and kernel are not what bounds it here.

mod bed;
pub(crate) mod contended;
mod redis_cpu;
mod seed;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};

use crate::live_view::LiveView;
use crate::load::level::Level;
use crate::load::measure;
use crate::load::measured::Measured;
use crate::machine::CpuMeter;
use bed::Bed;
use redis_cpu::RedisCpu;

/// Service whose clones are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// GetSession of 64 sessions, and one CreateSession in ten calls
    Session,
    /// Get of 64 entries, and one Set in ten calls
    Cache,
    /// Get of 64 rows, and one Mutate in ten calls
    Data,
    /// Enqueue to eight queues, and as many calls of GetJob
    Jobs,
}

impl Service {
    /// Returns the name of its role.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Service::Session => "session",
            Service::Cache => "cache",
            Service::Data => "data",
            Service::Jobs => "jobs",
        }
    }
}

impl Service {
    /// Returns the calls of its load, each with its share.
    pub(crate) fn calls(self) -> Vec<String> {
        let calls = match self {
            Service::Session => [
                ("session.v1.SessionService/GetSession", 90),
                ("session.v1.SessionService/CreateSession", 10),
            ],
            Service::Cache => [("cache.v1.CacheService/Get", 90), ("cache.v1.CacheService/Set", 10)],
            Service::Data => [("data.v1.DataService/Get", 90), ("data.v1.DataService/Mutate", 10)],
            Service::Jobs => [("jobs.v1.JobsService/GetJob", 50), ("jobs.v1.JobsService/Enqueue", 50)],
        };
        calls.map(|(method, percent)| format!("shoal.{method} ({percent} %)")).to_vec()
    }
}

/// Settings of the clones.
#[derive(Debug, Clone, Args)]
pub(crate) struct CloneArgs {
    /// Numbers of clones of `--service`, a measurement each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3, 4, 6, 8], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) clones: Vec<u16>,
    /// Workers of each clone: calls that it serves at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) workers: u16,
    /// Milliseconds that a worker takes for a call, at least
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) service_ms: u64,
    /// Redis of the clones, as `shoal serve --redis`; without it they are on embedded engines, in one process
    #[arg(long)]
    pub(crate) redis: Option<String>,
    /// Cassandra of the clones of `data`, as `shoal serve --cassandra`
    #[arg(long)]
    pub(crate) cassandra: Option<String>,
}

impl CloneArgs {
    /// Returns the engine of a service's clones, as a reader calls it.
    pub(crate) fn engine(&self, service: Service) -> &'static str {
        match (service, &self.redis, &self.cassandra) {
            (Service::Data, _, Some(_)) => "Cassandra",
            (Service::Data, _, None) => "embedded",
            (_, Some(_), _) => "Redis",
            (_, None, _) => "embedded",
        }
    }

    /// Returns the calls a second of one clone: no more than its workers can serve.
    pub(crate) fn per_second(&self) -> f64 {
        f64::from(self.workers) * 1e3 / self.service_ms as f64
    }

    /// Returns the sentences that say what the experiment simulates, and what it does not.
    pub(crate) fn simulation(&self, service: Service) -> Vec<String> {
        let role = service.role();
        let engine = self.engine(service);
        let processes = match engine {
            "embedded" => format!(
                "All clones of {role} run in one `shoal up` process, because clones share an embedded engine only within a process."
            ),
            _ => format!("Each clone of {role} is a process of its own; all of them use one {engine}."),
        };
        vec![
            format!(
                "Each clone is a machine with {} workers of {} ms: a process in front of it lets no more calls in at once, and \
                 answers none sooner. It can serve {:.0} calls a second.",
                self.workers,
                self.service_ms,
                self.per_second()
            ),
            processes,
            "Load grows with the clones: a closed loop with two callers for each worker, through one gateway.".to_owned(),
            "What the clones share in a fleet is shared here: the gateway, the engine, and what clones tell each other. It shows \
             as soon as a call takes longer than its worker's time."
                .to_owned(),
            "Not simulated: machines with CPUs of their own (all processes share this one's), a network (all is loopback), more \
             than one gateway, more than one engine node."
                .to_owned(),
        ]
    }
}

/// Result of one number of clones, once.
#[derive(Debug)]
pub(crate) struct CloneLevel {
    pub(crate) clones: u16,
    pub(crate) level: Level,
    pub(crate) measured: Measured,
    /// Share of this machine's CPUs that were busy.
    pub(crate) machine_busy: f64,
    /// Share of one CPU that the Redis used.
    pub(crate) redis_busy: Option<f64>,
    /// CPU microseconds per call of the clones.
    pub(crate) clones_cpu_us: f64,
    /// CPU microseconds per call of the gateway.
    pub(crate) gateway_cpu_us: f64,
}

/// Callers for each worker: enough that one of them waits whenever a worker is free.
const CALLERS_PER_WORKER: usize = 2;
/// Calls in flight that share a connection.
const CALLS_PER_CONNECTION: usize = 16;

/// Times of each level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) counted: Duration,
    /// Counted time of a run of a single user.
    pub(crate) single: Duration,
}

/// Measures every number of clones, `rounds` times, interleaved. Each has processes of its own, which no other number shares:
/// a clone that is idle would still be told what others do.
///
/// # Errors
/// When something does not start, or a call fails.
pub(crate) async fn levels(
    service: Service,
    args: &CloneArgs,
    rounds: u32,
    times: Times,
    view: &LiveView,
) -> anyhow::Result<Vec<CloneLevel>> {
    ensure!(!args.clones.is_empty(), "say how many: --clones 1,2,3,4,6,8");
    ensure!(
        service != Service::Data || args.redis.is_none() || args.cassandra.is_some(),
        "the data service keeps nothing in Redis: give --cassandra HOSTS, or neither for the embedded engine"
    );
    let mut redis = match &args.redis {
        Some(url) if service != Service::Data => Some(RedisCpu::connect(url).await?),
        _ => None,
    };
    let mut levels = Vec::new();
    let begun = Instant::now();
    for round in 1..=rounds {
        view.note(&format!(
            "round {round} of {rounds}: {} clones of {}, {:.0} s so far",
            args.clones.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            service.role(),
            begun.elapsed().as_secs_f64()
        ));
        for clones in args.clones.iter().copied() {
            if view.live().ended() {
                return Ok(levels);
            }
            let level = level(service, args, clones, times, view, redis.as_mut());
            levels.push(level.await.with_context(|| format!("{clones} clones"))?);
        }
    }
    Ok(levels)
}

async fn level(
    service: Service,
    args: &CloneArgs,
    clones: u16,
    times: Times,
    view: &LiveView,
    mut redis: Option<&mut RedisCpu>,
) -> anyhow::Result<CloneLevel> {
    let bed = Bed::start(service, args, clones).await?;
    let callers = usize::from(clones) * usize::from(args.workers) * CALLERS_PER_WORKER;
    let target = bed.target(callers.div_ceil(CALLS_PER_CONNECTION));
    let level = Level { warm_up: times.warm_up, ..Level::closed(callers, times.counted) };
    let (meter, begun) = (CpuMeter::begin(), Instant::now());
    let redis_before = match &mut redis {
        Some(redis) => Some(redis.used().await?),
        None => None,
    };
    let measured = measure(&target, &level, view.live()).await?;
    let redis_busy = match (&mut redis, redis_before) {
        (Some(redis), Some(before)) => {
            Some((redis.used().await? - before).as_secs_f64() / begun.elapsed().as_secs_f64())
        }
        _ => None,
    };
    let machine_busy = meter.busy();
    if let Some((code, errors)) = measured.errors.first_key_value() {
        view.note(&format!("{clones} clones: {} calls failed with {code}: {}", errors.calls, errors.first));
    }
    let calls = measured.ok_within.max(1) as f64;
    let (gateway, of_clones) = measured.cpu.split_last().map_or((Duration::ZERO, &[][..]), |(g, c)| (*g, c));
    let per_call = |cpu: Duration| cpu.as_secs_f64() * 1e6 / calls;
    Ok(CloneLevel {
        clones,
        level,
        machine_busy,
        redis_busy,
        clones_cpu_us: per_call(of_clones.iter().sum()),
        gateway_cpu_us: per_call(gateway),
        measured,
    })
}

/// Measures a single user of a single clone: one caller, who makes the next call when the last one is answered.
///
/// # Errors
/// When something does not start.
pub(crate) async fn single(
    service: Service,
    args: &CloneArgs,
    rounds: u32,
    times: Times,
    view: &LiveView,
) -> anyhow::Result<Vec<(Level, Measured)>> {
    let bed = Bed::start(service, args, 1).await?;
    let level = Level { warm_up: times.warm_up, ..Level::closed(1, times.single) };
    let mut runs = Vec::new();
    for _ in 0..rounds {
        if view.live().ended() {
            break;
        }
        runs.push((level, measure(&bed.target(1), &level, view.live()).await?));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(redis: Option<&str>, cassandra: Option<&str>) -> CloneArgs {
        CloneArgs {
            clones: vec![1],
            workers: 4,
            service_ms: 50,
            redis: redis.map(str::to_owned),
            cassandra: cassandra.map(str::to_owned),
        }
    }

    #[test]
    fn the_simulation_says_what_is_shared() {
        let said = |service, redis, cassandra| args(redis, cassandra).simulation(service).join(" ");
        let text = said(Service::Jobs, Some("redis://h"), None);
        assert!(text.contains("4 workers of 50 ms") && text.contains("80 calls a second"), "{text}");
        assert!(text.contains("a process of its own; all of them use one Redis"), "{text}");
        assert!(said(Service::Data, None, Some("h")).contains("one Cassandra"));
        assert!(said(Service::Session, None, None).contains("one `shoal up` process"));
    }

    #[tokio::test]
    async fn data_without_cassandra_is_refused() {
        let times =
            Times { warm_up: Duration::ZERO, counted: Duration::from_millis(50), single: Duration::ZERO };
        let args = args(Some("redis://127.0.0.1:1"), None);
        let error = levels(Service::Data, &args, 1, times, &LiveView::begin()).await.expect_err("refused");
        assert!(error.to_string().contains("--cassandra HOSTS"), "{error}");
    }
}
