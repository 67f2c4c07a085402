//! The service's logic over a store: finds the table, checks a request against it, and makes pages.

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

/// Rows or tables of a page when the caller gives no size.
const PAGE_SIZE_DEFAULT: usize = 100;
/// Most rows or tables of a page.
const PAGE_SIZE_MAX: usize = 1000;

/// Most keys of a BatchGet.
const BATCH_KEYS_MAX: usize = 100;
/// Most keys of a BatchGet that are read at the same time.
const BATCH_READS_MAX: usize = 32;
/// Most bytes of a BatchGet's rows. Its results end before the row that would pass it: clients take messages of 4 MiB.
const BATCH_BYTES_MAX: usize = 2 << 20;

/// The data of a store, as one clone offers it.
#[derive(Debug, Clone)]
pub(crate) struct Data<S> {
    store: S,
    clock: Arc<Clock>,
}

/// A query as the caller gives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueryRequest {
    /// Name of the table.
    pub(crate) table: String,
    /// Key of the partition.
    pub(crate) partition_key: String,
    /// First sort key, inclusive.
    pub(crate) start: Option<Value>,
    /// Sort key after the last, exclusive.
    pub(crate) end: Option<Value>,
    /// Prefix of the sort keys.
    pub(crate) prefix: Option<Value>,
    /// Set for the order from the largest sort key down.
    pub(crate) descending: bool,
    /// Most rows of the page; 0 stands for the default.
    pub(crate) page_size: i32,
    /// Token of the page; empty for the first.
    pub(crate) page_token: String,
}

impl<S: Store> Data<S> {
    /// Offers the data of a store.
    pub(crate) fn new(store: S) -> Self {
        Self { store, clock: Arc::default() }
    }

    /// Creates a table, or returns the table that has the same definition.
    ///
    /// # Errors
    /// Invalid fields, [`Error::TableExists`], and errors of the store.
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

    /// Returns a table; `field` is the field of the request that names it.
    ///
    /// # Errors
    /// Invalid names, [`Error::TableNotFound`], and errors of the store.
    pub(crate) async fn table(&self, name: &str, field: &str) -> Result<Arc<Table>, Error> {
        self.store.table(&TableName::parse(name, field)?).await
    }

    /// Lists tables by name. Returns the token of the next page with them.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
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

    /// Returns one row.
    ///
    /// # Errors
    /// Invalid fields, [`Error::RowNotFound`], and errors of the store.
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

    /// Returns the rows of several keys, in the order of the keys; `None` where there is no row. There are fewer rows than keys
    /// when the rows are large.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store for the first row that cannot be read.
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

    /// Returns rows of a partition, with the token of the next page.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
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

    /// Changes one partition. Returns the timestamp of the write.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
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
