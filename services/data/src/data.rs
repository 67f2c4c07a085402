//! The service's logic over a store: finds the table, checks what callers ask against it, makes pages.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use prost::Message as _;
use shoal_kit::{Invalid, page, reason};

use crate::clock::{Clock, WriteTimestamp, stamp_of_token};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::{Mutation, Write};
use crate::page_token::Binding;
use crate::row::Row;
use crate::store::{Consistency, Lookup, Query, Store};
use crate::table::{Definition, SortKeyType, Table, TableName, Ttl, WriteMode};
use crate::value::Value;

/// Rows or tables of a page when the caller says nothing.
const PAGE_SIZE_DEFAULT: usize = 100;
/// And at most.
const PAGE_SIZE_MAX: usize = 1000;

/// Keys of one BatchGet.
const BATCH_KEYS_MAX: usize = 100;
/// Of these, read at once.
const BATCH_READS_MAX: usize = 32;
/// The rows of a BatchGet end before the one that would make them larger than this: clients take messages of 4 MiB.
const BATCH_BYTES_MAX: usize = 2 << 20;

/// One clone's view of the data.
#[derive(Debug, Clone)]
pub(crate) struct Data<S> {
    store: S,
    clock: Arc<Clock>,
}

/// A query as callers say it.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueryRequest {
    /// The table's name.
    pub(crate) table: String,
    /// The partition.
    pub(crate) partition_key: String,
    /// First sort key.
    pub(crate) start: Option<Value>,
    /// The one after the last.
    pub(crate) end: Option<Value>,
    /// What they begin with.
    pub(crate) prefix: Option<Value>,
    /// From the largest down.
    pub(crate) descending: bool,
    /// At most this many; 0 is the default.
    pub(crate) page_size: i32,
    /// Where to go on.
    pub(crate) page_token: String,
}

impl<S: Store> Data<S> {
    /// Over a store.
    pub(crate) fn new(store: S) -> Self {
        Self { store, clock: Arc::default() }
    }

    /// Creates a table, or finds the same one.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn create_table(
        &self,
        name: &str,
        sort_key_type: SortKeyType,
        write_mode: WriteMode,
        default_ttl: Option<Duration>,
    ) -> Result<Table, Error> {
        let name = TableName::parse(name, "table.name")?;
        let default_ttl = default_ttl.map(|ttl| Ttl::parse(ttl, "table.default_ttl")).transpose()?;
        let definition = Definition { name, sort_key_type, write_mode, default_ttl };
        self.store.create_table(definition, WriteTimestamp::now()).await
    }

    /// A table.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn table(&self, name: &str, field: &str) -> Result<Arc<Table>, Error> {
        self.store.table(&TableName::parse(name, field)?).await
    }

    /// Tables by name, and the token of the next page.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn tables(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Table>, String), Error> {
        let limit = page::size(page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
        let binding = Binding::default().field(b"tables");
        let after = if page_token.is_empty() { Vec::new() } else { binding.open(page_token)? };
        let after = String::from_utf8(after).map_err(|_| Error::Internal("a token's table name".into()))?;
        let mut tables = self.store.tables(&after, limit + 1).await?;
        let more = tables.len() > limit;
        tables.truncate(limit);
        let next = match tables.last() {
            Some(last) if more => binding.token(last.definition.name.as_str().as_bytes()),
            _ => String::new(),
        };
        Ok((tables, next))
    }

    /// One row.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn get(
        &self,
        table: &str,
        partition_key: String,
        sort_key: Option<Value>,
        consistency: Consistency,
    ) -> Result<Row, Error> {
        let partition = PartitionKey::parse(partition_key)?;
        let table = self.table(table, "table").await?;
        let sort_key = SortKey::parse(table.definition.sort_key_type, sort_key, "sort_key")?;
        let lookup = Lookup { table, partition, sort_key, consistency };
        self.store.get(lookup).await?.ok_or(Error::RowNotFound)
    }

    /// The rows of several keys, in their order; none where there is no row. Fewer than keys when the rows are large.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn batch_get(
        &self,
        table: &str,
        keys: Vec<(String, Option<Value>)>,
        consistency: Consistency,
    ) -> Result<Vec<Option<Row>>, Error> {
        if keys.is_empty() || keys.len() > BATCH_KEYS_MAX {
            return Err(Invalid::new(
                reason::INVALID_KEYS,
                "keys",
                format!("must have 1 to {BATCH_KEYS_MAX} entries, has {}", keys.len()),
            )
            .into());
        }
        let table = self.table(table, "table").await?;
        let mut lookups = Vec::with_capacity(keys.len());
        for (i, (partition, sort_key)) in keys.into_iter().enumerate() {
            let partition =
                PartitionKey::parse(partition).map_err(|invalid| invalid.within(&format!("keys[{i}]")))?;
            let sort_key =
                SortKey::parse(table.definition.sort_key_type, sort_key, &format!("keys[{i}].sort_key"))?;
            lookups.push(Lookup { table: table.clone(), partition, sort_key, consistency });
        }
        let mut reads = stream::iter(lookups).map(|lookup| self.store.get(lookup)).buffered(BATCH_READS_MAX);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = reads.next().await {
            let row = row?;
            bytes += row.as_ref().map_or(0, |row| row.attributes.encoded_len());
            if bytes > BATCH_BYTES_MAX && !rows.is_empty() {
                break;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Rows of a partition, and the token of the next page.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn query(
        &self,
        request: QueryRequest,
        consistency: Consistency,
    ) -> Result<(Vec<Row>, String), Error> {
        let QueryRequest { table, partition_key, start, end, prefix, descending, page_size, page_token } =
            request;
        let limit = page::size(page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
        let partition = PartitionKey::parse(partition_key)?;
        let table = self.table(&table, "table").await?;
        let of = table.definition.sort_key_type;
        let range = SortRange::parse(of, start, end, prefix)?;
        let binding = binding(&table, &partition, &range, descending);
        let range = if page_token.is_empty() {
            (!range.is_empty()).then_some(range)
        } else {
            let last = binding.open(&page_token)?;
            let last = SortKey::of_ordered_bytes(of, &last)
                .ok_or_else(|| Error::Internal("a page token's sort key is of another type".into()))?;
            range.behind(&last, descending)
        };
        let Some(range) = range else { return Ok((Vec::new(), String::new())) };
        let page =
            self.store.query(Query { table, partition, range, descending, limit, consistency }).await?;
        let next = page.next.map(|last| binding.token(&last.ordered_bytes())).unwrap_or_default();
        Ok((page.rows, next))
    }

    /// Changes one partition; the write's timestamp.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn mutate(
        &self,
        table: &str,
        partition_key: String,
        mutations: Vec<Mutation>,
        token: &str,
    ) -> Result<WriteTimestamp, Error> {
        let partition = PartitionKey::parse(partition_key)?;
        let stamp = match token {
            "" => self.clock.next(),
            token => stamp_of_token(token, WriteTimestamp::now())?,
        };
        let table = self.table(table, "table").await?;
        let write = Write::parse(table, partition, stamp, mutations)?;
        if !write.changes.is_empty() {
            self.store.mutate(write).await?;
        }
        Ok(stamp)
    }
}

fn binding(table: &Table, partition: &PartitionKey, range: &SortRange, descending: bool) -> Binding {
    let bound = |bound: &Option<SortKey>| bound.as_ref().map(SortKey::ordered_bytes).unwrap_or_default();
    Binding::default()
        .field(b"query")
        .field(table.id.as_bytes())
        .field(partition.as_str().as_bytes())
        .field(&[u8::from(range.start.is_some()), u8::from(range.end.is_some()), u8::from(descending)])
        .field(&bound(&range.start))
        .field(&bound(&range.end))
}
