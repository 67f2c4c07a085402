//! Loads: what is offered to a target, and what came out. The calls are made by threads of their own, apart from the
//! benchmark's other work.

pub(crate) mod arrivals;
pub(crate) mod call;
mod closed;
mod connections;
pub(crate) mod level;
pub(crate) mod limits;
pub(crate) mod live;
mod measure;
pub(crate) mod measured;
mod open;
mod run;
pub(crate) mod target;
mod thread;

pub(crate) use measure::measure;

use std::future::Future;

/// Runs a future on a thread with a runtime of its own, and waits for it without blocking this runtime.
pub(crate) async fn on_own_thread<T, F>(
    name: &str,
    load: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>>,
{
    let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(load())
    })?;
    tokio::task::spawn_blocking(move || handle.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the load generator panicked"))?
}
