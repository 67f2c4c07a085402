//! The harness of all tests: engines from the environment, processes that end with their test, waiting with a deadline.

pub(crate) mod clone;
pub(crate) mod engines;
pub(crate) mod grpcurl;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod raw_codec;
pub(crate) mod up;

use std::time::{Duration, Instant};

/// Polls until `ready` returns a value; panics with `what` after `within`.
pub(crate) async fn eventually<T, F>(what: &str, within: Duration, mut ready: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let begun = Instant::now();
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(begun.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns a seed for a randomised test, and prints it so that a failure can be repeated with `SHOAL_TEST_SEED`.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("SHOAL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{test}: SHOAL_TEST_SEED={seed}");
    seed
}

/// Returns the number in `variable`, or `default`: small for every day, larger for a report.
pub(crate) fn number_of(variable: &str, default: u64) -> u64 {
    let Ok(value) = std::env::var(variable) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number"))
}
