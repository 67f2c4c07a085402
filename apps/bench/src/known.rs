//! `shoal bench known`: a server whose scalability is known beforehand, for the tests of the verdict. Its service is the
//! echo's, with the time that each call takes made of timers alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use redis::aio::MultiplexedConnection;
use tonic::Status;

use crate::echo::{self, Answer, Text};
use crate::pacing::clock::Clock;
use crate::pacing::lockstep::Lockstep;

/// Law that a server's throughput follows in a closed loop of N callers. P and S are `--parallel-ms` and `--serial-ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Each call takes P, whatever else is in flight: X = N/P
    Parallel,
    /// A lock is held alone for S of each call: X = N / (P + N·S), so α = S/(P+S)
    Contention,
    /// Each call pays S for each other in flight, alone: X = N / (P + N·(N−1)·S), so β = S/P
    Crosstalk,
    /// Each call takes P, and then S of the one thread of a Redis: X is at most 1/S
    Redis,
}

/// Settings of the server.
#[derive(Debug, Args)]
pub(crate) struct KnownArgs {
    /// Law that its throughput follows
    #[arg(value_enum)]
    kind: Kind,
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// P: milliseconds of a call that overlap with those of others
    #[arg(long, default_value_t = 0.0, value_parser = milliseconds)]
    parallel_ms: f64,
    /// S: milliseconds of a call that exclude those of others
    #[arg(long, default_value_t = 0.0, value_parser = milliseconds)]
    serial_ms: f64,
    /// Redis of the kind `redis`, which must allow DEBUG SLEEP (`enable-debug-command yes`)
    #[arg(long, required_if_eq("kind", "redis"))]
    redis: Option<String>,
}

/// The longest part of a call.
const MILLISECONDS_MAX: f64 = 60_000.0;

fn milliseconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if (0.0..=MILLISECONDS_MAX).contains(&ms) => Ok(ms),
        _ => Err(format!("not a number of milliseconds from 0 to {MILLISECONDS_MAX}")),
    }
}

/// Law with its parts.
#[derive(Debug, Clone)]
struct Law {
    kind: Kind,
    parallel: Duration,
    serial: Duration,
    redis: Option<String>,
}

/// Serves until killed.
pub(crate) async fn run(args: KnownArgs) -> anyhow::Result<()> {
    let part = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let (parallel, serial) = (part(args.parallel_ms), part(args.serial_ms));
    let law = Law { kind: args.kind, parallel, serial, redis: args.redis };
    echo::serve(args.listen, law.answer().await?).await
}

impl Law {
    /// Returns an answer that takes as long as the law says.
    ///
    /// # Errors
    /// When there is no thread for the clock, or no Redis.
    async fn answer(self) -> anyhow::Result<Answer> {
        let (clock, parallel, serial) = (Clock::start()?, self.parallel, self.serial);
        Ok(match self.kind {
            Kind::Parallel => Arc::new(move |text| {
                let (clock, due) = (clock.clone(), Instant::now() + parallel);
                Box::pin(async move {
                    clock.until(due).await;
                    Ok(text)
                })
            }),
            Kind::Contention => in_lockstep(clock, parallel, move |_| serial),
            Kind::Crosstalk => in_lockstep(clock, parallel, move |others| serial * others),
            Kind::Redis => {
                let client = redis::Client::open(self.redis.unwrap_or_default())?;
                let connection = client.get_multiplexed_async_connection().await?;
                Arc::new(move |text| {
                    let (clock, due, redis) = (clock.clone(), Instant::now() + parallel, connection.clone());
                    Box::pin(async move {
                        clock.until(due).await;
                        held(redis, serial).await?;
                        Ok(text)
                    })
                })
            }
        })
    }
}

/// Holds the one thread of a Redis for a time.
async fn held(mut redis: MultiplexedConnection, time: Duration) -> Result<(), Status> {
    let mut sleep = redis::cmd("DEBUG");
    sleep.arg("SLEEP").arg(time.as_secs_f64());
    let slept = sleep.query_async::<redis::Value>(&mut redis).await;
    slept.map(drop).map_err(|error| Status::unavailable(error.to_string()))
}

fn in_lockstep(
    clock: Clock,
    parallel: Duration,
    serial: impl Fn(u32) -> Duration + Send + Sync + Copy + 'static,
) -> Answer {
    let lockstep = Arc::new(Lockstep::new(clock));
    Arc::new(move |text: Text| {
        let lockstep = Arc::clone(&lockstep);
        Box::pin(async move {
            lockstep.call(parallel, serial).await;
            Ok(text)
        })
    })
}

#[cfg(test)]
mod tests;
