//! The sweeper of blobs: it clears away uploads that no row names, because they were cut, replaced, deleted or have ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{SWEEP_AGE_SECONDS, UNNAMED_TIME, bytes_of, text_of, upload_of};
use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::Mutation;
use crate::store::{Consistency, Partitions, Query, Store};
use crate::table::{Table, TableName};

/// Shortest time between two sweeps of a clone; up to as much again is added by chance, so that clones do not sweep together.
const EVERY: Duration = Duration::from_secs(600);
/// Tables or partitions that are listed at once.
const BATCH: usize = 500;
/// Most uploads that a sweeper remembers as unnamed. Those past them are looked at when others are cleared away.
const UNNAMED_MAX: usize = 100_000;

/// Uploads that a sweeper has found old and named by no row, and when it did first. The wall clock may have made a step: an upload is
/// cleared away only after [`UNNAMED_TIME`] of a clock that makes none.
#[derive(Debug, Default)]
pub(crate) struct Unnamed(HashMap<String, Instant>);

impl Unnamed {
    /// Notes an upload that no row names. Returns whether it was found so long enough ago.
    fn is_due(&mut self, upload: &str, now: Instant) -> bool {
        if let Some(since) = self.0.get(upload) {
            return now.saturating_duration_since(*since) >= UNNAMED_TIME;
        }
        if self.0.len() < UNNAMED_MAX {
            self.0.insert(upload.to_owned(), now);
        }
        false
    }

    /// Forgets an upload that is cleared away or has a name.
    fn forget(&mut self, upload: &str) {
        self.0.remove(upload);
    }

    /// Forgets uploads that were not seen for a day: others have cleared them away.
    fn shrink(&mut self, now: Instant) {
        self.0.retain(|_, since| now.saturating_duration_since(*since) < Duration::from_secs(24 * 3600));
    }
}

/// Sweeps until dropped.
pub(crate) async fn sweep_blobs_forever<S: Store>(data: Data<S>) {
    let mut unnamed = Unnamed::default();
    loop {
        tokio::time::sleep(EVERY.mul_f64(1.0 + fastrand::f64())).await;
        match data.sweep_blobs(&mut unnamed, WriteTimestamp::now(), Instant::now()).await {
            Ok(0) => {}
            Ok(cleared) => tracing::debug!(cleared, "uploads that no row names were cleared away"),
            Err(error) => tracing::warn!(%error, "sweeping blobs failed; it is tried again"),
        }
    }
}

impl<S: Store> Data<S> {
    /// Clears away the uploads that no row names at `now` and long before. `at` is the same moment by a clock without steps. Returns
    /// how many.
    ///
    /// # Errors
    /// Errors of the store.
    pub(crate) async fn sweep_blobs(
        &self,
        unnamed: &mut Unnamed,
        now: WriteTimestamp,
        at: Instant,
    ) -> Result<usize, Error> {
        unnamed.shrink(at);
        let (mut after, mut cleared) = (String::new(), 0);
        loop {
            let listed = self.store.tables(&after, BATCH).await?;
            let Some(last) = listed.last() else { return Ok(cleared) };
            after = last.definition.name.to_string();
            for chunks in listed {
                if !chunks.definition.name.is_hidden() {
                    // Hidden names come before all others.
                    return Ok(cleared);
                }
                let name = chunks.definition.name.clone();
                match self.sweep_chunks(Arc::new(chunks), unnamed, now, at).await {
                    // What is damaged holds up no other table.
                    Err(error @ (Error::DataLoss(_) | Error::Invalid(_) | Error::NewerLayout { .. })) => {
                        tracing::warn!(%error, table = %name, "a table of blobs cannot be swept");
                    }
                    swept => cleared += swept?,
                }
            }
        }
    }

    async fn sweep_chunks(
        &self,
        chunks: Arc<Table>,
        unnamed: &mut Unnamed,
        now: WriteTimestamp,
        at: Instant,
    ) -> Result<usize, Error> {
        let name = TableName::parse(&chunks.definition.description, "table")?;
        let table = match self.store.table(&name).await {
            Ok(table) => Some(table),
            Err(Error::TableNotFound(_)) => None,
            Err(Error::TableDropping(_)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let owner = table.filter(|table| TableName::of_chunks(table.id) == chunks.definition.name);
        let Some(table) = owner else {
            // Not at once: a definition that is remembered may be older than the table.
            if chunks.create_time.plus_seconds(SWEEP_AGE_SECONDS) <= now {
                self.store.drop_table(&chunks.definition.name, Some(chunks.create_time)).await?;
            }
            return Ok(0);
        };
        let mut cleared = 0;
        for place in self.store.parts(&chunks, "", 1).await? {
            let mut place = Some(place);
            while let Some(from) = place {
                let list = Partitions {
                    table: chunks.clone(),
                    prefix: String::new(),
                    place: from,
                    limit: BATCH,
                    consistency: Consistency::Quorum,
                    until: None,
                };
                let page = self.store.partitions(list).await?;
                for upload in page.keys {
                    let name = upload.as_str().to_owned();
                    match self.sweep_upload(&table, &chunks, upload, unnamed, now, at).await {
                        Err(Error::DataLoss(detail)) => {
                            tracing::warn!(detail, upload = name, "an upload is damaged, and is left");
                        }
                        swept => cleared += usize::from(swept?),
                    }
                }
                place = page.next;
            }
        }
        Ok(cleared)
    }

    /// Clears an upload away if it is old and its row names another one. Returns whether it did.
    async fn sweep_upload(
        &self,
        table: &Arc<Table>,
        chunks: &Arc<Table>,
        upload: PartitionKey,
        unnamed: &mut Unnamed,
        now: WriteTimestamp,
        at: Instant,
    ) -> Result<bool, Error> {
        // Partitions of chunks have longer names, and no time of their own.
        let began = (upload.as_str().len() == 32).then(|| i64::from_str_radix(&upload.as_str()[..16], 16));
        let Some(Ok(began)) = began else { return Ok(false) };
        if WriteTimestamp(began).plus_seconds(SWEEP_AGE_SECONDS) > now {
            return Ok(false);
        }
        // Another clone may have cleared it away.
        let Some(note) = self.upload_note(chunks, &upload).await? else {
            unnamed.forget(upload.as_str());
            return Ok(false);
        };
        let of = table.definition.sort_key_type;
        let partition = text_of(&note.attributes, "p").map(PartitionKey::parse).transpose()?;
        let sort_key = bytes_of(&note.attributes, "s").and_then(|key| SortKey::of_ordered_bytes(of, &key));
        let (Some(partition), Some(sort_key)) = (partition, sort_key) else {
            return Err(Error::DataLoss("the note of an upload cannot be read".to_owned()));
        };
        let row = self.blob_row(table, &partition, &sort_key).await?;
        if row.as_ref().and_then(upload_of).is_some_and(|named| named == upload.as_str()) {
            unnamed.forget(upload.as_str());
            return Ok(false);
        }
        if !unnamed.is_due(upload.as_str(), at) {
            return Ok(false);
        }
        // From the last one down and the note at the end, so that a sweep that is cut is gone on with by the next.
        let mut partitions = vec![upload.clone()];
        loop {
            let part = PartitionKey::parse(format!("{}/{}", upload.as_str(), partitions.len() - 1))?;
            if !self.has_rows(chunks, &part).await? {
                break;
            }
            partitions.push(part);
        }
        for partition in partitions.into_iter().rev() {
            self.write_hidden(chunks, partition, Mutation::DeleteRange { start: None, end: None }).await?;
        }
        unnamed.forget(upload.as_str());
        Ok(true)
    }

    async fn has_rows(&self, chunks: &Arc<Table>, partition: &PartitionKey) -> Result<bool, Error> {
        let query = Query {
            table: chunks.clone(),
            partition: partition.clone(),
            range: SortRange::default(),
            descending: false,
            limit: 1,
            consistency: Consistency::Quorum,
            seen: None,
            until: None,
        };
        Ok(!self.store.query(query).await?.rows.is_empty())
    }
}
