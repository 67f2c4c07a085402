//! Names of queues and ids of jobs. An id names its queue, so that a job is found by its id alone.

use shoal_kit::{Invalid, reason};
use uuid::Uuid;

/// Longest name of a queue.
pub(crate) const QUEUE_BYTES_MAX: usize = 64;

/// Length of an id's tail, the part that tells jobs of one queue apart: 128 bits, five in each character.
pub(crate) const TAIL_LEN: usize = 26;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Name of a queue: 1 to 64 characters of `[A-Za-z0-9_.-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QueueName(String);

impl QueueName {
    /// Checks a name.
    ///
    /// # Errors
    /// When the name is empty, too long or has other characters.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        if Self::is_valid(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            reason::INVALID_QUEUE,
            "queue",
            format!("must have 1 to {QUEUE_BYTES_MAX} characters of [A-Za-z0-9_.-]"),
        ))
    }

    fn is_valid(text: &str) -> bool {
        (1..=QUEUE_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    }

    /// Returns the name as text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for QueueName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of a job: `QUEUE.TAIL`. The tail has a fixed length and no dot, so the last dot separates the two whatever the queue's
/// name is. To callers ids are opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobId {
    queue: QueueName,
    tail: String,
}

impl JobId {
    /// Makes a new id in a queue. Later ids sort later, to a millisecond of this machine's clock, but nothing relies on it.
    #[must_use]
    pub(crate) fn generate(queue: &QueueName) -> Self {
        Self { queue: queue.clone(), tail: encode(Uuid::now_v7().as_u128()) }
    }

    /// Parses an id. Returns `None` if no job can have it.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (queue, tail) = text.rsplit_once('.')?;
        QueueName::is_valid(queue).then_some(())?;
        Self::of_tail(&QueueName(queue.to_owned()), tail)
    }

    /// Makes the id of a job from its queue and its tail, which is what stores keep.
    #[must_use]
    pub(crate) fn of_tail(queue: &QueueName, tail: &str) -> Option<Self> {
        let valid = tail.len() == TAIL_LEN && tail.bytes().all(|b| ALPHABET.contains(&b));
        valid.then(|| Self { queue: queue.clone(), tail: tail.to_owned() })
    }

    /// Returns the queue of the job.
    #[must_use]
    pub(crate) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Returns the tail, [`TAIL_LEN`] characters that tell the job from others of its queue.
    #[must_use]
    pub(crate) fn tail(&self) -> &str {
        &self.tail
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.queue, self.tail)
    }
}

/// Encodes a number in Crockford's base 32, in lower case.
fn encode(mut number: u128) -> String {
    let mut text = [0; TAIL_LEN];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(number % 32) as usize];
        number /= 32;
    }
    text.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_dotted_queues_parse() {
        for name in ["mail", "a.b.c", "x.0123456789abcdefghjkmnpqrs", "-", "..."] {
            let queue = QueueName::parse(name).unwrap();
            let id = JobId::generate(&queue);
            assert_eq!(JobId::parse(&id.to_string()), Some(id.clone()));
            assert_eq!(id.queue().as_str(), name);
        }
    }

    #[test]
    fn impossible_ids_do_not_parse() {
        let tail = encode(u128::MAX);
        for bad in [
            "",
            "nope",
            "q.",
            &tail,
            &format!(".{tail}"),
            &format!("q/{tail}"),
            &format!("q.{tail}0"),
            &format!("q q.{tail}"),
        ] {
            assert_eq!(JobId::parse(bad), None, "{bad}");
        }
        assert!(JobId::parse(&format!("q.{tail}")).is_some());
    }

    #[test]
    fn queue_names_are_limited() {
        for bad in ["", "a b", "a{b}", "ä", &"x".repeat(65)] {
            assert!(QueueName::parse(bad).is_err(), "{bad}");
        }
        assert!(QueueName::parse(&"x".repeat(64)).is_ok());
    }
}
