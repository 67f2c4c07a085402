//! A clone before it listens: its routes, the names it answers for, what it runs in the background.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;

use crate::role::Role;
use crate::serving::backing::{Backing, Probe};
use crate::serving::budget::Memory;
use crate::serving::routes::{RequestBody, Routes};
use crate::telemetry::families;

/// Work that is done before metrics are shown.
pub type Measure = Arc<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// A clone of a service.
pub struct Service {
    pub(crate) role: Role,
    pub(crate) clone: String,
    pub(crate) routes: Routes,
    pub(crate) descriptors: &'static [u8],
    pub(crate) backing: Option<Backing>,
    pub(crate) probe: Probe,
    pub(crate) background: Background,
    pub(crate) memory: Memory,
    pub(crate) measure: Option<Measure>,
}

/// Tasks a clone owns. They are told to stop when the last call is done, and awaited.
#[derive(Clone, Default)]
pub struct Background {
    /// Cancelled once the clone has drained.
    pub stop: CancellationToken,
    /// Cancelled when the drain begins: endless streams end here, saying that another clone goes on.
    pub draining: CancellationToken,
    /// Awaited before the clone ends.
    pub tasks: TaskTracker,
}

impl Background {
    /// Runs a task until it ends by itself or the clone stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }
}

impl Service {
    /// `clone` tells this clone from its siblings in logs and metrics only; `descriptors` is an encoded
    /// `FileDescriptorSet` that has at least the services added.
    pub fn new(
        role: Role,
        clone: impl Into<String>,
        descriptors: &'static [u8],
        background: Background,
    ) -> Self {
        families::begin(role);
        Self {
            role,
            clone: clone.into(),
            routes: Routes::default(),
            descriptors,
            backing: None,
            probe: Probe::none(),
            background,
            memory: Memory::default(),
            measure: None,
        }
    }

    /// Adds a generated server. `message_bytes_max` must be its own limit of decoding: within it nothing is decoded, and no
    /// memory reserved, before all of a message has arrived.
    #[must_use]
    pub fn with<S>(mut self, server: S, message_bytes_max: usize) -> Self
    where
        S: tower::Service<
                http::Request<RequestBody>,
                Response = http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
                Future = BoxFuture<http::Response<tonic::body::Body>, std::convert::Infallible>,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.routes.add(server, message_bytes_max);
        self
    }

    /// Shares the bounds on what is held for slow peers with other clones of this process.
    #[must_use]
    pub fn within(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Says what the clone stands on, and how it asks whether all is well with that now. It serves once it has reached it.
    #[must_use]
    pub fn on(
        mut self,
        backing: Backing,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.probe = Probe::of(&backing, Arc::new(check));
        self.backing = Some(backing);
        self
    }

    /// Sets work that is done before metrics are shown, for gauges that would cost something at rest. Of the clones of a role in
    /// one process the first is asked, not more often than once in [`MEASURE_EVERY`](crate::admin::MEASURE_EVERY).
    #[must_use]
    pub fn measured_by<F, Fut>(mut self, measure: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.measure = Some(Arc::new(move || Box::pin(measure())));
        self
    }

    /// Returns the work that is done before metrics are shown.
    #[must_use]
    pub fn measure(&self) -> Option<Measure> {
        self.measure.clone()
    }

    /// Cancelled when the clone begins to drain; who cancels it ends its endless streams ahead of that.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.background.draining.clone()
    }

    /// Returns the probe of the engine behind the clone, for `/readyz` and `/status`.
    #[must_use]
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// The role of the clone.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }
}
