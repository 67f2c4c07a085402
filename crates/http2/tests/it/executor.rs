//! Tasks on one thread, woken and polled in an order that a seed decides. When nothing is woken and a task has not ended, it
//! hangs: no clock is needed to find that out.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;

use super::harness::Flag;

/// The number of polls after which a simulation counts as endless.
const STEPS_MAX: usize = 10_000_000;

struct Running {
    name: String,
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Flag>,
    /// The simulation ends although the task runs.
    background: bool,
}

type Inbox = Rc<RefCell<Vec<Running>>>;

/// Starts tasks, from within others too.
#[derive(Clone)]
pub(crate) struct Spawner(Inbox);

impl Spawner {
    pub(crate) fn spawn(&self, name: String, future: impl Future<Output = ()> + 'static) {
        self.add(name, future, false);
    }

    /// Starts a task that need not end: a connection.
    pub(crate) fn background(&self, name: &str, future: impl Future<Output = ()> + 'static) {
        self.add(name.to_owned(), future, true);
    }

    fn add(&self, name: String, future: impl Future<Output = ()> + 'static, background: bool) {
        let running = Running { name, future: Box::pin(future), woken: Flag::new(), background };
        self.0.borrow_mut().push(running);
    }
}

pub(crate) struct Executor {
    rng: Rng,
    inbox: Inbox,
    tasks: Vec<Running>,
}

impl Executor {
    pub(crate) fn new(seed: u64) -> Executor {
        Executor { rng: Rng::with_seed(seed), inbox: Inbox::default(), tasks: Vec::new() }
    }

    pub(crate) fn spawner(&self) -> Spawner {
        Spawner(self.inbox.clone())
    }

    /// Polls until nothing is woken. All tasks but those in the background must have ended then.
    ///
    /// # Panics
    /// When one has not ended; `state` tells more.
    pub(crate) fn run(&mut self, state: impl Fn() -> String) {
        for _ in 0..STEPS_MAX {
            self.tasks.append(&mut self.inbox.borrow_mut());
            let woken = |(at, task): (usize, &Running)| Some((task.woken.since()?, at));
            let woken: Vec<_> = self.tasks.iter().enumerate().filter_map(woken).collect();
            if woken.is_empty() {
                let hang = self.tasks.iter().filter(|task| !task.background);
                let hang: Vec<&str> = hang.map(|task| task.name.as_str()).collect();
                assert!(hang.is_empty(), "nothing is woken, and these have not ended: {hang:?}\n{}", state());
                return;
            }
            let (_, at) = woken[self.rng.usize(0..woken.len())];
            let task = &mut self.tasks[at];
            task.woken.take();
            let waker = Waker::from(task.woken.clone());
            if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                self.tasks.swap_remove(at);
            }
        }
        panic!("it goes on for ever");
    }
}

/// Lets other tasks go first, so many times.
pub(crate) async fn pause(mut times: u32) {
    std::future::poll_fn(|cx| {
        if times == 0 {
            return Poll::Ready(());
        }
        times -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
