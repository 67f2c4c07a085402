//! Measures what calls cost a Redis: its own counters before and after, less what it does at rest.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tonic::Status;

/// The time for which Redis is watched without load, and that it is left alone after a start.
pub(super) const IDLE: Duration = Duration::from_secs(3);
/// Tries of a call: Redis may be slower than its deadline on a busy machine.
const TRIES_MAX: usize = 5;
/// Commands that this program itself sends to Redis.
const OWN: [&str; 1] = ["info"];

/// Commands, CPU time and memory of Redis: up to a moment, or in a second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) commands: f64,
    pub(super) cpu_us: f64,
    memory: f64,
}

/// Measures calls.
pub(super) struct Meter {
    pub(super) redis: redis::aio::MultiplexedConnection,
    /// Calls of each operation.
    pub(super) calls: usize,
    pub(super) in_flight: usize,
    /// Commands and CPU time used in a second without load.
    pub(super) idle: Usage,
    /// The costs measured so far, in the order in which the operations were measured first.
    pub(super) costs: Vec<Cost>,
}

/// Costs of an operation, one of each repetition.
#[derive(Debug, Default)]
pub(super) struct Cost {
    pub(super) operation: String,
    pub(super) commands: Vec<f64>,
    pub(super) cpu_us: Vec<f64>,
    pub(super) per_second: Vec<f64>,
}

impl Meter {
    async fn usage(&mut self) -> anyhow::Result<Usage> {
        let mut ask = redis::pipe();
        for section in ["commandstats", "cpu", "memory"] {
            ask.cmd("INFO").arg(section);
        }
        let sections: Vec<String> = ask.query_async(&mut self.redis).await?;
        let fields: HashMap<&str, &str> = sections
            .iter()
            .flat_map(|section| section.lines())
            .filter_map(|line| line.split_once(':'))
            .collect();
        let number = |name: &str| -> anyhow::Result<f64> {
            fields
                .get(name)
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("INFO says no {name}"))
        };
        let commands = fields.iter().filter_map(|(name, stats)| {
            let name = name.strip_prefix("cmdstat_")?;
            let calls = stats.strip_prefix("calls=")?.split(',').next()?;
            (!OWN.contains(&name)).then(|| calls.parse::<f64>().ok())?
        });
        Ok(Usage {
            commands: commands.sum(),
            cpu_us: (number("used_cpu_user")? + number("used_cpu_sys")?) * 1e6,
            memory: number("used_memory")?,
        })
    }

    /// Measures what Redis does at rest.
    pub(super) async fn watch_idle(&mut self) -> anyhow::Result<()> {
        let (before, begun) = (self.usage().await?, Instant::now());
        tokio::time::sleep(IDLE).await;
        let (after, seconds) = (self.usage().await?, begun.elapsed().as_secs_f64());
        self.idle.commands = (after.commands - before.commands) / seconds;
        self.idle.cpu_us = (after.cpu_us - before.cpu_us) / seconds;
        Ok(())
    }

    /// Makes `count` calls, each with its number, and returns their answers.
    pub(super) async fn all<T, F>(
        &self,
        count: usize,
        call: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let (next, call) = (Arc::new(AtomicUsize::new(0)), Arc::new(call));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..self.in_flight {
            let (next, call) = (Arc::clone(&next), Arc::clone(&call));
            callers.spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok::<_, Status>(answers);
                    }
                    let mut tries = 1;
                    answers.push(loop {
                        match call(number).await {
                            // This machine may be busy with other things than Redis.
                            Err(status) if status.code() == tonic::Code::Unavailable && tries < TRIES_MAX => {
                                tries += 1;
                            }
                            answer => break answer?,
                        }
                    });
                }
            });
        }
        let mut answers = Vec::with_capacity(count);
        while let Some(of_one) = callers.join_next().await {
            answers.extend(of_one??);
        }
        Ok(answers)
    }

    /// Makes `count` operations, each with its number, and adds a row with the cost of one; it may be several calls.
    pub(super) async fn cost<T, F>(
        &mut self,
        name: impl Display,
        count: usize,
        call: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let (before, begun) = (self.usage().await?, Instant::now());
        let answers = self.all(count, call).await?;
        let (after, seconds) = (self.usage().await?, begun.elapsed().as_secs_f64());
        let of_one =
            |after: f64, before: f64, idle: f64| ((after - before - idle * seconds) / count as f64).max(0.0);
        let (commands, cpu_us) = (
            of_one(after.commands, before.commands, self.idle.commands),
            of_one(after.cpu_us, before.cpu_us, self.idle.cpu_us),
        );
        let cost = self.cost_of(&name.to_string());
        cost.commands.push(commands);
        cost.cpu_us.push(cpu_us);
        cost.per_second.push(count as f64 / seconds);
        Ok(answers)
    }

    fn cost_of(&mut self, operation: &str) -> &mut Cost {
        let known = self.costs.iter().position(|cost| cost.operation == operation);
        let at = known.unwrap_or_else(|| {
            self.costs.push(Cost { operation: operation.to_owned(), ..Cost::default() });
            self.costs.len() - 1
        });
        &mut self.costs[at]
    }

    /// Empties Redis: how full its tables are is a part of what an object takes.
    pub(super) async fn empty(&mut self) -> anyhow::Result<()> {
        let () = redis::cmd("FLUSHALL").query_async(&mut self.redis).await?;
        Ok(())
    }

    /// Makes `count` calls, each with its number, and returns the bytes of Redis' memory that each took.
    pub(super) async fn memory_of<T, F>(
        &mut self,
        count: usize,
        call: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<f64>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let before = self.usage().await?.memory;
        self.all(count, call).await?;
        Ok((self.usage().await?.memory - before) / count as f64)
    }
}
