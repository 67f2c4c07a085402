//! What all calls of one client connection have in common.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use shoal_balance::Share;
use shoal_http2::Unread as Counter;

use crate::callers::Known;
use crate::config::Config;
use crate::kept::KeptBytes;
use crate::resets::Resets;
use crate::seats::Seat;
use crate::unread::Unread;

/// One connection's.
pub(crate) struct Client {
    pub(crate) resets: Resets,
    /// Its calls are ended: the drain's time is up.
    cut: AtomicBool,
    pub(crate) known: Known,
    /// What it has of each upstream's streams.
    pub(crate) share: Arc<Share>,
    pub(crate) seat: Arc<Seat>,
    /// What its calls in flight count as.
    pub(crate) in_flight: AtomicUsize,
    /// Answers it has not taken.
    pub(crate) unread: Unread,
    /// Bodies kept to be sent again.
    pub(crate) kept: KeptBytes,
}

impl Client {
    /// Of an address, that could call so many `upstreams`. What it leaves unread counts in `unread` too, and what is kept
    /// of its calls in `kept`.
    pub(crate) fn new(
        address: IpAddr,
        upstreams: usize,
        seat: Arc<Seat>,
        unread: Arc<Counter>,
        kept: Arc<AtomicUsize>,
        config: &Config,
    ) -> Client {
        Client {
            resets: Resets::default(),
            cut: AtomicBool::new(false),
            known: Known::new(address),
            share: Share::new(upstreams),
            seat,
            in_flight: AtomicUsize::new(0),
            unread: Unread::new(unread, config.limits),
            kept: KeptBytes::new(kept, &config.retry),
        }
    }

    /// Has its calls end as soon as they are polled.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether its calls are ended.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}
