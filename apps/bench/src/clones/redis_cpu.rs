//! CPU time of a Redis, as it counts it itself.

use std::time::Duration;

use anyhow::Context as _;

/// Connection to a Redis that is watched.
pub(super) struct RedisCpu {
    connection: redis::aio::MultiplexedConnection,
}

impl RedisCpu {
    pub(super) async fn connect(url: &str) -> anyhow::Result<RedisCpu> {
        let client = redis::Client::open(url).context("--redis")?;
        let connection = client.get_multiplexed_async_connection().await.context("--redis")?;
        Ok(RedisCpu { connection })
    }

    /// Returns the CPU time that its process has used so far.
    pub(super) async fn used(&mut self) -> anyhow::Result<Duration> {
        let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut self.connection).await?;
        let seconds = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<f64>().ok())
                .with_context(|| format!("INFO says no {name}"))
        };
        Ok(Duration::from_secs_f64(seconds("used_cpu_user")? + seconds("used_cpu_sys")?))
    }
}
