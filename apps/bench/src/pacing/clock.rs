//! A clock that wakes sleepers when they asked for it. Tokio's timers are a millisecond coarse, which is too much where the
//! bounds are a few of them.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use tokio::sync::oneshot;

/// A clock with a thread of its own, which ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    alarms: mpsc::Sender<Alarm>,
}

#[derive(Debug)]
struct Alarm {
    at: Instant,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Alarm) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Alarm) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Alarm) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl Clock {
    /// Starts a clock.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub(crate) fn start() -> std::io::Result<Clock> {
        let (alarms, set) = mpsc::channel();
        std::thread::Builder::new().name("clock".to_owned()).spawn(move || keep_time(&set))?;
        Ok(Clock { alarms })
    }

    /// Sleeps until a moment; returns at once if it has passed.
    pub(crate) async fn until(&self, at: Instant) {
        if at <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        if self.alarms.send(Alarm { at, wake }).is_ok() {
            let _ = woken.await;
        }
    }
}

fn keep_time(set: &mpsc::Receiver<Alarm>) {
    let mut alarms: BinaryHeap<Reverse<Alarm>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while let Some(Reverse(next)) = alarms.peek()
            && next.at <= now
        {
            if let Some(Reverse(alarm)) = alarms.pop() {
                let _ = alarm.wake.send(());
            }
        }
        let received = match alarms.peek() {
            Some(Reverse(next)) => set.recv_timeout(next.at.saturating_duration_since(Instant::now())),
            None => set.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(alarm) => alarms.push(Reverse(alarm)),
            Err(RecvTimeoutError::Timeout) => {}
            // Nobody can sleep any more: a sleeper holds a handle.
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn sleepers_wake_in_their_order() {
        let clock = Clock::start().expect("a thread");
        let begun = Instant::now();
        let woken = std::sync::Mutex::new(Vec::new());
        let sleep = async |ms: u64| {
            clock.until(begun + Duration::from_millis(ms)).await;
            woken.lock().expect("whole").push(ms);
            assert!(begun.elapsed() >= Duration::from_millis(ms));
        };
        tokio::join!(sleep(30), sleep(10), sleep(20), sleep(0));
        assert_eq!(*woken.lock().expect("whole"), [0, 10, 20, 30]);
    }
}
