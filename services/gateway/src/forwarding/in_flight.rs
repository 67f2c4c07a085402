//! A call that is counted among those in flight as long as there is somebody to answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request::Parts;

use crate::admission::calls::weight;
use crate::admission::connection_state::Client;
use crate::error::Error;
use crate::forwarding::context::Core;

/// A call that is counted, until this is dropped.
pub(crate) struct InFlight {
    pub(crate) core: Arc<Core>,
    pub(crate) client: Arc<Client>,
    weight: usize,
}

impl InFlight {
    /// Counts a call. It is counted if it is refused too, until that is said.
    pub(crate) fn enter(
        core: &Arc<Core>,
        client: &Arc<Client>,
        parts: &Parts,
    ) -> (InFlight, Result<(), Error>) {
        let weight = weight(parts);
        client.seat.call_began();
        let own = client.in_flight.fetch_add(weight, Ordering::Relaxed) + weight;
        let entered = if core.calls.enter(weight, own) {
            Ok(())
        } else {
            metrics::counter!("shoal_gateway_refused_total", "limit" => "calls").increment(1);
            Err(Error::TooManyCalls { own, most: core.calls.most })
        };
        (InFlight { core: core.clone(), client: client.clone(), weight }, entered)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.core.calls.leave(self.weight);
        self.client.in_flight.fetch_sub(self.weight, Ordering::Relaxed);
        self.client.unread.call_ended();
        self.client.seat.call_ended();
    }
}
