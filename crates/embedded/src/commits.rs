//! The count of groups inside the database: each group writes its number in the same batch.

use std::sync::{Mutex, PoisonError};

use fjall::{AbstractTree, KeyspaceCreateOptions, OwnedWriteBatch};

use crate::damage::Trouble;
use crate::journal::Journal;
use crate::ledger::Ledger;

/// The keyspace that holds the count; callers cannot open it.
pub(crate) const KEYSPACE: &str = "shoal.commits";

pub(crate) const KEY: &[u8] = b"last";

/// The record of a group, written with the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Commit {
    /// The number of the group, from one.
    pub(crate) number: u64,
    /// The engine's sequence number of the previous group.
    pub(crate) previous_seqno: u64,
}

impl Commit {
    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.previous_seqno.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Commit> {
        let (number, previous_seqno) = bytes.split_at_checked(8)?;
        Some(Commit {
            number: u64::from_be_bytes(number.try_into().ok()?),
            previous_seqno: u64::from_be_bytes(previous_seqno.try_into().ok()?),
        })
    }
}

/// Numbers the groups of an open engine.
pub(crate) struct Commits {
    keyspace: fjall::Keyspace,
    /// The record of the next group.
    next: Mutex<Commit>,
}

impl Commits {
    /// Opens the count and compares it with the ledger and with the contents of the journal's files. `journal` is `None` for a
    /// database that was never written.
    pub(crate) fn open(
        database: &fjall::Database,
        ledger: &Ledger,
        journal: Option<&Journal>,
    ) -> Result<Commits, Trouble> {
        for (id, name) in ledger.keyspaces() {
            let known = database.keyspace_exists(&name)
                && database.keyspace(&name, KeyspaceCreateOptions::default)?.id() == id;
            if !known {
                return Err(Trouble::damaged(format!("its keyspace {name} (keyspaces/{id}) is missing")));
            }
        }
        let keyspace = database.keyspace(KEYSPACE, KeyspaceCreateOptions::default)?;
        ledger.add_keyspace(keyspace.id(), KEYSPACE)?;
        let last = match keyspace.get(KEY)? {
            Some(value) => Commit::decode(&value)
                .ok_or_else(|| Trouble::damaged("its count of what was written is not a number"))?,
            None => Commit::default(),
        };
        let written = ledger.number();
        if last.number < written {
            return Err(Trouble::damaged(format!(
                "it has {} of the {written} groups of writes that were acknowledged",
                last.number
            )));
        }
        if let Some(first) = journal.and_then(|journal| journal.first).filter(|first| first.commit.number > 1)
        {
            // The journal of what came before is removed once it is in tables.
            let in_tables = keyspace.tree.get_highest_persisted_seqno();
            if in_tables.is_none_or(|seqno| seqno < first.commit.previous_seqno) {
                return Err(Trouble::damaged(format!(
                    "its journal begins with group {} of the writes, and those before it are not all in its tables",
                    first.commit.number
                )));
            }
        }
        let next = Mutex::new(Commit {
            number: last.number + 1,
            previous_seqno: keyspace.tree.get_highest_seqno().unwrap_or_default(),
        });
        Ok(Commits { keyspace, next })
    }

    /// Adds the number of the group to its `batch`.
    pub(crate) fn count(&self, batch: &mut OwnedWriteBatch) {
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        batch.insert(&self.keyspace, KEY, next.encode());
    }

    /// Records that the last counted group is on the disk, and returns its number.
    pub(crate) fn committed(&self) -> u64 {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let number = next.number;
        *next = Commit {
            number: number + 1,
            previous_seqno: self.keyspace.tree.get_highest_seqno().unwrap_or_default(),
        };
        number
    }
}
