//! A worker's request for jobs: its fields, checked against their limits.

use std::time::Duration;

use shoal_kit::{Invalid, reason};

use crate::job::id::QueueName;

/// Most jobs of one claim.
pub(crate) const CLAIM_JOBS_MAX: usize = 100;
/// Longest name of a worker.
const WORKER_BYTES_MAX: usize = 128;
/// Length of a lease when the worker gives none.
const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest lease.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// Longest lease.
const LEASE_MAX: Duration = Duration::from_secs(3600);
/// Longest wait for the first job.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Asks for jobs of one queue.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRequest {
    /// The queue whose jobs are wanted.
    pub(crate) queue: QueueName,
    /// The most jobs to claim, 1 to [`CLAIM_JOBS_MAX`].
    pub(crate) max_jobs: usize,
    /// The name of the worker.
    pub(crate) worker: String,
    /// The time until the lease runs out.
    pub(crate) duration: Duration,
}

impl LeaseRequest {
    /// Checks the fields as a worker gives them; 0 jobs and no duration stand for the defaults.
    ///
    /// # Errors
    /// When a field is out of range, naming it.
    pub(crate) fn check(
        queue: &str,
        max_jobs: i32,
        worker: String,
        lease_duration: Option<Duration>,
    ) -> Result<Self, Invalid> {
        let max_jobs = match usize::try_from(max_jobs) {
            Ok(0) => 1,
            Ok(n) if n <= CLAIM_JOBS_MAX => n,
            _ => {
                let problem = format!("must be 1 to {CLAIM_JOBS_MAX}, or 0 for 1");
                return Err(Invalid::new(reason::INVALID_MAX_JOBS, "max_jobs", problem));
            }
        };
        if worker.len() > WORKER_BYTES_MAX {
            let problem = format!("must have at most {WORKER_BYTES_MAX} bytes");
            return Err(Invalid::new(reason::INVALID_WORKER, "worker", problem));
        }
        let duration = check_duration(lease_duration)?;
        Ok(Self { queue: QueueName::parse(queue)?, max_jobs, worker, duration })
    }
}

/// Checks the length of a lease; `None` stands for the default.
///
/// # Errors
/// When it is out of range.
pub(crate) fn check_duration(lease_duration: Option<Duration>) -> Result<Duration, Invalid> {
    let duration = lease_duration.unwrap_or(LEASE_DEFAULT);
    if !(LEASE_MIN..=LEASE_MAX).contains(&duration) {
        return Err(Invalid::new(
            reason::INVALID_LEASE_DURATION,
            "lease_duration",
            "must be 1 second to 1 hour",
        ));
    }
    Ok(duration)
}

/// Checks how long a worker waits for the first job; `None` stands for not at all.
///
/// # Errors
/// When it is too long.
pub(crate) fn check_wait(wait: Option<Duration>) -> Result<Duration, Invalid> {
    let wait = wait.unwrap_or_default();
    if wait > WAIT_MAX {
        let problem = "must be at most 30 seconds; call again instead";
        return Err(Invalid::new(reason::INVALID_WAIT, "wait", problem));
    }
    Ok(wait)
}
