//! Keeps what can still be read of a damaged database, when its operator accepts that the rest is lost. A start never does this by
//! itself.
//!
//! Everything happens on a copy beside the directory: the pairs that the copy still has are written to a new database, which takes the
//! directory's name, and the damaged directory stays under another name.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fjall::{KeyspaceCreateOptions, Readable, Slice};
use tempfile::TempDir;

use crate::commit;
use crate::cut;
use crate::damage;
use crate::database::{self, Database};
use crate::error::OpenError;
use crate::journal;
use crate::ledger::{self, KEYSPACES_DIRECTORY, Ledger};
use crate::storage::Engine;
use crate::trouble::Trouble;

/// The bytes of pairs that are written to the new database at once.
const CHUNK_BYTES: usize = 4 << 20;

/// The directories of a keyspace whose files never change, so that the copy can share them.
const IMMUTABLE: [&str; 2] = ["tables", "blobs"];

/// Readable part of a damaged database.
#[derive(Debug)]
pub struct Repair {
    /// Damage: the reason why the database does not open, or the first damage that a read of all of it meets.
    pub problem: String,
    /// Number of groups of writes that were acknowledged; `None` if the record of it is damaged too.
    pub acknowledged: Option<u64>,
    /// The keyspaces that can be read.
    pub kept: Vec<Kept>,
    /// The keyspaces that are missing as a whole.
    pub missing: Vec<String>,
    /// The new name of the damaged directory, once the new database has its place.
    pub aside: Option<PathBuf>,
}

/// Readable part of one keyspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The keyspace's name.
    pub keyspace: String,
    /// Number of pairs.
    pub pairs: u64,
    /// True if a damaged table hides pairs between those that were read.
    pub torn: bool,
}

/// Says what can be read of the damaged database in `dir`; `None` if nothing is wrong with it. With `accept_loss` a new database
/// that holds what can be read takes its place.
///
/// Writes of which the journal has only later ones are not kept: what is kept ends at the first missing write, except that
/// tables may hold some newer pairs. Blocks the calling thread. Needs as much room again as the database has.
///
/// # Errors
/// When the directory is in use, holds no database, or cannot be read even in part. The directory is then unchanged.
pub async fn repair(dir: &Path, accept_loss: bool) -> Result<Option<Repair>, OpenError> {
    let directory = |reason| OpenError::Directory { dir: dir.to_owned(), reason };
    let told = |trouble: Trouble| trouble.into_open_error(dir);
    if !holds_a_database(dir).map_err(directory)? {
        return Err(directory(io::Error::new(io::ErrorKind::NotFound, "no database is in it")));
    }
    let _held = database::hold(dir)?;
    let Some(problem) = problem(dir).map_err(told)? else { return Ok(None) };
    let ledger = Ledger::open(dir).ok().flatten();
    let work = beside(dir).map_err(directory)?;
    let copied = work.path().join("copy");
    let source = Source::open(dir, &copied, ledger.as_ref()).map_err(told)?;
    let mut repair = Repair {
        problem,
        acknowledged: ledger.as_ref().map(Ledger::number),
        kept: Vec::new(),
        missing: source.missing(ledger.as_ref()),
        aside: None,
    };
    let new = work.path().join("new");
    let target = if accept_loss { Some(Database::open(&new)?) } else { None };
    for name in &source.names {
        repair.kept.push(source.keep(name, target.as_ref()).await.map_err(told)?);
    }
    if let Some(target) = target {
        target.close().await;
        copy_others(dir, &new).map_err(directory)?;
        repair.aside = Some(swap(dir, &new).map_err(directory)?);
    }
    Ok(Some(repair))
}

fn holds_a_database(dir: &Path) -> io::Result<bool> {
    Ok(dir.join(ledger::FILE).try_exists()? || (dir.is_dir() && damage::holds_a_database(dir)?))
}

/// Opens a copy of the database and reads all of it, and says what is wrong.
fn problem(dir: &Path) -> Result<Option<String>, Trouble> {
    let work = beside(dir)?;
    let copied = work.path().join("copy");
    copy(dir, &copied)?;
    let opened = unwinding(|| {
        let ledger = damage::ledger(&copied)?;
        Engine::open(&copied, Some(&ledger))?.read_all()
    });
    match opened {
        Ok(()) => Ok(None),
        Err(Trouble::Damaged(what)) => Ok(Some(what)),
        Err(Trouble::Engine(error)) => Ok(Some(crate::error::words(&error))),
        Err(error @ Trouble::Io(_)) => Err(error),
    }
}

/// The engine panics when its files contradict each other.
fn unwinding<T>(f: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|_| Err(Trouble::damaged("its files contradict each other")))
}

/// Makes a working directory on the same file system.
fn beside(dir: &Path) -> io::Result<TempDir> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".repair-").tempdir_in(parent)
}

/// The readable part of a copy.
struct Source {
    database: fjall::Database,
    names: Vec<String>,
}

impl Source {
    /// Copies `dir` to `copied`, cuts the copy's journal before the first write that is missing, and opens it.
    fn open(dir: &Path, copied: &Path, ledger: Option<&Ledger>) -> Result<Source, Trouble> {
        copy(dir, copied)?;
        let keyspaces = ledger.map(Ledger::keyspaces).unwrap_or_default();
        let commits = keyspaces.iter().find(|(_, name)| name == commit::KEYSPACE).map(|(id, _)| *id);
        journal::cut_to_whole(copied, commits)?;
        fs::write(copied.join(damage::VERSION_FILE), damage::VERSION)?;
        let database = unwinding(|| Ok(fjall::Database::builder(copied).worker_threads(1).open()?))?;
        let mut names: Vec<_> = database.list_keyspace_names().iter().map(ToString::to_string).collect();
        names.retain(|name| name != commit::KEYSPACE);
        names.sort_unstable();
        Ok(Source { database, names })
    }

    fn missing(&self, ledger: Option<&Ledger>) -> Vec<String> {
        let known = ledger.map(Ledger::keyspaces).unwrap_or_default().into_iter().map(|(_, name)| name);
        known.filter(|name| name != commit::KEYSPACE && !self.names.contains(name)).collect()
    }

    /// Reads a keyspace from both ends as far as its tables allow, and writes it to `target`.
    async fn keep(&self, name: &str, target: Option<&Database>) -> Result<Kept, Trouble> {
        let space = self.database.keyspace(name, KeyspaceCreateOptions::default)?;
        let to = match target {
            Some(target) => Some((target, target.keyspace(name).map_err(|error| unwritten(&error))?)),
            None => None,
        };
        let mut kept = Kept { keyspace: name.to_owned(), pairs: 0, torn: false };
        let mut pairs = self.database.snapshot().iter(&space);
        let mut chunk = Vec::new();
        let mut bytes = 0;
        loop {
            let pair = if kept.torn { pairs.next_back() } else { pairs.next() };
            let pair: Option<(Slice, Slice)> = match pair.map(fjall::Guard::into_inner) {
                Some(Ok(pair)) => Some(pair),
                // What lies behind the damage is read from the other end.
                Some(Err(_)) if !kept.torn => {
                    kept.torn = true;
                    pairs = self.database.snapshot().iter(&space);
                    continue;
                }
                Some(Err(_)) | None => None,
            };
            let ended = pair.is_none();
            if let Some((key, value)) = pair {
                kept.pairs += 1;
                bytes += key.len() + value.len();
                if to.is_some() {
                    chunk.push((key, value));
                }
            }
            if (ended || bytes >= CHUNK_BYTES)
                && let Some((target, to)) = &to
            {
                let (chunk, to) = (std::mem::take(&mut chunk), to.clone());
                bytes = 0;
                let written = target.write(move |tx| {
                    for (key, value) in chunk {
                        tx.put(&to, key, value);
                    }
                });
                written.await.map_err(|error| unwritten(&error))?;
            }
            if ended {
                return Ok(kept);
            }
        }
    }
}

fn unwritten(error: &crate::Error) -> Trouble {
    Trouble::Io(io::Error::other(format!("what can be read cannot be written beside it: {error}")))
}

/// Copies the files of a database. Tables are shared, because nothing changes them.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    copy_all(from, to, false)
}

fn copy_all(from: &Path, to: &Path, immutable: bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, source) = (entry.file_name(), entry.path());
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            if name != cut::DIRECTORY {
                copy_all(&source, &target, IMMUTABLE.iter().any(|shared| name == *shared))?;
            }
        } else if name != database::HOLDER_FILE && !(immutable && fs::hard_link(&source, &target).is_ok()) {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Copies what others keep in the directory, such as keys, and is no part of the database.
fn copy_others(dir: &Path, new: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (name, target) = (entry.file_name(), new.join(entry.file_name()));
        let engines = name == KEYSPACES_DIRECTORY
            || Path::new(&name).extension().is_some_and(|extension| extension == journal::EXTENSION);
        if engines || target.exists() {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    fs::File::open(new)?.sync_all()
}

/// Gives the damaged directory another name, and the new one its place. Returns the other name.
fn swap(dir: &Path, new: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{seconds}"));
    let aside = dir.with_file_name(name);
    // At once, so that no crash leaves the directory's place empty, where a start would begin with nothing.
    rustix::fs::renameat_with(rustix::fs::CWD, dir, rustix::fs::CWD, new, rustix::fs::RenameFlags::EXCHANGE)?;
    fs::rename(new, &aside)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()?;
    Ok(aside)
}
