//! What all calls of one client connection have in common.

use std::net::IpAddr;

use crate::callers::Known;
use crate::resets::Resets;

/// One connection's.
pub(crate) struct Client {
    pub(crate) resets: Resets,
    pub(crate) known: Known,
}

impl Client {
    pub(crate) fn new(address: IpAddr) -> Client {
        Client { resets: Resets::default(), known: Known::new(address) }
    }
}
