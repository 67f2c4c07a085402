//! The answers that were received from clones and that their callers have not taken: how many bytes of them one client
//! connection, and all together, may leave here, and what becomes of its calls when they are too many.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use shoal_http2::Unread as Counter;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use crate::config::Limits;

/// One connection has at most a part of what is left of the whole, by the rule that holds for [calls](crate::in_flight).
const FREE_FOR_ONE: usize = 4;

/// A connection that has left half of what it may is crowded: its further calls wait.
const CROWDED: usize = 2;

/// How often a caller that takes nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the answer to a unary call of a crowded connection is kept: its clone holds the rest of it.
const CROWDED_TIME: Duration = Duration::from_secs(2);

/// Taking less than this is taking nothing.
const PROGRESS_BYTES: usize = 4 << 10;

/// A connection that has left this much is looked at whenever more comes.
const WATCHED_BYTES: usize = 1 << 20;

/// What one connection has left.
pub(crate) struct Unread {
    pub(crate) counter: Arc<Counter>,
    all: Arc<Counter>,
    limits: Limits,
    /// Calls that wait until some of it is taken.
    waiting: AtomicUsize,
    taken: Notify,
}

impl Unread {
    pub(crate) fn new(all: Arc<Counter>, limits: Limits) -> Unread {
        Unread {
            counter: Arc::new(Counter::part_of(all.clone())),
            all,
            limits,
            waiting: AtomicUsize::new(0),
            taken: Notify::new(),
        }
    }

    /// How much it may leave now.
    pub(crate) fn most(&self) -> usize {
        let free = self.limits.unread_bytes_total.saturating_sub(self.all.bytes());
        self.limits.unread_bytes.min(free / FREE_FOR_ONE)
    }

    /// Whether more than that is left.
    fn is_full(&self) -> bool {
        self.counter.bytes() > self.most()
    }

    /// Whether its further calls are to wait.
    pub(crate) fn is_crowded(&self) -> bool {
        let bytes = self.counter.bytes();
        // Most often it has left nothing at all.
        bytes > WATCHED_BYTES && bytes > self.most() / CROWDED
    }

    /// Waits until it is no longer crowded. Says whether that came in time.
    pub(crate) async fn no_longer_crowded(&self) -> bool {
        let _waits = Waits::new(&self.waiting);
        let wait = async {
            loop {
                let taken = self.taken.notified();
                if !self.is_crowded() {
                    // And there may be room for the next.
                    return self.taken.notify_one();
                }
                taken.await;
            }
        };
        tokio::time::timeout(self.limits.unread_time, wait).await.is_ok()
    }

    /// A call has ended, and with it what was left of its answer.
    pub(crate) fn call_ended(&self) {
        self.some_was_taken();
    }

    fn some_was_taken(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.taken.notify_one();
        }
    }
}

struct Waits<'u>(&'u AtomicUsize);

impl Waits<'_> {
    fn new(waiting: &AtomicUsize) -> Waits<'_> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waits(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of one answer: since when its caller takes nothing. Costs nothing as long as the caller keeps up.
#[derive(Default)]
pub(crate) struct Stall(Option<Box<Stalled>>);

struct Stalled {
    /// None: the caller has caught up.
    since: Option<Instant>,
    /// What was taken since.
    taken: usize,
    timer: Pin<Box<Sleep>>,
}

/// The caller has taken nothing for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotTaken(pub(crate) Duration);

impl Stall {
    /// Nothing can be sent now. Ready when the answer is not kept any longer. `unary`: it is to a call of one message, whose
    /// caller has no reason to leave it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, unread: &Unread, unary: bool) -> Poll<NotTaken> {
        let stalled = self.0.get_or_insert_with(|| {
            Box::new(Stalled { since: None, taken: 0, timer: Box::pin(sleep(LOOK_EVERY)) })
        });
        let since = *stalled.since.get_or_insert_with(Instant::now);
        if unread.is_full() {
            return Poll::Ready(NotTaken(since.elapsed()));
        }
        while stalled.timer.as_mut().poll(cx).is_ready() {
            let (now, crowded) = (Instant::now(), unread.is_crowded());
            let time = unread.limits.unread_time;
            let time = if unary && crowded { time.min(CROWDED_TIME) } else { time };
            if (unary || crowded) && now - since >= time {
                return Poll::Ready(NotTaken(now - since));
            }
            stalled.timer.as_mut().reset(now + LOOK_EVERY);
        }
        Poll::Pending
    }

    /// Whether it is stalled for the first time.
    pub(crate) fn is_new(&self) -> bool {
        self.0.is_none()
    }

    /// Whether to [poll](Stall::poll) whenever more of the answer comes.
    pub(crate) fn is_watched(&self, unread: &Unread) -> bool {
        unread.counter.bytes() > WATCHED_BYTES
    }

    /// The caller has taken some.
    pub(crate) fn took(&mut self, bytes: usize, unread: &Unread) {
        if let Some(stalled) = &mut self.0 {
            stalled.taken += bytes;
            if stalled.taken >= PROGRESS_BYTES {
                (stalled.taken, stalled.since) = (0, None);
            }
            unread.some_was_taken();
        }
    }

    /// The caller has taken all there is.
    pub(crate) fn caught_up(&mut self) {
        if let Some(stalled) = &mut self.0 {
            (stalled.taken, stalled.since) = (0, None);
        }
    }
}
