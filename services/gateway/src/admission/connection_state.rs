//! The state that all calls of one client connection share.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shoal_balance::Share;
use shoal_http2::Unread as Counter;

use crate::admission::connection_slots::ConnectionSlot;
use crate::admission::quota::CallerCache;
use crate::admission::rapid_reset::ResetDetector;
use crate::admission::replay_memory::ReplayMemory;
use crate::admission::unread_answers::UnreadAnswers;
use crate::config::Config;
use crate::error::Error;

/// Why the calls of a connection are ended.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The gateway drains, and its time for that is up.
    Drained,
    /// The connection was to leave, and its calls have had their time.
    Aged { grace: Duration },
}

/// The state of one client connection.
pub(crate) struct ConnectionState {
    pub(crate) peer: SocketAddr,
    pub(crate) resets: ResetDetector,
    /// Why its calls are ended, if they are.
    cut: OnceLock<Cut>,
    pub(crate) caller: CallerCache,
    /// Its share of each upstream's streams.
    pub(crate) share: Arc<Share>,
    pub(crate) slot: Arc<ConnectionSlot>,
    /// The weight of its calls in flight.
    pub(crate) in_flight: AtomicUsize,
    /// Answers it has not taken.
    pub(crate) unread: UnreadAnswers,
    /// Bodies kept to be sent again.
    pub(crate) kept: ReplayMemory,
}

impl ConnectionState {
    /// Creates the state of a connection from `peer` that can call `upstreams` different upstreams. Its unread answers count in
    /// `unread` too, and its kept bodies in `kept`.
    pub(crate) fn new(
        peer: SocketAddr,
        upstreams: usize,
        slot: Arc<ConnectionSlot>,
        unread: Arc<Counter>,
        kept: Arc<AtomicUsize>,
        config: &Config,
    ) -> ConnectionState {
        ConnectionState {
            peer,
            resets: ResetDetector::default(),
            cut: OnceLock::new(),
            caller: CallerCache::new(peer.ip()),
            share: Share::new(upstreams),
            slot,
            in_flight: AtomicUsize::new(0),
            unread: UnreadAnswers::new(unread, config.limits),
            kept: ReplayMemory::new(kept, &config.retry),
        }
    }

    /// Has its calls end as soon as they are polled.
    pub(crate) fn cut(&self, why: Cut) {
        let _ = self.cut.set(why);
    }

    /// Returns whether the calls of the connection are ended.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.get().is_some()
    }

    /// Returns what the callers of calls that are ended are told.
    pub(crate) fn ending(&self) -> Option<Error> {
        self.cut.get().map(|cut| match cut {
            Cut::Drained => Error::Draining,
            Cut::Aged { grace } => Error::ConnectionAged { grace: *grace },
        })
    }
}
