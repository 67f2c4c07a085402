//! Divides the streams that an upstream's servers allow between the shares when they run out.
//!
//! No share may hold so many that nothing is left for the next one: a share that has some gets another only while it has fewer
//! than [`SHARE`] times the free ones (Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998). One share alone gets up
//! to four fifths of all, two get four ninths each, and some are always left. Waiting calls are queued per share, and the
//! queues take turns (Nagle, "On Packet Switches with Infinite Storage", RFC 970).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::fairness::share::Share;

/// The multiple of the free streams that a share may hold. The larger, the more one share alone can use, and the less is left
/// for others.
const SHARE: u64 = 4;

/// The most calls of one upstream that wait for a stream. One share has at most half of the places that are left: alone, half
/// of all (1024, the default of Envoy).
const WAITING_MAX: usize = 2_048;

/// The queue for the streams of one upstream.
#[derive(Debug)]
pub(crate) struct FairQueue {
    /// The index of this upstream in the counts of a share.
    pub(crate) index: usize,
    /// The calls, counted from the pick.
    in_use: AtomicU32,
    /// The number of waiting calls in all queues.
    waiting: AtomicUsize,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    queues: VecDeque<ShareQueue>,
    tickets: u64,
}

/// The waiting calls of one share.
#[derive(Debug)]
struct ShareQueue {
    share: Option<Arc<Share>>,
    waiters: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl ShareQueue {
    fn is_of(&self, share: Option<&Arc<Share>>) -> bool {
        self.share.as_ref().map(Arc::as_ptr) == share.map(Arc::as_ptr)
    }
}

impl FairQueue {
    pub(crate) fn new(index: usize) -> FairQueue {
        FairQueue { index, in_use: AtomicU32::new(0), waiting: AtomicUsize::new(0), queues: Mutex::default() }
    }

    /// Counts one more call of this share.
    pub(crate) fn take(&self, share: Option<&Arc<Share>>) {
        self.in_use.fetch_add(1, Ordering::Relaxed);
        if let Some(share) = share {
            share.take(self.index);
        }
    }

    /// Counts the end of a call. Returns whether others wait.
    pub(crate) fn give(&self, share: Option<&Arc<Share>>) -> bool {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
        if let Some(share) = share {
            share.give(self.index);
        }
        self.has_waiters()
    }

    pub(crate) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns how many calls of this share are running.
    pub(crate) fn held(&self, share: Option<&Arc<Share>>) -> u32 {
        share.map_or(0, |share| share.held(self.index))
    }

    /// Returns whether this share may have one more of the `allowed` streams. `used` computes how many are in use on the
    /// connections, where calls of other balancers do not count.
    pub(crate) fn may_have(
        &self,
        share: Option<&Arc<Share>>,
        allowed: u64,
        used: impl FnOnce() -> u64,
    ) -> bool {
        let held = u64::from(self.held(share));
        let fits = |used| held < SHARE.saturating_mul(allowed.saturating_sub(used));
        held == 0 || fits(u64::from(self.in_use.load(Ordering::Relaxed))) || fits(used())
    }

    /// Returns whether a call of this share waits, so that the next one must queue behind it.
    pub(crate) fn has_queue(&self, share: Option<&Arc<Share>>) -> bool {
        self.has_waiters() && self.queues().queues.iter().any(|queue| queue.is_of(share))
    }

    /// Queues a call: at the end, or at the place of the ticket `again` that it had before. Returns `None` if the queue is
    /// full; a call with a ticket always has a place.
    pub(crate) fn wait(
        self: &Arc<FairQueue>,
        share: Option<&Arc<Share>>,
        again: Option<u64>,
    ) -> Option<Waiter> {
        let mut queues = self.queues();
        let places = WAITING_MAX - self.waiting.load(Ordering::Relaxed).min(WAITING_MAX);
        let at = queues.queues.iter().position(|queue| queue.is_of(share));
        if again.is_none() && at.map_or(0, |at| queues.queues[at].waiters.len()) >= places {
            return None;
        }
        let (woken, wakes) = oneshot::channel();
        let ticket = again.unwrap_or_else(|| {
            queues.tickets += 1;
            queues.tickets
        });
        let at = at.unwrap_or_else(|| {
            queues.queues.push_back(ShareQueue { share: share.cloned(), waiters: VecDeque::new() });
            queues.queues.len() - 1
        });
        let waiters = &mut queues.queues[at].waiters;
        let place = waiters.iter().rposition(|(before, _)| *before < ticket).map_or(0, |before| before + 1);
        waiters.insert(place, (ticket, woken));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let is_first = waiters.front().is_some_and(|(first, _)| *first == ticket);
        Some(Waiter {
            fair_queue: self.clone(),
            share: share.cloned(),
            ticket,
            wakes,
            is_first,
            is_woken: false,
        })
    }

    /// Wakes at most `most` calls, one of each queue in turn, of the shares that may have another stream.
    pub(crate) fn wake(&self, most: usize, may_have: impl Fn(Option<&Arc<Share>>) -> bool) {
        let mut woken = 0;
        let mut queues = self.queues();
        let mut looked_at = 0;
        while woken < most && looked_at < queues.queues.len() {
            let Some(mut queue) = queues.queues.pop_front() else { return };
            if may_have(queue.share.as_ref()) {
                looked_at = 0;
                while let Some((_, waker)) = queue.waiters.pop_front() {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    if waker.send(()).is_ok() {
                        woken += 1;
                        break;
                    }
                }
            } else {
                looked_at += 1;
            }
            if !queue.waiters.is_empty() {
                queues.queues.push_back(queue);
            }
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a queue. Resolves when there may be a free stream. Given up on drop.
#[derive(Debug)]
pub(crate) struct Waiter {
    fair_queue: Arc<FairQueue>,
    share: Option<Arc<Share>>,
    /// The position in the order of arrival.
    pub(crate) ticket: u64,
    wakes: oneshot::Receiver<()>,
    /// Set if no call of its share waited before it.
    pub(crate) is_first: bool,
    is_woken: bool,
}

impl Waiter {
    /// Gives up the place. Returns whether it was woken for a stream that another call may have now.
    pub(crate) fn leave(mut self) -> bool {
        !self.is_woken && self.wakes.try_recv().is_ok()
    }
}

impl Future for Waiter {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.wakes).poll(cx).map(|_| self.is_woken = true)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.is_woken {
            return;
        }
        let mut queues = self.fair_queue.queues();
        let Some(at) = queues.queues.iter().position(|queue| queue.is_of(self.share.as_ref())) else {
            return;
        };
        let waiters = &mut queues.queues[at].waiters;
        if let Some(place) = waiters.iter().position(|(ticket, _)| *ticket == self.ticket) {
            waiters.remove(place);
            self.fair_queue.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if waiters.is_empty() {
            queues.queues.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of `allowed` streams each share gets when all take as many as they may, in turn.
    fn gets<const N: usize>(allowed: u64) -> [u32; N] {
        let room = FairQueue::new(0);
        let shares: [_; N] = std::array::from_fn(|_| Share::new(1));
        loop {
            let mut took = false;
            for share in &shares {
                let used = || u64::from(room.in_use.load(Ordering::Relaxed));
                if used() < allowed && room.may_have(Some(share), allowed, used) {
                    room.take(Some(share));
                    took = true;
                }
            }
            if !took {
                return shares.each_ref().map(|share| room.held(Some(share)));
            }
        }
    }

    #[test]
    fn single_share_leaves_some_streams() {
        assert_eq!(gets::<1>(800), [640]);
        assert_eq!(gets::<2>(800), [356, 356]);
        assert_eq!(gets::<1>(8), [7]);
        assert_eq!(gets::<1>(1), [1]);
        assert_eq!(gets::<1>(2), [2]);
        let ten: u32 = gets::<10>(800).iter().sum();
        assert!((760..800).contains(&ten), "{ten}");
    }

    #[test]
    fn unlimited_streams_are_not_limited() {
        let room = FairQueue::new(0);
        let share = Share::new(1);
        for _ in 0..100_000 {
            assert!(room.may_have(Some(&share), u64::from(u32::MAX), || 0));
            room.take(Some(&share));
        }
        assert!(room.may_have(None, 0, || 0), "who shares with nobody");
    }

    fn is_woken(waiter: &mut Waiter) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(waiter).poll(&mut context).is_ready()
    }

    #[test]
    fn queues_take_turns_in_order() {
        let room = Arc::new(FairQueue::new(0));
        let (many, few) = (Share::new(1), Share::new(1));
        let mut of_many: Vec<_> = (0..3).map(|_| room.wait(Some(&many), None).unwrap()).collect();
        let mut of_few = room.wait(Some(&few), None).unwrap();
        room.wake(2, |_| true);
        assert!(is_woken(&mut of_many[0]) && is_woken(&mut of_few) && !is_woken(&mut of_many[1]));
        // One that was woken in vain is not the last.
        of_many[0] = room.wait(Some(&many), Some(of_many[0].ticket)).unwrap();
        room.wake(1, |_| true);
        assert!(is_woken(&mut of_many[0]) && !is_woken(&mut of_many[1]));
        drop(of_many);
        assert!(!room.has_waiters() && room.queues().queues.is_empty());
    }

    #[test]
    fn woken_in_vain_keep_their_order() {
        let room = Arc::new(FairQueue::new(0));
        let share = Share::new(1);
        let mut waiters: Vec<_> = (0..3).map(|_| room.wait(Some(&share), None).unwrap()).collect();
        room.wake(2, |_| true);
        assert!(is_woken(&mut waiters[0]) && is_woken(&mut waiters[1]));
        let filling: Vec<_> = std::iter::from_fn(|| room.wait(Some(&share), None)).collect();
        for waiter in waiters.iter_mut().take(2) {
            *waiter = room.wait(Some(&share), Some(waiter.ticket)).expect("it had a place");
        }
        assert!(room.wait(Some(&share), None).is_none());
        for at in 0..3 {
            room.wake(1, |_| true);
            assert!(waiters.iter_mut().skip(at).map(is_woken).eq((at..3).map(|other| other == at)), "{at}");
        }
        drop((filling, waiters));
        assert!(!room.has_waiters());
    }

    #[test]
    fn skips_share_at_its_limit() {
        let room = Arc::new(FairQueue::new(0));
        let (greedy, other) = (Share::new(1), Share::new(1));
        let mut first = room.wait(Some(&greedy), None).unwrap();
        let mut second = room.wait(Some(&other), None).unwrap();
        let may_have = |share: Option<&Arc<Share>>| share.is_some_and(|share| !Arc::ptr_eq(share, &greedy));
        room.wake(5, may_have);
        assert!(!is_woken(&mut first) && is_woken(&mut second));
    }

    #[test]
    fn leaving_reports_unused_wake() {
        let room = Arc::new(FairQueue::new(0));
        let waiters = [room.wait(None, None).unwrap(), room.wait(None, None).unwrap()];
        room.wake(1, |_| true);
        assert_eq!(waiters.map(Waiter::leave), [true, false]);
        assert!(!room.has_waiters());
    }

    #[test]
    fn one_share_cannot_fill_queue() {
        let room = Arc::new(FairQueue::new(0));
        let (greedy, other) = (Share::new(1), Share::new(1));
        let waiting: Vec<_> = std::iter::from_fn(|| room.wait(Some(&greedy), None)).collect();
        assert_eq!(waiting.len(), WAITING_MAX / 2);
        assert!(room.wait(Some(&other), None).is_some());
        drop(waiting);
        assert!(!room.has_waiters());
    }
}
