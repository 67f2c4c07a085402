//! A call that is counted among those in flight as long as there is somebody to answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request::Parts;

use crate::admission::calls::weight;
use crate::admission::connection_state::ConnectionState;
use crate::error::Error;
use crate::forwarding::context::CallContext;

/// A call that is counted, until this is dropped.
pub(crate) struct InFlight {
    pub(crate) context: Arc<CallContext>,
    pub(crate) client: Arc<ConnectionState>,
    weight: usize,
}

impl InFlight {
    /// Counts a call, and returns whether it may go on. A refused call is counted too, until its caller has been told.
    pub(crate) fn enter(
        context: &Arc<CallContext>,
        client: &Arc<ConnectionState>,
        parts: &Parts,
    ) -> (InFlight, Result<(), Error>) {
        let weight = weight(parts);
        client.slot.call_began();
        let own = client.in_flight.fetch_add(weight, Ordering::Relaxed) + weight;
        let entered = if context.calls.enter(weight, own) {
            Ok(())
        } else {
            metrics::counter!("shoal_gateway_refused_total", "limit" => "calls").increment(1);
            Err(Error::TooManyCalls { own, most: context.calls.most })
        };
        (InFlight { context: context.clone(), client: client.clone(), weight }, entered)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.context.calls.leave(self.weight);
        self.client.in_flight.fetch_sub(self.weight, Ordering::Relaxed);
        self.client.unread.call_ended();
        self.client.slot.call_ended();
    }
}
