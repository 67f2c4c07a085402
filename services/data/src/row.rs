//! Rows as they are read, and pages of them.

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::SortKey;
use crate::row_codec;
use crate::value::Attributes;

/// Most bytes of a page, which ends before the row that would pass it.
pub(crate) const PAGE_BYTES_MAX: usize = 1 << 20;

/// Most rows looked at for a page, returned or passed over because they had ended, so that every call comes to an end.
pub(crate) const LOOKED_MAX: usize = 10_000;

/// Sizes of rows that a page has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The number of rows read at once.
    pub(crate) rows: usize,
    /// The bytes of the largest row.
    pub(crate) largest: usize,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The sort key of the row.
    pub(crate) sort_key: SortKey,
    /// The attributes of the row.
    pub(crate) attributes: Attributes,
    /// The timestamp of the write that put it.
    pub(crate) write_time: WriteTimestamp,
    /// The time when the row ends.
    pub(crate) expire_time: Option<WriteTimestamp>,
}

/// A page of rows in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Page {
    /// The rows.
    pub(crate) rows: Vec<Row>,
    /// The last sort key looked at, when there may be more behind it.
    pub(crate) next: Option<SortKey>,
    /// The sizes of the rows that were read, for the page behind this one.
    pub(crate) seen: Option<Seen>,
}

impl Row {
    /// Reads the row in a cell; none if it has ended by `now`.
    ///
    /// # Errors
    /// DATA_LOSS when the cell cannot be read.
    pub(crate) fn of_cell(
        sort_key: SortKey,
        cell: &[u8],
        write_time: WriteTimestamp,
        now: WriteTimestamp,
    ) -> Result<Option<Self>, Error> {
        let expire_time = row_codec::expire_time(cell)?;
        if expire_time.is_some_and(|at| at <= now) {
            return Ok(None);
        }
        let attributes = row_codec::decode(cell)?;
        Ok(Some(Self { sort_key, attributes, write_time, expire_time }))
    }
}

/// A page that is being filled: it takes rows in order until it is full.
#[derive(Debug)]
pub(crate) struct PageBuilder {
    page: Page,
    limit: usize,
    now: WriteTimestamp,
    bytes: usize,
    looked: usize,
    last: Option<SortKey>,
}

impl PageBuilder {
    /// Makes a page of at most `limit` rows (at least one).
    pub(crate) fn new(limit: usize, now: WriteTimestamp) -> Self {
        Self { page: Page::default(), limit, now, bytes: 0, looked: 0, last: None }
    }

    /// Takes the next row. Returns `false` when the page was full before it. A row that has ended is passed over, so that a full
    /// page says that there is more only if there is.
    ///
    /// # Errors
    /// DATA_LOSS when the cell cannot be read.
    pub(crate) fn offer(
        &mut self,
        sort_key: SortKey,
        cell: &[u8],
        write_time: WriteTimestamp,
    ) -> Result<bool, Error> {
        if row_codec::expire_time(cell)?.is_some_and(|at| at <= self.now) {
            return Ok(self.pass_over(sort_key));
        }
        let rows = self.page.rows.len();
        let too_large = rows > 0 && self.bytes + cell.len() > PAGE_BYTES_MAX;
        if rows >= self.limit || too_large || !self.pass_over(sort_key.clone()) {
            return Ok(false);
        }
        if let Some(row) = Row::of_cell(sort_key, cell, write_time, self.now)? {
            self.bytes += cell.len();
            self.page.rows.push(row);
        }
        Ok(true)
    }

    /// Passes over a row that is gone. Returns `false` when enough rows were looked at.
    pub(crate) fn pass_over(&mut self, sort_key: SortKey) -> bool {
        if self.looked >= LOOKED_MAX {
            return false;
        }
        self.last = Some(sort_key);
        self.looked += 1;
        true
    }

    /// Returns whether so many rows more may be looked at.
    pub(crate) fn may_look_at(&self, rows: usize) -> bool {
        self.looked + rows <= LOOKED_MAX
    }

    /// Returns the number of rows that were taken.
    pub(crate) fn rows(&self) -> usize {
        self.page.rows.len()
    }

    /// Forgets the rows that were taken, which are read again. They still count as looked at.
    pub(crate) fn restart(&mut self) {
        self.page.rows.clear();
        (self.bytes, self.last) = (0, None);
    }

    /// Returns the page; `more` says that a row was refused.
    pub(crate) fn finish(self, more: bool) -> Page {
        debug_assert!(!more || self.last.is_some(), "a page that has more has to say where");
        Page { next: if more { self.last } else { None }, ..self.page }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn cell(bytes: usize, expire_time: Option<WriteTimestamp>) -> Vec<u8> {
        let value = Value::Bytes(vec![7; bytes].into());
        row_codec::encode(&[("a".to_owned(), value)].into_iter().collect(), expire_time)
    }

    fn fill(limit: usize, cells: &[Vec<u8>]) -> (Page, usize) {
        let mut builder = PageBuilder::new(limit, WriteTimestamp(100));
        for (i, cell) in cells.iter().enumerate() {
            let key = SortKey::Int(i64::try_from(i).unwrap());
            if !builder.offer(key, cell, WriteTimestamp(1)).unwrap() {
                return (builder.finish(true), i);
            }
        }
        (builder.finish(false), cells.len())
    }

    #[test]
    fn page_ends_at_its_row_limit() {
        let (page, taken) = fill(2, &[cell(1, None), cell(1, None), cell(1, None)]);
        assert_eq!((page.rows.len(), taken, page.next), (2, 2, Some(SortKey::Int(1))));
        let (page, _) = fill(2, &[cell(1, None), cell(1, None), cell(1, Some(WriteTimestamp(5)))]);
        assert_eq!((page.rows.len(), page.next), (2, None));
    }

    #[test]
    fn page_ends_at_its_byte_limit() {
        let large = cell(PAGE_BYTES_MAX - 100, None);
        let (page, _) = fill(10, &[large, cell(200, None)]);
        assert_eq!((page.rows.len(), page.next), (1, Some(SortKey::Int(0))));
        let (page, _) = fill(10, &[cell(PAGE_BYTES_MAX + 5, None), cell(1, None)]);
        assert_eq!(page.rows.len(), 1);
    }

    #[test]
    fn ended_rows_count_as_looked_at() {
        let (page, taken) =
            fill(10, &[cell(1, Some(WriteTimestamp(100))), cell(1, Some(WriteTimestamp(101)))]);
        assert_eq!((page.rows.len(), taken), (1, 2));
        assert_eq!(page.rows[0].expire_time, Some(WriteTimestamp(101)));
        let ended = vec![cell(1, Some(WriteTimestamp(5))); LOOKED_MAX + 1];
        let (page, taken) = fill(10, &ended);
        assert_eq!((page.rows.len(), taken), (0, LOOKED_MAX));
        assert!(page.next.is_some());
    }
}
