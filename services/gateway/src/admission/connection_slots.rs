//! The client connections that are open, of all cores: how many there may be, and which one gives way when one more comes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use slab::Slab;
use tokio::sync::Notify;

use crate::admission::quota::network;

/// Connections that are found to give way at once, so that not each newcomer looks at all of them.
const FOUND_AT_ONCE: usize = 64;

/// The interval after which a newcomer looks for a slot again, when no connection has ended meanwhile: one may have become idle.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// ConnectionSlots for connections.
pub(crate) struct ConnectionSlots {
    most: usize,
    most_per_address: usize,
    begun: Instant,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    slots: Slab<Arc<ConnectionSlot>>,
    by_address: HashMap<IpAddr, OfAddress>,
    /// The slots that give way next, the last first, each with when it became idle.
    idle: Vec<(Arc<ConnectionSlot>, u64)>,
}

/// The slots of one address.
#[derive(Default)]
struct OfAddress {
    count: usize,
    /// Set while none of the address' connections is idle.
    busy: Arc<AtomicBool>,
    /// When that was found out.
    found: Option<Instant>,
}

impl OfAddress {
    /// Returns whether none of the address' connections is known to be idle. One that becomes idle at the moment it is found out
    /// may be missed, and is found a little later.
    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) && self.found.is_some_and(|found| found.elapsed() < ASK_AGAIN_AFTER)
    }

    fn found_busy(&mut self) {
        self.busy.store(true, Ordering::Relaxed);
        self.found = Some(Instant::now());
    }
}

/// The slot of one connection.
pub(crate) struct ConnectionSlot {
    address: IpAddr,
    /// Set while no connection of its address is idle.
    none_idle: Arc<AtomicBool>,
    begun: Instant,
    /// Calls in flight.
    calls: AtomicU32,
    /// When the last call ended, in microseconds since the gateway began; before the first call, when the connection came.
    idle_since: AtomicU64,
    called: AtomicBool,
    given_up: AtomicBool,
    waker: AtomicWaker,
}

/// A slot that is taken. Free again when dropped.
pub(crate) struct OccupiedSlot {
    slots: Arc<ConnectionSlots>,
    pub(crate) slot: Arc<ConnectionSlot>,
    key: usize,
}

/// The refusal of a connection: its address has as many as it may have, and each of them has calls.
#[derive(Debug)]
pub(crate) struct AddressFull;

impl ConnectionSlots {
    /// Creates slots for `most` connections, of which one address has at most `most_per_address`; 0: no such limit.
    pub(crate) fn new(most: usize, most_per_address: usize) -> Arc<ConnectionSlots> {
        let most_per_address = if most_per_address == 0 { usize::MAX } else { most_per_address };
        Arc::new(ConnectionSlots {
            most,
            most_per_address,
            begun: Instant::now(),
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// A slot for a connection that has come. When none is free, the connection that has been idle for longest gives way;
    /// when none is idle, waits.
    ///
    /// # Errors
    /// When its address has as many as it may have, and none of them is idle.
    pub(crate) async fn take(
        self: &Arc<ConnectionSlots>,
        address: IpAddr,
    ) -> Result<OccupiedSlot, AddressFull> {
        let address = network(address);
        loop {
            let freed = self.freed.notified();
            {
                let mut taken = self.taken();
                let of_address = taken.by_address.get(&address);
                if of_address.is_some_and(OfAddress::is_busy) {
                    // Whoever is refused comes again at once: not each of them looks at all slots.
                    return Err(AddressFull);
                }
                if of_address.map_or(0, |of| of.count) >= self.most_per_address {
                    if !taken.give_up(Some(address)) {
                        taken.by_address.entry(address).or_default().found_busy();
                        return Err(AddressFull);
                    }
                } else if taken.slots.len() < self.most {
                    return Ok(self.slot(&mut taken, address));
                } else {
                    taken.give_up(None);
                }
            }
            // Whoever was told to leave does so at once.
            let _ = tokio::time::timeout(ASK_AGAIN_AFTER, freed).await;
        }
    }

    /// Has the connection leave that was idle for longest. Says whether there is one.
    pub(crate) fn make_room(&self) -> bool {
        self.taken().give_up(None)
    }

    fn slot(self: &Arc<ConnectionSlots>, taken: &mut Taken, address: IpAddr) -> OccupiedSlot {
        let of_address = taken.by_address.entry(address).or_default();
        of_address.count += 1;
        // It is idle itself.
        of_address.busy.store(false, Ordering::Relaxed);
        let slot = Arc::new(ConnectionSlot {
            address,
            none_idle: of_address.busy.clone(),
            begun: self.begun,
            calls: AtomicU32::new(0),
            idle_since: AtomicU64::new(micros_since(self.begun)),
            called: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let key = taken.slots.insert(slot.clone());
        OccupiedSlot { slots: self.clone(), slot, key }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OccupiedSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        taken.slots.remove(self.key);
        if let Some(of) = taken.by_address.get_mut(&self.slot.address) {
            of.count -= 1;
            of.busy.store(false, Ordering::Relaxed);
            if of.count == 0 {
                taken.by_address.remove(&self.slot.address);
            }
        }
        drop(taken);
        self.slots.freed.notify_one();
    }
}

impl Taken {
    /// Tells the connection that was idle for longest, of one address or of all, to leave.
    fn give_up(&mut self, of: Option<IpAddr>) -> bool {
        let of = |slot: &ConnectionSlot| of.is_none_or(|address| slot.address == address);
        if !self.idle.iter().any(|(slot, since)| of(slot) && slot.idle_for_sure(*since)) {
            self.find_idle(of);
        }
        while let Some(last) = self.idle.iter().rposition(|(slot, _)| of(slot)) {
            let (slot, since) = self.idle.remove(last);
            if slot.idle_for_sure(since) {
                slot.give_up();
                return true;
            }
        }
        false
    }

    /// Finds idle connections. Those that have never made a call come first: a client that connects to call does so at once.
    fn find_idle(&mut self, of: impl Fn(&ConnectionSlot) -> bool) {
        let mut found: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| of(slot) && slot.calls.load(Ordering::Relaxed) == 0 && !slot.has_to_leave())
            .map(|(_, slot)| {
                let since = slot.idle_since.load(Ordering::Relaxed);
                (slot.called.load(Ordering::Relaxed), since, slot)
            })
            .collect();
        let order = |(called, since, _): &(bool, u64, &Arc<ConnectionSlot>)| (*called, *since);
        if found.len() > FOUND_AT_ONCE {
            found.select_nth_unstable_by_key(FOUND_AT_ONCE - 1, order);
            found.truncate(FOUND_AT_ONCE);
        }
        found.sort_unstable_by_key(|found| std::cmp::Reverse(order(found)));
        self.idle = found.into_iter().map(|(_, since, slot)| (slot.clone(), since)).collect();
    }
}

impl ConnectionSlot {
    /// A call has begun.
    pub(crate) fn call_began(&self) {
        self.called.store(true, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A call has ended.
    pub(crate) fn call_ended(&self) {
        if self.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle_since.store(micros_since(self.begun), Ordering::Relaxed);
            if self.none_idle.load(Ordering::Relaxed) {
                self.none_idle.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Returns whether the connection was told to leave.
    pub(crate) fn has_to_leave(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Ready when it was told to leave.
    pub(crate) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.has_to_leave() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Returns whether the connection has been idle since `since`, and was not told to leave.
    fn idle_for_sure(&self, since: u64) -> bool {
        self.calls.load(Ordering::Relaxed) == 0
            && self.idle_since.load(Ordering::Relaxed) == since
            && !self.has_to_leave()
    }
}

fn micros_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn take(slots: &Arc<ConnectionSlots>, address: [u8; 4]) -> OccupiedSlot {
        slots.take(address.into()).await.expect("room")
    }

    /// Takes a slot when none is free: the one of these that is told to leave leaves.
    async fn take_one_more(slots: &Arc<ConnectionSlots>, others: &mut Vec<OccupiedSlot>) -> usize {
        let leaves = async {
            loop {
                if let Some(left) = others.iter().position(|occupied| occupied.slot.has_to_leave()) {
                    drop(others.remove(left));
                    return left;
                }
                tokio::task::yield_now().await;
            }
        };
        let (occupied, left) = tokio::join!(take(slots, [127, 0, 0, 1]), leaves);
        others.push(occupied);
        left
    }

    #[tokio::test]
    async fn longest_idle_connection_gives_way() {
        let slots = ConnectionSlots::new(3, 0);
        let mut open = Vec::new();
        for n in 0..3 {
            open.push(take(&slots, [127, 0, 0, 1]).await);
            open[n].slot.idle_since.store(n as u64, Ordering::Relaxed);
        }
        // The first has a call. The second had one, the third has never had any.
        open[0].slot.call_began();
        open[1].slot.call_began();
        open[1].slot.call_ended();
        assert_eq!(take_one_more(&slots, &mut open).await, 2);
        open[2].slot.call_began();
        assert_eq!(take_one_more(&slots, &mut open).await, 1);
        open[2].slot.call_began();
        assert!(!slots.make_room(), "each has calls");
        open[1].slot.call_ended();
        assert!(slots.make_room());
        assert!(open[1].slot.has_to_leave());
    }

    #[tokio::test]
    async fn address_gets_only_its_part() {
        let slots = ConnectionSlots::new(10, 2);
        let here = [take(&slots, [127, 0, 0, 1]).await, take(&slots, [127, 0, 0, 1]).await];
        for occupied in &here {
            occupied.slot.call_began();
        }
        let there = take(&slots, [10, 0, 0, 1]).await;
        assert!(slots.take(HERE).await.is_err());
        assert!(!there.slot.has_to_leave(), "another's connection does not give way");
        // Of its own, one that is idle does.
        here[1].slot.call_ended();
        let mut open = Vec::from(here);
        assert_eq!(take_one_more(&slots, &mut open).await, 1);
        drop(open);
        assert_eq!(slots.taken().by_address.len(), 1);
    }

    #[tokio::test]
    async fn slots_are_searched_once_per_burst() {
        let slots = ConnectionSlots::new(10, 1);
        let here = take(&slots, [127, 0, 0, 1]).await;
        here.slot.call_began();
        assert!(slots.take(HERE).await.is_err());
        let is_busy = || slots.taken().by_address[&HERE].is_busy();
        assert!(is_busy(), "the next one is refused without a search");
        here.slot.call_ended();
        assert!(!is_busy(), "one is idle");
        assert!(slots.taken().give_up(Some(HERE)));
    }

    #[tokio::test]
    async fn newcomer_waits_when_none_is_idle() {
        let slots = ConnectionSlots::new(1, 0);
        let first = take(&slots, [127, 0, 0, 1]).await;
        first.slot.call_began();
        let mut second = std::pin::pin!(take(&slots, [127, 0, 0, 1]));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        second.await;
    }
}
