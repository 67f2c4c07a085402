//! Leases jobs to workers that wait: a worker waits for a job without polling, and a job that was claimed for a worker that
//! left goes back at once.

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
use crate::request::lease::LeaseRequest;
use crate::store::{Claim, JobStore};

/// Most claims that wait to be given back. Past it, a claim is left until its lease runs out.
const UNDOS_MAX: usize = 4096;
/// Most claims given back at the same time.
const UNDOS_AT_ONCE: usize = 16;
/// Time for which giving back is tried while the engine does not answer: as long as the engine remembers the ticket.
const UNDO_PATIENCE: Duration = Duration::from_secs(60);
/// Interval between two tries to give a claim back.
const UNDO_INTERVAL: Duration = Duration::from_millis(200);
/// Longest time that giving back goes on when the clone ends.
const UNDO_LAST_CALL: Duration = Duration::from_secs(2);

/// Leases jobs to the workers that call one clone.
#[derive(Clone)]
pub(crate) struct Leaser {
    store: Arc<dyn JobStore>,
    hub: Arc<Hub>,
    undos: mpsc::Sender<UndoToken>,
    draining: CancellationToken,
}

/// A claim that is given back if it is dropped before [`GuardedClaim::taken`].
pub(crate) struct GuardedClaim {
    claim: Claim,
    guard: LeaseGuard,
}

impl GuardedClaim {
    /// Returns the claim and stops guarding it: from now on it is the worker's until its lease runs out.
    #[must_use]
    pub(crate) fn taken(mut self) -> Claim {
        self.guard.undo = None;
        std::mem::replace(
            &mut self.claim,
            Claim { fence: 0, expire: Default::default(), jobs: Vec::new(), more: false },
        )
    }

    /// Returns the claim without ending the guard.
    #[must_use]
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }
}

/// Names a claim to give back.
#[derive(Debug)]
struct UndoToken {
    queue: QueueName,
    ticket: String,
}

/// Gives back the claim of a ticket when dropped, unless disarmed.
struct LeaseGuard {
    undo: Option<UndoToken>,
    undos: mpsc::Sender<UndoToken>,
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take()
            && let Err(error) = self.undos.try_send(undo)
        {
            tracing::warn!(%error, "a claim whose caller left cannot be given back; it is left until its lease runs out");
        }
    }
}

impl Leaser {
    /// Makes a leaser, and the task that gives claims back. The owner runs the task; after `stop` it ends once its queue is empty.
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

    /// Claims ready jobs. If there are none, waits up to `wait` for the first, or until the clone drains.
    ///
    /// # Errors
    /// Errors of the store, and [`Error::TooManyWaiting`] when a limit of the clone is reached.
    pub(crate) async fn lease(&self, request: &LeaseRequest, wait: Duration) -> Result<GuardedClaim, Error> {
        if wait.is_zero() {
            return self.claim(request).await;
        }
        let waiter = self.hub.wait(&request.queue)?;
        let deadline = Instant::now() + wait;
        loop {
            // Enlisted before looking, so that a job that comes in between wakes this call.
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

    /// Claims ready jobs. Where very many jobs were cancelled, it takes more than one try to come past them.
    async fn claim(&self, request: &LeaseRequest) -> Result<GuardedClaim, Error> {
        loop {
            let leased = self.claim_once(request).await?;
            if !(leased.claim.jobs.is_empty() && leased.claim.more) {
                return Ok(leased);
            }
        }
    }

    /// Claims ready jobs with one call to the store.
    async fn claim_once(&self, request: &LeaseRequest) -> Result<GuardedClaim, Error> {
        let ticket = Uuid::new_v4().simple().to_string();
        let undo = UndoToken { queue: request.queue.clone(), ticket: ticket.clone() };
        // Armed before the call: if the caller leaves during it, or the engine does not answer, the claim is given back.
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

/// Gives back the claims that arrive, until the clone ends.
async fn undo_all(store: Arc<dyn JobStore>, undos: mpsc::Receiver<UndoToken>, stop: CancellationToken) {
    // When the clone ends, the claims in the queue are still given back.
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

/// Gives back one claim, with patience.
async fn undo_one(store: &dyn JobStore, undo: &UndoToken) {
    let deadline = Instant::now() + UNDO_PATIENCE;
    while let Err(error) = store.release(&undo.queue, &undo.ticket).await {
        let passes = matches!(error, Error::Engine(_));
        if !passes || Instant::now() + UNDO_INTERVAL > deadline {
            tracing::warn!(%error, "a claim whose caller left cannot be given back; it is left until its lease runs out");
            return;
        }
        tokio::time::sleep(UNDO_INTERVAL).await;
    }
}
