//! The task of each clone that removes expired sessions from the indexes, which makes their events.

use std::time::Duration;

use shoal_kit::EngineError;

use crate::error::Error;
use crate::store::Store;

/// Sweeps every `interval`, a little apart from the other clones; never ends by itself.
pub(crate) async fn run<S: Store>(store: S, interval: Duration) {
    let mut failing = false;
    loop {
        tokio::time::sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        match store.sweep().await {
            Ok(ended) => {
                metrics::counter!("shoal_session_expired_total").increment(ended);
                failing = false;
            }
            // The connection says so, once for the process.
            Err(Error::Engine(error @ EngineError::Unavailable { engine: "redis", .. })) => {
                tracing::debug!(%error, "ended sessions stay in the indexes until the store answers");
            }
            // One line for an outage, not one a second.
            Err(error) if !failing => {
                tracing::warn!(%error, "ended sessions stay in the indexes until the store answers");
                failing = true;
            }
            Err(_) => {}
        }
    }
}
