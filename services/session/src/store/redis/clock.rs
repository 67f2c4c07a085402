//! A copy of Redis' clock at a clone. It says when recording a use is due and when keys were noted; all else is decided
//! by Redis' own clock.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{Clock, Time};

/// The machine's clock, set by what Redis last said: with every change, and with every other sweep.
#[derive(Debug, Default)]
pub(super) struct RedisClock {
    machine: Clock,
    /// Milliseconds by which Redis' clock is ahead of the machine's.
    ahead: AtomicI64,
}

impl RedisClock {
    /// Sets the clock to the time that Redis said.
    pub(super) fn told(&self, now: Time) {
        self.ahead.store(now.millis() - self.machine.now().millis(), Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Time {
        Time::from_millis(self.machine.now().millis() + self.ahead.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn clock_continues_from_redis_time() {
        let machine = Arc::new(AtomicI64::new(1_000));
        let clock = RedisClock { machine: Clock::Manual(Arc::clone(&machine)), ..RedisClock::default() };
        assert_eq!(clock.now().millis(), 1_000);
        clock.told(Time::from_millis(400));
        machine.store(1_250, Ordering::SeqCst);
        assert_eq!(clock.now().millis(), 650);
    }
}
