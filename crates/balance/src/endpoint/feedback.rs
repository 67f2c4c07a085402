//! The events that a connection reports to its upstream, so that neither it nor its calls know a balancer.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::load::Load;

/// Receives the rare events of a connection and its calls that concern the other endpoints of the upstream.
///
/// None of these is called for a call that goes well while nobody waits.
pub(crate) trait Feedback: Debug + Send + Sync {
    /// Ejects the endpoint at `address`, whose load is `load`, unless too many are ejected already.
    fn eject(&self, address: SocketAddr, load: &Arc<Load>, reason: &str, now: Instant);

    /// Reports that the endpoint at `address` takes calls again: its probe went well.
    fn readmitted(&self, address: SocketAddr);

    /// Reports that a stream is free while calls wait for one.
    fn room_freed(&self);

    /// Reports that the connections of an endpoint, or what its server allows on them, changed.
    fn changed(&self);
}
