//! Group commit: one thread runs the queued transactions one after another, commits a group of them as one
//! batch with one fsync, and only then answers all of them.
//!
//! The group is a single batch of the engine, written to the journal and synced before it is applied. After a
//! crash the group is found whole or not at all, and readers never see data that is not yet durable. Groups need no
//! timer: while one group is synced, the next one gathers in the queue.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fjall::PersistMode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{Error, words};
use crate::ledger::Ledger;
use crate::storage::{self, Condition, Engine, Room, Storage};
use crate::tx::{Pending, Tx};

/// The maximum number of queued transactions; further callers wait for room.
const QUEUE_MAX: usize = 1024;

/// A group ends at this many transactions, which bounds the wait of the first one for its answer.
const GROUP_MAX: usize = 256;

/// A group ends at this many bytes: it is held in memory and written at once.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The interval of looks at the disk while nothing is written, and of attempts to open the files again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// If the files fail again within this time after they were opened, the pause before the next attempt doubles.
const SOON: Duration = Duration::from_secs(30);

/// The interval between measurements of the files.
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// The longest pause between attempts to open the files again. A growth of the free space ends a pause early.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// The growth of the free space that is worth an early attempt.
const MORE_ROOM_BYTES: u64 = 16 << 20;

/// The event that an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The sync of the journal to the disk.
    Disk,
    /// The end of the commit in memory: the files of an ephemeral database are removed anyway.
    None,
}

/// The sending side of the queue. It owns the writer thread.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Message>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    counters: Arc<Counters>,
}

/// Counts the work of the writer since the database was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Number of closures that were run.
    pub writes: u64,
    /// Number of committed groups of closures. A durable database pays one fsync for each.
    pub groups: u64,
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

/// Runs a caller's closure, and returns the function that tells the caller the outcome of the group. If no database is open, the
/// transaction gets the error instead.
type Transaction = Box<dyn FnOnce(Result<Tx<'_>, Error>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

impl Writer {
    pub(crate) fn start(storage: Arc<Storage>, durability: Durability) -> std::io::Result<Writer> {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        // The runtime gives a timer: the thread waits for messages, or until the next look at the disk.
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut group_commit = GroupCommit {
            storage,
            durability,
            counters: Arc::clone(&counters),
            failed: false,
            look_at: Instant::now(),
            opened_at: None,
            failures: 0,
            free: 0,
            measure_at: Instant::now(),
        };
        group_commit.measure_room();
        let thread = thread::Builder::new()
            .name("embedded-writer".to_owned())
            .spawn(move || group_commit.run(&clock, messages))?;
        Ok(Writer { queue: Some(queue), thread: Mutex::new(Some(thread)), counters })
    }

    pub(crate) async fn write<R, F>(&self, f: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> R + Send + 'static,
    {
        let queue = self.queue.as_ref().ok_or(Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        let transaction = Box::new(move |tx: Result<Tx<'_>, Error>| -> Answer {
            let outcome = tx.and_then(|mut tx| match catch_unwind(AssertUnwindSafe(|| f(&mut tx))) {
                Ok(value) => tx.finish().map(|()| value),
                Err(panic) => {
                    tx.roll_back();
                    Err(Error::Panicked(panic_text(panic.as_ref())))
                }
            });
            Box::new(move |committed| {
                // Sending fails if the caller's future was dropped; the write still stands.
                let _ = answer.send(outcome.and_then(|value| committed.map(|()| value)));
            })
        });
        queue.send(Message::Write(transaction)).await.map_err(|_| Error::Closed)?;
        // An answer is dropped unsent only if the writer thread has ended.
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
        // The thread runs the queued transactions and ends.
        self.queue = None;
        let Some(thread) = self.take_thread() else { return };
        // A transaction may own the last handle: then this is the writer thread, which cannot join itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the embedded database's writer did not end well");
        }
    }
}

/// The state of the writer thread.
struct GroupCommit {
    storage: Arc<Storage>,
    durability: Durability,
    counters: Arc<Counters>,
    /// Set after a failure of the disk: nothing is written until the files are open again.
    failed: bool,
    /// The time of the next attempt to open the files again.
    look_at: Instant,
    /// The time at which the files were last opened again.
    opened_at: Option<Instant>,
    /// The number of failures in a row that came soon after the files were opened again.
    failures: u32,
    /// The free bytes at the last failure or attempt to open the files.
    free: u64,
    /// The time of the next measurement of the files.
    measure_at: Instant,
}

impl GroupCommit {
    fn run(mut self, clock: &tokio::runtime::Runtime, mut messages: mpsc::Receiver<Message>) {
        loop {
            let first = match clock.block_on(async { timeout(LOOK_EVERY, messages.recv()).await }) {
                Err(_) => {
                    self.check();
                    self.with_ledger(Ledger::sync);
                    continue;
                }
                Ok(Some(Message::Write(first))) => first,
                Ok(Some(Message::Close) | None) => break,
            };
            self.prepare();
            if self.write(first, &mut messages) {
                break;
            }
            self.with_ledger(Ledger::sync_if_due);
        }
        self.with_ledger(Ledger::sync);
    }

    fn with_ledger(&self, f: impl FnOnce(&Ledger)) {
        if let Some(ledger) = &self.storage.ledger {
            f(ledger);
        }
    }

    /// Runs and commits one group. Returns true if the writer was closed.
    fn write(&mut self, first: Transaction, messages: &mut mpsc::Receiver<Message>) -> bool {
        let engine = match self.storage.engine() {
            Ok(engine) => engine,
            Err(error) => {
                first(Err(error))(Ok(()));
                return false;
            }
        };
        let refusal = self.storage.condition().refusal();
        let (group, answers, closed) = self.gather(&engine, refusal.as_ref(), first, messages);
        self.counters.writes.fetch_add(answers.len() as u64, Ordering::Relaxed);
        // A panic of the engine leaves its locks poisoned.
        let committed =
            catch_unwind(AssertUnwindSafe(|| self.commit(&engine, group))).unwrap_or(Err(Failure::Panicked));
        drop(engine);
        let outcome = match committed {
            Ok(()) => Ok(()),
            Err(Failure::NoRoom(error)) => Err(error),

            // The engine checks this before it writes anything: background work failed, and this group was not tried.
            Err(Failure::Tried(fjall::Error::Poisoned)) => Err(self.fails(&fjall::Error::Poisoned)),
            Err(Failure::Panicked) => {
                self.fails(&fjall::Error::Poisoned);
                Err(fjall::Error::Poisoned.into())
            }
            Err(Failure::Tried(error)) => {
                self.fails(&error);
                Err(error.into())
            }
        };
        for answer in answers {
            answer(outcome.clone());
        }
        closed
    }

    /// Stops writing until the files are opened again, and returns the error for writes that were not tried.
    fn fails(&mut self, error: &fjall::Error) -> Error {
        let mut condition = storage::after(error);
        if let Some(room) = Room::of(&self.storage.dir) {
            self.free = room.free;
            let by_others = matches!(error, fjall::Error::Poisoned) && room.is_short();
            if by_others || room.free < room.reserve() {
                condition = Condition::Full(room.text(room.reserve().max(room.free + MORE_ROOM_BYTES)));
            }
        }
        if let Some(meter) = self.storage.meter() {
            meter.failed();
        }
        let soon = self.opened_at.take().is_some_and(|at| at.elapsed() < SOON);
        self.failures = if soon { self.failures + 1 } else { 0 };
        let pause = LOOK_EVERY.saturating_mul(1 << self.failures.min(6)).min(PAUSE_MAX);
        // After a first failure the files are opened again at once.
        self.look_at = Instant::now() + if soon { pause } else { Duration::ZERO };
        let refusal = condition.refusal().unwrap_or_else(|| Error::Failed(words(error)));
        self.storage.is(condition);
        self.storage.refused.store(true, Ordering::Release);
        self.failed = true;
        refusal
    }

    /// Measures the disk before a group, so that writes succeed as soon as room was made.
    fn prepare(&mut self) {
        let was_full = matches!(self.storage.condition(), Condition::Full(_));
        self.measure_room();
        // Background work may have failed while the disk was full.
        if !self.failed && was_full && self.storage.condition() == Condition::Up {
            self.check();
        }
        if self.failed {
            self.look();
        }
    }

    /// Measures the disk, looks for failed background work, and opens failed files again.
    fn check(&mut self) {
        self.measure_room();
        if !self.failed {
            let alive = self.storage.engine().map(|engine| engine.alive());
            if let Ok(Err(error)) = alive {
                self.fails(&error);
            }
        }
        if self.failed {
            self.look();
        }
    }

    /// Opens the files again if the pause is over and the disk has room.
    fn look(&mut self) {
        let room = Room::of(&self.storage.dir);
        let grown = room.is_some_and(|room| room.free > self.free + MORE_ROOM_BYTES);
        if Instant::now() < self.look_at && !grown {
            return;
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        if let Some(room) = room {
            self.free = room.free;
            if room.free < room.reserve() {
                return self.storage.is(Condition::Full(room.text(room.reserve())));
            }
        }
        match self.storage.reopen() {
            Ok(()) => {
                self.failed = false;
                self.opened_at = Some(Instant::now());
                self.storage.is(Condition::Up);
                self.measure_room();
            }
            Err(error) => self.storage.is(Condition::Failed(error.to_string())),
        }
    }

    /// Measures the free space, and refuses writes before the disk is full: the outcome of a write that fails half-way is unknown.
    fn measure_room(&mut self) {
        if self.failed {
            return;
        }
        let Some(room) = Room::of(&self.storage.dir) else { return };
        if let Some(meter) = self.storage.meter() {
            meter.free(room.free);
        }
        if self.measure_at <= Instant::now() {
            self.measure_at = Instant::now() + MEASURE_EVERY;
            self.storage.measure_disk();
        }
        let full = matches!(self.storage.condition(), Condition::Full(_));
        // Writes resume at a quarter more than the reserve, so that the condition does not flap.
        let needed = if full { room.reserve() + room.reserve() / 4 } else { room.reserve() };
        match (room.free < needed, full) {
            (true, false) => self.storage.is(Condition::Full(room.text(room.reserve()))),
            (false, true) => self.storage.is(Condition::Up),
            (true, true) | (false, false) => {}
        }
    }

    /// Runs `first` and whatever is queued behind it, up to the group's limits.
    fn gather(
        &self,
        engine: &Engine,
        refusal: Option<&Error>,
        first: Transaction,
        messages: &mut mpsc::Receiver<Message>,
    ) -> (Pending, Vec<Answer>, bool) {
        // Only this thread writes, so one snapshot serves the group: everything newer is in `group`.
        let snapshot = engine.snapshot();
        let mut group = Pending::default();
        let mut answers = vec![first(Ok(Tx::new(&self.storage, &mut group, engine, &snapshot, refusal)))];
        while answers.len() < GROUP_MAX && group.bytes() < GROUP_BYTES_MAX {
            match messages.try_recv() {
                Ok(Message::Write(transaction)) => {
                    let tx = Tx::new(&self.storage, &mut group, engine, &snapshot, refusal);
                    answers.push(transaction(Ok(tx)));
                }
                Ok(Message::Close) => return (group, answers, true),
                Err(_) => break,
            }
        }
        (group, answers, false)
    }

    fn commit(&self, engine: &Engine, group: Pending) -> Result<(), Failure> {
        let mode = match self.durability {
            Durability::Disk => Some(PersistMode::SyncData),
            Durability::None => None,
        };
        let bytes = group.bytes() as u64;
        let mut batch = engine.batch().durability(mode);
        for (keyspace, key, value) in group.into_writes() {
            let Some(keyspace) = engine.space(keyspace) else { continue };
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        // One group may be larger than the reserve.
        if let Some(room) = Room::of(&self.storage.dir).filter(|room| room.free < 2 * bytes) {
            return Err(Failure::NoRoom(Error::Full(room.text(2 * bytes))));
        }
        if let Some(commits) = &engine.commits {
            commits.count(&mut batch);
        }
        let begun = Instant::now();
        batch.commit().map_err(Failure::Tried)?;
        if let Some(meter) = self.storage.meter() {
            meter.committed(begun.elapsed());
        }
        if let Some(commits) = &engine.commits {
            // The group is on the disk, and no caller has its answer yet.
            let number = commits.committed();
            self.with_ledger(|ledger| ledger.committed(number));
        }
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Why a group was not committed.
enum Failure {
    /// The disk has no room for the group, which was not tried.
    NoRoom(Error),
    Tried(fjall::Error),
    Panicked,
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
