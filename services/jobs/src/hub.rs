//! The calls that wait at this clone: workers for jobs of a queue, and watchers for changes of a job. Stores announce what
//! happens here, so that no call polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::error::Error;
use crate::job::id::{JobId, QueueName};

/// Most workers that wait at one clone.
const WAITERS_MAX: usize = 10_000;
/// Most watches open at one clone.
const WATCHES_MAX: usize = 10_000;
/// Divisor of the two limits above: one queue or one job gets at most half, and the rest is for others.
const SHARE: usize = 2;
/// Most due times that wait for the maintainer.
const DUE_MAX: usize = 1024;
/// Longest interval at which the maintainer asks the store for what is due.
pub(crate) const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Wakes the waiting calls of one clone.
#[derive(Debug)]
pub(crate) struct Hub {
    waiters: Mutex<Waiters>,
    due: mpsc::Sender<(QueueName, Duration)>,
}

/// The waiting calls by what they wait for.
#[derive(Debug, Default)]
struct Waiters {
    queues: HashMap<QueueName, (Arc<Notify>, usize)>,
    waiters: usize,
    jobs: HashMap<JobId, (watch::Sender<News>, usize)>,
    watches: usize,
}

/// News of a job: what was announced since a watcher subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct News {
    /// The highest version that was announced.
    pub(crate) version: u64,
    /// The number of times that changes may have been missed.
    pub(crate) gaps: u64,
}

/// Receives due times as they are announced, for the maintainer.
pub(crate) type DueTimes = mpsc::Receiver<(QueueName, Duration)>;

impl Hub {
    /// Makes an empty hub.
    #[must_use]
    pub(crate) fn new() -> (Arc<Self>, DueTimes) {
        let (due, times) = mpsc::channel(DUE_MAX);
        (Arc::new(Self { waiters: Mutex::default(), due }), times)
    }

    /// Wakes the worker that has waited longest for a queue, because jobs are ready. That worker wakes the next one if it leaves
    /// some.
    pub(crate) fn ready(&self, queue: &QueueName) {
        if let Some((notify, _)) = self.waiters().queues.get(queue) {
            notify.notify_one();
        }
    }

    /// Wakes one worker of each queue, because announcements of ready jobs may have been missed.
    pub(crate) fn ready_anywhere(&self) {
        for (notify, _) in self.waiters().queues.values() {
            notify.notify_one();
        }
    }

    /// Tells the maintainer that something of a queue is due within this time.
    pub(crate) fn due(&self, queue: &QueueName, within: Duration) {
        // If the maintainer is that far behind, the store names the queue shortly: whoever made it due notes it there too.
        let _ = self.due.try_send((queue.clone(), within));
    }

    /// Tells the watchers of a job that it has a new version.
    pub(crate) fn changed(&self, id: &JobId, version: u64) {
        if let Some((news, _)) = self.waiters().jobs.get(id) {
            news.send_modify(|news| news.version = news.version.max(version));
        }
    }

    /// Makes watchers read again, because changes of jobs of this queue (`None`: of any queue) may have been missed.
    pub(crate) fn gap(&self, queue: Option<&QueueName>) {
        for (id, (news, _)) in &self.waiters().jobs {
            if queue.is_none_or(|queue| queue == id.queue()) {
                news.send_modify(|news| news.gaps += 1);
            }
        }
    }

    /// Returns the queues that workers wait for.
    #[must_use]
    pub(crate) fn waited_for(&self) -> Vec<QueueName> {
        self.waiters().queues.keys().cloned().collect()
    }

    /// Enters as a worker that waits for jobs of a queue.
    ///
    /// # Errors
    /// [`Error::TooManyWaiting`] when a limit is reached.
    pub(crate) fn wait(self: &Arc<Self>, queue: &QueueName) -> Result<Waiter, Error> {
        let mut waiters = self.waiters();
        if waiters.waiters >= WAITERS_MAX {
            return Err(Error::TooManyWaiting { max: WAITERS_MAX, what: "LeaseJobs calls" });
        }
        let (notify, count) = waiters.queues.entry(queue.clone()).or_default();
        if *count >= WAITERS_MAX / SHARE {
            let what = "LeaseJobs calls of this queue";
            return Err(Error::TooManyWaiting { max: WAITERS_MAX / SHARE, what });
        }
        *count += 1;
        let notify = notify.clone();
        waiters.waiters += 1;
        Ok(Waiter { hub: self.clone(), queue: queue.clone(), notify })
    }

    /// Enters as a watcher of a job, which sees everything that is announced from now on.
    ///
    /// # Errors
    /// [`Error::TooManyWaiting`] when a limit is reached.
    pub(crate) fn watch(self: &Arc<Self>, id: &JobId) -> Result<Watching, Error> {
        let mut waiters = self.waiters();
        if waiters.watches >= WATCHES_MAX {
            return Err(Error::TooManyWaiting { max: WATCHES_MAX, what: "WatchJob streams" });
        }
        let (sender, count) =
            waiters.jobs.entry(id.clone()).or_insert_with(|| (watch::channel(News::default()).0, 0));
        if *count >= WATCHES_MAX / SHARE {
            let what = "WatchJob streams of this job";
            return Err(Error::TooManyWaiting { max: WATCHES_MAX / SHARE, what });
        }
        *count += 1;
        let news = sender.subscribe();
        waiters.watches += 1;
        Ok(Watching { news, id: id.clone(), hub: self.clone() })
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that waits; it leaves when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    hub: Arc<Hub>,
    queue: QueueName,
    /// Wakes the worker. If a woken worker leaves without looking, its dropped `Notified` wakes the next one.
    pub(crate) notify: Arc<Notify>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.hub.waiters();
        waiters.waiters -= 1;
        if let Some((_, count)) = waiters.queues.get_mut(&self.queue) {
            *count -= 1;
            if *count == 0 {
                waiters.queues.remove(&self.queue);
            }
        }
    }
}

/// A watcher; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    /// The latest news of the job.
    pub(crate) news: watch::Receiver<News>,
    id: JobId,
    hub: Arc<Hub>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut waiters = self.hub.waiters();
        waiters.watches -= 1;
        if let Some((_, count)) = waiters.jobs.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiters.jobs.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn woken_leaver_wakes_the_next() {
        let (hub, _due) = Hub::new();
        let queue = QueueName::parse("q").unwrap();
        let (first, second) = (hub.wait(&queue).unwrap(), hub.wait(&queue).unwrap());
        let mut one = Box::pin(first.notify.notified());
        let mut two = Box::pin(second.notify.notified());
        one.as_mut().enable();
        two.as_mut().enable();
        hub.ready(&queue);
        drop(one);
        drop(first);
        two.await;
        drop(second);
        assert!(hub.waited_for().is_empty());
    }

    #[test]
    fn one_queue_leaves_room_for_others() {
        let (hub, _due) = Hub::new();
        let [greedy, other] = ["greedy", "other"].map(|name| QueueName::parse(name).unwrap());
        let ids = [&greedy, &other].map(JobId::generate);
        let waiting: Vec<_> = std::iter::from_fn(|| hub.wait(&greedy).ok()).collect();
        let watching: Vec<_> = std::iter::from_fn(|| hub.watch(&ids[0]).ok()).collect();
        assert_eq!((waiting.len(), watching.len()), (WAITERS_MAX / SHARE, WATCHES_MAX / SHARE));
        assert!(hub.wait(&other).is_ok() && hub.watch(&ids[1]).is_ok());
        drop((waiting, watching));
        assert!(hub.wait(&greedy).is_ok() && hub.watch(&ids[0]).is_ok());
    }

    #[test]
    fn last_waiter_removes_its_entry() {
        let (hub, _due) = Hub::new();
        let id = JobId::generate(&QueueName::parse("q").unwrap());
        let (a, b) = (hub.watch(&id).unwrap(), hub.watch(&id).unwrap());
        hub.changed(&id, 3);
        hub.changed(&id, 2);
        hub.gap(None);
        assert_eq!(*a.news.borrow(), News { version: 3, gaps: 1 });
        drop(a);
        assert_eq!(hub.waiters().jobs.len(), 1);
        drop(b);
        assert!(hub.waiters().jobs.is_empty() && hub.waiters().watches == 0);
    }
}
