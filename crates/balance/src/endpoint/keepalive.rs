//! Decides when to ping a quiet connection, so that a black-holed peer is found in seconds and a strict server is not annoyed.
//!
//! gRPC servers count pings as strikes and close the connection with ENHANCE_YOUR_CALM `too_many_pings` after the third that
//! comes within five minutes without an answer in between (gRFC A8; the default of Go and C++; tonic's and Java's differ). So
//! an idle connection is pinged freely, since closing it harms no call. A connection with calls in flight is pinged past two
//! strikes only if this peer has shown that it does not count. A peer that complained once never gets more than two again.

/// The number of pings between two answers that every gRPC server tolerates.
const STRIKES_SAFE: u32 = 2;

/// The number of pings between two answers after which a peer is known not to count them.
const STRIKES_TOLERANT: u32 = 6;

/// The knowledge of one endpoint's tolerance for pings, and the strikes of one of its connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keepalive {
    strikes: u32,
    tolerant: bool,
    complained: bool,
}

impl Keepalive {
    /// Starts a new connection without strikes.
    pub(crate) fn connected(&mut self) {
        self.strikes = 0;
    }

    /// Records an answer to a call: the count starts over.
    pub(crate) fn answered(&mut self) {
        self.strikes = 0;
    }

    /// Adds what another connection has learnt.
    pub(crate) fn learn(&mut self, other: &Keepalive) {
        self.tolerant |= other.tolerant;
    }

    /// Records that the peer closed the connection with ENHANCE_YOUR_CALM.
    pub(crate) fn complained(&mut self) {
        self.complained = true;
        self.tolerant = false;
    }

    /// Returns whether to ping a quiet connection now, and counts the ping. `busy`: calls are in flight on it.
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
    fn idle_connection_is_always_pinged() {
        assert_eq!(pings(&mut Keepalive::default(), false, 100), 100);
    }

    #[test]
    fn spares_pings_while_calls_run() {
        let mut keepalive = Keepalive::default();
        assert_eq!(pings(&mut keepalive, true, 100), 2);
        keepalive.answered();
        assert_eq!(pings(&mut keepalive, true, 100), 2);
    }

    #[test]
    fn tolerant_peer_is_pinged_freely() {
        let mut keepalive = Keepalive::default();
        pings(&mut keepalive, false, 6);
        assert_eq!(pings(&mut keepalive, true, 100), 100);
    }

    #[test]
    fn tolerance_carries_over_to_next_connection() {
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
    fn complaint_limits_pings_for_good() {
        let mut keepalive = Keepalive::default();
        pings(&mut keepalive, false, 4);
        keepalive.complained();
        keepalive.connected();
        assert_eq!(pings(&mut keepalive, false, 100), 2);
        keepalive.answered();
        assert_eq!(pings(&mut keepalive, false, 100), 2);
    }
}
