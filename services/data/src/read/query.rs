//! Query: the rows of a partition, a page at a time.

use shoal_kit::page;

use crate::data::{Data, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::page_token::Binding;
use crate::row::Row;
use crate::store::{Consistency, Query, Store};
use crate::table::Table;
use crate::value::Value;

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
        let table = self.table_for(&table, consistency).await?;
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
