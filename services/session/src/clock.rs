//! Instants as the store keeps them, and where the embedded store reads them. Redis has a clock of its own.

#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use std::time::{Duration, SystemTime};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Time(i64);

impl Time {
    pub(crate) const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub(crate) const fn millis(self) -> i64 {
        self.0
    }

    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    pub(crate) fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }
}

/// Returns a duration in whole milliseconds; the configured maxima keep it far from overflow.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Tells the time.
#[derive(Debug, Clone, Default)]
pub(crate) enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that tests move by hand.
    #[cfg(test)]
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub(crate) fn now(&self) -> Time {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Time(millis(since))
            }
            #[cfg(test)]
            Clock::Manual(millis) => Time(millis.load(Ordering::SeqCst)),
        }
    }

    #[cfg(test)]
    pub(crate) fn manual() -> Self {
        Clock::Manual(Arc::new(AtomicI64::new(1_700_000_000_000)))
    }

    #[cfg(test)]
    pub(crate) fn advance(&self, by: Duration) {
        match self {
            Clock::System => panic!("the machine's clock is not ours to move"),
            Clock::Manual(now) => now.fetch_add(millis(by), Ordering::SeqCst),
        };
    }
}
