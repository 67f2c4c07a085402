//! Jobs that are enqueued together: what holds of all of them, and errors that name the one they are about.

use shoal_kit::{Invalid, reason};

use crate::job::id::QueueName;

/// Most jobs of one batch.
const JOBS_MAX: usize = 100;
/// Most bytes of the payloads of one batch.
const BYTES_MAX: usize = 3 << 20;

/// Returns the queue of a batch, of which each job gives its queue and the length of its payload.
///
/// # Errors
/// When there are no jobs or too many, when they name different queues, or when their payloads are too large together.
pub(crate) fn check(jobs: &[(&str, usize)]) -> Result<QueueName, Invalid> {
    let (queue, _) = jobs.first().filter(|_| jobs.len() <= JOBS_MAX).ok_or_else(|| {
        Invalid::new(reason::INVALID_BATCH, "requests", format!("must be 1 to {JOBS_MAX} jobs"))
    })?;
    if let Some(other) = jobs.iter().position(|(other, _)| other != queue) {
        let problem = "must be the queue of requests[0]; send a batch for each queue";
        return Err(of_request(Invalid::new(reason::INVALID_BATCH, "queue", problem), other));
    }
    if jobs.iter().map(|(_, bytes)| bytes).sum::<usize>() > BYTES_MAX {
        let problem = format!("must have at most {BYTES_MAX} bytes of payload together; send fewer at once");
        return Err(Invalid::new(reason::BATCH_TOO_LARGE, "requests", problem));
    }
    QueueName::parse(queue).map_err(|invalid| of_request(invalid, 0))
}

/// Names the request of a batch that a field belongs to.
pub(crate) fn of_request(invalid: Invalid, index: usize) -> Invalid {
    invalid.within(&format!("requests[{index}]"))
}
