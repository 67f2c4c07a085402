//! A connection's task that writes once for many calls. It knows nothing of what it drives.
//!
//! tokio runs a task that another one woke next, before all that waited already: it is likely to find its data still in the
//! cache. A connection is woken by the first of many calls that have something to send, so it would write that call's few
//! bytes, then the next one's, and so on: a system call for each, here and where they are read. [`Gather`] lets those go
//! first that are ready to run.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use pin_project_lite::pin_project;

pin_project! {
    /// Drives a future which, each time it is woken, lets the tasks that are ready to run go first, once.
    ///
    /// It comes to its turn when its worker has none of them left, and at the latest when tokio looks for sockets and
    /// timers that are ready, which it does at least every 61 tasks. What holds it up for longer is a task that does not return. With `worth` false it
    /// does not wait: of one call alone there is nothing to gather.
    #[derive(Debug)]
    pub struct Gather<F, W> {
        #[pin]
        inner: F,
        worth: W,
        turn: Arc<Turn>,
        // Of `turn`.
        waker: Waker,
        waits: bool,
    }
}

/// Says that the others had their turn.
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

impl<F, W> Gather<F, W> {
    /// Drives `inner`; `worth` says, whenever it is woken, whether more than what woke it is to be expected.
    pub fn new(inner: F, worth: W) -> Self {
        let turn = Arc::new(Turn::default());
        Self { inner, worth, waker: Waker::from(Arc::clone(&turn)), turn, waits: false }
    }
}

impl<F: Future, W: Fn() -> bool> Future for Gather<F, W> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if *this.waits || (this.worth)() {
            this.turn.task.register(cx.waker());
            if !*this.waits {
                *this.waits = true;
                // Given to tokio, which wakes it in its turn; what wakes the task before that is one of those gathered.
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

    /// How often a task is run to take what that many others send it, all ready at once.
    fn turns(worth: bool) -> usize {
        // One worker: what runs next is not for another one to take.
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
            let connection = tokio::spawn(Gather::new(connection, move || worth));
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
    fn what_is_ready_at_once_is_taken_at_once() {
        // Twice or thrice if tokio looks at its sockets meanwhile.
        assert!(turns(true) <= 3, "{} turns", turns(true));
        assert!(turns(false) > CALLS / 4, "tokio runs it after each one by itself: Gather is of no more use");
    }

    #[tokio::test]
    async fn a_task_alone_goes_on_and_a_wake_while_it_waits_is_not_lost() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let echo = Gather::new(async move { (receiver.recv().await, receiver.recv().await) }, || true);
        let echo = tokio::spawn(echo);
        sender.send(1).expect("open");
        tokio::task::yield_now().await;
        sender.send(2).expect("open");
        assert_eq!(echo.await.expect("no panic"), (Some(1), Some(2)));
    }

    #[test]
    fn without_a_runtime_it_is_only_the_future() {
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(Gather::new(std::future::ready(7), || true)).poll(&mut cx), Poll::Ready(7));
    }
}
