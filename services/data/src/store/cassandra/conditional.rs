//! Conditional writes: the rows are read at SERIAL, the decision is made here, and one batch of lightweight transactions writes
//! it if each of these rows still has the version that was read.
//!
//! Beside its rows, a partition remembers each applied write under the hash of its token. The row with it is inserted IF NOT
//! EXISTS in the same batch, so no write is applied twice, whoever sends it. A batch without an answer is settled by reading
//! again: the write is remembered, or a version has changed, after which the batch can never be applied, or it is sent once
//! more. While neither is known the outcome is unknown, never "not applied".

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use scylla::response::query_result::QueryResult;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::{Consistency as CqlConsistency, SerialConsistency};
use scylla::value::{CqlValue, Row as CqlRow};
use tokio::sync::Mutex;

use crate::clock::WriteTimestamp;
use crate::conditional::{APPLIED_SECONDS, ConditionalWrite, Decision, Found, Outcome, Replacement};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::row::Row;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::feed::Placed;
use crate::store::cassandra::registry::{answer, undecodable};
use crate::store::cassandra::statements::{Bind, Kind, lowest};
use crate::store::cassandra::write::engine_ttl;
use crate::table::{SortKeyType, Table};

/// Value of `aux` in rows.
const ROW: &[u8] = &[];
/// First byte of `aux` in what is remembered of a write; the hash of its token follows.
const APPLIED: u8 = 1;
/// Multiple of the time-out of a statement within which a conditional write begins its last attempt.
const ATTEMPTS_TIMEOUTS: u32 = 2;
/// Longest pause before a write that met another one is tried again. It doubles from a millisecond, and is spread.
const PAUSE_MAX: Duration = Duration::from_millis(64);
/// Seconds for which Cassandra keeps a row longer than its cell says, so that its version outlives every attempt that read it.
const VERSION_SECONDS: i32 = 60;
/// Number of locks by which writes of one partition at one clone wait for each other instead of meeting in Cassandra.
const LOCKS: usize = 1024;

/// Locks of partitions, by hash.
#[derive(Debug)]
pub(super) struct PartitionLocks(Vec<Mutex<()>>);

impl Default for PartitionLocks {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| Mutex::default()).collect())
    }
}

impl PartitionLocks {
    fn of(&self, table: &Table, partition: &PartitionKey) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        (table.id, partition).hash(&mut hasher);
        &self.0[usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0)]
    }
}

/// Rows of a conditional write as they were read.
struct Read {
    found: Vec<Found>,
    versions: Vec<Option<Vec<u8>>>,
    remembered: Option<Result<Outcome, Error>>,
}

impl CassandraStore {
    pub(super) async fn write_conditional(&self, write: &ConditionalWrite) -> Result<Outcome, Error> {
        self.inner.link.connected().await?;
        self.check_clock().await?;
        let timeout = self.inner.link.config().statement_timeout;
        let until = Instant::now() + timeout * ATTEMPTS_TIMEOUTS;
        let lock = self.inner.partition_locks.of(&write.table, &write.partition);
        let Ok(_turn) = tokio::time::timeout(timeout, lock.lock()).await else {
            return Err(Error::Contended { attempts: 0 });
        };
        // The versions that an attempt without an answer was sent with.
        let mut unsettled: Option<(Vec<Option<Vec<u8>>>, Error)> = None;
        let mut attempts = 0;
        let mut places = Vec::new();
        let abandoned = |places: &[Placed]| self.abandon(write, places);
        loop {
            let read = match (self.read_for_write(write).await, &unsettled) {
                (Ok(read), _) => read,
                (Err(_), Some(_)) if Instant::now() < until => {
                    tokio::time::sleep(pause(attempts)).await;
                    attempts += 1;
                    continue;
                }
                (Err(_), Some((_, unknown))) => return Err(unknown.clone()),
                (Err(error), None) => {
                    abandoned(&places);
                    return Err(error);
                }
            };
            if let Some(outcome) = read.remembered {
                return outcome;
            }
            if let Some((versions, unknown)) = &unsettled {
                if *versions != read.versions {
                    // Its versions are gone for good, so that attempt is refused whenever it arrives.
                    unsettled = None;
                } else if Instant::now() >= until {
                    return Err(unknown.clone());
                }
            }
            let decision = match (write.decide(&read.found, WriteTimestamp::now()), &unsettled) {
                (Ok(Ok(decision)), _) => decision,
                (Ok(Err(condition)), None) => {
                    abandoned(&places);
                    return Ok(ConditionalWrite::refused(condition, read.found));
                }
                (Err(error), None) => {
                    abandoned(&places);
                    return Err(error);
                }
                // A row has ended since. The attempt that is under way found it.
                (Ok(Err(_)) | Err(_), Some((_, unknown))) => return Err(unknown.clone()),
            };
            if unsettled.is_none() && attempts > 0 && Instant::now() >= until {
                abandoned(&places);
                return Err(Error::Contended { attempts });
            }
            attempts += 1;
            let size = |replacement: &Replacement| match replacement {
                Replacement::Put { cell, .. } => cell.len(),
                Replacement::Delete => 0,
            };
            let largest = decision.changes.iter().map(|(_, replacement)| size(replacement)).max();
            self.mark_row(&write.table, largest.unwrap_or(0)).await;
            let record = match Self::record_conditional(write, &decision, &read.found) {
                Ok(record) => record,
                Err(error) => return Err(unsettled.map_or(error, |(_, unknown)| unknown)),
            };
            if let Err(error) = self.enter_conditional(write, &decision, &read.found).await {
                return Err(unsettled.map_or(error, |(_, unknown)| unknown));
            }
            let attempt = self.swap(write, &read.versions, &decision, record.as_ref(), &mut places);
            match attempt.await {
                Ok(true) => {
                    self.leave_conditional(write, &decision, &read.found).await;
                    if let (Some(record), Some(placed)) = (record, places.pop()) {
                        abandoned(&places);
                        let (table, partition) = (&write.table, &write.partition);
                        let stamp = decision.write_time;
                        let recorded = self.record_in_time(table, partition, stamp, &record, placed).await;
                        recorded.map_err(|error| error.of_write(&write.token))?;
                    }
                    return write.remembered(decision.write_time, &decision.applied);
                }
                Ok(false) => unsettled = None,
                Err(error @ Error::OutcomeUnknown { .. }) => {
                    unsettled = Some((read.versions, error.of_write(&write.token)));
                }
                Err(error) => return Err(unsettled.map_or(error, |(_, unknown)| unknown)),
            }
            tokio::time::sleep(pause(attempts)).await;
        }
    }

    /// Reads the rows and what is remembered of the write, in one order with all conditional writes.
    async fn read_for_write(&self, write: &ConditionalWrite) -> Result<Read, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let statements = self.statements(&write.table);
        let of = write.table.definition.sort_key_type;
        let remembered = remembered_at(write);
        let keys = if of == SortKeyType::None {
            Bind::Blobs(vec![ROW.into(), remembered.clone().into()])
        } else {
            let rows = write.rows.iter().map(|key| (ROW.into(), key.clone()));
            let keys = rows.chain([(remembered.clone().into(), lowest(of))]);
            Bind::Keys(keys.filter_map(|(aux, key)| Some((aux, Bind::sort_key(&key)?))).collect())
        };
        let mut statement = statements.get(Kind::ReadForWrite, link, &connected.session).await?;
        statement.set_consistency(CqlConsistency::LocalSerial);
        let values = vec![Bind::Text(write.partition.as_str().to_owned()), keys];
        let read = async move { answer(statement.execute(&connected.session, values).await?) };
        let result = link.run(Intent::Read, "SELECT", statements.table(), read).await?;
        rows_of(write, &remembered, result)
    }

    /// Writes the decision if the rows still have these versions. Returns whether it was applied.
    async fn swap(
        &self,
        write: &ConditionalWrite,
        versions: &[Option<Vec<u8>>],
        decision: &Decision,
        record: Option<&Bytes>,
        places: &mut Vec<Placed>,
    ) -> Result<bool, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let statements = self.statements(&write.table);
        let mut batch = Batch::new(BatchType::Unlogged);
        // The driver must not repeat it: what an unanswered one did is settled by reading.
        batch.set_is_idempotent(false);
        batch.set_consistency(CqlConsistency::LocalQuorum);
        batch.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        let mut values = Vec::with_capacity(write.rows.len() + 2);
        for (kind, bound) in bind(write, versions, decision, WriteTimestamp::now()) {
            batch.append_statement(statements.get(kind, link, &connected.session).await?);
            values.push(bound);
        }
        self.still_there(&write.table).await?;
        if let Some(record) = record {
            batch.append_statement(statements.get(Kind::PutRecord, link, &connected.session).await?);
            values.push(self.place_attempt(write, decision.write_time, record, places).await?);
        }
        let run = async move { answer(connected.session.batch(&batch, values).await?) };
        let result = link.run(Intent::Write, "BATCH", statements.table(), run).await?;
        let result = result.into_rows_result().map_err(undecodable)?;
        let first: CqlRow = result
            .rows::<CqlRow>()
            .map_err(undecodable)?
            .next()
            .ok_or_else(|| {
                Error::Internal("cassandra's answer to a conditional batch has no row".to_owned())
            })?
            .map_err(undecodable)?;
        match first.columns.first() {
            Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
            other => Err(Error::Internal(format!(
                "cassandra's answer to a conditional batch begins with {other:?}"
            ))),
        }
    }
}

/// Returns the place of what is remembered of a write.
fn remembered_at(write: &ConditionalWrite) -> Vec<u8> {
    [&[APPLIED][..], &write.hash()].concat()
}

/// Returns the statements of a decision with their values.
fn bind(
    write: &ConditionalWrite,
    versions: &[Option<Vec<u8>>],
    decision: &Decision,
    now: WriteTimestamp,
) -> Vec<(Kind, Vec<Bind>)> {
    let partition = || Bind::Text(write.partition.as_str().to_owned());
    let of = write.table.definition.sort_key_type;
    let write_time = || Bind::BigInt(decision.write_time.0);
    let mut remember = vec![partition(), Bind::Blob(remembered_at(write).into())];
    remember.extend(Bind::sort_key(&lowest(of)));
    remember.extend([
        Bind::Blob(decision.applied.clone()),
        write_time(),
        Bind::Int(i32::try_from(APPLIED_SECONDS).unwrap_or(i32::MAX)),
    ]);
    let mut statements = vec![(Kind::Remember, remember)];
    for (place, (key, version)) in write.rows.iter().zip(versions).enumerate() {
        let version = version.as_ref().map_or(Bind::Null, |version| Bind::Blob(version.clone().into()));
        let replacement = decision.changes.iter().find(|(changed, _)| *changed == place);
        let mut values = Vec::new();
        let kind = match replacement {
            // Nothing to write, but the condition must still hold when the others are written.
            None => Kind::Guard,
            Some((_, replacement)) => {
                let (cell, ttl) = match replacement {
                    // The version of a deleted row stays as long as its write is remembered.
                    Replacement::Delete => (Bind::Null, i32::try_from(APPLIED_SECONDS).unwrap_or(i32::MAX)),
                    Replacement::Put { cell, expire_time } => {
                        let ttl = engine_ttl(*expire_time, now);
                        (
                            Bind::Blob(cell.clone()),
                            if ttl == 0 { 0 } else { ttl.saturating_add(VERSION_SECONDS) },
                        )
                    }
                };
                let hash = Bind::Blob(write.hash().to_vec().into());
                values.extend([Bind::Int(ttl), cell, write_time(), hash]);
                Kind::Replace
            }
        };
        values.push(partition());
        values.extend(Bind::sort_key(key));
        values.push(version);
        statements.push((kind, values));
    }
    statements
}

fn rows_of(write: &ConditionalWrite, remembered: &[u8], result: QueryResult) -> Result<Read, Error> {
    let now = WriteTimestamp::now();
    let result = result.into_rows_result().map_err(undecodable)?;
    let mut read = Read {
        found: vec![Found::default(); write.rows.len()],
        versions: vec![None; write.rows.len()],
        remembered: None,
    };
    for row in result.rows::<CqlRow>().map_err(undecodable)? {
        let mut columns = row.map_err(undecodable)?.columns.into_iter();
        let mut next = || columns.next().flatten();
        let (aux, cell, write_time, version, key) = (next(), next(), next(), next(), next());
        let cell = cell.and_then(CqlValue::into_blob);
        let write_time = write_time.and_then(|value| value.as_bigint()).map(WriteTimestamp);
        if aux.and_then(CqlValue::into_blob).as_deref() == Some(remembered) {
            if let (Some(applied), Some(write_time)) = (cell, write_time) {
                read.remembered = Some(write.remembered(write_time, &applied));
            }
            continue;
        }
        let key = match key {
            None => SortKey::Unit,
            Some(CqlValue::Text(text)) => SortKey::Text(text),
            Some(CqlValue::BigInt(int)) => SortKey::Int(int),
            Some(CqlValue::Blob(bytes)) => {
                SortKey::of_blob(write.table.definition.sort_key_type, bytes.into())
            }
            Some(other) => return Err(Error::Internal(format!("cassandra's sort key is {other:?}"))),
        };
        let Some(place) = write.rows.iter().position(|wanted| *wanted == key) else { continue };
        read.versions[place] = version.and_then(CqlValue::into_blob);
        read.found[place].last_write = write_time;
        if let (Some(cell), Some(write_time)) = (cell, write_time) {
            read.found[place].row = Row::of_cell(key, &cell, write_time, now)?;
        }
    }
    Ok(read)
}

fn pause(attempts: u32) -> Duration {
    let longest = Duration::from_millis(1 << attempts.min(6)).min(PAUSE_MAX);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}
