//! `shoal bench known`: a server whose scalability is known beforehand, for the tests of the verdict. Its service is the
//! echo's, with the time that each call takes made of timers alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
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

/// Serves until killed.
pub(crate) async fn run(args: KnownArgs) -> anyhow::Result<()> {
    let clock = Clock::start()?;
    let parallel = Duration::from_secs_f64(args.parallel_ms / 1e3);
    let serial = Duration::from_secs_f64(args.serial_ms / 1e3);
    let answer: Answer = match args.kind {
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
            let client = redis::Client::open(args.redis.unwrap_or_default())?;
            let connection = client.get_multiplexed_async_connection().await?;
            Arc::new(move |text| {
                let (clock, due, mut connection) =
                    (clock.clone(), Instant::now() + parallel, connection.clone());
                Box::pin(async move {
                    clock.until(due).await;
                    let mut sleep = redis::cmd("DEBUG");
                    sleep.arg("SLEEP").arg(serial.as_secs_f64());
                    let slept = sleep.query_async::<()>(&mut connection).await;
                    slept.map_err(|error| Status::unavailable(error.to_string()))?;
                    Ok(text)
                })
            })
        }
    };
    echo::serve(args.listen, answer).await
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
