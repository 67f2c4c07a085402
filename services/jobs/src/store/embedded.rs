//! Jobs in a database of this process, which its clones share: every step is one durable transaction, timers are exact, and
//! clones hear of each other's steps in memory.

mod layout;
mod list;
mod step;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_embedded::Database;
use shoal_kit::EngineError;
use tokio::sync::broadcast;

use self::layout::Layout;
use self::list::Reader;
use self::step::{News, Step, damaged, engine, ready_from};
use super::due_times::DueQueues;
use super::{Announcer, Claim, Counts, DueStore, Enqueued, Following, JobStore, Page, Promoted, Store};
use crate::error::Error;
use crate::hub::Hub;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::job::new_job::NewJob;
use crate::job::{Failure, Job, State};
use crate::request::lease::LeaseRequest;

const ENGINE: &str = "the embedded database";

/// Most announcements that a clone may be behind before it is told that it missed some.
const NEWS_MAX: usize = 1024;

/// The store in this process. Its clones share one database.
#[derive(Clone)]
pub(crate) struct EmbeddedStore {
    db: Database,
    layout: Layout,
    clock: Arc<Clock>,
    /// The moment up to which everything that ended was forgotten.
    forgotten: Arc<AtomicU64>,
    news: broadcast::Sender<Arc<News>>,
    due_queues: Arc<Mutex<DueQueues>>,
    queues_max: usize,
}

impl EmbeddedStore {
    /// Opens the database in `dir`, or one that goes with the process.
    pub(crate) fn open(dir: Option<&Path>, queues_max: usize) -> anyhow::Result<Self> {
        let db = match dir {
            Some(dir) => Database::open(dir)?,
            None => Database::ephemeral()?,
        };
        db.report_as("jobs");
        let layout = Layout::open(&db)?;
        Ok(Self {
            db,
            layout,
            clock: Arc::default(),
            forgotten: Arc::default(),
            news: broadcast::channel(NEWS_MAX).0,
            due_queues: Arc::default(),
            queues_max,
        })
    }

    /// Runs one durable step, and announces what it changed.
    async fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Step<'_, '_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (layout, clock, news) = (self.layout.clone(), self.clock.clone(), self.news.clone());
        let at_clock = clock.clone();
        let (db, due_queues, queues_max) = (self.db.clone(), self.due_queues.clone(), self.queues_max);
        // In a task of its own, so that the step of a caller that left is announced all the same.
        let written = tokio::spawn(async move {
            let (result, told) = db
                .write(move |tx| {
                    let now_us = clock.now_us();
                    let mut at = Step { layout: &layout, now_us, queues_max, news: News::default(), tx };
                    let result = step(&mut at);
                    let told = at.news;
                    if result.is_err() {
                        tx.abort();
                    }
                    (result, told)
                })
                .await
                .map_err(write_failed)?;
            if result.is_ok() {
                for (queue, at) in &told.due {
                    lock(&due_queues).note(queue, at_clock.now().until(*at));
                }
                // Without a clone that listens nothing waits.
                let _ = news.send(Arc::new(told));
            }
            result
        });
        written.await.unwrap_or_else(|error| Err(Error::Internal(format!("a transaction's task: {error}"))))
    }

    /// Reads the store as it is now.
    fn reader(&self) -> Reader<'_> {
        Reader { snapshot: self.db.snapshot(), layout: &self.layout, now: self.clock.now() }
    }

    /// Returns what `promote_due` would find, without a transaction: mostly there is nothing to do.
    fn look(&self, queue: &QueueName) -> Result<Promoted, Error> {
        let reader = self.reader();
        let Some(marks) = reader.queue_record(queue)? else {
            return Ok(Promoted { ready: false, next: None, lost: 0 });
        };
        let (snapshot, now) = (&reader.snapshot, reader.now);
        let ready = snapshot.range(&self.layout.ready, ready_from(queue, marks.head)).next();
        let first = |keyspace, from| -> Result<Option<Moment>, Error> {
            let range = ready_from(queue, from);
            let Some(first) = snapshot.range(keyspace, range).next() else { return Ok(None) };
            let (key, _) = first.map_err(engine)?;
            Ok(layout::number_in(queue, &key).map(|(moment, _)| Moment(moment)))
        };
        let due = first(&self.layout.due, marks.due_from)?;
        let lease = first(&self.layout.leases, marks.leases_from)?;
        let next = [due, lease].into_iter().flatten().min();
        Ok(Promoted { ready: ready.is_some(), next: next.map(|moment| now.until(moment)), lost: 0 })
    }

    /// Forgets what has ended for long enough. Scans begin where the last one ended, not among deleted keys.
    async fn forget(&self) -> Result<(), Error> {
        loop {
            let from = self.forgotten.load(Ordering::Relaxed);
            let past = from.to_be_bytes().to_vec()..(self.clock.now().0 + 1).to_be_bytes().to_vec();
            if self.layout.ends.range(past).next().is_none() {
                return Ok(());
            }
            let upto = self.step(move |step| step.forget(from)).await?;
            self.forgotten.fetch_max(upto.0, Ordering::Relaxed);
        }
    }
}

impl Store for EmbeddedStore {
    fn ready(&self) -> Result<(), String> {
        self.db.ready()
    }
}

impl JobStore for EmbeddedStore {
    fn enqueue_all(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Vec<Enqueued>, Error>> {
        self.step(move |step| step.enqueue(&jobs)).boxed()
    }

    fn get<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<Job>, Error>> {
        std::future::ready(self.reader().job(id)).boxed()
    }

    fn lease(&self, request: LeaseRequest, ticket: String) -> BoxFuture<'_, Result<Claim, Error>> {
        async move {
            // A queue without jobs costs no transaction.
            let found = self.look(&request.queue)?;
            if !found.ready && found.next != Some(Duration::ZERO) {
                let expire = self.clock.now();
                return Ok(Claim { fence: 0, expire, jobs: Vec::new(), more: false });
            }
            self.step(move |step| step.lease(&request, &ticket)).await
        }
        .boxed()
    }

    fn release<'a>(&'a self, queue: &'a QueueName, ticket: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let (queue, ticket) = (queue.clone(), ticket.to_owned());
        self.step(move |step| step.release(&queue, &ticket)).boxed()
    }

    fn complete<'a>(&'a self, id: &'a JobId, fence: u64, result: Bytes) -> BoxFuture<'a, Result<Job, Error>> {
        let id = id.clone();
        self.step(move |step| step.complete(&id, fence, result)).boxed()
    }

    fn fail<'a>(&'a self, id: &'a JobId, fence: u64, failure: Failure) -> BoxFuture<'a, Result<Job, Error>> {
        let id = id.clone();
        self.step(move |step| step.fail(&id, fence, failure)).boxed()
    }

    fn extend<'a>(
        &'a self,
        id: &'a JobId,
        fence: u64,
        duration: Duration,
    ) -> BoxFuture<'a, Result<Moment, Error>> {
        let id = id.clone();
        self.step(move |step| step.extend(&id, fence, duration)).boxed()
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Job, Error>> {
        let id = id.clone();
        self.step(move |step| step.cancel(&id)).boxed()
    }

    fn count<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Option<Counts>, Error>> {
        std::future::ready(self.reader().count(queue)).boxed()
    }

    fn list<'a>(
        &'a self,
        queue: &'a QueueName,
        state: State,
        max: usize,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        std::future::ready(self.reader().list(queue, state, max, after.as_deref())).boxed()
    }

    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueName>, Error>> {
        let names = self.layout.queues.range(..).map(|entry| {
            let (name, _) = entry.map_err(engine)?;
            layout::queue_in(&name).ok_or_else(|| damaged("queue"))
        });
        std::future::ready(names.collect()).boxed()
    }
}

impl DueStore for EmbeddedStore {
    fn promote_due<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Promoted, Error>> {
        async move {
            self.forget().await?;
            let found = self.look(queue)?;
            if found.next != Some(Duration::ZERO) {
                return Ok(found);
            }
            let named = queue.clone();
            let (more, lost) = self.step(move |step| step.promote_due(&named)).await?;
            let found = self.look(queue)?;
            Ok(Promoted { next: if more { Some(Duration::ZERO) } else { found.next }, lost, ..found })
        }
        .boxed()
    }

    fn note(&self, queue: &QueueName, within: Duration) {
        lock(&self.due_queues).note(queue, within);
    }

    fn take_due(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueName>, Error>> {
        async move {
            self.forget().await?;
            Ok(lock(&self.due_queues).take_due(max))
        }
        .boxed()
    }

    fn settle(&self, queue: &QueueName, next: Option<Duration>) {
        lock(&self.due_queues).settle(queue, next);
    }
}

impl Announcer for EmbeddedStore {
    fn announce(&self, hub: Arc<Hub>) -> BoxFuture<'static, ()> {
        // Subscribed before the first poll, so that nothing is missed from now on.
        let mut news = self.news.subscribe();
        let clock = self.clock.clone();
        async move {
            loop {
                match news.recv().await {
                    Ok(told) => {
                        told.ready.iter().for_each(|queue| hub.ready(queue));
                        told.due.iter().for_each(|(queue, at)| hub.due(queue, clock.now().until(*at)));
                        told.changed.iter().for_each(|(id, version)| hub.changed(id, *version));
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        hub.ready_anywhere();
                        hub.gap(None);
                    }
                    // The store itself is gone: nothing will happen any more.
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        }
        .boxed()
    }

    fn follow<'a>(&'a self, _queue: &'a QueueName) -> BoxFuture<'a, Result<Following, Error>> {
        std::future::ready(Ok(Box::new(()) as Following)).boxed()
    }
}

/// Locks the due queues, also after a panic.
fn lock(due_queues: &Mutex<DueQueues>) -> MutexGuard<'_, DueQueues> {
    due_queues.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock of this machine's time that never goes back while the process lives.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

impl Clock {
    fn now_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_max(us, Ordering::Relaxed).max(us)
    }

    fn now(&self) -> Moment {
        Moment(self.now_us() / 1000)
    }
}

/// Makes the error of a write that failed.
fn write_failed(error: shoal_embedded::Error) -> Error {
    use shoal_embedded::Error as Embedded;
    let (engine, text) = (ENGINE, error.to_string());
    Error::Engine(match error {
        Embedded::Closed | Embedded::Reopening => EngineError::Unavailable { engine, detail: text },
        Embedded::Full(detail) => EngineError::Full { engine, detail, remedy: "free space on its disk" },
        Embedded::Failed(detail) => EngineError::ReadOnly { engine, detail },
        Embedded::Engine(_) => EngineError::Unknown { engine, detail: text },
        Embedded::Panicked(_) | Embedded::Limit(_) => return Error::Internal(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::new_job::Run;
    use crate::store::conformance::{eventually, lease_request, new_job, queue, ticket};

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn jobs_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let q = queue("q");
        let store = EmbeddedStore::open(Some(dir.path()), 1000).unwrap();
        let delayed = NewJob { run: Run::After(Duration::from_millis(1)), ..new_job(&q, "delayed") };
        let named = new_job(&q, "held").with_request_id("r");
        let held = store.enqueue(named.clone()).await.unwrap();
        let lost = store.enqueue(new_job(&q, "lost")).await.unwrap();
        let claim = store.lease(lease_request(&q, 1, LONG), ticket()).await.unwrap();
        store.lease(lease_request(&q, 1, Duration::from_millis(1)), ticket()).await.unwrap();
        store.enqueue(new_job(&q, "ready")).await.unwrap();
        let delayed = store.enqueue(delayed).await.unwrap();
        drop(store);

        let store =
            eventually("it is closed", || async { EmbeddedStore::open(Some(dir.path()), 1000).ok() }).await;
        assert_eq!(store.queues().await.unwrap(), std::slice::from_ref(&q));
        let again = eventually("what was lost is given back", || async {
            store.promote_due(&q).await.unwrap();
            store.get(&lost.id).await.unwrap().filter(|job| job.progress.lost_count == 1)
        })
        .await;
        assert_eq!(again.progress.state, State::Ready);
        assert_eq!(store.enqueue(named).await.unwrap().id, held.id);
        let rest = store.lease(lease_request(&q, 9, LONG), ticket()).await.unwrap();
        assert!(rest.fence > claim.fence);
        let mut kinds: Vec<_> = rest.jobs.iter().map(|job| job.spec.kind.as_str()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["delayed", "lost", "ready"]);
        assert!(rest.jobs.iter().any(|job| job.id == delayed.id));
        let done = store.complete(&held.id, claim.fence, Bytes::new()).await.unwrap();
        assert_eq!(done.progress.state, State::Succeeded);
    }
}
