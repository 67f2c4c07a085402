//! Callers that keep calling, and what they were answered.

use std::time::Duration;

use shoal_redis_link::{Link, LinkError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::server::{PATIENCE, eventually};
use crate::stalls::Stalls;

/// The bound that the link promises for its default deadline, at the 99th percentile.
pub(crate) const BOUND: Duration = Duration::from_millis(250);

/// A call that is not sent: what a busy machine needs for it.
const AT_ONCE: Duration = Duration::from_millis(50);

const CALLERS: usize = 32;

/// When each caller has begun its first call.
const FIRST: Duration = Duration::from_millis(100);

/// Between two calls of one caller.
const PACE: Duration = Duration::from_millis(5);

/// The answer of a call.
pub(crate) struct Answer {
    pub(crate) started: Duration,
    pub(crate) took: Duration,
    pub(crate) result: Result<u64, LinkError>,
}

pub(crate) struct Answers(pub(crate) Vec<Answer>);

/// Counts `counter` up from many tasks for a while.
pub(crate) async fn count_up(link: &Link, counter: &'static str, duration: Duration) -> Answers {
    let stalls = Stalls::watch();
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let link = link.clone();
        callers.spawn(async move {
            let mut calls = Vec::new();
            while begin.elapsed() < duration {
                let started = Instant::now();
                let result = link.query::<u64>(redis::cmd("INCR").arg(counter)).await;
                calls.push((started, Instant::now(), result));
                sleep(PACE).await;
            }
            calls
        });
    }
    let calls = callers.join_all().await.into_iter().flatten();
    let answer = |(started, ended, result)| Answer {
        started: started - begin,
        took: stalls.between(started, ended),
        result,
    };
    Answers(calls.map(answer).collect())
}

impl Answers {
    pub(crate) fn ok(&self) -> u64 {
        self.count(|result| result.is_ok())
    }

    pub(crate) fn unknown(&self) -> u64 {
        self.count(|result| matches!(result, Err(LinkError::Unknown(_))))
    }

    pub(crate) fn unavailable(&self) -> u64 {
        self.count(|result| matches!(result, Err(LinkError::Unavailable(_))))
    }

    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut took: Vec<_> = self.0.iter().map(|answer| answer.took).collect();
        took.sort_unstable();
        took[(took.len() * percent / 100).min(took.len() - 1)]
    }

    /// Each was answered in time, and by an error that says what may have happened.
    pub(crate) fn assert_an_outage_in_bounds(&self) {
        let total = self.0.len() as u64;
        assert!(total >= CALLERS as u64, "only {total} calls");
        let (ok, unknown, unavailable) = (self.ok(), self.unknown(), self.unavailable());
        assert_eq!(ok + unknown + unavailable, total, "no other kind of error");
        let p99 = self.percentile(99);
        assert!(
            p99 <= BOUND,
            "p99 {p99:?} of {total} calls ({ok} ok, {unknown} unknown, {unavailable} unavailable)"
        );
    }

    /// Asserts that all calls were refused at once and unsent.
    pub(crate) fn assert_all_refused_at_once(&self) {
        let total = self.0.len() as u64;
        assert_eq!(self.unavailable(), total, "{} ok, {} unknown", self.ok(), self.unknown());
        let p99 = self.percentile(99);
        assert!(p99 <= AT_ONCE, "p99 {p99:?} of {total} calls");
    }

    /// The calls that found Redis gone: what comes later is answered at once and would hide their times.
    pub(crate) fn assert_the_first_in_bounds(&self) {
        let first: Vec<_> =
            self.0.iter().filter(|answer| answer.started < FIRST).map(|answer| answer.took).collect();
        assert!(first.len() >= CALLERS);
        let over = first.iter().filter(|took| **took > BOUND).count();
        assert!(
            over * 100 <= first.len(),
            "{over} of the first {} calls took over {BOUND:?}: {first:?}",
            first.len()
        );
    }

    fn count(&self, is: impl Fn(&Result<u64, LinkError>) -> bool) -> u64 {
        self.0.iter().filter(|answer| is(&answer.result)).count() as u64
    }
}

/// Returns the time until a call succeeds.
pub(crate) async fn until_served(link: &Link) -> Duration {
    let stalls = Stalls::watch();
    let begin = Instant::now();
    while link.query::<u64>(redis::cmd("INCR").arg("probe")).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "never served again");
        sleep(PACE).await;
    }
    stalls.since(begin)
}

/// Returns the time until the link knows that Redis is gone.
pub(crate) async fn until_noticed(link: &Link) -> Duration {
    let stalls = Stalls::watch();
    let begin = Instant::now();
    eventually("noticed", async || !link.healthy()).await;
    stalls.since(begin)
}
