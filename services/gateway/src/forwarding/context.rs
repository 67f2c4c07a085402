//! The context that the calls of one core share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use shoal_http2::Unread;
use shoal_kit::Memory;
use shoal_kit::sampling::Sampling;
use shoal_kit::serve::Drain;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::admission::calls::Calls;
use crate::admission::connection_slots::ConnectionSlots;
use crate::admission::quota::CallerQuotas;
use crate::config::Config;
use crate::routing::catalog::Catalog;
use crate::upstream::method_meter::MethodMeter;

/// The context that the calls of one core share.
pub(crate) struct CallContext {
    /// The index of this core, by which its state of each upstream is found.
    pub(crate) index: usize,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) config: Arc<Config>,
    /// The gateway's own services.
    pub(crate) routes: Routes,
    /// The memory that calls of these may hold for requests that have not fully arrived.
    pub(crate) memory: Memory,
    /// The limits of callers, if any has one. Shared by all cores: a caller has connections to several.
    pub(crate) callers: Option<Arc<CallerQuotas>>,
    /// Counts calls that are refused before their route is known.
    pub(crate) unrouted: MethodMeter,
    /// The decision which calls are traced.
    pub(crate) sampling: Sampling,
    /// Cancelled when connections are to be ended.
    pub(crate) stop: CancellationToken,
    /// The same, cheap to ask.
    pub(crate) stopping: Arc<AtomicBool>,
    /// Cancelled when the calls that are left then are to be ended.
    pub(crate) cut: CancellationToken,
    pub(crate) drain: Drain,
    /// The connections of all cores.
    pub(crate) slots: Arc<ConnectionSlots>,
    /// The answers their clients have not taken.
    pub(crate) unread: Arc<Unread>,
    /// Bytes of requests kept to be sent again.
    pub(crate) kept: Arc<AtomicUsize>,
    /// Their calls.
    pub(crate) calls: Arc<Calls>,
}
