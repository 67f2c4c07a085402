//! The wait of a failed job before it is tried again.

use std::time::Duration;

/// Longest wait, however often the job failed.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(3600);

/// Returns the wait after the `attempt`th failure (from 1): `base` doubled each time up to [`BACKOFF_MAX`], then shortened
/// by up to a fifth, so that jobs that failed together do not come back together. The same job and attempt always give the
/// same wait: a report that is repeated, or replayed after a crash, changes nothing.
///
/// The script `fail.lua` computes the same wait in the same steps.
#[must_use]
pub(crate) fn delay(base: Duration, attempt: u32, seed: u16) -> Duration {
    let max = BACKOFF_MAX.as_millis() as u64;
    let doublings = attempt.saturating_sub(1).min(32);
    let full = (base.as_millis() as u64).saturating_mul(1 << doublings).min(max);
    let jitter = (u64::from(seed) + u64::from(attempt) * 40_503) % 65_536;
    Duration::from_millis(full - full * jitter / (5 * 65_536))
}

/// Returns the seed that spreads the waits of different jobs: 16 bits of the FNV-1a hash of the id's tail.
#[must_use]
pub(crate) fn seed(tail: &str) -> u16 {
    let hash =
        tail.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16) as u16 ^ hash as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        for seed in [0, 1, 77, u16::MAX] {
            for attempt in 1..=100 {
                let full = Duration::from_secs(1).saturating_mul(1 << (attempt - 1).min(20)).min(BACKOFF_MAX);
                let delay = delay(Duration::from_secs(1), attempt, seed);
                assert!(
                    delay <= full && delay >= full.mul_f64(0.8),
                    "{attempt}, {seed}: {delay:?} of {full:?}"
                );
            }
        }
    }

    #[test]
    fn waits_repeat_and_differ_between_jobs() {
        let base = Duration::from_secs(60);
        assert_eq!(delay(base, 3, seed("a")), delay(base, 3, seed("a")));
        assert_ne!(delay(base, 3, seed("a")), delay(base, 3, seed("b")));
        assert_ne!(delay(base, 1, 7) * 2, delay(base, 2, 7));
    }
}
