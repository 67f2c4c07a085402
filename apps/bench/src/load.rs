//! Loads: their results, and the threads that they have for themselves, apart from the benchmark's other work.

pub(crate) mod arrivals;
pub(crate) mod call;
pub(crate) mod closed;
pub(crate) mod open;

use std::future::Future;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Result of a load.
#[derive(Debug)]
pub(crate) struct Done {
    /// Calls that were answered OK.
    pub(crate) calls: u64,
    /// Calls that were answered otherwise or not at all. Only an open loop goes on after one.
    pub(crate) failed: u64,
    /// Calls that were due and not made, because too many were outstanding.
    pub(crate) missed: u64,
    pub(crate) elapsed: Duration,
    /// Latency of the calls answered OK, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Returns an empty histogram of microseconds, with three digits.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Runs a future on a thread with a runtime of its own, and waits for it without blocking this runtime.
pub(crate) async fn on_own_thread<T, F>(load: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>>,
{
    let handle = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(load())
    })?;
    tokio::task::spawn_blocking(move || handle.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the load generator panicked"))?
}
