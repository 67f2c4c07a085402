//! The handle: opens a directory, hands out keyspaces, queues writes for the writer thread.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::commits;
use crate::damage::{self, Trouble};
use crate::error::{Error, OpenError};
use crate::keyspace::{Keyspace, Snapshot};
use crate::ledger::Ledger;
use crate::storage::{Condition, Engine, Storage};
use crate::tx::Tx;
use crate::writer::{Durability, Writer};

/// Names the process that has the directory open, for the message to the next one.
const HOLDER_FILE: &str = "holder";

/// The time that a start waits for a process that is about to end.
const HOLDER_ENDS_WITHIN: Duration = Duration::from_millis(300);

/// One open database. Clones share it; the last one to go closes it, after the queued writes.
#[derive(Clone)]
pub struct Database {
    // Before the storage: the writer is joined first.
    writer: Arc<Writer>,
    storage: Arc<Storage>,
}

/// What the writer has done since the database was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Closures that were run.
    pub writes: u64,
    /// Groups of them that were committed; a durable database pays one fsync for each.
    pub groups: u64,
}

impl Database {
    /// Opens the database in `dir`, which is made (mode 0700) if it is not there. Answers of
    /// [`Database::write`] wait for the disk. Blocks while an earlier journal is replayed.
    ///
    /// Refuses a directory that holds less than was acknowledged, with [`OpenError::Damaged`], and changes nothing in it where that
    /// can be told before the engine opens it.
    pub fn open(dir: &Path) -> Result<Database, OpenError> {
        let directory = |reason| OpenError::Directory { dir: dir.to_owned(), reason };
        make_directory(dir).map_err(directory)?;
        // Before anything is looked at: another process may be writing it.
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

    /// The keyspace of that name (1 to 255 bytes), made if it is not there. Handles are cheap to clone: take
    /// each keyspace once, when the service starts.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace, Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::Limit(format!("a keyspace's name has 1 to 255 bytes, not {}", name.len())));
        }
        if name == commits::KEYSPACE {
            return Err(Error::Limit(format!("the keyspace {name} is the database's own")));
        }
        let index = self.storage.keyspace(name)?;
        Ok(Keyspace { index, name: name.into(), storage: Arc::clone(&self.storage) })
    }

    /// All keyspaces as they are now: several reads of it belong together, whatever is written meanwhile.
    /// Keep it only as long as they take: it holds back the engine's cleaning.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.storage)
    }

    /// Runs `f` alone on the writer thread and answers with what it returned once everything it wrote is
    /// durable and visible: what it read cannot have changed by the time it writes.
    ///
    /// All of it is applied, or nothing: nothing if `f` panics, calls [`Tx::abort`] (its value is still
    /// answered), or exceeds a limit. **An `Err` returned by `f` is a value like any other**: call
    /// `abort` on the way out if something was written before. `f` holds up every other writer, so it should
    /// only read, decide and write.
    ///
    /// Waits while the queue is full. See the [crate] for what holds after an error, a crash, or when
    /// this future is dropped.
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

    /// What the writer has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.writer.stats()
    }

    /// Whether it takes writes, and if not why. A disk that is full is no reason before a write was refused for it: until then
    /// everybody has what they want.
    pub fn ready(&self) -> Result<(), String> {
        match self.storage.condition() {
            Condition::Up => Ok(()),
            Condition::Full(_) if !self.storage.refused.load(Ordering::Acquire) => Ok(()),
            Condition::Full(why) => Err(format!("{} is full: {why}", self.storage.dir.display())),
            Condition::Failed(why) => Err(format!("{} takes no writes: {why}", self.storage.dir.display())),
        }
    }

    /// Shows its condition, its writes and its files in the metrics of this role.
    pub fn report_as(&self, role: &'static str) {
        self.storage.report_as(role);
    }

    /// Runs what is queued, then stops the writer and waits for it. Other clones' later writes get
    /// [`Error::Closed`]; reads still work. Dropping the last clone does the same, but blocks its thread.
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

/// Locks the directory for as long as the file is open, and says there who has it.
fn hold(dir: &Path) -> Result<File, OpenError> {
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
        // A full disk is no reason not to read.
        Err(error) if error.kind() != std::io::ErrorKind::StorageFull => Err(directory(error)),
        _ => Ok(file),
    }
}

fn in_use(dir: &Path) -> OpenError {
    OpenError::InUse { dir: dir.to_owned(), holder: holder(dir) }
}

/// Who has the directory open, by the file it left and what the system says of that process.
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
    async fn an_ephemeral_directory_goes_with_the_last_handle() {
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
