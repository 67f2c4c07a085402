//! The rows before a write, which a feed with old rows shows.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::change_record::{OldRows, OldRowsBudget, RANGE_ROWS_MAX};
use crate::error::Error;
use crate::mutation::{Change, Write};
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::ENGINE;
use crate::store::{Consistency, Lookup, Query, ReadStore as _};

/// Most old rows read at the same time.
const OLD_ROW_READS: usize = 8;

impl CassandraStore {
    /// Reads the rows that a write puts or deletes.
    ///
    /// # Errors
    /// [`Error::RangeTooLarge`] when a deleted range holds too many, and those of the reads: nothing was done then.
    pub(in crate::store::cassandra) async fn rows_before(&self, write: &Write) -> Result<OldRows, Error> {
        let budget = &OldRowsBudget::of(&write.table);
        let reads = write.changes.iter().map(|change| async move {
            let (table, partition) = (write.table.clone(), write.partition.clone());
            let consistency = Consistency::Quorum;
            match change {
                Change::Put { sort_key, .. } | Change::Delete { sort_key } => {
                    let lookup = Lookup { table, partition, sort_key: sort_key.clone(), consistency };
                    let rows: Vec<_> = self.get(lookup).await?.into_iter().collect();
                    budget.take(&rows)?;
                    Ok(rows)
                }
                Change::DeleteRange { range } => {
                    let (mut rows, mut range) = (Vec::new(), range.clone());
                    loop {
                        let page = self.query(Query {
                            table: table.clone(),
                            partition: partition.clone(),
                            range: range.clone(),
                            descending: false,
                            limit: RANGE_ROWS_MAX + 1,
                            consistency,
                            seen: None,
                            until: None,
                        });
                        let page = page.await?;
                        budget.take(&page.rows)?;
                        rows.extend(page.rows);
                        if rows.len() > RANGE_ROWS_MAX {
                            return Err(Error::RangeTooLarge { max: RANGE_ROWS_MAX });
                        }
                        match page.next.and_then(|last| range.behind(&last, false)) {
                            Some(rest) => range = rest,
                            None => return Ok(rows),
                        }
                    }
                }
            }
        });
        // Collected first: the compiler cannot tell that the closure's futures may be sent to other threads.
        let reads: Vec<_> = reads.collect();
        let rows = stream::iter(reads).buffered(OLD_ROW_READS).try_collect().await;
        rows.map_err(|error| match error {
            Error::ReadFailed { detail, .. } => Error::Unavailable { engine: ENGINE, detail },
            error => error,
        })
    }
}
