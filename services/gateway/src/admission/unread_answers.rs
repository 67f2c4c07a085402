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

/// The part of what is left free that one connection has at most, by the rule that holds for [calls](super::calls).
const FREE_FOR_ONE: usize = 4;

/// A connection that has left half of what it may is crowded: its answers get no wider windows.
const CROWDED: usize = 2;

/// The multiple of its bound that a connection may leave unread; above it, answers of which nothing was taken yet are given up at
/// once.
const FAR_TOO_MUCH: usize = 2;

/// The interval between two looks at a caller that takes nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The time that the answer to a unary call of a crowded connection is kept while nothing of it is taken: its clone holds the
/// rest of it. So long is any answer kept for a connection that has left more than it may.
const CROWDED_TIME: Duration = Duration::from_secs(2);

/// Taking less than this is taking nothing.
const PROGRESS_BYTES: usize = 4 << 10;

/// The bytes per second at which a connection counts as taking its answers in turn: one that is not taken has not had its turn.
const TURNS_BYTES: usize = 64 << 10;

/// A connection that has left this much is looked at whenever more comes; with less it is not crowded.
const WATCHED_BYTES: usize = 1 << 20;

/// The answers that one connection has left unread.
pub(crate) struct UnreadAnswers {
    pub(crate) counter: Arc<Counter>,
    all: Arc<Counter>,
    limits: Limits,
    /// The bytes that its callers took of answers that had waited for them.
    moved: AtomicUsize,
    /// Calls that wait until some of it is taken.
    waiting: AtomicUsize,
    taken: Notify,
}

impl UnreadAnswers {
    pub(crate) fn new(all: Arc<Counter>, limits: Limits) -> UnreadAnswers {
        UnreadAnswers {
            counter: Arc::new(Counter::part_of(all.clone())),
            all,
            limits,
            moved: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            taken: Notify::new(),
        }
    }

    /// Returns how much it may leave now.
    pub(crate) fn most(&self) -> usize {
        let free = self.limits.unread_bytes_total.saturating_sub(self.all.bytes());
        self.limits.unread_bytes.min(free / FREE_FOR_ONE)
    }

    /// Returns whether more is left unread than the connection may leave.
    fn is_full(&self) -> bool {
        self.counter.bytes() > self.most()
    }

    /// Returns whether further calls of the connection are to wait.
    pub(crate) fn holds_calls(&self) -> bool {
        let bytes = self.counter.bytes();
        // Most often it has left nothing at all. However little others leave free, each connection goes on with this much.
        bytes > WATCHED_BYTES && bytes > self.most()
    }

    /// Returns whether so much is left unread that it cannot wait.
    fn is_far_too_full(&self) -> bool {
        let bytes = self.counter.bytes();
        bytes > WATCHED_BYTES && bytes > self.most() * FAR_TOO_MUCH
    }

    /// Returns whether the connection has taken its answers in turn during `time`, at whose begin it had `moved` this many bytes.
    fn moves(&self, moved: usize, time: Duration) -> bool {
        let seconds = usize::try_from(time.as_secs()).unwrap_or(usize::MAX).max(1);
        self.moved.load(Ordering::Relaxed).wrapping_sub(moved) >= TURNS_BYTES.saturating_mul(seconds)
    }

    /// The widest window of an answer.
    pub(crate) fn window(&self) -> u32 {
        self.limits.answer_window
    }

    /// Returns whether the connection is crowded: its answers get no wider windows, and are not waited for as long.
    pub(crate) fn is_crowded(&self) -> bool {
        let bytes = self.counter.bytes();
        bytes > WATCHED_BYTES && bytes > self.most() / CROWDED
    }

    /// Waits until it holds calls no longer. Says whether that came in time.
    pub(crate) async fn has_room(&self) -> bool {
        let _waits = Waits::new(&self.waiting);
        let wait = async {
            loop {
                let taken = self.taken.notified();
                if !self.holds_calls() {
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

/// Watches one answer for a caller that takes nothing. Costs nothing as long as the caller keeps up.
#[derive(Default)]
pub(crate) struct Stall(Option<Box<Stalled>>);

struct Stalled {
    /// The time since when the caller takes nothing, with the bytes the connection had moved by then; none: the caller has caught
    /// up.
    since: Option<(Instant, usize)>,
    /// The caller has taken some of it before.
    progressed: bool,
    /// The bytes taken since.
    taken: usize,
    timer: Pin<Box<Sleep>>,
}

/// The caller has taken nothing for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotTaken(pub(crate) Duration);

impl Stall {
    /// Waits while nothing can be sent. Ready when the answer is not kept any longer. `unary`: it is to a call of one message,
    /// whose caller has no reason to leave it.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        unread: &UnreadAnswers,
        unary: bool,
    ) -> Poll<NotTaken> {
        let stalled = self.0.get_or_insert_with(|| {
            Box::new(Stalled { since: None, progressed: false, taken: 0, timer: Box::pin(sleep(LOOK_EVERY)) })
        });
        let begin = || (Instant::now(), unread.moved.load(Ordering::Relaxed));
        let (since, moved) = *stalled.since.get_or_insert_with(begin);
        if !stalled.progressed && unread.is_far_too_full() {
            return Poll::Ready(NotTaken(since.elapsed()));
        }
        while stalled.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let (full, crowded, waited) = (unread.is_full(), unread.is_crowded(), now - since);
            let time = match unread.limits.unread_time {
                time if !unread.is_far_too_full() && unread.moves(moved, waited) => time,
                time if full || (unary && crowded) => time.min(CROWDED_TIME),
                time => time,
            };
            if (unary || crowded || full) && waited >= time {
                return Poll::Ready(NotTaken(waited));
            }
            stalled.timer.as_mut().reset(now + LOOK_EVERY);
        }
        Poll::Pending
    }

    /// Returns whether the answer stalls for the first time.
    pub(crate) fn is_new(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether to [poll](Stall::poll) whenever more of the answer comes.
    pub(crate) fn is_watched(&self, unread: &UnreadAnswers) -> bool {
        unread.counter.bytes() > WATCHED_BYTES
    }

    /// The caller has taken some.
    pub(crate) fn took(&mut self, bytes: usize, unread: &UnreadAnswers) {
        if let Some(stalled) = &mut self.0 {
            stalled.taken += bytes;
            if stalled.taken >= PROGRESS_BYTES {
                (stalled.taken, stalled.since, stalled.progressed) = (0, None, true);
            }
            unread.moved.fetch_add(bytes, Ordering::Relaxed);
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
