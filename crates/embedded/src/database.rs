//! The handle: opens a directory, hands out keyspaces, queues writes for the writer thread.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::commit;
use crate::damage;
use crate::error::{Error, OpenError};
use crate::keyspace::{Keyspace, Snapshot};
use crate::ledger::Ledger;
use crate::storage::{Condition, Engine, Storage};
use crate::trouble::Trouble;
use crate::tx::Tx;
use crate::writer::{Durability, Stats, Writer};

/// Names the process that has the directory open, for the message to the next one.
pub(crate) const HOLDER_FILE: &str = "holder";

/// The time that a start waits for a process that is about to end.
const HOLDER_ENDS_WITHIN: Duration = Duration::from_millis(300);

/// An open database. Clones share it. Dropping the last clone runs the queued writes and closes the database.
#[derive(Clone)]
pub struct Database {
    // Before the storage: the writer is joined first.
    writer: Arc<Writer>,
    storage: Arc<Storage>,
}

impl Database {
    /// Opens the database in `dir`, and makes the directory (mode 0700) if it does not exist. Answers of
    /// [`Database::write`] wait for the disk. Blocks while an earlier journal is replayed.
    ///
    /// Returns [`OpenError::Damaged`] if the directory holds less than was acknowledged. If the damage is found before the engine
    /// opens the files, the directory is left unchanged.
    pub fn open(dir: &Path) -> Result<Database, OpenError> {
        let directory = |reason| OpenError::Directory { dir: dir.to_owned(), reason };
        make_directory(dir).map_err(directory)?;
        // The lock comes before the first look: another process may be writing the files.
        let held = hold(dir)?;
        let ledger = damage::ledger(dir).map_err(|trouble| trouble.into_open_error(dir))?;
        let engine = open_engine(dir, Some(&ledger))?;
        let storage = Storage::new(engine, dir.to_owned(), Some((ledger, held)), None);
        Database::start(storage, Durability::Disk).map_err(directory)
    }

    /// Opens a database in a new temporary directory. Nothing waits for the disk, and the directory is
    /// removed with the last handle (of the database or a keyspace).
    pub fn ephemeral() -> Result<Database, OpenError> {
        let directory = |reason| OpenError::Directory { dir: std::env::temp_dir(), reason };
        let temporary = tempfile::Builder::new().prefix("shoal-").tempdir().map_err(directory)?;
        let engine = open_engine(temporary.path(), None)?;
        let dir = temporary.path().to_owned();
        Database::start(Storage::new(engine, dir, None, Some(temporary)), Durability::None).map_err(directory)
    }

    fn start(storage: Storage, durability: Durability) -> std::io::Result<Database> {
        let storage = Arc::new(storage);
        let writer = Arc::new(Writer::start(Arc::clone(&storage), durability)?);
        Ok(Database { writer, storage })
    }

    /// Returns the keyspace with this name (1 to 255 bytes), and makes it if it does not exist. Handles are cheap to clone: take
    /// each keyspace once, when the service starts.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace, Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::Limit(format!("a keyspace's name has 1 to 255 bytes, not {}", name.len())));
        }
        if name == commit::KEYSPACE {
            return Err(Error::Limit(format!("the keyspace {name} is the database's own")));
        }
        let index = self.storage.keyspace(name)?;
        Ok(Keyspace { index, name: name.into(), storage: Arc::clone(&self.storage) })
    }

    /// Returns a view of all keyspaces as they are now: later writes do not change what its reads see. Drop a snapshot after the
    /// reads: while it exists the engine cannot remove old values.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.storage)
    }

    /// Runs `f` alone on the writer thread and returns its value once everything it wrote is durable and visible. No other
    /// write runs between the reads and the writes of `f`.
    ///
    /// The writes of `f` are applied whole or not at all. They are dropped if `f` panics, calls [`Tx::abort`] (its value is
    /// still returned), or exceeds a limit. **An `Err` returned by `f` is a value like any other**: call `abort` before returning
    /// it if `f` has already written something. Every other writer waits for `f`, so it should only read, decide and write.
    ///
    /// Waits while the queue is full. The [crate] documentation says what holds after an error, after a crash, and when this
    /// future is dropped.
    pub async fn write<R, F>(&self, f: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> R + Send + 'static,
    {
        let Some(meter) = self.storage.meter() else { return self.writer.write(f).await };
        let begun = Instant::now();
        let result = self.writer.write(f).await;
        meter.write(result.as_ref().err(), begun.elapsed());
        result
    }

    /// Returns the counts of the writer's work so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.writer.stats()
    }

    /// Checks that the database takes writes; the error says why not. A full disk is an error only after a write was refused for
    /// it: until then no caller is affected.
    pub fn ready(&self) -> Result<(), String> {
        match self.storage.condition() {
            Condition::Up => Ok(()),
            Condition::Full(_) if !self.storage.refused.load(Ordering::Acquire) => Ok(()),
            Condition::Full(why) => Err(format!("{} is full: {why}", self.storage.dir.display())),
            Condition::Failed(why) => Err(format!("{} takes no writes: {why}", self.storage.dir.display())),
        }
    }

    /// Shows the database's condition, writes and files in the metrics of this role.
    pub fn report_as(&self, role: &'static str) {
        self.storage.report_as(role);
    }

    /// Runs the queued writes, then stops the writer and waits for it. Later writes of other clones get [`Error::Closed`]; reads
    /// still work. Dropping the last clone does the same, but blocks the dropping thread.
    pub async fn close(self) {
        self.writer.close().await;
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn make_directory(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // The engine syncs what is in `dir`; that `dir` exists must survive a power cut as well.
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::File::open(parent)?.sync_all()
}

fn open_engine(dir: &Path, ledger: Option<&Ledger>) -> Result<Engine, OpenError> {
    Engine::open(dir, ledger).map_err(|trouble| match trouble {
        Trouble::Engine(fjall::Error::Locked) => in_use(dir),
        trouble => trouble.into_open_error(dir),
    })
}

/// Locks the directory until the returned file is closed, and writes the id of this process into the file.
pub(crate) fn hold(dir: &Path) -> Result<File, OpenError> {
    let directory = |reason| OpenError::Directory { dir: dir.to_owned(), reason };
    let path = dir.join(HOLDER_FILE);
    let mut file = File::options().write(true).create(true).truncate(false).open(path).map_err(directory)?;
    let deadline = Instant::now() + HOLDER_ENDS_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(in_use(dir)),
            Err(TryLockError::Error(error)) => return Err(directory(error)),
        }
    }
    let written = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    match written {
        // A database on a full disk can still be read.
        Err(error) if error.kind() != std::io::ErrorKind::StorageFull => Err(directory(error)),
        _ => Ok(file),
    }
}

fn in_use(dir: &Path) -> OpenError {
    OpenError::InUse { dir: dir.to_owned(), holder: holder(dir) }
}

/// Describes the process that has the directory open, from the id in the holder file and the system's name for that process.
fn holder(dir: &Path) -> String {
    let Some(pid) =
        fs::read_to_string(dir.join(HOLDER_FILE)).ok().and_then(|text| text.trim().parse::<u32>().ok())
    else {
        return "another process".to_owned();
    };
    if pid == std::process::id() {
        return format!("this process ({pid})");
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ephemeral_directory_goes_with_last_handle() {
        let database = Database::ephemeral().unwrap();
        let path = database.storage.temporary.as_ref().unwrap().path().to_owned();
        let keyspace = database.keyspace("k").unwrap();
        let inner = keyspace.clone();
        database.write(move |tx| tx.put(&inner, "a", "1")).await.unwrap();

        drop(database);
        assert!(keyspace.get("a").unwrap().is_some(), "a keyspace is a handle too");
        assert!(path.exists());
        drop(keyspace);
        assert!(!path.exists());
    }
}
