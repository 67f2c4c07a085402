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
use crate::id::QueueName;
use crate::store::{Ask, Claim, Store};

/// Claims to give back that wait for their turn. Past it, a lease runs out by itself.
const RETURNS_MAX: usize = 4096;
/// Claims given back at the same time.
const RETURNS_AT_ONCE: usize = 16;
/// How long giving back is tried while the engine does not answer: as long as it remembers the ticket.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const RETURN_INTERVAL: Duration = Duration::from_millis(200);
/// What is left of this when the clone ends.
const RETURN_LAST_CALL: Duration = Duration::from_secs(2);

/// Where workers of one clone ask for jobs.
#[derive(Clone)]
pub(crate) struct Counter {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    returns: mpsc::Sender<Slip>,
    draining: CancellationToken,
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// Of which queue.
    pub(crate) queue: QueueName,
    /// At most this many.
    pub(crate) max_jobs: usize,
    /// Who.
    pub(crate) worker: String,
    /// For how long.
    pub(crate) duration: Duration,
}

/// A claim that goes back if it is dropped before [`Delivery::taken`].
pub(crate) struct Delivery {
    claim: Claim,
    receipt: Receipt,
}

impl Delivery {
    /// The claim, now the worker's: nothing takes it back but the end of its lease.
    #[must_use]
    pub(crate) fn taken(mut self) -> Claim {
        self.receipt.slip = None;
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
struct Slip {
    queue: QueueName,
    ticket: String,
}

/// Gives back whatever the ticket claims, unless disarmed.
struct Receipt {
    slip: Option<Slip>,
    returns: mpsc::Sender<Slip>,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(slip) = self.slip.take()
            && let Err(error) = self.returns.try_send(slip)
        {
            tracing::warn!(%error, "a claim nobody waits for is left to run out");
        }
    }
}

impl Counter {
    /// A counter, and the work of giving back, which its owner runs until `stop`, and then for what is left.
    pub(crate) fn open(
        store: Arc<dyn Store>,
        hub: Arc<Hub>,
        draining: CancellationToken,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (returns, slips) = mpsc::channel(RETURNS_MAX);
        let giving_back = give_back(store.clone(), slips, stop);
        (Self { store, hub, returns, draining }, giving_back)
    }

    /// Claims ready jobs; if there are none, waits up to `wait` for the first, or until the clone drains.
    ///
    /// # Errors
    /// Of the store, or [`Error::TooManyWaiting`].
    pub(crate) async fn lease(&self, order: &Order, wait: Duration) -> Result<Delivery, Error> {
        if wait.is_zero() {
            return self.claim(order).await;
        }
        let waiter = self.hub.wait(&order.queue)?;
        let deadline = Instant::now() + wait;
        loop {
            // Enlisted before looking: a job that comes in between is heard of.
            let mut woken = std::pin::pin!(waiter.notify.notified());
            woken.as_mut().enable();
            let delivery = self.claim(order).await?;
            if !delivery.claim.jobs.is_empty() {
                return Ok(delivery);
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(deadline) => return Ok(delivery),
                () = self.draining.cancelled() => return Ok(delivery),
            }
        }
    }

    /// Claims what is ready. Where very many jobs were cancelled, it takes more than one look to come past them.
    async fn claim(&self, order: &Order) -> Result<Delivery, Error> {
        loop {
            let delivery = self.look(order).await?;
            if !(delivery.claim.jobs.is_empty() && delivery.claim.more) {
                return Ok(delivery);
            }
        }
    }

    async fn look(&self, order: &Order) -> Result<Delivery, Error> {
        let ticket = Uuid::new_v4().simple().to_string();
        let slip = Slip { queue: order.queue.clone(), ticket: ticket.clone() };
        // Armed before the call: if the caller leaves during it, or it is not answered, what it claims goes back.
        let mut receipt = Receipt { slip: Some(slip), returns: self.returns.clone() };
        let ask = Ask {
            queue: order.queue.clone(),
            max_jobs: order.max_jobs,
            worker: order.worker.clone(),
            duration: order.duration,
            ticket,
        };
        match self.store.lease(ask).await {
            Ok(claim) => {
                if claim.jobs.is_empty() {
                    receipt.slip = None;
                }
                if claim.more {
                    self.hub.ready(&order.queue);
                }
                Ok(Delivery { claim, receipt })
            }
            Err(error) => {
                if !matches!(error, Error::Engine(EngineError::Unknown { .. })) {
                    receipt.slip = None;
                }
                Err(error)
            }
        }
    }
}

async fn give_back(store: Arc<dyn Store>, slips: mpsc::Receiver<Slip>, stop: CancellationToken) {
    // When the clone ends, what is queued is still given back.
    let slips = futures::stream::unfold((slips, stop.clone()), |(mut slips, stop)| async move {
        let slip = tokio::select! {
            slip = slips.recv() => slip,
            () = stop.cancelled() => {
                slips.close();
                slips.recv().await
            }
        };
        slip.map(|slip| (slip, (slips, stop)))
    });
    let all = slips.for_each_concurrent(RETURNS_AT_ONCE, |slip| {
        let store = store.clone();
        async move { give_one_back(&*store, &slip).await }
    });
    let mut all = std::pin::pin!(all);
    tokio::select! {
        () = &mut all => {}
        () = async { stop.cancelled().await; tokio::time::sleep(RETURN_LAST_CALL).await } => {}
    }
}

async fn give_one_back(store: &dyn Store, slip: &Slip) {
    let deadline = Instant::now() + RETURN_PATIENCE;
    while let Err(error) = store.release(&slip.queue, &slip.ticket).await {
        let passes = matches!(error, Error::Engine(_));
        if !passes || Instant::now() + RETURN_INTERVAL > deadline {
            tracing::warn!(%error, "a claim nobody waits for is left to run out");
            return;
        }
        tokio::time::sleep(RETURN_INTERVAL).await;
    }
}
