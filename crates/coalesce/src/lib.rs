//! Write coalescing: the task of a connection writes once for many calls.
//!
//! tokio runs a newly woken task before the tasks that were already queued, because its data is likely to be in the CPU
//! cache. A connection is woken by the first of many calls that have something to send, so without this crate it writes the
//! few bytes of that call, then those of the next call, and so on: one system call for each, both here and at the reader.
//! [`Coalesce`] lets the tasks that are ready run first. It knows nothing about the connection that it drives.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use pin_project_lite::pin_project;

pin_project! {
    /// Drives a future that yields once to the ready tasks each time it is woken.
    ///
    /// The future is polled when its worker has no ready task left, and at the latest when tokio polls its sockets and
    /// timers, which it does at least every 61 tasks. Only a task that does not return delays it for longer. When
    /// `should_defer` returns false the future is polled at once: the bytes of a single call cannot be coalesced.
    #[derive(Debug)]
    pub struct Coalesce<F, W> {
        #[pin]
        inner: F,
        should_defer: W,
        turn: Arc<Turn>,
        // Wakes `turn`.
        waker: Waker,
        waits: bool,
    }
}

/// Records that tokio ran the tasks that were ready.
#[derive(Debug, Default)]
struct Turn {
    came: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.came.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F, W> Coalesce<F, W> {
    /// Drives `inner`. `should_defer` is asked at each wake-up whether more work is expected than what caused it.
    pub fn new(inner: F, should_defer: W) -> Self {
        let turn = Arc::new(Turn::default());
        Self { inner, should_defer, waker: Waker::from(Arc::clone(&turn)), turn, waits: false }
    }
}

impl<F: Future, W: Fn() -> bool> Future for Coalesce<F, W> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if *this.waits || (this.should_defer)() {
            this.turn.task.register(cx.waker());
            if !*this.waits {
                *this.waits = true;
                // tokio wakes this waker after the ready tasks; earlier wake-ups come from the calls being coalesced.
                let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(this.waker));
            }
            if !this.turn.came.swap(false, Ordering::Acquire) {
                return Poll::Pending;
            }
            *this.waits = false;
        }
        this.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::mpsc;

    use super::*;

    const CALLS: usize = 50;

    /// Counts the runs of a task that receives from [`CALLS`] tasks which are all ready at once.
    fn turns(should_defer: bool) -> usize {
        // One worker, so that no other worker steals the next task.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        runtime.block_on(async {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            let turns = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&turns);
            let mut left = CALLS;
            let connection = std::future::poll_fn(move |cx| {
                let before = left;
                while left > 0 && receiver.poll_recv(cx).is_ready() {
                    left -= 1;
                }
                counted.fetch_add(usize::from(left < before), Ordering::Relaxed);
                if left == 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            let connection = tokio::spawn(Coalesce::new(connection, move || should_defer));
            let calls = tokio::spawn(async move {
                for _ in 0..CALLS {
                    let sender = sender.clone();
                    tokio::spawn(async move { sender.send(()) });
                }
            });
            calls.await.expect("no panic");
            connection.await.expect("no panic");
            turns.load(Ordering::Relaxed)
        })
    }

    #[test]
    fn ready_calls_are_taken_in_one_turn() {
        // Two or three times if tokio polls its sockets meanwhile.
        assert!(turns(true) <= 3, "{} turns", turns(true));
        assert!(turns(false) > CALLS / 4, "tokio coalesces by itself: this crate is no longer needed");
    }

    #[tokio::test]
    async fn wake_while_deferred_is_not_lost() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let echo = Coalesce::new(async move { (receiver.recv().await, receiver.recv().await) }, || true);
        let echo = tokio::spawn(echo);
        sender.send(1).expect("open");
        tokio::task::yield_now().await;
        sender.send(2).expect("open");
        assert_eq!(echo.await.expect("no panic"), (Some(1), Some(2)));
    }

    #[test]
    fn polls_at_once_outside_a_runtime() {
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(Coalesce::new(std::future::ready(7), || true)).poll(&mut cx), Poll::Ready(7));
    }
}
