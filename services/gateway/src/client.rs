//! What all calls of one client connection have in common.

use std::net::IpAddr;
use std::sync::Arc;

use shoal_balance::Share;

use crate::callers::Known;
use crate::resets::Resets;

/// One connection's.
pub(crate) struct Client {
    pub(crate) resets: Resets,
    pub(crate) known: Known,
    /// What it has of each upstream's streams.
    pub(crate) share: Arc<Share>,
}

impl Client {
    /// `upstreams`: how many it could call.
    pub(crate) fn new(address: IpAddr, upstreams: usize) -> Client {
        Client { resets: Resets::default(), known: Known::new(address), share: Share::new(upstreams) }
    }
}
