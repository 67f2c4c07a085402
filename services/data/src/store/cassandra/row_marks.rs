//! Marks in the registry that say how large the rows of a table may be: a clone must not ask for a thousand rows at once which
//! another clone has made large.
//!
//! A mark is a row of the registry, named by the id of the table and the class of a row: the power of two that its bytes do not pass.
//! It is put before the first row of its class is written, and stays. Smaller rows than [`MARKED_BYTES_MIN`] need none. Rows that
//! others write to the CQL table have none either; a clone learns of those when it reads them.

use uuid::Uuid;

use crate::error::Error;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::registry::{Attempts, answer, records, transact};
use crate::store::cassandra::schema::{MARK_SPACE, READY, REGISTRY};
use crate::table::Table;

/// Rows of so many bytes and fewer have no mark: a thousand of them are 64 MiB, which is as much as a fetch may be.
pub(super) const MARKED_BYTES_MIN: usize = 64 << 10;
/// Most marks of a table: no row has more than 2^21 bytes.
const MARKS_MAX: i32 = 32;

/// Returns the class of a row.
fn class(bytes: usize) -> u32 {
    bytes.next_power_of_two().trailing_zeros()
}

fn name(table: Uuid, class: u32) -> String {
    format!("{}/{class:02}", table.simple())
}

impl CassandraStore {
    /// Marks a table before a row of so many bytes is written to it. A mark that cannot be put is put by the next such write.
    pub(super) async fn mark_row(&self, table: &Table, bytes: usize) {
        let statements = self.statements(table);
        statements.sizes().note(bytes);
        if bytes <= MARKED_BYTES_MIN || statements.sizes().marked() >= bytes {
            return;
        }
        let class = class(bytes);
        match self.put_mark(table, class).await {
            Ok(()) => statements.sizes().note_marked(1 << class),
            Err(error) => {
                tracing::warn!(%error, table = %table.definition.name, "the size of a row is not marked");
            }
        }
    }

    async fn put_mark(&self, table: &Table, class: u32) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let none: Option<i64> = None;
        let created = table.create_time.0;
        let values = (
            MARK_SPACE,
            name(table.id, class),
            table.id,
            READY,
            "",
            "",
            none,
            created,
            1,
            table.definition.name.to_string(),
            Vec::<u8>::new(),
        );
        let mut attempts = Attempts::new();
        loop {
            let values = values.clone();
            let put = transact(link, &connected, "INSERT", |session| &session.registry.insert, values).await;
            if let Some(outcome) = attempts.settled(link, put).await {
                // Applied or not, the registry has it.
                return outcome.map(drop);
            }
        }
    }

    /// Reads the marks of a table. Where they cannot be read, those that are known stay.
    pub(super) async fn read_marks(&self, table: &Table) {
        match self.largest_mark(table.id).await {
            Ok(Some(class)) => self.statements(table).sizes().note_marked(1 << class),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the marks of rows cannot be read"),
        }
    }

    async fn largest_mark(&self, table: Uuid) -> Result<Option<u32>, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let read = async move {
            let values = (MARK_SPACE, name(table, 0), MARKS_MAX);
            answer(connected.session.execute_unpaged(&connected.registry.page, values).await?)
        };
        let result = link.run(Intent::Read, "SELECT", REGISTRY, read).await?;
        let marks = records(result)?.into_iter().filter(|record| record.1 == table);
        let classes = marks.filter_map(|record| record.0.rsplit_once('/')?.1.parse::<u32>().ok());
        Ok(classes.filter(|class| *class < usize::BITS).max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_their_rows() {
        for bytes in [MARKED_BYTES_MIN + 1, 100_000, 1 << 17, (1 << 17) + 1, 1 << 20, (1 << 20) + 31] {
            let largest = 1_usize << class(bytes);
            assert!((bytes..2 * bytes).contains(&largest), "{bytes}: {largest}");
        }
        let names = [3, 17, 21].map(|class| name(Uuid::nil(), class));
        assert!(names.is_sorted(), "{names:?}");
    }
}
