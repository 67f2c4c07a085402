//! What a store of rows promises. Backends sit in this folder; one conformance suite runs on all of them.

use std::sync::Arc;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::Write;
use crate::row::{Page, Row};
use crate::table::{Definition, Table, TableName};

pub(crate) mod cassandra;
#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod embedded;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
pub(crate) mod random;

/// How many replicas a read waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Consistency {
    /// One.
    Eventual,
    /// A majority.
    Quorum,
    /// A majority; on a last-write-wins table there is nothing stronger to wait for.
    Strong,
}

/// Which row.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    /// The table.
    pub(crate) table: Arc<Table>,
    /// The partition.
    pub(crate) partition: PartitionKey,
    /// The row in it.
    pub(crate) sort_key: SortKey,
    /// How many replicas to ask.
    pub(crate) consistency: Consistency,
}

/// Which rows of a partition.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// The table.
    pub(crate) table: Arc<Table>,
    /// The partition.
    pub(crate) partition: PartitionKey,
    /// The rows in it; not empty.
    pub(crate) range: SortRange,
    /// From the largest sort key down.
    pub(crate) descending: bool,
    /// At most this many rows, at least one.
    pub(crate) limit: usize,
    /// How many replicas to ask.
    pub(crate) consistency: Consistency,
}

/// A store of tables. Cheap to clone; clones are the same store.
///
/// Every call ends within the store's own time-outs, whatever the engine does. A caller who goes away leaves nothing
/// half done: what was sent is finished in a task of its own.
pub(crate) trait Store: Clone + Send + Sync + 'static {
    /// Creates a table, or finds the one that is there.
    ///
    /// After `Ok` every clone on this engine can use the table at once. After any error, repeat it: a creation that
    /// was cut short is completed by the next one, or by the first use.
    fn create_table(
        &self,
        definition: Definition,
        now: WriteTimestamp,
    ) -> impl Future<Output = Result<Table, Error>> + Send;

    /// The table of a name, or [`Error::TableNotFound`]. May be remembered for a few seconds, but a table is found as
    /// soon as its creation was answered.
    fn table(&self, name: &TableName) -> impl Future<Output = Result<Arc<Table>, Error>> + Send;

    /// At most `limit` tables with names greater than `after`, by name.
    fn tables(&self, after: &str, limit: usize) -> impl Future<Output = Result<Vec<Table>, Error>> + Send;

    /// The row, if it is there now. Shows every write that was answered before this call began (with
    /// [`Consistency::Eventual`], only those that have reached the replica asked).
    fn get(&self, lookup: Lookup) -> impl Future<Output = Result<Option<Row>, Error>> + Send;

    /// A page of rows in order, as they are now. Shows what `get` would show of each.
    fn query(&self, query: Query) -> impl Future<Output = Result<Page, Error>> + Send;

    /// Applies a write, whole or not at all, also for those who read it.
    ///
    /// Of several writes of a row the one with the highest timestamp stays, in whatever order they come; at equal
    /// timestamps a delete beats a put, a put that ends beats one that does not, a later end beats an earlier one,
    /// and then the larger cell stays (on Cassandra ends a second apart count as later or the same: it adds a time to
    /// live to its own clock). So the same write again changes nothing, and may always be repeated after
    /// [`Error::OutcomeUnknown`]. Tombstones hide older puts that come later for ten days (Cassandra: the table's
    /// `gc_grace_seconds`).
    ///
    /// After `Ok` it is on the disk of the embedded engine; on Cassandra a local quorum of replicas has it.
    fn mutate(&self, write: Write) -> impl Future<Output = Result<(), Error>> + Send;
}
