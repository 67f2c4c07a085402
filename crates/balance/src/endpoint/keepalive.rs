//! When to ping a connection that has gone quiet, so that a black-holed peer is found in seconds and a strict server is
//! not annoyed. Pure.
//!
//! gRPC servers count pings as strikes and close the connection with ENHANCE_YOUR_CALM `too_many_pings` after the third
//! that came within five minutes without an answer in between (gRFC A8; Go and C++ do so by default, tonic and Java's
//! defaults differ). So: an idle connection is pinged freely, since closing it harms no call; one with calls in flight
//! is pinged past two strikes only if this peer has shown that it does not count; and a peer that complained once is
//! never brought past two again.

/// Pings between two answers that every gRPC server takes.
const STRIKES_SAFE: u32 = 2;

/// A peer that took this many between two answers does not count them.
const STRIKES_TOLERANT: u32 = 6;

/// What is known of one endpoint's patience, and the strikes of one of its connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keepalive {
    strikes: u32,
    tolerant: bool,
    complained: bool,
}

impl Keepalive {
    /// A fresh connection starts without strikes.
    pub(crate) fn connected(&mut self) {
        self.strikes = 0;
    }

    /// The peer answered a call: its count starts over.
    pub(crate) fn answered(&mut self) {
        self.strikes = 0;
    }

    /// Takes in what another connection has learnt.
    pub(crate) fn learn(&mut self, other: &Keepalive) {
        self.tolerant |= other.tolerant;
    }

    /// The peer closed the connection with ENHANCE_YOUR_CALM.
    pub(crate) fn complained(&mut self) {
        self.complained = true;
        self.tolerant = false;
    }

    /// Whether to ping a quiet connection now; if so, the ping is counted. `busy`: calls are in flight on it.
    pub(crate) fn due(&mut self, busy: bool) -> bool {
        self.tolerant |= !self.complained && self.strikes >= STRIKES_TOLERANT;
        let sparing = self.complained || (busy && !self.tolerant);
        if sparing && self.strikes >= STRIKES_SAFE {
            return false;
        }
        self.strikes = self.strikes.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pings(keepalive: &mut Keepalive, busy: bool, ticks: usize) -> usize {
        (0..ticks).filter(|_| keepalive.due(busy)).count()
    }

    #[test]
    fn an_idle_connection_is_pinged_each_time() {
        assert_eq!(pings(&mut Keepalive::default(), false, 100), 100);
    }

    #[test]
    fn calls_in_flight_are_not_risked_on_a_peer_that_may_count() {
        let mut keepalive = Keepalive::default();
        assert_eq!(pings(&mut keepalive, true, 100), 2);
        keepalive.answered();
        assert_eq!(pings(&mut keepalive, true, 100), 2);
    }

    #[test]
    fn a_peer_that_took_many_does_not_count() {
        let mut keepalive = Keepalive::default();
        pings(&mut keepalive, false, 6);
        assert_eq!(pings(&mut keepalive, true, 100), 100);
    }

    #[test]
    fn what_one_connection_has_learnt_the_next_one_knows() {
        let mut endpoint = Keepalive::default();
        let mut connection = endpoint;
        pings(&mut connection, false, 7);
        endpoint.learn(&connection);
        endpoint.connected();
        assert_eq!(pings(&mut endpoint.clone(), true, 100), 100);
        endpoint.complained();
        endpoint.learn(&connection);
        endpoint.connected();
        assert_eq!(pings(&mut endpoint, true, 100), 2, "a complaint outweighs it");
    }

    #[test]
    fn a_peer_that_complained_once_is_never_brought_there_again() {
        let mut keepalive = Keepalive::default();
        pings(&mut keepalive, false, 4);
        keepalive.complained();
        keepalive.connected();
        assert_eq!(pings(&mut keepalive, false, 100), 2);
        keepalive.answered();
        assert_eq!(pings(&mut keepalive, false, 100), 2);
    }
}
