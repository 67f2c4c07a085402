//! Work that its caller does itself, and that goes on without the caller who leaves it.
//!
//! A task for each statement would save the statement of a caller that leaves, and costs every other one a turn of the scheduler.
//! So the caller polls its statement, and only one that is dropped before its end gets a task.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// A future that is spawned when it is dropped before its end. The tracker counts it from the beginning.
pub(super) struct DetachOnDrop<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    tasks: TaskTracker,
    _counted: TaskTrackerToken,
}

impl<T: Send + 'static> DetachOnDrop<T> {
    pub(super) fn new(work: impl Future<Output = T> + Send + 'static, tasks: &TaskTracker) -> Self {
        Self { work: Some(Box::pin(work)), tasks: tasks.clone(), _counted: tasks.token() }
    }
}

impl<T: Send + 'static> Future for DetachOnDrop<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out while it runs, so that one that panics is not run again.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for DetachOnDrop<T> {
    fn drop(&mut self) {
        // Without a runtime the process ends, and its connections with it.
        if let Some(work) = self.work.take()
            && let Ok(runtime) = Handle::try_current()
        {
            self.tasks.spawn_on(
                async move {
                    drop(work.await);
                },
                &runtime,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Returns work that ends when it is told to, and says so.
    fn work() -> (Arc<Notify>, Arc<Notify>, impl Future<Output = ()> + Send + 'static) {
        let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, says) = (go.clone(), done.clone());
        (go, done, async move {
            told.notified().await;
            says.notify_one();
        })
    }

    #[tokio::test]
    async fn work_outlives_its_caller() {
        let tasks = TaskTracker::new();
        let (go, done, work) = work();
        let mut work = DetachOnDrop::new(work, &tasks);
        assert!(futures::poll!(&mut work).is_pending());
        assert_eq!(tasks.len(), 1, "counted before it has a task");
        drop(work);
        go.notify_one();
        tokio::time::timeout(PATIENCE, done.notified()).await.expect("it goes on");
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn ended_work_gets_no_task() {
        let tasks = TaskTracker::new();
        let (go, _done, work) = work();
        go.notify_one();
        DetachOnDrop::new(work, &tasks).await;
        assert!(tasks.is_empty());
    }
}
