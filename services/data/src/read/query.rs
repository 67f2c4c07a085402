//! Query: the rows of a partition, a page at a time.

use std::sync::Arc;
use std::time::Instant;

use shoal_kit::page;

use crate::data::{Data, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, TOKEN_BYTES_MAX};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::page_token::Binding;
use crate::row::{Row, Seen};
use crate::store::{Consistency, Query, Store};
use crate::table::{SortKeyType, Table};
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
    /// Time past which the page ends with what it has.
    pub(crate) until: Option<Instant>,
    /// Mode in which a view is read.
    pub(crate) read_mode: ReadMode,
    /// Set to read a view that is still being built.
    pub(crate) allow_building: bool,
}

/// Mode in which a view is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ReadMode {
    /// The rows as the view has them.
    Eventual,
    /// The rows as the table has them, found by the view.
    #[default]
    Verified,
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
        let limit = page::size(request.page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
        let (descending, until) = (request.descending, request.until);
        let Slice { table, partition, range, seen, binding } =
            self.slice("query", request, consistency).await?;
        let Some(range) = range else { return Ok((Vec::new(), String::new())) };
        let query = Query { table, partition, range, descending, limit, consistency, seen, until };
        let page = self.store.query(query).await?;
        let next = match page.next {
            Some(last) => self.seal(&binding, &place(&last, page.seen)).await?,
            None => String::new(),
        };
        Ok((page.rows, next))
    }

    /// Finds the rows that a request is about, from where its token says.
    pub(super) async fn slice(
        &self,
        call: &'static str,
        request: QueryRequest,
        consistency: Consistency,
    ) -> Result<Slice, Error> {
        let QueryRequest { table, partition_key, start, end, prefix, descending, page_token, .. } = request;
        let partition = PartitionKey::parse(partition_key)?;
        let table = self.table_for(&table, consistency).await?;
        let of = table.definition.sort_key_type;
        let range = SortRange::parse(of, start, end, prefix)?;
        let binding = binding(call, &table, &partition, &range, descending);
        self.slice_from(table, partition, (range, descending), binding, &page_token).await
    }

    /// Finds the rows of a range, from where a token says.
    pub(super) async fn slice_from(
        &self,
        table: Arc<Table>,
        partition: PartitionKey,
        (range, descending): (SortRange, bool),
        binding: Binding,
        page_token: &str,
    ) -> Result<Slice, Error> {
        let (range, seen) = if page_token.is_empty() {
            ((!range.is_empty()).then_some(range), None)
        } else {
            let place = self.open(&binding, page_token).await?;
            let (last, seen) = read_place(table.definition.sort_key_type, &place)
                .ok_or_else(|| Error::Internal("a page token's sort key is of another type".into()))?;
            (range.behind(&last, descending), seen)
        };
        Ok(Slice { table, partition, range, seen, binding })
    }
}

/// The rows of a partition that a call is about.
pub(super) struct Slice {
    pub(super) table: Arc<Table>,
    pub(super) partition: PartitionKey,
    /// The range of sort keys; none if no row can be in it.
    pub(super) range: Option<SortRange>,
    /// The sizes of the rows on the page before.
    pub(super) seen: Option<Seen>,
    pub(super) binding: Binding,
}

/// Writes down where a page ended, and how large its rows were.
pub(super) fn place(last: &SortKey, seen: Option<Seen>) -> Vec<u8> {
    let rows = seen.map_or(0, |seen| u16::try_from(seen.rows).unwrap_or(u16::MAX));
    let largest = seen.map_or(0, |seen| u32::try_from(seen.largest).unwrap_or(u32::MAX));
    [&rows.to_be_bytes()[..], &largest.to_be_bytes(), &last.ordered_bytes()].concat()
}

fn read_place(of: SortKeyType, place: &[u8]) -> Option<(SortKey, Option<Seen>)> {
    let (rows, rest) = place.split_first_chunk()?;
    let (largest, last) = rest.split_first_chunk()?;
    let (rows, largest) = (u16::from_be_bytes(*rows), u32::from_be_bytes(*largest));
    let seen = Seen { rows: rows.into(), largest: usize::try_from(largest).ok()? };
    Some((SortKey::of_ordered_bytes(of, last)?, (rows > 0).then_some(seen)))
}

pub(super) fn binding(
    call: &'static str,
    table: &Table,
    partition: &PartitionKey,
    range: &SortRange,
    descending: bool,
) -> Binding {
    let bound = |bound: &Option<SortKey>| bound.as_ref().map(SortKey::ordered_bytes).unwrap_or_default();
    // The sort keys of a view's entries hold up to three keys, of which two may have twice their length.
    let token_bytes_max =
        if table.definition.name.is_hidden() { 3 * TOKEN_BYTES_MAX } else { TOKEN_BYTES_MAX };
    Binding::new(call, "page_token", token_bytes_max)
        .field(table.id.as_bytes())
        .field(partition.as_str().as_bytes())
        .field(&[u8::from(range.start.is_some()), u8::from(range.end.is_some()), u8::from(descending)])
        .field(&bound(&range.start))
        .field(&bound(&range.end))
}
