//! Query and Count of a view: its entries are the rows of a hidden table, and each stands for a row of the view's table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use shoal_kit::page;

use crate::clock::WriteTimestamp;
use crate::data::{Data, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::read::query::{Slice, binding, place};
use crate::read::{QueryRequest, ReadMode};
use crate::row::{PAGE_BYTES_MAX, Row, Seen};
use crate::store::{Consistency, Lookup, Lookups, Query, Store};
use crate::table::{Table, View, ViewState, WriteMode};
use crate::value::Value;
use crate::view_entry::{self, Entry, EntryKey, EntryOrder};

/// Most bytes of rows that are read to verify one page, whatever part of them the view has.
const VERIFIED_BYTES_MAX: usize = 16 << 20;
/// Rows that one call of Count reads in a page, and the most pages.
const COUNT_PAGE_ROWS: usize = 1_000;
const COUNT_PAGES_MAX: usize = 100;
/// Age of an entry without a row at which it is removed. The write of the row has ended long before, and Cassandra has delivered what it
/// kept for replicas that were away (`max_hint_window` is three hours).
const ENTRY_ALONE_MAX: Duration = Duration::from_secs(4 * 3600);

/// Rows of a view.
#[derive(Debug, Default)]
pub(crate) struct ViewPage {
    /// The rows in the order of the view.
    pub(crate) rows: Vec<ViewRow>,
    /// The token of the next page.
    pub(crate) next: String,
    /// The time since the oldest entry was written, if the rows are as the view has them.
    pub(crate) age: Option<Duration>,
    /// The consistency that was asked of the reads.
    pub(crate) consistency: Option<Consistency>,
}

/// A row as a view shows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ViewRow {
    /// The partition of the row in its table.
    pub(crate) partition: PartitionKey,
    /// The row with the attributes that the view has.
    pub(crate) row: Row,
    /// The sort key in the view.
    pub(crate) view_sort_key: Option<Value>,
}

/// A view that a call reads.
struct ReadView {
    table: Arc<Table>,
    view: View,
    mode: ReadMode,
    consistency: Consistency,
}

/// Entries of a page that were checked.
#[derive(Default)]
struct Verified {
    rows: Vec<ViewRow>,
    /// The key of the last entry that was checked, if the rest of the page was not.
    cut: Option<SortKey>,
    stale: usize,
    removable: Vec<(EntryKey, WriteTimestamp)>,
}

impl<S: Store> Data<S> {
    /// Returns rows of a view, which the request names as `TABLE.VIEW`.
    ///
    /// # Errors
    /// Invalid fields, [`Error::ViewNotFound`], [`Error::ViewBuilding`], and errors of the store.
    pub(crate) async fn query_view(
        &self,
        request: QueryRequest,
        consistency: Consistency,
    ) -> Result<ViewPage, Error> {
        let limit = page::size(request.page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
        let (descending, until) = (request.descending, request.until);
        let (of, slice) = self.view_slice("query", request, consistency).await?;
        let Slice { table, partition, range, seen, binding } = slice;
        let consistency = Some(of.consistency);
        let Some(range) = range else { return Ok(ViewPage { consistency, ..ViewPage::default() }) };
        let query =
            Query { table, partition, range, descending, limit, consistency: of.consistency, seen, until };
        let (rows, next, oldest) = self.view_page(&of, query).await?;
        let next = match next {
            Some((last, seen)) => self.seal(&binding, &place(&last, seen)).await?,
            None => String::new(),
        };
        let age = oldest.map(|at| {
            let micros = WriteTimestamp::now().0.saturating_sub(at.0);
            Duration::from_micros(u64::try_from(micros).unwrap_or(0))
        });
        Ok(ViewPage { rows, next, age, consistency })
    }

    /// Counts rows of a view. Returns the token to count on with, if there may be more.
    ///
    /// # Errors
    /// As [`Data::query_view`].
    pub(crate) async fn count_view(
        &self,
        request: QueryRequest,
        consistency: Consistency,
    ) -> Result<(usize, String), Error> {
        let until = request.until;
        let (of, slice) = self.view_slice("count", request, consistency).await?;
        let Slice { table, partition, mut range, mut seen, binding } = slice;
        let (mut counted, mut pages) = (0, 0);
        while let Some(rest) = range {
            let query = Query {
                table: table.clone(),
                partition: partition.clone(),
                range: rest.clone(),
                descending: false,
                limit: COUNT_PAGE_ROWS,
                consistency: of.consistency,
                seen,
                until,
            };
            let (rows, next, _) = self.view_page(&of, query).await?;
            counted += rows.len();
            pages += 1;
            let Some((last, seen_now)) = next else { return Ok((counted, String::new())) };
            seen = seen_now;
            if pages >= COUNT_PAGES_MAX || until.is_some_and(|until| Instant::now() >= until) {
                return Ok((counted, self.seal(&binding, &place(&last, seen)).await?));
            }
            range = rest.behind(&last, false);
        }
        Ok((counted, String::new()))
    }

    /// Finds the entries that a request is about.
    async fn view_slice(
        &self,
        call: &'static str,
        request: QueryRequest,
        consistency: Consistency,
    ) -> Result<(ReadView, Slice), Error> {
        let QueryRequest { table, partition_key, start, end, prefix, descending, page_token, .. } = request;
        let partition = PartitionKey::parse(partition_key)?;
        let consistency = match request.read_mode {
            ReadMode::Eventual => consistency,
            // What one replica has not seen yet says nothing about an entry.
            ReadMode::Verified => consistency.max(Consistency::Quorum),
        };
        let name = table;
        let (table, view) = name.split_once('.').unwrap_or((&name, ""));
        let table = self.table_for(table, consistency).await?;
        let Some(view) = table.views().find(|of| of.name.as_str() == view).cloned() else {
            return Err(Error::ViewNotFound(name));
        };
        let incomplete = view.state != ViewState::Ready;
        if incomplete && !(request.allow_building && view.is_kept()) {
            let build = self.store.build(view.id).await?;
            return Err(Error::ViewBuilding {
                view: name,
                progress: build.map_or(0.0, |build| build.progress()),
            });
        }
        let range = SortRange::parse(view.sort_key_type, start, end, prefix)?;
        let range = if range.is_empty() { None } else { Some(view_entry::range(&range)) };
        let hidden = Arc::new(view.table());
        let of = ReadView { table, view, mode: request.read_mode, consistency };
        let Some(range) = range else {
            let binding = binding(call, &hidden, &partition, &SortRange::default(), descending);
            return Ok((of, Slice { table: hidden, partition, range: None, seen: None, binding }));
        };
        let binding = binding(call, &hidden, &partition, &range, descending);
        let slice = self.slice_from(hidden, partition, (range, descending), binding, &page_token).await?;
        Ok((of, slice))
    }

    /// Reads a page of a view. Returns it with the place of the next one, and when its oldest entry was written if the rows are as
    /// the view has them.
    async fn view_page(
        &self,
        of: &ReadView,
        query: Query,
    ) -> Result<(Vec<ViewRow>, Option<(SortKey, Option<Seen>)>, Option<WriteTimestamp>), Error> {
        let (partition, until) = (query.partition.clone(), query.until);
        let page = self.store.query(query).await.map_err(|error| match error {
            // The view was dropped a moment ago.
            Error::TableNotFound(_) => Error::ViewNotFound(of.name()),
            error => error,
        })?;
        let sort_key_type = of.table.definition.sort_key_type;
        let entries = page.rows.into_iter();
        let entries = entries.map(|row| view_entry::read(&of.view, sort_key_type, &partition, row));
        let entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
        let next = page.next.map(|last| (last, page.seen));
        if of.mode == ReadMode::Eventual {
            let oldest = entries.iter().map(|entry| entry.entered).min();
            let rows = entries.into_iter().map(|Entry { partition, row, view_sort_key, .. }| ViewRow {
                partition,
                row,
                view_sort_key,
            });
            return Ok((rows.collect(), next, oldest));
        }
        let verified = self.verified(of, entries, until).await?;
        self.remove_stale(of, verified.stale, verified.removable).await;
        let next = verified.cut.map(|last| (last, page.seen)).or(next);
        Ok((verified.rows, next, None))
    }

    /// Reads the rows of entries, and keeps those that have these entries.
    async fn verified(
        &self,
        of: &ReadView,
        entries: Vec<Entry>,
        until: Option<Instant>,
    ) -> Result<Verified, Error> {
        let mut verified = Verified::default();
        let mut read = 0;
        let mut entries = entries.into_iter();
        while !entries.as_slice().is_empty() {
            let keys = entries.as_slice().iter();
            let keys = keys.map(|entry| (entry.partition.clone(), entry.row.sort_key.clone())).collect();
            let (table, consistency) = (of.table.clone(), of.consistency);
            let rows = self.store.get_many(Lookups { table, keys, consistency }).await?;
            for (row, entry) in rows.into_iter().zip(entries.by_ref()) {
                read += row.as_ref().map_or(0, |row| row.attributes.encoded_len());
                let last = entry.key.sort_key.clone();
                self.check(of, entry, row, &mut verified).await?;
                verified.cut = Some(last);
            }
            let bytes: usize = verified.rows.iter().map(|row| row.row.attributes.encoded_len()).sum();
            let late = until.is_some_and(|until| Instant::now() >= until);
            if bytes >= PAGE_BYTES_MAX || read >= VERIFIED_BYTES_MAX || late {
                break;
            }
        }
        if entries.as_slice().is_empty() {
            verified.cut = None;
        }
        Ok(verified)
    }

    /// Checks one entry against its row.
    async fn check(
        &self,
        of: &ReadView,
        entry: Entry,
        row: Option<Row>,
        verified: &mut Verified,
    ) -> Result<(), Error> {
        let Entry { partition, row: entered, view_sort_key, key, stamp, .. } = &entry;
        let Some(row) = row else {
            verified.stale += 1;
            if self.is_alone(of, &entry).await? {
                verified.removable.push((key.clone(), *stamp));
            }
            return Ok(());
        };
        let own = view_entry::key_of(&of.view, partition, &row.sort_key, &row.attributes);
        if own.as_ref() == Some(key) {
            let attributes = of.view.projected(&row.attributes);
            let (partition, view_sort_key) = (partition.clone(), view_sort_key.clone());
            verified.rows.push(ViewRow { partition, row: Row { attributes, ..row }, view_sort_key });
            return Ok(());
        }
        verified.stale += 1;
        // The row was written after the entry, so no write can make it fit any more.
        if row.write_time > entered.write_time {
            verified.removable.push((key.clone(), *stamp));
        }
        Ok(())
    }

    /// Returns whether no row can come any more to an entry that has none.
    async fn is_alone(&self, of: &ReadView, entry: &Entry) -> Result<bool, Error> {
        let conditional = of.table.definition.write_mode == WriteMode::Conditional;
        if entry.order == EntryOrder::EntryFirst && !conditional {
            // Its write may be repeated with its token at any time.
            return Ok(false);
        }
        let micros = WriteTimestamp::now().0.saturating_sub(entry.entered.0);
        if u128::try_from(micros).is_ok_and(|micros| micros < ENTRY_ALONE_MAX.as_micros()) || micros < 0 {
            return Ok(false);
        }
        let (table, partition) = (of.table.clone(), entry.partition.clone());
        let (sort_key, consistency) = (entry.row.sort_key.clone(), Consistency::Strong);
        Ok(self.store.get(Lookup { table, partition, sort_key, consistency }).await?.is_none())
    }

    async fn remove_stale(&self, of: &ReadView, stale: usize, removable: Vec<(EntryKey, WriteTimestamp)>) {
        if stale > 0 {
            metrics::counter!("shoal_data_view_stale_entries_total").increment(stale as u64);
        }
        if !removable.is_empty()
            && let Err(error) = self.store.remove_entries(&of.view, removable).await
        {
            tracing::debug!(%error, view = of.name(), "stale entries were not removed; a later query does");
        }
    }
}

impl ReadView {
    fn name(&self) -> String {
        format!("{}.{}", self.table.definition.name, self.view.name)
    }
}
