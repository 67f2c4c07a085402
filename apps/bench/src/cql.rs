//! The peer of the data service: a program that does with the scylla driver what the service does, and nothing else. It binds the
//! service's own statements to the service's own tables, in a closed loop, and prints what it measured as a line of JSON.

pub(crate) mod operation;
mod statements;

pub(crate) use operation::Operation;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use hdrhistogram::Histogram;
use scylla::client::session_builder::SessionBuilder;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::process::cpu;
use crate::report;
use crate::run::seconds;
use statements::Caller;

/// The peer's flags.
#[derive(Debug, Args)]
pub(crate) struct CqlArgs {
    /// Cassandra to connect to, host:port
    #[arg(long)]
    cassandra: String,
    /// Keyspace of the data service
    #[arg(long)]
    keyspace: String,
    /// Operation whose statements are sent
    #[arg(long, value_enum)]
    operation: Operation,
    /// Callers of the closed loop
    #[arg(long)]
    in_flight: usize,
    /// Seconds that are measured
    #[arg(long, value_parser = seconds)]
    seconds: f64,
    /// Process on this machine whose CPU time is measured besides its own. May be repeated
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
}

/// Findings of a run of the peer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Driven {
    /// Operations that ended within the time.
    pub(crate) operations: u64,
    /// Seconds that were measured.
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU microseconds of this process, then of those that were named.
    pub(crate) cpu_us: Vec<f64>,
}

/// Runs the closed loop and prints [`Driven`].
///
/// # Errors
/// When Cassandra does not answer, or an operation fails.
pub(crate) async fn run(args: CqlArgs) -> anyhow::Result<()> {
    let session =
        SessionBuilder::new().known_node(&args.cassandra).build().await.context("connecting to Cassandra")?;
    let caller = Caller::prepare(session, &args.keyspace, args.operation).await?;
    let caller = Arc::new(caller);
    let over = Arc::new(AtomicBool::new(false));
    let used = || -> anyhow::Result<Vec<Duration>> {
        std::iter::once(std::process::id()).chain(args.pid.iter().copied()).map(cpu::used).collect()
    };
    let (before, begun) = (used()?, Instant::now());
    let mut callers = JoinSet::new();
    for n in 0..args.in_flight {
        callers.spawn(one_after_another(caller.clone(), over.clone(), n as u64));
    }
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    over.store(true, Ordering::Relaxed);
    let (elapsed, after) = (begun.elapsed(), used()?);
    let mut times = Histogram::<u64>::new(3)?;
    while let Some(ended) = callers.join_next().await {
        times.add(ended??)?;
    }
    let cpu_us = after.into_iter().zip(before).map(|(after, before)| (after - before).as_secs_f64() * 1e6);
    let driven = Driven {
        operations: times.len(),
        seconds: elapsed.as_secs_f64(),
        p50_us: times.value_at_quantile(0.5) as f64,
        p99_us: times.value_at_quantile(0.99) as f64,
        cpu_us: cpu_us.collect(),
    };
    report::line(&serde_json::to_string(&driven)?);
    Ok(())
}

/// Returns the times of the operations that ended before the loop was over.
async fn one_after_another(
    caller: Arc<Caller>,
    over: Arc<AtomicBool>,
    seed: u64,
) -> anyhow::Result<Histogram<u64>> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut times = Histogram::new(3)?;
    loop {
        let begun = Instant::now();
        caller.call(&mut rng).await?;
        if over.load(Ordering::Relaxed) {
            return Ok(times);
        }
        times.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX))?;
    }
}
