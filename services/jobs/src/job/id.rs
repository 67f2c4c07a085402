//! Names of queues and ids of jobs. An id names its queue, so that a job is found by its id alone.

use shoal_kit::{Invalid, reason};
use uuid::Uuid;

/// Longest name of a queue.
pub(crate) const QUEUE_BYTES_MAX: usize = 64;

/// Characters of the part of an id that tells jobs of one queue apart: 128 bits, five each.
pub(crate) const TAIL_LEN: usize = 26;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A queue: 1 to 64 characters of `[A-Za-z0-9_.-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QueueName(String);

impl QueueName {
    /// Parses a name.
    ///
    /// # Errors
    /// When it is empty, too long or has other characters.
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

    /// The name.
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

/// A job's id: `QUEUE.TAIL`. The tail has a fixed length and no dot, so the last dot parts the two whatever the
/// queue's name is. Callers are told that ids are opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobId {
    queue: QueueName,
    tail: String,
}

impl JobId {
    /// A new id in a queue. Ids made later sort later, to a millisecond of this machine's clock: nothing relies on it.
    #[must_use]
    pub(crate) fn generate(queue: &QueueName) -> Self {
        Self { queue: queue.clone(), tail: encode(Uuid::now_v7().as_u128()) }
    }

    /// Parses an id. `None` means that no job can have it.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (queue, tail) = text.rsplit_once('.')?;
        QueueName::is_valid(queue).then_some(())?;
        Self::of_tail(&QueueName(queue.to_owned()), tail)
    }

    /// The id of a job of a queue by its tail, as stores keep it.
    #[must_use]
    pub(crate) fn of_tail(queue: &QueueName, tail: &str) -> Option<Self> {
        let valid = tail.len() == TAIL_LEN && tail.bytes().all(|b| ALPHABET.contains(&b));
        valid.then(|| Self { queue: queue.clone(), tail: tail.to_owned() })
    }

    /// The job's queue.
    #[must_use]
    pub(crate) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// What tells the job from others of its queue: [`TAIL_LEN`] characters.
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

/// Crockford's base 32, lower case.
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
    fn an_id_says_its_queue_even_when_the_queue_has_dots() {
        for name in ["mail", "a.b.c", "x.0123456789abcdefghjkmnpqrs", "-", "..."] {
            let queue = QueueName::parse(name).unwrap();
            let id = JobId::generate(&queue);
            assert_eq!(JobId::parse(&id.to_string()), Some(id.clone()));
            assert_eq!(id.queue().as_str(), name);
        }
    }

    #[test]
    fn what_cannot_be_an_id_is_told() {
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
    fn names_of_queues_are_limited() {
        for bad in ["", "a b", "a{b}", "ä", &"x".repeat(65)] {
            assert!(QueueName::parse(bad).is_err(), "{bad}");
        }
        assert!(QueueName::parse(&"x".repeat(64)).is_ok());
    }
}
