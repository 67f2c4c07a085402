//! Writes of rows: a Mutate is one statement, or one unlogged batch in one partition. With views it is a logged one, if it is not
//! large.

use std::sync::Arc;

use scylla::statement::Consistency as CqlConsistency;
use scylla::statement::batch::{Batch, BatchType};

use crate::change_record::OldRows;
use crate::clock::{Clock, ClockReading, WriteTimestamp};
use crate::conditional::{ConditionalWrite, Outcome};
use crate::error::Error;
use crate::key::SortRange;
use crate::mutation::{Change, Write};
use crate::store::WriteStore;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::registry::answer;
use crate::store::cassandra::statements::{Bind, Kind, Statements, lowest};

/// Seconds by which Cassandra's own TTL ends a row later than its cell says: the cell decides, the TTL clears away.
const TTL_SLACK_SECONDS: i64 = 2;
/// Latest end that Cassandra 5 keeps in its default storage mode. Rows that end later are left to their cells.
const TTL_END_MAX: i64 = (i32::MAX as i64) - 24 * 3600;

impl WriteStore for CassandraStore {
    fn clock(&self) -> Arc<Clock> {
        Arc::new(Clock::within(self.inner.link.config().clock_drift_max))
    }

    async fn mutate(&self, write: Write) -> Result<(), Error> {
        if !write.table.has_views() {
            return self.sent(&write).await;
        }
        // A caller that leaves must not cut it between the rows and their old entries.
        let store = self.clone();
        self.inner.link.detaching(async move { store.sent(&write).await }).await
    }

    async fn write_conditionally(&self, write: ConditionalWrite) -> Result<Outcome, Error> {
        if !write.table.has_views() {
            return self.conditionally_sent(&write).await;
        }
        let store = self.clone();
        self.inner.link.detaching(async move { store.conditionally_sent(&write).await }).await
    }
}

impl CassandraStore {
    async fn sent(&self, write: &Write) -> Result<(), Error> {
        match self.send(write).await {
            Err(error) => Err(self.explained(&write.table, error).await),
            Ok(()) => Ok(()),
        }
    }

    async fn conditionally_sent(&self, write: &ConditionalWrite) -> Result<Outcome, Error> {
        match self.write_conditional(write).await {
            Err(error) => Err(self.explained(&write.table, error).await),
            outcome => outcome,
        }
    }

    async fn send(&self, write: &Write) -> Result<(), Error> {
        if !write.table.has_views() {
            let old_rows = match write.table.change_feed() {
                Some(feed) if feed.old_rows => Some(self.rows_before(write).await?),
                _ => None,
            };
            return self.send_batch(write, old_rows, Vec::new()).await;
        }
        let old_rows = self.rows_before(write).await?;
        self.send_with_views(write, old_rows).await
    }

    /// Sends the batch of a write, with what it changes in views.
    pub(super) async fn send_batch(
        &self,
        write: &Write,
        old_rows: Option<OldRows>,
        entries: Vec<(Arc<Statements>, Kind, Vec<Bind>)>,
    ) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        self.check_clock().await?;
        let statements = self.statements(&write.table);
        let size = |change: &Change| match change {
            Change::Put { cell, .. } => cell.len(),
            Change::Delete { .. } | Change::DeleteRange { .. } => 0,
        };
        self.mark_row(&write.table, write.changes.iter().map(size).max().unwrap_or(0)).await;
        let record = Self::record(write, old_rows);
        let (table, partition, stamp) = (&write.table, &write.partition, write.stamp());
        let now = WriteTimestamp::now();
        let mut changes = write.changes.iter().map(|change| bind(write, change, now));
        let mut placed = None;
        let outcome = match (record, write.changes.len()) {
            (None, 1) if entries.is_empty() => {
                let Some((kind, values)) = changes.next() else { return Ok(()) };
                let mut statement = statements.get(kind, link, &connected.session).await?;
                statement.set_consistency(CqlConsistency::LocalQuorum);
                self.still_there(table).await?;
                let run = async move { answer(statement.execute(&connected.session, values).await?) };
                link.run(Intent::Write, kind.operation(), statements.table(), run).await
            }
            (record, _) => {
                // Without entries all of it is of one partition, so that Cassandra needs no batch log; other engines may need one for
                // two tables. With entries the log is what makes it one step.
                let logged = record.is_some() || !entries.is_empty();
                let of = if logged { BatchType::Logged } else { BatchType::Unlogged };
                let mut batch = Batch::new(of);
                batch.set_is_idempotent(true);
                batch.set_consistency(CqlConsistency::LocalQuorum);
                let mut all = Vec::with_capacity(write.changes.len() + 1);
                for (kind, values) in changes {
                    batch.append_statement(statements.get(kind, link, &connected.session).await?);
                    all.push(values);
                }
                for (statements, kind, values) in entries {
                    batch.append_statement(statements.get(kind, link, &connected.session).await?);
                    all.push(values);
                }
                self.still_there(table).await?;
                // The place comes last: watches count on the time from it to the batch.
                if let Some(record) = record {
                    let statement = statements.get(Kind::PutRecord, link, &connected.session).await?;
                    batch.append_statement(statement);
                    let (place, values) = self.place(table, partition, stamp, &record).await?;
                    all.push(values);
                    placed = Some((place, record));
                }
                let run = async move { answer(connected.session.batch(&batch, all).await?) };
                link.run(Intent::Write, "BATCH", statements.table(), run).await
            }
        };
        outcome.map_err(|error| error.of_write(&write.token))?;
        if let Some((place, record)) = placed {
            let recorded = self.record_in_time(table, partition, stamp, &record, place).await;
            recorded.map_err(|error| error.of_write(&write.token))?;
        }
        Ok(())
    }

    /// Refuses a write while the clock is wrong. A clone that has just connected waits for the first comparison.
    pub(super) async fn check_clock(&self) -> Result<(), Error> {
        let drift = &self.inner.drift;
        drift.compared_within(self.inner.link.config().statement_timeout).await;
        drift.check(ClockReading::now())
    }
}

/// Returns the statement of a change, and the values bound to it.
fn bind(write: &Write, change: &Change, now: WriteTimestamp) -> (Kind, Vec<Bind>) {
    let partition = || Bind::Text(write.partition.as_str().to_owned());
    match change {
        Change::Put { sort_key, cell, expire_time } => {
            let mut values = vec![partition()];
            values.extend(Bind::sort_key(sort_key));
            let ttl = engine_ttl(*expire_time, now);
            values.extend([Bind::Blob(cell.clone()), Bind::BigInt(write.stamp().0), Bind::Int(ttl)]);
            (Kind::Put, values)
        }
        Change::Delete { sort_key } => {
            let mut values = vec![Bind::BigInt(write.stamp().0), partition()];
            values.extend(Bind::sort_key(sort_key));
            (Kind::Delete, values)
        }
        Change::DeleteRange { range: SortRange { start, end } } => {
            let mut values = vec![Bind::BigInt(write.range_stamp().0), partition()];
            if start.is_none() && end.is_none() {
                return (Kind::DeletePartition, values);
            }
            let start = start.clone().unwrap_or_else(|| lowest(write.table.definition.sort_key_type));
            values.extend(Bind::sort_key(&start));
            let end = end.as_ref().and_then(Bind::sort_key);
            let kind = if end.is_some() { Kind::DeleteFromTo } else { Kind::DeleteFrom };
            values.extend(end);
            (kind, values)
        }
    }
}

/// Returns the seconds for `USING TTL`; 0 stands for ever. A put that has ended is written all the same, because it hides older
/// puts.
pub(super) fn engine_ttl(expire_time: Option<WriteTimestamp>, now: WriteTimestamp) -> i32 {
    match expire_time {
        None => 0,
        Some(end) if end.0 / 1_000_000 > TTL_END_MAX => 0,
        Some(end) => {
            // Whole seconds on both sides, as Cassandra adds them: a repeat at another moment ends the row at the same second.
            let left = end.0.div_euclid(1_000_000) - now.0.div_euclid(1_000_000) + TTL_SLACK_SECONDS;
            i32::try_from(left.max(1)).unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_ttl_outlasts_the_cell() {
        let now = WriteTimestamp(1_800_000_000_000_000);
        let after = |seconds: i64| Some(WriteTimestamp(now.0 + seconds * 1_000_000));
        assert_eq!(engine_ttl(None, now), 0);
        assert_eq!(engine_ttl(after(0), now), 2);
        assert_eq!(engine_ttl(after(-5), now), 1);
        assert_eq!(engine_ttl(after(60), now), 62);
        // Whenever in a second it is written, Cassandra's own seconds and these make the same end.
        for micros in [0, 1, 500_000, 999_999] {
            let written = WriteTimestamp(now.0 + 3_000_000 + micros);
            assert_eq!(engine_ttl(after(60), written), 59);
        }
        assert_eq!(engine_ttl(after(400_000_000), now), 0, "no end that Cassandra would refuse");
    }
}
