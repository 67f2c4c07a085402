//! Views. What a Mutate changes in views goes into its batch, which is a logged one then: Cassandra carries all of it out once it
//! has any of it. Cassandra refuses a logged batch above its `batch_size_fail_threshold` (50 KiB), so the parts of a large Mutate are
//! sent one after the other: first the entries that are new, then the rows, then the entries that are old. Conditional writes are
//! sent that way too, because a conditional batch may not leave its partition. Wherever that is cut short, no row is without its
//! entry.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use scylla::statement::Consistency as CqlConsistency;
use uuid::Uuid;

use crate::change_record::OldRows;
use crate::clock::WriteTimestamp;
use crate::conditional::{ConditionalWrite, Decision, Found};
use crate::error::Error;
use crate::key::PartitionKey;
use crate::mutation::{Change, Write};
use crate::row::Row;
use crate::row_codec::WriteId;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::definitions::stale_max;
use crate::store::cassandra::failure::{ENGINE, Intent};
use crate::store::cassandra::registry::{answer, records, transact};
use crate::store::cassandra::registry_changes::{drop_view, make_view};
use crate::store::cassandra::schema::{BUILD_SPACE, READY, REGISTRY};
use crate::store::cassandra::statements::{Bind, Kind, Statements};
use crate::store::cassandra::write::engine_ttl;
use crate::store::{Build, ViewStore};
use crate::table::{Table, View};
use crate::view_entry::{self, EntryChange, EntryKey, EntryOrder, EntryRow, cell_of, key_of};

/// Most bytes of the rows and entries of a Mutate that go into one logged batch: well below the 50 KiB at which Cassandra refuses it.
const LOGGED_BYTES_MAX: usize = 24 << 10;
/// Most entries that go into one logged batch: each is another partition.
const LOGGED_ENTRIES_MAX: usize = 64;
/// Bytes that a row has beside its cell, about.
const ROW_OVERHEAD: usize = 128;
/// Entries that are written at the same time outside of a batch.
const ENTRY_WRITES: usize = 32;
/// Multiple of a statement's time-out within which a write has ended that began with a definition: a conditional one waits for its turn,
/// tries for two time-outs, and reads, logs and writes in its last attempt.
const WRITE_TIMEOUTS: u32 = 6;

type Statement = (Arc<Statements>, Kind, Vec<Bind>);

impl CassandraStore {
    /// Sends a write with what it changes in views.
    pub(super) async fn send_with_views(&self, write: &Write, old_rows: OldRows) -> Result<(), Error> {
        let now = WriteTimestamp::now();
        let entries = view_entry::of_write(write, &old_rows, EntryOrder::Together, now)?;
        let rows = write.changes.iter().map(|change| match change {
            Change::Put { cell, .. } => ROW_OVERHEAD + cell.len(),
            Change::Delete { .. } | Change::DeleteRange { .. } => ROW_OVERHEAD,
        });
        let mut bytes = rows.sum::<usize>() + entries.iter().map(EntryChange::bytes).sum::<usize>();
        if write.table.change_feed().is_some() {
            // The record has the rows once more, and maybe those from before.
            bytes += write.table.change_feed().map_or(0, |_| bytes);
            let old = old_rows.iter().flatten().map(|row| ROW_OVERHEAD + row.attributes.encoded_len());
            bytes += old.sum::<usize>();
        }
        if bytes <= LOGGED_BYTES_MAX && entries.len() <= LOGGED_ENTRIES_MAX {
            let entries = entries.into_iter().map(|change| self.bind_entry(change, now)).collect();
            return self.send_batch(write, Some(old_rows), entries).await;
        }
        drop(entries);
        let entries = view_entry::of_write(write, &old_rows, EntryOrder::EntryFirst, now)?;
        let (new, old): (Vec<_>, Vec<_>) = entries.into_iter().partition(|change| change.put.is_some());
        self.enter(new, now).await?;
        self.send_batch(write, Some(old_rows), Vec::new()).await?;
        self.leave(old, now).await;
        Ok(())
    }

    /// Writes the entries that a conditional write needs if it is applied.
    ///
    /// # Errors
    /// The write must not be sent then.
    pub(super) async fn enter_conditional(
        &self,
        write: &ConditionalWrite,
        decision: &Decision,
        found: &[Found],
    ) -> Result<(), Error> {
        if !write.table.has_views() {
            return Ok(());
        }
        let now = WriteTimestamp::now();
        let entries = view_entry::of_conditional(write, decision, found, now)?;
        self.enter(entries.into_iter().filter(|change| change.put.is_some()).collect(), now).await
    }

    /// Deletes the entries that a conditional write which was applied has made old.
    pub(super) async fn leave_conditional(
        &self,
        write: &ConditionalWrite,
        decision: &Decision,
        found: &[Found],
    ) {
        if !write.table.has_views() {
            return;
        }
        let now = WriteTimestamp::now();
        match view_entry::of_conditional(write, decision, found, now) {
            Ok(entries) => {
                let old = entries.into_iter().filter(|change| change.put.is_none());
                self.leave(old.collect(), now).await;
            }
            Err(error) => tracing::error!(%error, "the entries of an old row were not removed"),
        }
    }

    /// Writes entries before their rows.
    async fn enter(&self, entries: Vec<EntryChange<'_>>, now: WriteTimestamp) -> Result<(), Error> {
        let written = self.write_entries(entries, now).await;
        written.map_err(|error| match error {
            // The rows were not sent, and an entry alone means nothing.
            Error::OutcomeUnknown { detail, .. } => Error::Unavailable { engine: ENGINE, detail },
            error => error,
        })
    }

    /// Deletes entries after their rows. Those that cannot be deleted are left to queries.
    async fn leave(&self, entries: Vec<EntryChange<'_>>, now: WriteTimestamp) {
        let count = entries.len();
        if let Err(error) = self.write_entries(entries, now).await {
            tracing::warn!(%error, "old entries of views may be left; VERIFIED queries drop them");
            metrics::counter!("shoal_data_view_entries_left_total").increment(count as u64);
        }
    }

    async fn write_entries(&self, entries: Vec<EntryChange<'_>>, now: WriteTimestamp) -> Result<(), Error> {
        let statements: Vec<Statement> =
            entries.into_iter().map(|change| self.bind_entry(change, now)).collect();
        let sends: Vec<_> = statements.into_iter().map(|statement| self.send_entry(statement)).collect();
        stream::iter(sends).buffer_unordered(ENTRY_WRITES).try_collect::<Vec<()>>().await.map(drop)
    }

    async fn send_entry(&self, (statements, kind, values): Statement) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let mut statement = statements.get(kind, link, &connected.session).await?;
        statement.set_consistency(CqlConsistency::LocalQuorum);
        let run = async move { answer(statement.execute(&connected.session, values).await?) };
        link.run(Intent::Write, kind.operation(), statements.table(), run).await.map(drop)
    }

    /// Returns the statement of a change of a view.
    fn bind_entry(&self, change: EntryChange<'_>, now: WriteTimestamp) -> Statement {
        let EntryChange { view, key, stamp, put } = change;
        let statements = self.statements(&view.table());
        let (partition, stamp) = (Bind::Text(key.partition.as_str().to_owned()), Bind::BigInt(stamp.0));
        let sort_key = Bind::sort_key(&key.sort_key);
        match put {
            Some((cell, expire_time)) => {
                let rest = [Bind::Blob(cell), stamp, Bind::Int(engine_ttl(expire_time, now))];
                let values = [partition].into_iter().chain(sort_key).chain(rest).collect();
                (statements, Kind::Put, values)
            }
            None => {
                let values = [stamp, partition].into_iter().chain(sort_key).collect();
                (statements, Kind::Delete, values)
            }
        }
    }
}

impl ViewStore for CassandraStore {
    fn view_settle_time(&self) -> Duration {
        let timeout = self.inner.link.config().statement_timeout;
        stale_max(timeout) + timeout * WRITE_TIMEOUTS
    }

    async fn make_view(&self, table: &Table, view: &View) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        make_view(link, &connected, table, view).await
    }

    async fn drop_view(&self, view: &View) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        drop_view(link, &connected, view).await?;
        self.forget(&view.table().definition.name);
        Ok(())
    }

    async fn add_entries(
        &self,
        _table: Arc<Table>,
        view: &View,
        rows: Vec<(PartitionKey, Row)>,
    ) -> Result<usize, Error> {
        let now = WriteTimestamp::now();
        let entries = rows.iter().filter_map(|(partition, row)| {
            let key = key_of(view, partition, &row.sort_key, &row.attributes)?;
            let entry = EntryRow {
                attributes: &row.attributes,
                expire_time: row.expire_time,
                write_time: row.write_time,
                // Of two writes of one time the one that writes the entry itself stays.
                write: WriteId::default(),
            };
            let put = Some((cell_of(view, &entry, EntryOrder::Together, now), row.expire_time));
            Some(EntryChange { view, key, stamp: row.write_time, put })
        });
        let entries: Vec<_> = entries.collect();
        let count = entries.len();
        self.write_entries(entries, now).await?;
        Ok(count)
    }

    async fn remove_entries(
        &self,
        view: &View,
        entries: Vec<(EntryKey, WriteTimestamp)>,
    ) -> Result<(), Error> {
        let deletes = entries.into_iter().map(|(key, stamp)| EntryChange { view, key, stamp, put: None });
        self.write_entries(deletes.collect(), WriteTimestamp::now()).await
    }

    async fn build(&self, view: Uuid) -> Result<Option<Build>, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let place = (BUILD_SPACE, view.simple().to_string());
        let read =
            async move { answer(connected.session.execute_unpaged(&connected.registry.one, place).await?) };
        let result = link.run(Intent::Read, "SELECT", REGISTRY, read).await?;
        let stored = records(result)?.into_iter().next().and_then(|record| record.9);
        let lost = |_| Error::DataLoss("the build of a view cannot be read".to_owned());
        stored.map(|stored| Build::decode(&stored[..]).map_err(lost)).transpose()
    }

    async fn replace_build(
        &self,
        view: Uuid,
        found: Option<Build>,
        build: Option<Build>,
    ) -> Result<bool, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let name = view.simple().to_string();
        match (found.map(|found| found.encode_to_vec()), build.map(|build| build.encode_to_vec())) {
            (None, None) => Ok(true),
            (None, Some(build)) => {
                let none: Option<i64> = None;
                let values = (BUILD_SPACE, name, view, READY, "", "", none, 0_i64, 1, "", build);
                transact(link, &connected, "INSERT", |session| &session.registry.insert, values).await
            }
            (Some(found), Some(build)) => {
                let values = (build, BUILD_SPACE, name, found);
                transact(link, &connected, "UPDATE", |session| &session.registry.replace_build, values).await
            }
            (Some(found), None) => {
                let values = (BUILD_SPACE, name, found);
                transact(link, &connected, "DELETE", |session| &session.registry.end_build, values).await
            }
        }
    }
}
