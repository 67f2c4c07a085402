//! The open engine: readers borrow it, and the writer thread closes it and opens it again after a failure of the disk. The
//! condition of the database is kept here too.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use fjall::{KeyspaceCreateOptions, Readable};

use crate::commits::Commits;
use crate::damage;
use crate::error::{Error, words};
use crate::ledger::Ledger;
use crate::meter::Meter;
use crate::trouble::Trouble;

/// The free bytes that writes leave for the engine's own files: tables, a new journal.
const RESERVE_BYTES: u64 = 64 << 20;
/// The reserve of a small file system is at most one of this many parts of it.
const RESERVE_PART: u64 = 16;

/// The longest time that closing waits for reads in progress.
const READS_END_WITHIN: Duration = Duration::from_secs(2);

/// The longest time that a read waits until the files are open again.
const READS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The maximum size of the journal, which bounds the time that replaying it takes when the database is opened.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// The threads for flushes and compactions. More threads would take cores from the callers.
const WORKER_THREADS: usize = 2;

/// The engine and its keyspaces, by their place in [`Keyspace`](crate::Keyspace).
pub(crate) struct Engine {
    database: fjall::Database,
    spaces: Vec<(String, fjall::Keyspace)>,
    /// The numbers of groups; absent in an ephemeral database.
    pub(crate) commits: Option<Arc<Commits>>,
}

/// The engine and, for an ephemeral database, its temporary directory. Every handle that can read keeps both alive.
pub(crate) struct Storage {
    /// The engine; `None` while it is closed to be opened again.
    engine: RwLock<Option<Arc<Engine>>>,
    /// True while the engine is being opened again; readers wait for the change.
    reopening: (Mutex<bool>, Condvar),
    /// The names of the keyspaces that were taken, in the order of their places.
    names: Mutex<Vec<String>>,
    pub(crate) dir: PathBuf,
    /// The ledger of what was acknowledged; absent in an ephemeral database.
    pub(crate) ledger: Option<Ledger>,
    condition: Mutex<Condition>,
    /// Set once a write was refused; cleared when the database takes writes again.
    pub(crate) refused: AtomicBool,
    meter: OnceLock<Meter>,
    /// Locks the directory.
    // Dropped after the engine, so that no other process opens the files before the engine is closed.
    _lock: Option<File>,
    // Dropped after the engine: the directory is removed when nothing writes to it any more.
    #[cfg_attr(not(test), expect(dead_code, reason = "held for its drop"))]
    pub(crate) temporary: Option<tempfile::TempDir>,
}

/// The condition of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The database takes writes.
    Up,
    /// The disk has no room for writes; the text says why.
    Full(String),
    /// The disk failed, and the database is not open again yet; the text says why.
    Failed(String),
}

impl Condition {
    /// Returns the error that refuses a write in this condition; `None` if writes are taken.
    pub(crate) fn refusal(&self) -> Option<Error> {
        match self {
            Condition::Up => None,
            Condition::Full(why) => Some(Error::Full(why.clone())),
            Condition::Failed(why) => Some(Error::Failed(why.clone())),
        }
    }
}

impl Engine {
    /// Opens the files if they hold everything that `ledger` lists as acknowledged.
    pub(crate) fn open(dir: &Path, ledger: Option<&Ledger>) -> Result<Engine, Trouble> {
        let journal = match ledger {
            Some(ledger) => damage::look(dir, ledger)?,
            None => None,
        };
        let database = fjall::Database::builder(dir)
            // The writer persists each group itself, in the mode that it was opened with.
            .manual_journal_persist(true)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(WORKER_THREADS)
            .open()?;
        let commits = match ledger {
            Some(ledger) => Some(Arc::new(Commits::open(&database, ledger, journal.as_ref())?)),
            None => None,
        };
        Ok(Engine { database, spaces: Vec::new(), commits })
    }

    /// Returns the same engine with one more keyspace.
    fn with(&self, name: &str) -> Result<Engine, fjall::Error> {
        let space = self.database.keyspace(name, KeyspaceCreateOptions::default)?;
        let mut spaces = self.spaces.clone();
        spaces.push((name.to_owned(), space));
        Ok(Engine { database: self.database.clone(), spaces, commits: self.commits.clone() })
    }

    /// Returns the keyspace at a place; `None` if it is younger than this view of the engine.
    pub(crate) fn space(&self, index: usize) -> Option<&fjall::Keyspace> {
        self.spaces.get(index).map(|(_, space)| space)
    }

    /// Reads every pair, which fails at the first damaged table.
    pub(crate) fn read_all(&self) -> Result<(), Trouble> {
        for name in self.database.list_keyspace_names() {
            let space = self.database.keyspace(&name, KeyspaceCreateOptions::default)?;
            let damaged = |error| Trouble::damaged(format!("keyspace {name}: {}", words(&error)));
            for pair in self.snapshot().iter(&space) {
                pair.into_inner().map_err(damaged)?;
            }
        }
        Ok(())
    }

    /// Returns the failure of background work, after which the engine refuses every write.
    pub(crate) fn alive(&self) -> Result<(), fjall::Error> {
        self.database.persist(fjall::PersistMode::Buffer)
    }

    pub(crate) fn snapshot(&self) -> fjall::Snapshot {
        self.database.snapshot()
    }

    pub(crate) fn batch(&self) -> fjall::OwnedWriteBatch {
        self.database.batch()
    }
}

impl Storage {
    pub(crate) fn new(
        engine: Engine,
        dir: PathBuf,
        held: Option<(Ledger, File)>,
        temporary: Option<tempfile::TempDir>,
    ) -> Storage {
        let (ledger, lock) = held.unzip();
        Storage {
            engine: RwLock::new(Some(Arc::new(engine))),
            ledger,
            _lock: lock,
            reopening: (Mutex::new(false), Condvar::new()),
            names: Mutex::default(),
            dir,
            condition: Mutex::new(Condition::Up),
            refused: AtomicBool::new(false),
            meter: OnceLock::new(),
            temporary,
        }
    }

    /// Returns the open engine. While the engine is being opened again the caller waits, as it would for a slow disk.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>, Error> {
        let open = || self.engine.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(engine) = open() {
            return Ok(engine);
        }
        let (reopening, opened) = &self.reopening;
        let waiting = reopening.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = opened.wait_timeout_while(waiting, READS_WAIT_MAX, |reopening| *reopening);
        drop(waited);
        open().ok_or(Error::Reopening)
    }

    /// Returns the place of the keyspace with this name, and makes the keyspace if it does not exist.
    pub(crate) fn keyspace(&self, name: &str) -> Result<usize, Error> {
        let mut slot = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        let engine = slot.as_ref().ok_or(Error::Reopening)?;
        if let Some(index) = engine.spaces.iter().position(|(known, _)| known == name) {
            return Ok(index);
        }
        let engine = engine.with(name)?;
        let index = engine.spaces.len() - 1;
        // The ledger names the keyspace before anything is written to it.
        if let (Some(ledger), Some((_, space))) = (&self.ledger, engine.spaces.last()) {
            ledger.add_keyspace(space.id(), name).map_err(fjall::Error::Io)?;
        }
        *slot = Some(Arc::new(engine));
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        Ok(index)
    }

    /// Closes the engine and opens it again, with every group that the journal has whole. If opening fails, reads fail until a
    /// later attempt succeeds.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let (reopening, opened) = &self.reopening;
        *reopening.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let result = self.close_and_open();
        *reopening.lock().unwrap_or_else(PoisonError::into_inner) = false;
        opened.notify_all();
        result
    }

    fn close_and_open(&self) -> Result<(), Error> {
        let taken = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut engine) = taken {
            let deadline = Instant::now() + READS_END_WITHIN;
            loop {
                match Arc::try_unwrap(engine) {
                    Ok(engine) => break drop(engine),
                    Err(shared) if Instant::now() < deadline => engine = shared,
                    Err(shared) => {
                        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(shared);
                        return Err(Error::Failed("reads are under way that do not end".to_owned()));
                    }
                }
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
        let mut engine = Engine::open(&self.dir, self.ledger.as_ref())?;
        for name in &*self.names.lock().unwrap_or_else(PoisonError::into_inner) {
            engine = engine.with(name)?;
        }
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(engine));
        Ok(())
    }

    pub(crate) fn condition(&self) -> Condition {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the condition, and logs a change of its kind.
    pub(crate) fn is(&self, now: Condition) {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let same_kind = std::mem::discriminant(&*condition) == std::mem::discriminant(&now);
        if !same_kind {
            let dir = self.dir.display();
            match &now {
                Condition::Up => tracing::info!(%dir, "the embedded database takes writes again"),
                Condition::Full(why) => tracing::warn!(
                    %dir, why,
                    "the embedded database is full: writes are refused, reads go on; free disk space"
                ),
                Condition::Failed(why) => tracing::error!(
                    %dir, why,
                    "the embedded database takes no writes: its disk failed; it is opened again when that can be written"
                ),
            }
        }
        if now == Condition::Up {
            self.refused.store(false, Ordering::Release);
        }
        *condition = now;
        self.measure(&condition);
    }

    /// Names the role in the metrics. Nothing is measured before this call.
    pub(crate) fn report_as(&self, role: &'static str) {
        let _ = self.meter.set(Meter::new(role));
        self.measure_disk();
        if let (Some(meter), Some(room)) = (self.meter(), Room::of(&self.dir)) {
            meter.free(room.free);
        }
        self.measure(&self.condition.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn measure(&self, condition: &Condition) {
        let Some(meter) = self.meter() else { return };
        let (full, failed) =
            (matches!(condition, Condition::Full(_)), matches!(condition, Condition::Failed(_)));
        meter.condition(!failed, full, failed);
    }

    /// Returns the metrics, once the database has the name of its role.
    pub(crate) fn meter(&self) -> Option<&Meter> {
        self.meter.get()
    }

    /// Updates the metric of the files' bytes. The engine keeps the sizes in memory.
    pub(crate) fn measure_disk(&self) {
        let Some(meter) = self.meter() else { return };
        if let Ok(engine) = self.engine()
            && let Ok(bytes) = engine.database.disk_space()
        {
            meter.disk(bytes);
        }
    }
}

/// The space on the file system of a directory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free: u64,
    total: u64,
}

impl Room {
    /// Returns the space; `None` if the system does not say, so that only writes find a full disk.
    pub(crate) fn of(dir: &Path) -> Option<Room> {
        let stat = rustix::fs::statvfs(dir).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Some(Room { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }

    /// Returns whether the free space may be too small for one table of background work, whose failures name no cause.
    pub(crate) fn is_short(self) -> bool {
        self.free < self.reserve() + RESERVE_BYTES
    }

    /// Returns the free bytes below which nothing is written.
    pub(crate) fn reserve(self) -> u64 {
        RESERVE_BYTES.min(self.total / RESERVE_PART)
    }

    pub(crate) fn text(self, needed: u64) -> String {
        format!("{} MiB are free on its disk, and {} MiB must be", self.free >> 20, (needed >> 20).max(1))
    }
}

/// Returns whether the error means that there is no room: the disk is full, or a quota or file size limit is reached.
pub(crate) fn is_no_room(error: &fjall::Error) -> bool {
    let io = match error {
        fjall::Error::Io(io) => io,
        fjall::Error::Storage(fjall::LsmError::Io(io)) => io,
        _ => return false,
    };
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(io.kind(), FileTooLarge | QuotaExceeded | StorageFull)
}

/// Returns the condition of the database after this failure.
pub(crate) fn after(error: &fjall::Error) -> Condition {
    if is_no_room(error) { Condition::Full(words(error)) } else { Condition::Failed(words(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_follows_the_disk_size() {
        let reserve = |total: u64| Room { free: 0, total }.reserve();
        assert_eq!(reserve(160 << 20), 10 << 20);
        assert_eq!(reserve(1 << 40), RESERVE_BYTES);
    }
}
