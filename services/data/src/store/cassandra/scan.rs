//! Scans of whole tables, by ranges of tokens.
//!
//! A place in a scan is a range of tokens and, when rows of a partition were read, that partition and the last of them. Partitions of
//! one token are in the order of their keys. So a scan goes on at any clone, whatever was written meanwhile: it reads the rest of
//! the partition, then the partitions of the same token behind it, then those of the tokens behind.

use futures::stream::{self, StreamExt as _};
use prost::Message as _;
use scylla::response::query_result::QueryResult;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::row::Row;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::fetch_plan::FetchPlan;
use crate::store::cassandra::registry::undecodable;
use crate::store::cassandra::statements::{Bind, Kind};
use crate::store::{
    Consistency, Lookup, PartitionPage, Partitions, Query, ReadStore, SCAN_BYTES, SCAN_BYTES_MAX, Scan,
    ScanPage, ScanStore,
};
use crate::table::{SortKeyType, Table};

/// Most rows of a fetch of a scan: 64 MiB of the largest rows that have no mark ([`super::row_marks`]).
const ROWS_MAX: usize = 1_000;
/// Partitions of one prefix that a step reads at the same time.
const READ_AT_ONCE: usize = 4;
/// Partitions of one prefix after which a step ends, so that a scan goes forward within its caller's time.
const STEP_PARTITIONS: usize = 32;
/// Most rows of a fetch from one partition.
const PARTITION_ROWS_MAX: usize = 1_000;
/// Partitions that are listed at once.
const LISTED: usize = 500;
/// Most partitions of one token, of 2^64 tokens.
const SAME_TOKEN_MAX: usize = 1_000;
/// Most partitions looked at for a page of them, so that every call comes to an end.
const LOOKED_MAX: usize = 10_000;

/// A place in a part of a scan.
#[derive(Clone, PartialEq, prost::Message)]
struct Place {
    /// The token behind which the part goes on.
    #[prost(sint64, tag = "1")]
    from: i64,
    /// The last token of the part.
    #[prost(sint64, tag = "2")]
    to: i64,
    /// The partition that was read last, whose token is `from`.
    #[prost(string, optional, tag = "3")]
    partition: Option<String>,
    /// The sort key of that partition that was read last, as ordered bytes; empty: none yet. Unset: all of it was read.
    #[prost(bytes = "vec", optional, tag = "4")]
    sort_key: Option<Vec<u8>>,
}

impl Place {
    fn read(place: &[u8]) -> Result<Self, Error> {
        Place::decode(place).map_err(|_| Error::Internal("a place of a scan cannot be read".to_owned()))
    }

    /// Returns the place behind all of a partition.
    fn behind(&self, token: i64, partition: &str) -> Self {
        Self { from: token, to: self.to, partition: Some(partition.to_owned()), sort_key: None }
    }
}

impl ScanStore for CassandraStore {
    async fn parts(&self, _table: &Table, _prefix: &str, parts: usize) -> Result<Vec<Vec<u8>>, Error> {
        let parts = i128::try_from(parts.max(1)).unwrap_or(1);
        let bound = |i: i128| {
            i64::try_from(i128::from(i64::MIN) + ((1_i128 << 64) - 1) * i / parts).unwrap_or(i64::MAX)
        };
        let places = (0..parts).map(|i| Place { from: bound(i), to: bound(i + 1), ..Place::default() });
        Ok(places.map(|place| place.encode_to_vec()).collect())
    }

    async fn scan(&self, scan: Scan) -> Result<ScanPage, Error> {
        let table = scan.table.clone();
        match self.step(scan).await {
            Err(error) => Err(self.explained(&table, error).await),
            page => page,
        }
    }

    async fn partitions(&self, list: Partitions) -> Result<PartitionPage, Error> {
        let table = list.table.clone();
        match self.list_page(list).await {
            Err(error) => Err(self.explained(&table, error).await),
            page => page,
        }
    }
}

impl CassandraStore {
    async fn step(&self, scan: Scan) -> Result<ScanPage, Error> {
        let mut place = Place::read(&scan.place)?;
        if let (Some(partition), Some(last)) = (&place.partition, &place.sort_key) {
            let page = self.rest(&scan, partition, last).await?;
            place.sort_key = page.next.map(|last| last.ordered_bytes());
            if !page.rows.is_empty() || place.sort_key.is_some() {
                let partition = PartitionKey::parse(partition.clone())?;
                let rows = page.rows.into_iter().map(|row| (partition.clone(), row)).collect();
                return Ok(ScanPage { rows, next: Some(place.encode_to_vec()), seen: page.seen });
            }
        }
        if !scan.prefix.is_empty() {
            return self.scan_listed(&scan, place).await;
        }
        if let Some(partition) = place.partition.take() {
            let same = self.of_token(&scan.table, place.from, &partition, scan.consistency).await?;
            if let Some((_, next)) = same.into_iter().next() {
                let next = Place { partition: Some(next), sort_key: Some(Vec::new()), ..place };
                return Ok(ScanPage { rows: Vec::new(), next: Some(next.encode_to_vec()), seen: scan.seen });
            }
        }
        self.scan_tokens(&scan, place).await
    }

    async fn list_page(&self, list: Partitions) -> Result<PartitionPage, Error> {
        let mut place = Place::read(&list.place)?;
        let (mut keys, mut looked) = (Vec::new(), 0);
        loop {
            let (found, more) = self.listed(&list.table, &place, list.consistency).await?;
            for (token, partition) in found {
                if keys.len() == list.limit {
                    return Ok(PartitionPage { keys, next: Some(place.encode_to_vec()) });
                }
                looked += 1;
                place = place.behind(token, &partition);
                if partition.starts_with(&list.prefix) {
                    keys.push(PartitionKey::parse(partition)?);
                }
            }
            if !more {
                return Ok(PartitionPage { keys, next: None });
            }
            if looked >= LOOKED_MAX || list.is_late() {
                return Ok(PartitionPage { keys, next: Some(place.encode_to_vec()) });
            }
        }
    }

    /// Reads rows of a partition behind a sort key.
    async fn rest(&self, scan: &Scan, partition: &str, last: &[u8]) -> Result<crate::row::Page, Error> {
        let of = scan.table.definition.sort_key_type;
        let (table, consistency) = (scan.table.clone(), scan.consistency);
        let partition = PartitionKey::parse(partition.to_owned())?;
        if of == SortKeyType::None {
            let row = self.get(Lookup { table, partition, sort_key: SortKey::Unit, consistency }).await?;
            return Ok(crate::row::Page { rows: row.into_iter().collect(), ..Default::default() });
        }
        let range = if last.is_empty() {
            Some(SortRange::default())
        } else {
            let last = SortKey::of_ordered_bytes(of, last)
                .ok_or_else(|| Error::Internal("a place of a scan has another type".to_owned()))?;
            SortRange::default().behind(&last, false)
        };
        let Some(range) = range else { return Ok(crate::row::Page::default()) };
        let (limit, seen, descending, until) = (PARTITION_ROWS_MAX, scan.seen, false, None);
        self.query(Query { table, partition, range, descending, limit, consistency, seen, until }).await
    }

    /// Reads rows of a range of tokens.
    async fn scan_tokens(&self, scan: &Scan, place: Place) -> Result<ScanPage, Error> {
        let statements = self.statements(&scan.table);
        let sizes = statements.sizes();
        let plan = FetchPlan::new(ROWS_MAX, scan.seen, sizes.largest(), sizes.rows_max());
        let mut plan = plan.of_bytes(SCAN_BYTES);
        let fetch = plan.rows();
        let values = vec![
            Bind::BigInt(place.from),
            Bind::BigInt(place.to),
            Bind::Int(i32::try_from(fetch).unwrap_or(i32::MAX)),
        ];
        let result = self.select(&statements, Kind::ScanTokens, scan.consistency, values).await;
        let result = statements.sizes().judged(fetch, result)?;
        let now = WriteTimestamp::now();
        let (mut rows, mut last) = (Vec::new(), None);
        let (mut read, mut bytes, mut largest, mut full) = (0, 0, 0, false);
        each_scanned(scan.table.definition.sort_key_type, result, |token, partition, sort_key, cell| {
            read += 1;
            let size = cell.map_or(0, |(cell, _)| cell.len());
            largest = largest.max(size);
            // The rows behind a full message are read again.
            full |= !rows.is_empty() && bytes + size > SCAN_BYTES_MAX;
            bytes += size;
            if full {
                return Ok(());
            }
            last = Some((token, partition.to_owned(), sort_key.ordered_bytes()));
            if let Some((cell, write_time)) = cell
                && let Some(row) = Row::of_cell(sort_key, cell, write_time, now)?
            {
                rows.push((PartitionKey::parse(partition.to_owned())?, row));
            }
            Ok(())
        })?;
        plan.fetched(read, bytes, largest);
        statements.sizes().note(largest);
        let next = last.filter(|_| full || read >= fetch).map(|(token, partition, sort_key)| Place {
            sort_key: (scan.table.definition.sort_key_type != SortKeyType::None).then_some(sort_key),
            ..place.behind(token, &partition)
        });
        Ok(ScanPage { rows, next: next.map(|next| next.encode_to_vec()), seen: plan.seen() })
    }

    /// Reads rows of the partitions whose keys have the prefix of the scan: they are found by their keys alone.
    async fn scan_listed(&self, scan: &Scan, mut place: Place) -> Result<ScanPage, Error> {
        let (found, more) = self.listed(&scan.table, &place, scan.consistency).await?;
        let (mut page, mut bytes, mut begun) = (ScanPage { seen: scan.seen, ..ScanPage::default() }, 0, 0);
        let mut wanted = found.clone();
        wanted.retain(|(_, partition)| partition.starts_with(&scan.prefix));
        let reads = wanted.into_iter().map(|(token, partition)| self.listed_rows(scan, token, partition));
        let mut reads = std::pin::pin!(stream::iter(reads).buffered(READ_AT_ONCE));
        while let Some((token, partition, rows)) = reads.next().await {
            let rows = rows?;
            let size = rows.rows.iter().map(|row| row.attributes.encoded_len()).sum::<usize>();
            let full = !page.rows.is_empty() && bytes + size > SCAN_BYTES_MAX;
            if full || bytes >= SCAN_BYTES || begun >= STEP_PARTITIONS || begun > 0 && scan.is_late() {
                page.next = Some(place.encode_to_vec());
                return Ok(page);
            }
            begun += 1;
            bytes += size;
            place = place.behind(token, &partition);
            let key = PartitionKey::parse(partition)?;
            page.rows.extend(rows.rows.into_iter().map(|row| (key.clone(), row)));
            place.sort_key = rows.next.map(|last| last.ordered_bytes());
            if place.sort_key.is_some() {
                page.next = Some(place.encode_to_vec());
                return Ok(page);
            }
        }
        // Behind the partitions of other prefixes as well.
        if let Some((token, partition)) = found.last() {
            place = place.behind(*token, partition);
        }
        page.next = more.then(|| place.encode_to_vec());
        Ok(page)
    }

    /// Reads the first rows of a partition that was listed.
    async fn listed_rows(
        &self,
        scan: &Scan,
        token: i64,
        partition: String,
    ) -> (i64, String, Result<crate::row::Page, Error>) {
        let rows = self.rest(scan, &partition, &[]).await;
        (token, partition, rows)
    }

    /// Lists partitions behind a place, by token and key. Returns whether there are more.
    async fn listed(
        &self,
        table: &Table,
        place: &Place,
        consistency: Consistency,
    ) -> Result<(Vec<(i64, String)>, bool), Error> {
        if let Some(partition) = &place.partition {
            let same = self.of_token(table, place.from, partition, consistency).await?;
            if !same.is_empty() {
                return Ok((same, true));
            }
        }
        let found = self.list(table, place.from, place.to, LISTED, consistency).await?;
        let more = found.len() >= LISTED;
        Ok((found, more))
    }

    /// Lists the partitions of a token behind `partition`.
    async fn of_token(
        &self,
        table: &Table,
        token: i64,
        partition: &str,
        consistency: Consistency,
    ) -> Result<Vec<(i64, String)>, Error> {
        let mut same = self.list(table, token.saturating_sub(1), token, SAME_TOKEN_MAX, consistency).await?;
        same.retain(|(_, other)| other.as_bytes() > partition.as_bytes());
        Ok(same)
    }

    async fn list(
        &self,
        table: &Table,
        from: i64,
        to: i64,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Vec<(i64, String)>, Error> {
        let statements = self.statements(table);
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let values = vec![Bind::BigInt(from), Bind::BigInt(to), Bind::Int(limit)];
        let result = self.select(&statements, Kind::ListPartitions, consistency, values).await?;
        let result = result.into_rows_result().map_err(undecodable)?;
        let rows = result.rows::<(i64, String)>().map_err(undecodable)?;
        rows.map(|row| row.map_err(undecodable)).collect()
    }
}

/// Calls `take` for each row of a result with columns `token(pk), pk, sk, cell` and its time; `sk` where the table has it.
fn each_scanned(
    of: SortKeyType,
    result: QueryResult,
    mut take: impl FnMut(i64, &str, SortKey, Option<(&[u8], WriteTimestamp)>) -> Result<(), Error>,
) -> Result<(), Error> {
    let result = result.into_rows_result().map_err(undecodable)?;
    macro_rules! each {
        ($type:ty, $key:expr) => {
            for row in result.rows::<(i64, &str, $type, Option<&[u8]>, Option<i64>)>().map_err(undecodable)? {
                let (token, partition, key, cell, write_time) = row.map_err(undecodable)?;
                take(token, partition, $key(key), cell.zip(write_time.map(WriteTimestamp)))?;
            }
        };
    }
    match of {
        SortKeyType::String => each!(&str, |text: &str| SortKey::Text(text.to_owned())),
        SortKeyType::Int64 => each!(i64, SortKey::Int),
        SortKeyType::Bytes | SortKeyType::Composite(_) => {
            each!(&[u8], |bytes: &[u8]| SortKey::of_blob(of, bytes.to_vec().into()));
        }
        SortKeyType::None => {
            for row in result.rows::<(i64, &str, Option<&[u8]>, Option<i64>)>().map_err(undecodable)? {
                let (token, partition, cell, write_time) = row.map_err(undecodable)?;
                take(token, partition, SortKey::Unit, cell.zip(write_time.map(WriteTimestamp)))?;
            }
        }
    }
    Ok(())
}
