//! Leasing with patience: a worker waits for a job without asking over and over, and a job that was claimed for a worker
//! who is gone goes back at once.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use shoal_kit::EngineError;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::Error;
use crate::hub::Hub;
use crate::job::id::QueueName;
use crate::lease_request::LeaseRequest;
use crate::store::{Claim, JobStore};

/// Claims to give back that wait for their turn. Past it, a lease runs out by itself.
const UNDOS_MAX: usize = 4096;
/// Claims given back at the same time.
const UNDOS_AT_ONCE: usize = 16;
/// How long giving back is tried while the engine does not answer: as long as it remembers the ticket.
const UNDO_PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const UNDO_INTERVAL: Duration = Duration::from_millis(200);
/// What is left of this when the clone ends.
const UNDO_LAST_CALL: Duration = Duration::from_secs(2);

/// Where workers of one clone ask for jobs.
#[derive(Clone)]
pub(crate) struct Leaser {
    store: Arc<dyn JobStore>,
    hub: Arc<Hub>,
    undos: mpsc::Sender<UndoToken>,
    draining: CancellationToken,
}

/// A claim that goes back if it is dropped before [`GuardedClaim::taken`].
pub(crate) struct GuardedClaim {
    claim: Claim,
    guard: LeaseGuard,
}

impl GuardedClaim {
    /// The claim, now the worker's: nothing takes it back but the end of its lease.
    #[must_use]
    pub(crate) fn taken(mut self) -> Claim {
        self.guard.undo = None;
        std::mem::replace(
            &mut self.claim,
            Claim { fence: 0, expire: Default::default(), jobs: Vec::new(), more: false },
        )
    }

    /// The claim.
    #[must_use]
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }
}

/// By which a claim is given back.
#[derive(Debug)]
struct UndoToken {
    queue: QueueName,
    ticket: String,
}

/// Gives back whatever the ticket claims, unless disarmed.
struct LeaseGuard {
    undo: Option<UndoToken>,
    undos: mpsc::Sender<UndoToken>,
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take()
            && let Err(error) = self.undos.try_send(undo)
        {
            tracing::warn!(%error, "a claim nobody waits for is left to run out");
        }
    }
}

impl Leaser {
    /// A leaser, and the work of giving back, which its owner runs until `stop`, and then for what is left.
    pub(crate) fn open(
        store: Arc<dyn JobStore>,
        hub: Arc<Hub>,
        draining: CancellationToken,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (undos, queued) = mpsc::channel(UNDOS_MAX);
        let undoing = undo_all(store.clone(), queued, stop);
        (Self { store, hub, undos, draining }, undoing)
    }

    /// Claims ready jobs; if there are none, waits up to `wait` for the first, or until the clone drains.
    ///
    /// # Errors
    /// Of the store, or [`Error::TooManyWaiting`].
    pub(crate) async fn lease(&self, request: &LeaseRequest, wait: Duration) -> Result<GuardedClaim, Error> {
        if wait.is_zero() {
            return self.claim(request).await;
        }
        let waiter = self.hub.wait(&request.queue)?;
        let deadline = Instant::now() + wait;
        loop {
            // Enlisted before looking: a job that comes in between is heard of.
            let mut woken = std::pin::pin!(waiter.notify.notified());
            woken.as_mut().enable();
            let leased = self.claim(request).await?;
            if !leased.claim.jobs.is_empty() {
                return Ok(leased);
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(deadline) => return Ok(leased),
                () = self.draining.cancelled() => return Ok(leased),
            }
        }
    }

    /// Claims what is ready. Where very many jobs were cancelled, it takes more than one look to come past them.
    async fn claim(&self, request: &LeaseRequest) -> Result<GuardedClaim, Error> {
        loop {
            let leased = self.look(request).await?;
            if !(leased.claim.jobs.is_empty() && leased.claim.more) {
                return Ok(leased);
            }
        }
    }

    async fn look(&self, request: &LeaseRequest) -> Result<GuardedClaim, Error> {
        let ticket = Uuid::new_v4().simple().to_string();
        let undo = UndoToken { queue: request.queue.clone(), ticket: ticket.clone() };
        // Armed before the call: if the caller leaves during it, or it is not answered, what it claims goes back.
        let mut guard = LeaseGuard { undo: Some(undo), undos: self.undos.clone() };
        match self.store.lease(request.clone(), ticket).await {
            Ok(claim) => {
                if claim.jobs.is_empty() {
                    guard.undo = None;
                }
                if claim.more {
                    self.hub.ready(&request.queue);
                }
                Ok(GuardedClaim { claim, guard })
            }
            Err(error) => {
                if !matches!(error, Error::Engine(EngineError::Unknown { .. })) {
                    guard.undo = None;
                }
                Err(error)
            }
        }
    }
}

async fn undo_all(store: Arc<dyn JobStore>, undos: mpsc::Receiver<UndoToken>, stop: CancellationToken) {
    // When the clone ends, what is queued is still given back.
    let undos = futures::stream::unfold((undos, stop.clone()), |(mut undos, stop)| async move {
        let undo = tokio::select! {
            undo = undos.recv() => undo,
            () = stop.cancelled() => {
                undos.close();
                undos.recv().await
            }
        };
        undo.map(|undo| (undo, (undos, stop)))
    });
    let all = undos.for_each_concurrent(UNDOS_AT_ONCE, |undo| {
        let store = store.clone();
        async move { undo_one(&*store, &undo).await }
    });
    let mut all = std::pin::pin!(all);
    tokio::select! {
        () = &mut all => {}
        () = async { stop.cancelled().await; tokio::time::sleep(UNDO_LAST_CALL).await } => {}
    }
}

async fn undo_one(store: &dyn JobStore, undo: &UndoToken) {
    let deadline = Instant::now() + UNDO_PATIENCE;
    while let Err(error) = store.release(&undo.queue, &undo.ticket).await {
        let passes = matches!(error, Error::Engine(_));
        if !passes || Instant::now() + UNDO_INTERVAL > deadline {
            tracing::warn!(%error, "a claim nobody waits for is left to run out");
            return;
        }
        tokio::time::sleep(UNDO_INTERVAL).await;
    }
}
