//! Says of something that happens often how often it happened, once in a while.

use std::time::{Duration, Instant};

/// Between two lines about the same.
const EVERY: Duration = Duration::from_secs(1);

/// Counts what is not said at once.
#[derive(Debug, Default)]
pub struct Seldom {
    said: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Counts an event. Returns the number of events since the last report when it is time to report again.
    pub fn happened(&mut self) -> Option<u64> {
        self.happened_at(Instant::now())
    }

    fn happened_at(&mut self, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        if self.said.is_some_and(|said| now.duration_since(said) < EVERY) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_reported_at_once() {
        let (mut seldom, now) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.happened_at(now), Some(1));
        for _ in 0..9 {
            assert_eq!(seldom.happened_at(now + EVERY / 2), None);
        }
        assert_eq!(seldom.happened_at(now + EVERY), Some(10));
        assert_eq!(seldom.happened_at(now + EVERY * 3), Some(1));
    }
}
