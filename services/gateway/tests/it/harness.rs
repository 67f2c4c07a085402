//! The parts that the tests share: a gateway in this process, upstreams and callers over real sockets, waiting with a deadline.

pub(crate) mod caller;
pub(crate) mod echo;
pub(crate) mod frames;
pub(crate) mod mesh;
pub(crate) mod peer;
pub(crate) mod upstream;

use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine, shorter than anyone's patience.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Polls until `ready` gives something; panics with `what` after [`SOON`].
pub(crate) async fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begun.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Awaits `future`; panics with `what` after [`SOON`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {SOON:?}"),
    }
}

/// A seed for a randomised test, printed so that a failure can be repeated with `SHOAL_TEST_SEED`.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("SHOAL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{test}: SHOAL_TEST_SEED={seed}");
    seed
}

/// Returns how much of something, if the environment does not say: little for every day, more for a report.
pub(crate) fn number_of(variable: &str, default: usize) -> usize {
    let Ok(value) = std::env::var(variable) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number"))
}
