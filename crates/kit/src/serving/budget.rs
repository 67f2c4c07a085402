//! Bounds the bytes that a process holds while a peer is slow: messages that have not fully arrived, and answers that have
//! not been taken. Past the bound whoever moves slowest gives way; who moves is left alone. Knows no protocol.

mod arriving;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::arriving::Arriving;
pub(crate) use self::arriving::HEAD_BYTES;

/// The age below which nothing gives way: a peer that reads and writes is done by then.
const GRACE: Duration = Duration::from_millis(250);
/// The time over which it is judged how fast a share moves.
const WINDOW: Duration = Duration::from_secs(1);
/// The pause between two searches for what could give way.
const SEARCH_INTERVAL: Duration = Duration::from_millis(10);
/// The time that an answer waits for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// The bytes that may wait for room, as a multiple of the budget.
const WAITING_SHARES: usize = 4;

/// The most bytes of messages that have not fully arrived, in one process.
const UNFINISHED_BYTES_MAX: usize = 32 << 20;
/// The most of them at any moment. Up to here a burst has `GRACE` to be over; beyond, age protects no message.
const UNFINISHED_BYTES_BURST: usize = UNFINISHED_BYTES_MAX / 4 * 5;
/// The most bytes of large answers that have not been taken, in one process.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Memory that all clones of a process may hold for slow peers.
#[derive(Debug, Clone)]
pub struct Memory {
    pub(crate) unfinished: Arc<Budget>,
    pub(crate) answers: Arc<Budget>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            unfinished: Budget::with_burst("request", UNFINISHED_BYTES_MAX, UNFINISHED_BYTES_BURST),
            answers: Budget::new("answer", ANSWER_BYTES_MAX),
        }
    }
}

/// A number of bytes that those who hold some may hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    /// The bytes beyond which also what is younger than `GRACE` gives way.
    burst_max: usize,
    held: AtomicUsize,
    shares: Mutex<Shares>,
    /// The bytes that wait for room.
    waiting: AtomicUsize,
    waiters: Mutex<BTreeMap<u64, Waiter>>,
    /// Names what gave way in metrics.
    what: &'static str,
    numbers: AtomicU64,
}

#[derive(Debug, Default)]
struct Shares {
    by_number: BTreeMap<u64, Arc<Mutex<Content>>>,
    searched: Option<Instant>,
}

/// The bytes that one slow peer holds.
#[derive(Debug)]
struct Content {
    arriving: Arriving,
    leaving: Bytes,
    /// Bytes of the budget.
    counted: usize,
    /// Bytes that came or went since `since`.
    moved: usize,
    since: Instant,
    gave_way: bool,
    waker: Option<Waker>,
}

/// The share gave way to others: what it held is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GaveWay;

/// The budget is used up, and nothing gave way in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedUp;

impl Budget {
    /// `what` is a label of `shoal_rpc_server_dropped_messages_total`.
    pub(crate) fn new(what: &'static str, bytes_max: usize) -> Arc<Self> {
        Self::with_burst(what, bytes_max, usize::MAX)
    }

    /// The same, where what is held without being admitted is bounded by `burst_max` at any moment.
    pub(crate) fn with_burst(what: &'static str, bytes_max: usize, burst_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            burst_max,
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            shares: Mutex::default(),
            waiters: Mutex::default(),
            what,
            numbers: AtomicU64::new(0),
        })
    }

    /// The bound.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Returns the number of bytes held now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// An empty share of something that begins to arrive.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        self.enter(Bytes::new(), 0)
    }

    /// A share of something that is there already and must be held, whether there is room or not.
    pub(crate) fn hold(self: &Arc<Self>, leaving: Bytes) -> Share {
        let counted = leaving.len();
        self.held.fetch_add(counted, Ordering::Relaxed);
        let share = self.enter(leaving, counted);
        self.make_room();
        share
    }

    /// A share of so many bytes that are about to be made; waits until there is room, for at most `PATIENCE`. The newest
    /// goes first, and when too much waits the oldest goes without: of a burst of one caller the others feel little.
    ///
    /// # Errors
    /// When there was no room in time, or too much waited.
    pub(crate) async fn admit(self: Arc<Self>, bytes: usize) -> Result<Share, UsedUp> {
        // What is larger than the budget has it for itself.
        let bytes = bytes.min(self.bytes_max);
        if self.waiting.load(Ordering::Relaxed) == 0 && self.take(bytes) {
            return Ok(self.enter(Bytes::new(), bytes));
        }
        let waiting = Waiting::enter(&self, bytes);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let woken = waiting.wake.notified();
            self.make_room();
            if waiting.is_refused() {
                return Err(self.refused());
            }
            if self.take(bytes) {
                break;
            }
            let tick = Instant::now() + GRACE;
            if tick > deadline {
                return Err(self.refused());
            }
            // Nobody says when the others have become old enough to give way.
            let _ = tokio::time::timeout_at(tick, woken).await;
        }
        drop(waiting);
        self.wake_newest();
        Ok(self.enter(Bytes::new(), bytes))
    }

    fn refused(&self) -> UsedUp {
        metrics::counter!("shoal_rpc_server_dropped_messages_total", "message" => self.what).increment(1);
        UsedUp
    }

    fn take(&self, bytes: usize) -> bool {
        let room = |held: usize| (held + bytes <= self.bytes_max).then_some(held + bytes);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            self.wake_newest();
        }
    }

    fn wake_newest(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0
            && let Some((_, newest)) = self.waiters().last_key_value()
        {
            newest.wake.notify_one();
        }
    }

    fn enter(self: &Arc<Self>, leaving: Bytes, counted: usize) -> Share {
        let content = Arc::new(Mutex::new(Content {
            arriving: Arriving::default(),
            leaving,
            counted,
            moved: 0,
            since: Instant::now(),
            gave_way: false,
            waker: None,
        }));
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.shares().by_number.insert(number, content.clone());
        Share { budget: self.clone(), number, content }
    }

    /// Lets the slowest give way until the rest is within the bound, or nothing is old enough. Beyond the bound of a burst the
    /// young give way too, and at once: what is freed then lies between this search and the next one.
    fn make_room(&self) {
        if self.held.load(Ordering::Relaxed) <= self.bytes_max && self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        let mut shares = self.shares();
        let is_burst = self.held.load(Ordering::Relaxed) > self.burst_max;
        if !is_burst && shares.searched.is_some_and(|at| now < at + SEARCH_INTERVAL) {
            return;
        }
        shares.searched = Some(now);
        let rate = |content: &Arc<Mutex<Content>>| {
            let content = lock(content);
            let age = now.saturating_duration_since(content.since);
            let is_young = age < GRACE;
            // Of one that has just begun the rate is high: it is judged by what it does from here on.
            (content.counted > 0).then(|| (is_young, content.moved as f64 / age.as_secs_f64()))
        };
        let mut slowest: Vec<_> =
            shares.by_number.values().filter_map(|content| Some((rate(content)?, content.clone()))).collect();
        drop(shares);
        slowest.sort_by(|((a_young, a), _), ((b_young, b), _)| a_young.cmp(b_young).then(a.total_cmp(b)));
        // Room for whoever waits, not only for what is there.
        let wanted = self.waiting.load(Ordering::Relaxed).min(self.bytes_max / 4);
        for ((is_young, _), content) in slowest {
            let held = self.held.load(Ordering::Relaxed);
            if held + wanted <= self.bytes_max || (is_young && !is_burst) {
                return;
            }
            self.give_way(&content);
        }
    }

    fn give_way(&self, content: &Mutex<Content>) {
        let mut content = lock(content);
        // It may have left meanwhile.
        let counted = std::mem::take(&mut content.counted);
        if counted == 0 {
            return;
        }
        content.gave_way = true;
        content.arriving = Arriving::default();
        content.leaving = Bytes::new();
        let waker = content.waker.take();
        drop(content);
        self.give_back(counted);
        if let Some(waker) = waker {
            waker.wake();
        }
        metrics::counter!("shoal_rpc_server_dropped_messages_total", "message" => self.what).increment(1);
    }

    fn waiters(&self) -> MutexGuard<'_, BTreeMap<u64, Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that wait for room.
#[derive(Debug)]
struct Waiter {
    bytes: usize,
    wake: Arc<Notify>,
}

/// Waits as long as it lives.
struct Waiting<'a> {
    budget: &'a Budget,
    number: u64,
    wake: Arc<Notify>,
}

impl<'a> Waiting<'a> {
    fn enter(budget: &'a Budget, bytes: usize) -> Self {
        let number = budget.numbers.fetch_add(1, Ordering::Relaxed);
        let wake = Arc::new(Notify::new());
        let mut waiters = budget.waiters();
        let waiting = budget.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut surplus = waiting.saturating_sub(budget.bytes_max * WAITING_SHARES);
        while surplus > 0
            && let Some((_, oldest)) = waiters.pop_first()
        {
            budget.waiting.fetch_sub(oldest.bytes, Ordering::Relaxed);
            surplus = surplus.saturating_sub(oldest.bytes);
            oldest.wake.notify_one();
        }
        waiters.insert(number, Waiter { bytes, wake: wake.clone() });
        drop(waiters);
        Self { budget, number, wake }
    }

    fn is_refused(&self) -> bool {
        !self.budget.waiters().contains_key(&self.number)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.budget.waiters().remove(&self.number) {
            self.budget.waiting.fetch_sub(waiter.bytes, Ordering::Relaxed);
        }
    }
}

/// The part of a budget that one peer holds; dropping it gives the part back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    number: u64,
    content: Arc<Mutex<Content>>,
}

impl Share {
    /// Adds bytes that arrived.
    ///
    /// # Errors
    /// When it gave way.
    pub(crate) fn arrived(&self, bytes: Bytes) -> Result<(), GaveWay> {
        let mut content = lock(&self.content);
        if content.gave_way {
            return Err(GaveWay);
        }
        content.moves(bytes.len());
        let taken = content.arriving.add(bytes);
        content.counted += taken;
        drop(content);
        self.budget.held.fetch_add(taken, Ordering::Relaxed);
        self.budget.make_room();
        Ok(())
    }

    /// Returns the number of bytes that arrived, and the first five once there are as many.
    pub(crate) fn head(&self) -> (usize, Option<[u8; HEAD_BYTES]>) {
        lock(&self.content).arriving.head()
    }

    /// Everything that arrived.
    ///
    /// # Errors
    /// When it gave way.
    pub(crate) fn take_all(self) -> Result<VecDeque<Bytes>, GaveWay> {
        let mut content = lock(&self.content);
        if content.gave_way { Err(GaveWay) } else { Ok(std::mem::take(&mut content.arriving).pieces()) }
    }

    /// Sets what is to leave, once it was made.
    pub(crate) fn set_leaving(&self, bytes: Bytes) {
        let mut content = lock(&self.content);
        if !content.gave_way {
            content.leaving = bytes;
        }
    }

    /// The next piece of what is to leave, in memory of its own; none after the last.
    ///
    /// # Errors
    /// When it gave way.
    pub(crate) fn next_piece(&self, bytes_max: usize) -> Result<Option<Bytes>, GaveWay> {
        let mut content = lock(&self.content);
        if content.gave_way {
            return Err(GaveWay);
        }
        let size = content.leaving.len().min(bytes_max);
        if size == 0 {
            return Ok(None);
        }
        let piece = Bytes::copy_from_slice(&content.leaving[..size]);
        content.leaving.advance(size);
        content.moves(size);
        Ok(Some(piece))
    }

    /// Wakes the task when this gives way.
    ///
    /// # Errors
    /// When it did.
    pub(crate) fn watch(&self, cx: &Context<'_>) -> Result<(), GaveWay> {
        let mut content = lock(&self.content);
        if content.gave_way {
            return Err(GaveWay);
        }
        match &mut content.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Ok(())
    }
}

impl Content {
    fn moves(&mut self, bytes: usize) {
        let now = Instant::now();
        if now > self.since + WINDOW {
            (self.since, self.moved) = (now, 0);
        }
        self.moved += bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.shares().by_number.remove(&self.number);
        let counted = std::mem::take(&mut lock(&self.content).counted);
        self.budget.give_back(counted);
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::arriving::BLOCK_BYTES;
    use super::*;

    impl Share {
        fn gives_way(&self) -> Result<(), GaveWay> {
            if lock(&self.content).gave_way { Err(GaveWay) } else { Ok(()) }
        }
    }

    fn held(budget: &Budget) -> usize {
        budget.held()
    }

    #[tokio::test]
    async fn the_slowest_gives_way_to_others() {
        const BLOCK_BYTES: usize = 16 << 10;
        let budget = Budget::new("test", 4 * BLOCK_BYTES);
        let (stalled, busy) = (budget.share(), budget.share());
        let piece = Bytes::from(vec![0; BLOCK_BYTES]);
        stalled.arrived(piece.clone()).expect("room");
        for _ in 0..4 {
            busy.arrived(piece.clone()).expect("room");
        }
        assert!(held(&budget) > 4 * BLOCK_BYTES);
        let begun = Instant::now();
        while stalled.gives_way() != Err(GaveWay) {
            assert!(begun.elapsed() < GRACE * 20, "it still holds what others need");
            busy.arrived(Bytes::new()).expect("it is there");
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() >= GRACE, "who is young is left alone");
        busy.arrived(Bytes::new()).expect("it moved");
        drop((stalled, busy));
        assert_eq!(held(&budget), 0);
    }

    #[tokio::test]
    async fn a_burst_is_bounded_whatever_its_age() {
        let (bytes_max, burst_max) = (4 * BLOCK_BYTES, 6 * BLOCK_BYTES);
        let budget = Budget::with_burst("test", bytes_max, burst_max);
        let piece = Bytes::from(vec![1; BLOCK_BYTES]);
        let burst: Vec<_> = (0..20).map(|_| budget.share()).collect();
        for share in &burst {
            // One that gave way already is told so.
            let _ = share.arrived(piece.clone());
            assert!(held(&budget) <= burst_max, "{} bytes are held", held(&budget));
        }
        let staying = burst.iter().filter(|share| share.gives_way().is_ok()).count();
        assert!(staying >= 4, "{staying} of 20 stay");
    }

    #[tokio::test]
    async fn an_answer_waits_until_there_is_room() {
        let budget = Budget::new("test", 1000);
        let first = budget.clone().admit(900).await.expect("room");
        first.set_leaving(Bytes::from(vec![1; 900]));
        let second = tokio::spawn(budget.clone().admit(900));
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        while first.next_piece(100).expect("it moves").is_some() {}
        drop(first);
        drop(second.await.expect("no panic").expect("there was room"));
        assert_eq!(held(&budget), 0);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_gives_way() {
        let budget = Budget::new("test", 1000);
        let stalled = budget.clone().admit(900).await.expect("room");
        stalled.set_leaving(Bytes::from(vec![1; 900]));
        let begun = Instant::now();
        let next = budget.clone().admit(900).await.expect("room is made");
        assert!(begun.elapsed() >= GRACE, "who is young is left alone");
        assert_eq!(stalled.next_piece(100), Err(GaveWay));
        drop((stalled, next));
        assert_eq!(held(&budget), 0);
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_goes_without() {
        let budget = Budget::new("test", 1000);
        let _held = budget.clone().admit(1000).await.expect("room");
        let mut waiting: Vec<_> =
            (0..=WAITING_SHARES).map(|_| tokio::spawn(budget.clone().admit(1000))).collect();
        assert_eq!(waiting.remove(0).await.expect("no panic").map(drop), Err(UsedUp));
        for waiting in waiting {
            let admitted = waiting.await.expect("no panic");
            assert!(admitted.is_ok(), "those before give way in turn");
        }
        assert_eq!(budget.waiting.load(Ordering::Relaxed), 0);
    }
}
