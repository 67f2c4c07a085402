//! Group commit: one thread runs the queued transactions one after another, commits what piled up as one
//! batch with one fsync, and only then answers all of them.
//!
//! The group is a single batch of the engine, written to the journal and synced before it is applied: it
//! is found whole or not at all after a crash, and nobody reads what is not yet durable. Groups need no
//! timer: while one is synced, the next one gathers in the queue.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use fjall::PersistMode;
use tokio::sync::{mpsc, oneshot};

use crate::database::{Stats, Storage};
use crate::error::Error;
use crate::tx::{Pending, Tx};

/// Transactions that wait for their turn; further callers wait for room.
const QUEUE_MAX: usize = 1024;

/// A group ends at this many transactions, so that the first one's answer does not wait for ever more.
const GROUP_MAX: usize = 256;

/// A group ends at this many bytes: it is held in memory and written in one go.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The journal is on the disk.
    Disk,
    /// Nothing: the files are thrown away anyway.
    None,
}

/// The queue's sending side, and the thread's owner.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Message>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    writes: AtomicU64,
    groups: AtomicU64,
}

enum Message {
    Write(Transaction),
    Close,
}

/// Runs a caller's closure; what it gives back tells that caller how the group went.
type Transaction = Box<dyn FnOnce(Tx<'_>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

impl Writer {
    pub(crate) fn start(storage: Arc<Storage>, durability: Durability) -> std::io::Result<Writer> {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        let group_commit = GroupCommit { storage, durability, counters: Arc::clone(&counters) };
        let thread = thread::Builder::new()
            .name("embedded-writer".to_owned())
            .spawn(move || group_commit.run(messages))?;
        Ok(Writer { queue: Some(queue), thread: Mutex::new(Some(thread)), counters })
    }

    pub(crate) async fn write<R, F>(&self, f: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> R + Send + 'static,
    {
        let queue = self.queue.as_ref().ok_or(Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        let transaction = Box::new(move |mut tx: Tx<'_>| -> Answer {
            let outcome = match catch_unwind(AssertUnwindSafe(|| f(&mut tx))) {
                Ok(value) => tx.finish().map(|()| value),
                Err(panic) => {
                    tx.roll_back();
                    Err(Error::Panicked(panic_text(panic.as_ref())))
                }
            };
            Box::new(move |committed| {
                // Nobody listens if the caller's future was dropped: the write stands all the same.
                let _ = answer.send(outcome.and_then(|value| committed.map(|()| value)));
            })
        });
        queue.send(Message::Write(transaction)).await.map_err(|_| Error::Closed)?;
        // An answer is dropped unsent only with a queue that nobody reads any more.
        answered.await.unwrap_or(Err(Error::Closed))
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            writes: self.counters.writes.load(Ordering::Relaxed),
            groups: self.counters.groups.load(Ordering::Relaxed),
        }
    }

    pub(crate) async fn close(&self) {
        if let Some(queue) = &self.queue {
            // An error means that it is closed already.
            let _ = queue.send(Message::Close).await;
        }
        if let Some(thread) = self.take_thread() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the embedded database's writer did not end well");
            }
        }
    }

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread runs what is queued and ends.
        self.queue = None;
        let Some(thread) = self.take_thread() else { return };
        // A transaction may own the last handle: the thread then ends by itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the embedded database's writer did not end well");
        }
    }
}

/// The thread's side.
struct GroupCommit {
    storage: Arc<Storage>,
    durability: Durability,
    counters: Arc<Counters>,
}

impl GroupCommit {
    fn run(self, mut messages: mpsc::Receiver<Message>) {
        while let Some(Message::Write(first)) = messages.blocking_recv() {
            let (group, answers, closed) = self.gather(first, &mut messages);
            self.counters.writes.fetch_add(answers.len() as u64, Ordering::Relaxed);
            // A panic of the engine leaves its locks poisoned: later groups fail the same way.
            let committed = catch_unwind(AssertUnwindSafe(|| self.commit(group)))
                .unwrap_or_else(|_| Err(fjall::Error::Poisoned.into()));
            if let Err(error) = &committed {
                tracing::error!(%error, "the embedded database takes no more writes");
            }
            for answer in answers {
                answer(committed.clone());
            }
            if closed {
                return;
            }
        }
    }

    /// Runs `first` and whatever is queued behind it, up to the group's limits.
    fn gather(
        &self,
        first: Transaction,
        messages: &mut mpsc::Receiver<Message>,
    ) -> (Pending, Vec<Answer>, bool) {
        // Only this thread writes, so one snapshot serves the group: everything newer is in `group`.
        let snapshot = self.storage.engine.snapshot();
        let mut group = Pending::default();
        let mut answers = vec![first(Tx::new(&self.storage, &mut group, &snapshot))];
        while answers.len() < GROUP_MAX && group.bytes() < GROUP_BYTES_MAX {
            match messages.try_recv() {
                Ok(Message::Write(transaction)) => {
                    answers.push(transaction(Tx::new(&self.storage, &mut group, &snapshot)));
                }
                Ok(Message::Close) => return (group, answers, true),
                Err(_) => break,
            }
        }
        (group, answers, false)
    }

    fn commit(&self, group: Pending) -> Result<(), Error> {
        let mode = match self.durability {
            Durability::Disk => Some(PersistMode::SyncData),
            Durability::None => None,
        };
        let mut batch = self.storage.engine.batch().durability(mode);
        for (keyspace, key, value) in group.into_writes() {
            match value {
                Some(value) => batch.insert(&keyspace, key, value),
                None => batch.remove(&keyspace, key),
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        batch.commit()?;
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
