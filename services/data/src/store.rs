//! The trait of a store of rows, and what it promises. The backends are in this folder; one conformance suite runs on all of
//! them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::change_record::{ChangeRecord, Place};
use crate::clock::{Clock, WriteTimestamp};
use crate::conditional::{ConditionalWrite, Outcome};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::Write;
use crate::page_key::PageKey;
use crate::row::{Page, Row, Seen};
use crate::table::{ChangeFeed, Definition, Table, TableChange, TableName, View};
use crate::view_entry::EntryKey;

pub(crate) mod cassandra;
#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod embedded;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
pub(crate) mod random;

/// Number of replicas that a read waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Consistency {
    /// A single replica.
    Eventual,
    /// A majority of the replicas.
    Quorum,
    /// A majority of the replicas; of a conditional table in one order with all of its writes.
    Strong,
}

/// Names the row to read.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    /// The table of the row.
    pub(crate) table: Arc<Table>,
    /// The partition of the row.
    pub(crate) partition: PartitionKey,
    /// The sort key of the row.
    pub(crate) sort_key: SortKey,
    /// The number of replicas to ask.
    pub(crate) consistency: Consistency,
}

/// Names the rows of a partition to read.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// The table of the rows.
    pub(crate) table: Arc<Table>,
    /// The partition of the rows.
    pub(crate) partition: PartitionKey,
    /// The range of sort keys; not empty.
    pub(crate) range: SortRange,
    /// Set for the order from the largest sort key down.
    pub(crate) descending: bool,
    /// The most rows to return, at least one.
    pub(crate) limit: usize,
    /// The number of replicas to ask.
    pub(crate) consistency: Consistency,
    /// The sizes of the rows on the page before this one.
    pub(crate) seen: Option<Seen>,
    /// The time past which the page ends with what it has.
    pub(crate) until: Option<Instant>,
}

impl Query {
    /// Returns whether the page must end with what it has.
    pub(crate) fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Bytes of the rows that a step of a scan aims at.
pub(crate) const SCAN_BYTES: usize = 256 << 10;
/// Most bytes of the rows that a step of a scan returns, unless its only row is larger: each step is a message to the caller.
pub(crate) const SCAN_BYTES_MAX: usize = 1 << 20;

/// Names a place from which on rows of a table are read.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// The table of the rows.
    pub(crate) table: Arc<Table>,
    /// The beginning of the partition keys that are wanted; empty for all.
    pub(crate) prefix: String,
    /// The place in a part of the table.
    pub(crate) place: Vec<u8>,
    /// The number of replicas to ask.
    pub(crate) consistency: Consistency,
    /// The sizes of the rows that were read before.
    pub(crate) seen: Option<Seen>,
    /// The time past which the step ends with what it has.
    pub(crate) until: Option<Instant>,
}

impl Scan {
    /// Returns whether the step must end with what it has.
    pub(crate) fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Rows of a scan.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScanPage {
    /// The rows with the keys of their partitions.
    pub(crate) rows: Vec<(PartitionKey, Row)>,
    /// The place behind the rows, when there may be more.
    pub(crate) next: Option<Vec<u8>>,
    /// The sizes of the rows that were read.
    pub(crate) seen: Option<Seen>,
}

/// Names a place from which on partitions are listed.
#[derive(Debug, Clone)]
pub(crate) struct Partitions {
    /// The table of the partitions.
    pub(crate) table: Arc<Table>,
    /// The beginning of the partition keys that are wanted; empty for all.
    pub(crate) prefix: String,
    /// The place in a part of the table.
    pub(crate) place: Vec<u8>,
    /// The most keys to return, at least one.
    pub(crate) limit: usize,
    /// The number of replicas to ask.
    pub(crate) consistency: Consistency,
    /// The time past which the page ends with what it has.
    pub(crate) until: Option<Instant>,
}

impl Partitions {
    /// Returns whether the page must end with what it has.
    pub(crate) fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Keys of partitions.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionPage {
    /// The keys.
    pub(crate) keys: Vec<PartitionKey>,
    /// The place behind the keys, when there may be more.
    pub(crate) next: Option<Vec<u8>>,
}

/// Names several rows of one table to read.
#[derive(Debug, Clone)]
pub(crate) struct Lookups {
    /// The table of the rows.
    pub(crate) table: Arc<Table>,
    /// The partition and sort key of each row, at least one.
    pub(crate) keys: Vec<(PartitionKey, SortKey)>,
    /// The number of replicas to ask.
    pub(crate) consistency: Consistency,
}

/// A store of tables. It is cheap to clone, and clones are the same store.
///
/// Every call ends within the store's own time-outs, whatever the engine does; the embedded store has none, and waits for its disk.
/// A caller that leaves makes nothing half done: what was sent is finished in a task of its own.
pub(crate) trait Store:
    TableStore
    + ReadStore
    + ScanStore
    + WriteStore
    + KeyStore
    + FeedStore
    + ViewStore
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<
    S: TableStore
        + ReadStore
        + ScanStore
        + WriteStore
        + KeyStore
        + FeedStore
        + ViewStore
        + Clone
        + Send
        + Sync
        + 'static,
> Store for S
{
}

/// The tables of a store.
pub(crate) trait TableStore {
    /// Creates a table, or returns the table that is there.
    ///
    /// After `Ok` every clone on this engine can use the table at once. After any error repeat the call: a creation that was cut
    /// short is completed by the next one, or by the first use of the table.
    fn create_table(
        &self,
        definition: Definition,
        now: WriteTimestamp,
    ) -> impl Future<Output = Result<Table, Error>> + Send;

    /// Returns the table of a name, or [`Error::TableNotFound`]. A definition may be remembered for a few seconds, but a table is
    /// found as soon as its creation was answered.
    fn table(&self, name: &TableName) -> impl Future<Output = Result<Arc<Table>, Error>> + Send;

    /// Returns the table for a read at this level. A read at [`Consistency::Eventual`] gets the definition that is remembered,
    /// however old it is: it needs no more of the engine than the read itself.
    fn table_for(
        &self,
        name: &TableName,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Arc<Table>, Error>> + Send {
        let _ = consistency;
        self.table(name)
    }

    /// Changes a table's definition. After `Ok` this clone uses the change, and others do within a few seconds. Rows that are
    /// there keep their ends.
    fn update_table(
        &self,
        name: &TableName,
        change: TableChange,
    ) -> impl Future<Output = Result<Table, Error>> + Send;

    /// Drops a table with all of its rows, if it was created at `create_time` or that is none.
    ///
    /// After `Ok` no clone has the table, and its name is free for another. After any error but [`Error::TableNotFound`] and
    /// [`Error::TableChanged`] repeat the call, which completes what was begun.
    fn drop_table(
        &self,
        name: &TableName,
        create_time: Option<WriteTimestamp>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns at most `limit` tables with names greater than `after`, by name.
    fn tables(&self, after: &str, limit: usize) -> impl Future<Output = Result<Vec<Table>, Error>> + Send;
}

/// The keys that sign page tokens, kept in the store so that every clone has the same.
pub(crate) trait KeyStore {
    /// Returns every key that was ever made.
    fn page_keys(&self) -> impl Future<Output = Result<Vec<PageKey>, Error>> + Send;

    /// Returns keys that one replica has, for where a majority cannot be asked. The newest ones may be missing.
    fn page_keys_nearby(&self) -> impl Future<Output = Result<Vec<PageKey>, Error>> + Send {
        self.page_keys()
    }

    /// Adds a key, unless there is one of its id. Returns the key of that id, which every clone has from then on.
    fn add_page_key(&self, key: PageKey) -> impl Future<Output = Result<PageKey, Error>> + Send;
}

/// The reads of a store.
pub(crate) trait ReadStore {
    /// Returns the level that reads of a table have which ask for this one.
    fn achieved(&self, table: &Table, asked: Consistency) -> Consistency;

    /// Returns the row, if it is there now. It shows every write that was answered before this call began (with
    /// [`Consistency::Eventual`], only those that have reached the replica that is asked).
    fn get(&self, lookup: Lookup) -> impl Future<Output = Result<Option<Row>, Error>> + Send;

    /// Returns the rows of the first of some keys, in their order, as `get` would: of one key at least, and of fewer than all where
    /// rows are large.
    fn get_many(&self, lookups: Lookups) -> impl Future<Output = Result<Vec<Option<Row>>, Error>> + Send;

    /// Returns a page of rows in order, as they are now. It shows of each row what `get` would show, and of each
    /// write all or nothing.
    fn query(&self, query: Query) -> impl Future<Output = Result<Page, Error>> + Send;
}

/// The scans of a store's tables. A place is bytes that only the store reads; its callers have signed it.
pub(crate) trait ScanStore {
    /// Divides a table into about so many parts, and returns the place where each begins.
    fn parts(
        &self,
        table: &Table,
        prefix: &str,
        parts: usize,
    ) -> impl Future<Output = Result<Vec<Vec<u8>>, Error>> + Send;

    /// Returns rows from a place on, each as `get` would: about [`SCAN_BYTES`] of them, or none, and the place behind them. A row
    /// that is there all the time is returned once, whatever is written beside it.
    fn scan(&self, scan: Scan) -> impl Future<Output = Result<ScanPage, Error>> + Send;

    /// Returns the keys of partitions from a place on, each once. They are in no order, but always in the same.
    fn partitions(&self, list: Partitions) -> impl Future<Output = Result<PartitionPage, Error>> + Send;
}

/// The writes of a store.
pub(crate) trait WriteStore {
    /// Returns the clock of the write timestamps. Clones of a process that share one store share its clock: they never give two
    /// writes one timestamp.
    fn clock(&self) -> Arc<Clock> {
        Arc::default()
    }

    /// Applies a write, whole or not at all; readers see it whole or not at all as well.
    ///
    /// Of several writes of a row the one with the highest timestamp stays, in whatever order they come. At equal timestamps a
    /// delete beats a put, a put that ends beats one that does not, a later end beats an earlier one, and then the larger cell
    /// stays, which begins with the identity of its write. (On Cassandra ends a second apart count as later or the same: it adds
    /// a time to live to its own clock.) So the same write again changes nothing, and may always be repeated after
    /// [`Error::OutcomeUnknown`]. Tombstones hide older puts that come later for ten days (Cassandra: the table's
    /// `gc_grace_seconds`).
    ///
    /// After `Ok` the write is on the disk of the embedded engine; on Cassandra a local quorum of replicas has it.
    fn mutate(&self, write: Write) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads the rows of a conditional write, decides, and writes them, in one step among all other writes of the partition.
    ///
    /// After [`Outcome::Applied`] the write is as durable as one of [`WriteStore::mutate`], and STRONG reads show it. The same
    /// token again, within the time that [`ConditionalWrite::check_age`] allows, gets the same answer and changes nothing.
    /// [`Outcome::Refused`] and [`Error::Contended`] mean that nothing was done, and that no attempt of this call can be applied
    /// any more. After [`Error::OutcomeUnknown`] the write may be applied, or may yet be; repeat it with its token.
    fn write_conditionally(
        &self,
        write: ConditionalWrite,
    ) -> impl Future<Output = Result<Outcome, Error>> + Send;
}

/// Build of a view, as its builders have left it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Build {
    /// The id of the clone that builds.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) owner: Vec<u8>,
    /// The time, in microseconds since 1970, until which nobody else builds.
    #[prost(int64, tag = "2")]
    pub(crate) leased_until: i64,
    /// The number of parts that the table was divided into; 0 before that.
    #[prost(uint32, tag = "3")]
    pub(crate) parts: u32,
    /// The places of the parts that are not read to their end, the next one first.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(crate) places: Vec<Vec<u8>>,
    /// The rows that were read.
    #[prost(uint64, tag = "5")]
    pub(crate) rows: u64,
    /// The entries that were written.
    #[prost(uint64, tag = "6")]
    pub(crate) entries: u64,
}

impl Build {
    /// Returns the part of the table that is done, 0 to 1.
    pub(crate) fn progress(&self) -> f64 {
        match self.parts {
            0 => 0.0,
            parts => (1.0 - self.places.len() as f64 / f64::from(parts)).clamp(0.0, 1.0),
        }
    }
}

/// Views of a store's tables: their hidden tables, what is written into them beside the writes of the tables, and how far their
/// builds are.
///
/// Every write of a table keeps the entries of the views that are building or ready, in the same step. Of a row whose write was
/// answered the entry is never missing. An entry that belongs to no row may be left where writes of one row come at the same time.
pub(crate) trait ViewStore {
    /// Returns the time after which every write keeps a view whose state says so since then.
    fn view_settle_time(&self) -> Duration;

    /// Makes the hidden table of a view. May be repeated.
    fn make_view(&self, table: &Table, view: &View) -> impl Future<Output = Result<(), Error>> + Send;

    /// Drops the hidden table of a view that no write keeps any more. May be repeated.
    fn drop_view(&self, view: &View) -> impl Future<Output = Result<(), Error>> + Send;

    /// Writes the entries of rows that were read from the table, unless the rows were written since. Returns their number.
    fn add_entries(
        &self,
        table: Arc<Table>,
        view: &View,
        rows: Vec<(PartitionKey, Row)>,
    ) -> impl Future<Output = Result<usize, Error>> + Send;

    /// Removes entries that no row can have any more, at their own timestamps.
    fn remove_entries(
        &self,
        view: &View,
        entries: Vec<(EntryKey, WriteTimestamp)>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the build of a view, if it was begun and has not ended.
    fn build(&self, view: Uuid) -> impl Future<Output = Result<Option<Build>, Error>> + Send;

    /// Replaces the build of a view, none for one that has not begun or that ends. Returns whether it was still `found`.
    fn replace_build(
        &self,
        view: Uuid,
        found: Option<Build>,
        build: Option<Build>,
    ) -> impl Future<Output = Result<bool, Error>> + Send;
}

/// Names the changes of a shard to read.
#[derive(Debug, Clone)]
pub(crate) struct FeedRead {
    /// The table of the feed.
    pub(crate) table: Arc<Table>,
    /// The shard, one of [`FeedStore::feed_shards`].
    pub(crate) shard: u16,
    /// The place to read from: of the page before, or of a resume token.
    pub(crate) cursor: FeedCursor,
    /// The only partition whose changes are wanted.
    pub(crate) partition: Option<PartitionKey>,
}

/// Place in a shard of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FeedCursor {
    /// The place, in microseconds since 1970, from which on another clone has to read.
    pub(crate) position: i64,
    /// The place from which on this clone reads; none until it has read.
    pub(crate) here: Option<FeedHere>,
}

/// Place in a shard of a feed at one clone, which keeps the shard's end for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FeedHere {
    /// The place before which every record was delivered that was there when it was read.
    pub(crate) from: Place,
    /// The number of the clone's memory of the end.
    pub(crate) memory: u64,
    /// The number of the last record in the memory that was delivered, or was read before `from` was.
    pub(crate) number: u64,
}

/// Changes of a shard.
#[derive(Debug, Clone)]
pub(crate) struct FeedPage {
    /// The records in order.
    pub(crate) records: Vec<Arc<ChangeRecord>>,
    /// The place of the next page.
    pub(crate) cursor: FeedCursor,
    /// Set if the page ended at a limit, so that there may be more.
    pub(crate) more: bool,
}

impl FeedCursor {
    /// Makes the cursor of a place.
    pub(crate) fn at(position: i64) -> Self {
        Self { position, here: None }
    }
}

/// The change feeds of a store.
pub(crate) trait FeedStore {
    /// Returns the shards that hold the changes of a partition, or of the whole table.
    fn feed_shards(&self, feed: &ChangeFeed, partition: Option<&PartitionKey>) -> Vec<u16>;

    /// Returns the place from which on every write is shown that is answered after this call. Writes of the seconds before may
    /// be shown too.
    fn feed_start(&self, table: &Table) -> Result<i64, Error>;

    /// Refuses places from which on changes would be missed.
    ///
    /// # Errors
    /// [`Error::ChangesGone`] when changes behind a place are no longer kept, [`Error::ChangesAhead`] when a place is in the future,
    /// and what keeps the store from knowing.
    fn check_places(&self, table: &Table, places: impl Iterator<Item = i64>) -> Result<(), Error>;

    /// Returns the next changes of a shard; none when there is nothing new. The table has a change feed.
    ///
    /// From a place on, every write that was done comes at least once, also when the pages are read at different clones. Of two
    /// writes of a partition, of which one was answered before the other was sent, the first comes first, unless its timestamp
    /// is the later one. A write that was never done does not come. One whose outcome was unknown comes if the store finds that
    /// it was done within a minute.
    fn changes(&self, read: FeedRead) -> impl Future<Output = Result<FeedPage, Error>> + Send;
}
