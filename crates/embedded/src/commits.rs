//! The count of groups inside the database: each group writes its number in the same batch.

use std::sync::{Mutex, PoisonError};

use fjall::{AbstractTree, KeyspaceCreateOptions, OwnedWriteBatch};

use crate::commit::{Commit, KEY, KEYSPACE};
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::trouble::Trouble;

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
