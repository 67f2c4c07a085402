//! Repeats of calls that may be repeated: with growing pauses, and not for ever.

use std::time::Duration;

use tonic::{Code, Status};

/// The attempts of one call, or of one place of a scan, before a run gives up.
pub(crate) const ATTEMPTS_MAX: u32 = 10;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Returns whether the same call may succeed later.
pub(crate) fn is_passing(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable, Unknown};
    matches!(
        status.code(),
        Aborted | Cancelled | DeadlineExceeded | ResourceExhausted | Unavailable | Unknown
    )
}

/// Waits before the next attempt after `failed` failures.
pub(crate) async fn pause(failed: u32) {
    tokio::time::sleep(longest_pause(failed).mul_f64(0.5 + fastrand::f64() / 2.0)).await;
}

fn longest_pause(failed: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(PAUSE_MAX)
}

/// Calls until it succeeds, fails for good, or has failed too often.
pub(crate) async fn repeat<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let mut failed = 0;
    loop {
        match call().await {
            Err(status) if is_passing(&status) && failed + 1 < ATTEMPTS_MAX => {
                failed += 1;
                pause(failed).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_passing_errors_are_repeated() {
        for (code, expected) in [(Code::Unavailable, 3), (Code::InvalidArgument, 1)] {
            let mut calls = 0;
            let done = repeat(async || {
                calls += 1;
                if calls == 3 { Ok(()) } else { Err(Status::new(code, "x")) }
            });
            assert_eq!(done.await.is_ok(), expected == 3);
            assert_eq!(calls, expected);
        }
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        assert_eq!([1, 2, 3].map(longest_pause), [100, 200, 400].map(Duration::from_millis));
        assert_eq!(longest_pause(ATTEMPTS_MAX), PAUSE_MAX);
    }
}
