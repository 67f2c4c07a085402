//! The check of a directory before the engine opens it: a directory with missing or damaged files is refused while it can still
//! be restored. The engine itself would make missing files anew and remove unknown ones.

use std::fs;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::commit;
use crate::cut;
use crate::journal::{self, Journal};
use crate::ledger::{self, KEYSPACES_DIRECTORY, Ledger};
use crate::trouble::Trouble;

pub(crate) const VERSION_FILE: &str = "version";
/// The content of that file: the engine's format.
pub(crate) const VERSION: &[u8] = b"FJL\x03";

/// The engine's own keyspace, which lists the others.
const META_KEYSPACE: &str = "0";

/// Names the file that lists a keyspace's tables: its number, its checksum, the kind of checksum.
const CURRENT_FILE: &str = "current";

/// Opens the ledger of `dir`, or makes it if the directory holds no database yet.
pub(crate) fn ledger(dir: &Path) -> Result<Ledger, Trouble> {
    match Ledger::open(dir)? {
        Some(ledger) => Ok(ledger),
        None if holds_a_database(dir)? => Err(Trouble::damaged(format!(
            "its file {}, which says how much was written, is missing",
            ledger::FILE
        ))),
        None => Ok(Ledger::create(dir)?),
    }
}

/// Returns whether the directory has files of the engine.
pub(crate) fn holds_a_database(dir: &Path) -> io::Result<bool> {
    Ok(dir.join(VERSION_FILE).try_exists()?
        || dir.join(KEYSPACES_DIRECTORY).try_exists()?
        || !journal::files(dir)?.is_empty())
}

/// Compares the files with the ledger, and returns the contents of the journal; `None` if no start has finished yet.
pub(crate) fn look(dir: &Path, ledger: &Ledger) -> Result<Option<Journal>, Trouble> {
    let keyspaces = ledger.keyspaces();
    let Some((commits, _)) = keyspaces.iter().find(|(_, name)| name == commit::KEYSPACE) else {
        clear_unfinished(dir)?;
        return Ok(None);
    };
    if !dir.join(VERSION_FILE).try_exists()? {
        return Err(Trouble::damaged(format!("its file {VERSION_FILE} is missing")));
    }
    look_at_keyspace(dir, META_KEYSPACE, "list of keyspaces")?;
    for (id, name) in &keyspaces {
        look_at_keyspace(dir, &id.to_string(), &format!("keyspace {name}"))?;
    }
    let journal = Journal::read(dir, *commits)?;
    let written = ledger.number();
    match journal.last.map(|last| last.commit.number) {
        Some(found) if found < written => Err(Trouble::damaged(format!(
            "its journal ends in {} after {found} of the {written} groups of writes that were acknowledged",
            journal.end
        ))),
        // Of an empty one the tables know more.
        _ => {
            cut::cut(dir, &journal.tails)?;
            Ok(Some(journal))
        }
    }
}

/// Checks the file that lists a keyspace's tables: the engine would make a keyspace without it anew, and compares no checksum.
fn look_at_keyspace(dir: &Path, id: &str, what: &str) -> Result<(), Trouble> {
    let keyspace = Path::new(KEYSPACES_DIRECTORY).join(id);
    let read = |name: &str| match fs::read(dir.join(&keyspace).join(name)) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Trouble::damaged(format!("its {what} has lost the file {}", keyspace.join(name).display())))
        }
        Err(error) => Err(error.into()),
    };
    let current = read(CURRENT_FILE)?;
    let damaged = |name: &str| {
        Trouble::damaged(format!("the file {} of its {what} is damaged", keyspace.join(name).display()))
    };
    let (version, rest) = current.split_first_chunk().ok_or_else(|| damaged(CURRENT_FILE))?;
    let (checksum, kind) = rest.split_first_chunk().ok_or_else(|| damaged(CURRENT_FILE))?;
    if kind != [0] {
        return Err(damaged(CURRENT_FILE));
    }
    let version = format!("v{}", u64::from_le_bytes(*version));
    if xxh3_128(&read(&version)?) != u128::from_le_bytes(*checksum) {
        return Err(damaged(&version));
    }
    Ok(())
}

/// Removes the files of a first start that was killed before it had a keyspace: the engine cannot continue with them.
fn clear_unfinished(dir: &Path) -> io::Result<()> {
    let keyspaces = dir.join(KEYSPACES_DIRECTORY);
    if keyspaces.try_exists()? {
        for entry in fs::read_dir(&keyspaces)? {
            if entry?.file_name() != META_KEYSPACE {
                return Ok(());
            }
        }
        fs::remove_dir_all(&keyspaces)?;
    }
    for (_, file) in journal::files(dir)? {
        fs::remove_file(file)?;
    }
    match fs::remove_file(dir.join(VERSION_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Database, OpenError};

    use super::*;

    #[tokio::test]
    async fn leftovers_of_killed_start_are_cleared() {
        let unfinished: [&[&str]; 5] = [
            &["ledger.new"],
            &["lock", "keyspaces/0/x"],
            &["lock", "0.jnl"],
            &["lock", "0.jnl", "version"],
            &["lock", "0.jnl", "version", "keyspaces/0/tables/x"],
        ];
        for left in unfinished {
            let dir = tempfile::tempdir().unwrap();
            drop(Ledger::create(dir.path()).unwrap());
            for name in left {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            let database = Database::open(dir.path()).unwrap_or_else(|error| panic!("{left:?}: {error}"));
            let keyspace = database.keyspace("k").unwrap();
            database.write(move |tx| tx.put(&keyspace, "a", "1")).await.unwrap();
            database.close().await;
            assert!(Database::open(dir.path()).unwrap().keyspace("k").unwrap().get("a").unwrap().is_some());
        }
    }

    #[test]
    fn files_without_a_ledger_are_a_database() {
        for left in ["0.jnl", "version", "keyspaces/1/current"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(left);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            let error = Database::open(dir.path()).unwrap_err();
            assert!(matches!(error, OpenError::Damaged { .. }), "{left}: {error}");
            assert!(path.exists());
        }
    }
}
