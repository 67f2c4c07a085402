//! The ledger: a small file beside the engine's own that records how much was written, so that a start notices if the engine
//! finds less.
//!
//! The file holds the number of the last acknowledged group, in two slots that are written in turn (an interrupted write spoils
//! only one of them), and the keyspaces, which change by replacing the whole file. The number is written after the group's own
//! sync and before its answers: a crash in between leaves a database that is ahead of the ledger, which is fine. The number is not
//! synced with each group. It survives any end of the process; after a power cut it may be some seconds old.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::trouble::Trouble;

pub(crate) const FILE: &str = "ledger";
const NEW_FILE: &str = "ledger.new";

/// The engine's directory of keyspaces.
pub(crate) const KEYSPACES_DIRECTORY: &str = "keyspaces";

const MAGIC: [u8; 8] = *b"shoalg1\n";

/// The parts stand on pages of their own, so that one torn write cannot damage two of them.
const PAGE_BYTES: usize = 4096;
const SLOT_BYTES: usize = 24;
const SLOTS: u64 = 2;

/// The maximum size of the list of keyspaces, which is far smaller in practice.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The maximum age of the number on the disk while the database is written.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// The ledger of one directory, which the caller has locked.
pub(crate) struct Ledger {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: File,
    number: u64,
    keyspaces: Vec<(u64, String)>,
    /// Set while the number on the disk may be older than the one in memory.
    unsynced: bool,
    synced_at: Instant,
    /// Set once the log says that the number cannot be written.
    told: bool,
}

impl Ledger {
    /// Makes the ledger of an empty database.
    pub(crate) fn create(dir: &Path) -> io::Result<Ledger> {
        let file = replace(dir, 0, &[])?;
        Ok(Ledger::new(dir, file, 0, Vec::new()))
    }

    /// Opens the ledger; `None` if the file does not exist.
    pub(crate) fn open(dir: &Path) -> Result<Option<Ledger>, Trouble> {
        let path = dir.join(FILE);
        let mut file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let number =
            (0..SLOTS as usize).filter_map(|slot| decode_slot(bytes.get(slot * PAGE_BYTES..)?)).max();
        let keyspaces = bytes.get(SLOTS as usize * PAGE_BYTES..).and_then(decode_keyspaces);
        match (number, keyspaces) {
            (Some(number), Some(keyspaces)) => Ok(Some(Ledger::new(dir, file, number, keyspaces))),
            _ => {
                Err(Trouble::damaged(format!("its file {FILE}, which says how much was written, is damaged")))
            }
        }
    }

    fn new(dir: &Path, file: File, number: u64, keyspaces: Vec<(u64, String)>) -> Ledger {
        let state =
            State { file, number, keyspaces, unsynced: false, synced_at: Instant::now(), told: false };
        Ledger { dir: dir.to_owned(), state: Mutex::new(state) }
    }

    /// Returns the number of the last acknowledged group.
    pub(crate) fn number(&self) -> u64 {
        self.state().number
    }

    /// Returns the keyspaces with the engine's numbers for them.
    pub(crate) fn keyspaces(&self) -> Vec<(u64, String)> {
        self.state().keyspaces.clone()
    }

    /// Records durably that the keyspace exists.
    pub(crate) fn add_keyspace(&self, id: u64, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.keyspaces.iter().any(|(_, known)| known == name) {
            return Ok(());
        }
        // The engine syncs what is in the keyspace's directory, and not that there is one.
        match File::open(self.dir.join(KEYSPACES_DIRECTORY)).and_then(|directory| directory.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut keyspaces = state.keyspaces.clone();
        keyspaces.push((id, name.to_owned()));
        state.file = replace(&self.dir, state.number, &keyspaces)?;
        state.keyspaces = keyspaces;
        state.unsynced = false;
        Ok(())
    }

    /// Records that the group with this number is on the disk. If that fails the group still exists, and only the check of the
    /// next start knows less.
    pub(crate) fn committed(&self, number: u64) {
        let mut state = self.state();
        state.number = number;
        let written = state.file.write_all_at(&encode_slot(number), number % SLOTS * PAGE_BYTES as u64);
        state.unsynced = true;
        state.tell(&self.dir, written);
    }

    /// Syncs the number if the last sync is too old.
    pub(crate) fn sync_if_due(&self) {
        if self.state().synced_at.elapsed() >= SYNC_EVERY {
            self.sync();
        }
    }

    /// Syncs the number if it is not synced yet.
    pub(crate) fn sync(&self) {
        let mut state = self.state();
        if state.unsynced {
            let synced = state.file.sync_data();
            state.unsynced = false;
            state.synced_at = Instant::now();
            state.tell(&self.dir, synced);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&mut self, dir: &Path, result: io::Result<()>) {
        let Err(error) = result else { return };
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                dir = %dir.display(), %error,
                "the ledger of the embedded database cannot be written: the next start would not notice if the last writes were missing"
            );
        }
    }
}

/// Replaces the ledger with a new file, durably.
fn replace(dir: &Path, number: u64, keyspaces: &[(u64, String)]) -> io::Result<File> {
    let mut bytes = Vec::with_capacity(3 * PAGE_BYTES);
    for _ in 0..SLOTS {
        bytes.extend_from_slice(&encode_slot(number));
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
    }
    bytes.extend_from_slice(&encode_keyspaces(keyspaces));
    let new = dir.join(NEW_FILE);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(FILE))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

fn encode_slot(number: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&number.to_be_bytes());
    let checksum = xxh3_64(&slot[..16]);
    slot[16..].copy_from_slice(&checksum.to_be_bytes());
    slot
}

fn decode_slot(bytes: &[u8]) -> Option<u64> {
    let slot = bytes.first_chunk::<SLOT_BYTES>()?;
    let number = u64::from_be_bytes(*slot[8..].first_chunk()?);
    (encode_slot(number) == *slot).then_some(number)
}

/// Encodes the length of the list, the list (each keyspace's number, the length of its name, its name), and a checksum.
fn encode_keyspaces(keyspaces: &[(u64, String)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (id, name) in keyspaces {
        list.extend_from_slice(&id.to_be_bytes());
        list.extend_from_slice(&(name.len() as u64).to_be_bytes());
        list.extend_from_slice(name.as_bytes());
    }
    let mut bytes = (list.len() as u64).to_be_bytes().to_vec();
    bytes.extend_from_slice(&list);
    let checksum = xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode_keyspaces(mut bytes: &[u8]) -> Option<Vec<(u64, String)>> {
    let all = bytes;
    let length = usize::try_from(take_number(&mut bytes)?).ok()?;
    let (mut list, mut checksum) = bytes.split_at_checked(length)?;
    if take_number(&mut checksum)? != xxh3_64(&all[..8 + length]) {
        return None;
    }
    let mut keyspaces = Vec::new();
    while !list.is_empty() {
        let id = take_number(&mut list)?;
        let length = usize::try_from(take_number(&mut list)?).ok()?;
        let (name, rest) = list.split_at_checked(length)?;
        keyspaces.push((id, String::from_utf8(name.to_vec()).ok()?));
        list = rest;
    }
    Some(keyspaces)
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(dir: &Path) -> Ledger {
        Ledger::open(dir).unwrap().unwrap()
    }

    #[test]
    fn torn_slot_leaves_previous_number() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(dir.path()).unwrap();
        ledger.add_keyspace(7, "k").unwrap();
        for number in 1..=5 {
            ledger.committed(number);
            assert_eq!(reopened(dir.path()).number(), number);
        }
        let file = File::options().write(true).open(dir.path().join(FILE)).unwrap();
        // Of the slot of group 6 the end was not written.
        file.write_all_at(&encode_slot(6)[..18], 0).unwrap();
        assert_eq!(reopened(dir.path()).number(), 5);
        file.write_all_at(&[0; 512], PAGE_BYTES as u64).unwrap();
        assert!(Ledger::open(dir.path()).is_err(), "no slot is whole");
    }

    #[test]
    fn keyspaces_stand_with_the_number() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(dir.path()).unwrap();
        ledger.committed(9);
        ledger.add_keyspace(1, "one").unwrap();
        ledger.add_keyspace(2, "two").unwrap();
        ledger.add_keyspace(2, "two").unwrap();
        let again = reopened(dir.path());
        assert_eq!(again.number(), 9);
        assert_eq!(again.keyspaces(), [(1, "one".to_owned()), (2, "two".to_owned())]);
    }
}
