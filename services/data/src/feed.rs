//! WatchTable: the changes of a table or of one partition, from a place that a resume token names, at whichever clone.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use shoal_kit::{EngineError, Invalid, reason};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use uuid::Uuid;

use crate::change_record::{ChangeRecord, RowChange};
use crate::clock::WriteTimestamp;
use crate::data::{Data, WATCHES_MAX};
use crate::error::Error;
use crate::key::PartitionKey;
use crate::page_token::Binding;
use crate::store::{FeedCursor, FeedRead, Store};
use crate::table::TableName;

/// Pause between two looks at a feed that has changes.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Time for which a watch outlives an engine that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Interval at which a watch without changes is sent a new token.
const TOKEN_EVERY: Duration = Duration::from_secs(30);
/// Length of the longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 1024;
/// Most bytes of the rows in one response, which has at least one row: clients take messages of 4 MiB.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// An open watch.
pub(crate) struct Watch<S> {
    data: Data<S>,
    table: TableName,
    id: Uuid,
    partition: Option<PartitionKey>,
    shards: Vec<(u16, FeedCursor)>,
    deliveries: VecDeque<Delivery>,
    delivered: Instant,
    failing_since: Option<Instant>,
    pause: Duration,
    more: bool,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// Changes that are sent together.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The changes; none when only the token is new.
    pub(crate) parts: Vec<Part>,
    /// The token of the place behind everything that was delivered with it and before.
    pub(crate) resume_token: String,
}

/// A record, or a part of a large one.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The record of the write.
    pub(crate) record: Arc<ChangeRecord>,
    /// The changes of rows that belong to the part.
    pub(crate) rows: Range<usize>,
}

impl Part {
    /// Returns whether another part of the record follows.
    pub(crate) fn continues(&self) -> bool {
        self.rows.end < self.record.rows.len()
    }
}

impl<S: Store> Data<S> {
    /// Opens a watch of a table, or of one of its partitions if the key is not empty: from the place of a token, or from now on.
    ///
    /// # Errors
    /// Invalid fields, [`Error::ChangeFeedOff`], [`Error::ChangesGone`], [`Error::TooManyWatches`], and errors of the store.
    pub(crate) async fn watch(
        &self,
        table: &str,
        partition_key: String,
        resume_token: &str,
    ) -> Result<Watch<S>, Error> {
        let partition = match partition_key.is_empty() {
            true => None,
            false => Some(PartitionKey::parse(partition_key)?),
        };
        let table = self.table(table, "table").await?;
        let Some(feed) = table.change_feed() else {
            return Err(Error::ChangeFeedOff(table.definition.name.to_string()));
        };
        let Ok(permit) = self.watches.clone().try_acquire_owned() else {
            return Err(Error::TooManyWatches { max: WATCHES_MAX });
        };
        let shards = self.store.feed_shards(feed, partition.as_ref());
        let places = if resume_token.is_empty() {
            vec![self.store.feed_start(&table)?; shards.len()]
        } else {
            let binding = binding(table.id, partition.as_ref());
            let opened = self.open(&binding, resume_token).await;
            places(opened, shards.len())?
        };
        self.store.check_places(&table, places.iter().copied())?;
        let places = places.into_iter().map(FeedCursor::at);
        let mut watch = Watch {
            data: self.clone(),
            table: table.definition.name.clone(),
            id: table.id,
            partition,
            shards: shards.into_iter().zip(places).collect(),
            deliveries: VecDeque::new(),
            delivered: Instant::now(),
            failing_since: None,
            pause: PAUSE_MIN,
            more: true,
            ended: false,
            _permit: permit,
        };
        // A caller has a token to go on with before the first change.
        let resume_token = watch.token().await?;
        watch.deliveries.push_back(Delivery { parts: Vec::new(), resume_token });
        Ok(watch)
    }
}

impl<S: Store> Watch<S> {
    /// Waits for the next changes. Ends after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        while !self.ended {
            if let Some(delivery) = self.deliveries.pop_front() {
                self.delivered = Instant::now();
                return Some(Ok(delivery));
            }
            let draining = self.data.draining.clone();
            let looked = tokio::select! {
                () = draining.cancelled() => Err(Error::Draining),
                looked = self.look() => looked,
            };
            if let Err(error) = looked {
                self.ended = true;
                return Some(Err(error));
            }
        }
        None
    }

    /// Looks once at every shard, after a pause unless the last look left something.
    async fn look(&mut self) -> Result<(), Error> {
        if !self.more {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
        }
        let before = self.token().await?;
        match self.read().await {
            Ok(records) if records.is_empty() => {
                self.failing_since = None;
                if self.delivered.elapsed() >= TOKEN_EVERY {
                    let resume_token = self.token().await?;
                    self.deliveries.push_back(Delivery { parts: Vec::new(), resume_token });
                }
                Ok(())
            }
            Ok(records) => {
                self.failing_since = None;
                self.pause = PAUSE_MIN;
                report_lag(&records);
                let after = self.token().await?;
                self.deliveries.extend(deliveries(records, &before, &after));
                Ok(())
            }
            Err(error) => {
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                let may_pass = matches!(
                    error,
                    Error::Unavailable { .. }
                        | Error::ReadFailed { .. }
                        | Error::Overloaded { .. }
                        | Error::ClockDrift { .. }
                        | Error::Engine(EngineError::Unavailable { .. })
                );
                self.more = false;
                if may_pass && since.elapsed() < PATIENCE { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Reads what is new of every shard.
    async fn read(&mut self) -> Result<Vec<Arc<ChangeRecord>>, Error> {
        let table = self.data.store.table(&self.table).await?;
        if table.id != self.id || table.change_feed().is_none() {
            return Err(Error::ChangeFeedOff(self.table.to_string()));
        }
        let places = self.shards.iter().map(|(_, cursor)| cursor.position);
        self.data.store.check_places(&table, places)?;
        let reads = self.shards.iter().map(|(shard, cursor)| {
            let (table, partition) = (table.clone(), self.partition.clone());
            self.data.store.changes(FeedRead { table, shard: *shard, cursor: *cursor, partition })
        });
        let pages = try_join_all(reads).await?;
        let mut records = Vec::new();
        self.more = pages.iter().any(|page| page.more);
        for ((_, cursor), page) in self.shards.iter_mut().zip(pages) {
            *cursor = page.cursor;
            records.extend(page.records);
        }
        Ok(records)
    }

    async fn token(&self) -> Result<String, Error> {
        let places: Vec<u8> =
            self.shards.iter().flat_map(|(_, cursor)| cursor.position.to_be_bytes()).collect();
        self.data.seal(&binding(self.id, self.partition.as_ref()), &places).await
    }
}

/// Splits records into responses. Only the last of them has the new token: what comes before it would be lost with it.
fn deliveries(records: Vec<Arc<ChangeRecord>>, before: &str, after: &str) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    let (mut parts, mut bytes) = (Vec::new(), 0);
    for record in records {
        let mut start = 0;
        let key = record.partition.as_str().len();
        for (at, size) in record.rows.iter().map(RowChange::bytes).enumerate() {
            if bytes > 0 && bytes + size > RESPONSE_BYTES_MAX {
                if start < at {
                    parts.push(Part { record: record.clone(), rows: start..at });
                }
                let parts = std::mem::take(&mut parts);
                deliveries.push(Delivery { parts, resume_token: before.to_owned() });
                (start, bytes) = (at, 0);
            }
            bytes += size + key;
        }
        let rows = start..record.rows.len();
        parts.push(Part { record, rows });
    }
    deliveries.push(Delivery { parts, resume_token: after.to_owned() });
    deliveries
}

fn report_lag(records: &[Arc<ChangeRecord>]) {
    let now = WriteTimestamp::now().0;
    if let Some(oldest) = records.iter().map(|record| record.place.at).min() {
        let lag = Duration::from_micros((now - oldest).max(0).cast_unsigned());
        metrics::histogram!("shoal_data_feed_lag_seconds").record(lag.as_secs_f64());
    }
}

fn binding(table: Uuid, partition: Option<&PartitionKey>) -> Binding {
    let partition = partition.map_or("", PartitionKey::as_str);
    Binding::new("watch", "resume_token", TOKEN_BYTES_MAX).field(table.as_bytes()).field(partition.as_bytes())
}

/// Returns the places of the shards in a token that was opened.
fn places(opened: Result<Vec<u8>, Error>, shards: usize) -> Result<Vec<i64>, Error> {
    let refused = || {
        Invalid::new(
            reason::INVALID_RESUME_TOKEN,
            "resume_token",
            "must be one that WatchTable gave for this table and partition_key, or empty; a table of this name that was \
             dropped and created anew does not take it: then read the table, and watch without a token",
        )
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(Error::Invalid(_)) => return Err(refused().into()),
        Err(error) => return Err(error),
    };
    let (places, rest) = opened.as_chunks::<8>();
    if !rest.is_empty() || places.len() != shards {
        return Err(refused().into());
    }
    Ok(places.iter().map(|place| i64::from_be_bytes(*place)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change_record::{Place, RowChangeKind};
    use crate::key::SortKey;
    use crate::store::model::Model;
    use crate::table::{SortKeyType, WriteMode};
    use crate::tables::NewTable;

    #[test]
    fn large_records_come_in_parts() {
        let old = crate::row::Row {
            sort_key: SortKey::Unit,
            attributes: crate::store::conformance::holding(&"x".repeat(RESPONSE_BYTES_MAX / 3)),
            write_time: WriteTimestamp(1),
            expire_time: None,
        };
        let row = RowChange { kind: RowChangeKind::Delete(SortKey::Unit), old_rows: vec![old] };
        let record = Arc::new(ChangeRecord {
            place: Place { at: 1, id: 1 },
            partition: PartitionKey::parse("p".to_owned()).unwrap(),
            write_time: WriteTimestamp(5),
            rows: vec![row; 5],
        });
        let sent = deliveries(vec![record.clone(), record], "before", "after");
        let parts: Vec<_> = sent.iter().flat_map(|delivery| &delivery.parts).collect();
        let rows: Vec<_> = parts.iter().flat_map(|part| part.rows.clone()).collect();
        assert_eq!(rows, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
        assert_eq!(parts.iter().filter(|part| !part.continues()).count(), 2);
        let tokens: Vec<_> = sent.iter().map(|delivery| &*delivery.resume_token).collect();
        assert!(tokens.len() > 3 && tokens[..tokens.len() - 1].iter().all(|token| *token == "before"));
        assert_eq!(tokens.last(), Some(&"after"));
    }

    #[tokio::test]
    async fn token_from_before_retention_is_refused() {
        let data = Data::new(Model::default());
        let new = NewTable {
            name: "t".to_owned(),
            sort_key_type: SortKeyType::String,
            write_mode: WriteMode::LastWriteWins,
            default_ttl: None,
            description: String::new(),
            change_feed: Some((false, None)),
            attribute_schema: None,
            views: Vec::new(),
        };
        let table = data.create(new).await.unwrap();
        let oldest = table.change_feed().unwrap().oldest(WriteTimestamp::now()).0;
        let watch = async |place: i64| {
            let token = data.seal(&binding(table.id, None), &place.to_be_bytes()).await.unwrap();
            data.watch("t", String::new(), &token).await.err()
        };
        assert!(watch(oldest).await.is_none());
        let gone = watch(oldest - 1).await;
        assert!(matches!(gone, Some(Error::ChangesGone { .. })), "{gone:?}");
    }
}
