//! How many rows each fetch of a page asks for, so that no node has to hold much more than a page in memory.
//!
//! Cassandra limits an answer by rows and not by bytes, and the size of rows is known only once they came. So the first fetch is
//! small, and the next ones grow by what this scan has returned. A page shows the rows of one fetch alone: rows of two fetches
//! could show parts of two writes. A fetch that was too small is therefore made again from its beginning, larger.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::Error;
use crate::row::{PAGE_BYTES_MAX, Seen};

/// Rows of a first fetch from a table of which this clone has seen no row.
const FIRST_ROWS_UNKNOWN: usize = 4;
/// Rows of a first fetch from a partition of which nothing is known.
const FIRST_ROWS: usize = 16;
/// Bytes of such a first fetch, if all of its rows are as large as the largest that this clone has seen in the table.
const FIRST_BYTES: usize = 256 << 10;
/// Factor by which a fetch may be larger than what was returned before.
const GROWTH: usize = 8;
/// Bytes of a fetch if all of its rows are as large as the largest that this clone has seen in the table.
const WORST_BYTES: usize = 32 << 20;
/// Partitions of a table whose rows' sizes are remembered.
const PARTITIONS: usize = 1024;

/// The plan of the fetches of one page.
#[derive(Debug)]
pub(super) struct FetchPlan {
    limit: usize,
    /// Rows of the last fetch that the page does not show, because they had ended.
    ended: usize,
    seen: Option<Seen>,
    largest_of_table: usize,
    /// Rows that a fetch of the table may have since one has failed.
    rows_max: usize,
    /// Rows of the smallest fetch that may have more behind it.
    rows_min: usize,
    bytes_max: usize,
    fetched_bytes: usize,
}

impl FetchPlan {
    /// Plans a page of at most `limit` rows. `seen` is what is known of rows nearby.
    pub(super) fn new(limit: usize, seen: Option<Seen>, largest_of_table: usize, rows_max: usize) -> Self {
        let (bytes_max, rows_min) = (PAGE_BYTES_MAX, 2);
        Self { limit, ended: 0, seen, largest_of_table, rows_max, rows_min, bytes_max, fetched_bytes: 0 }
    }

    /// Plans fetches of so many bytes, of which each is used by itself.
    pub(super) fn of_bytes(self, bytes_max: usize) -> Self {
        Self { bytes_max, rows_min: 1, ..self }
    }

    /// Returns the number of rows to ask for next.
    pub(super) fn rows(&self) -> usize {
        let worst = match self.largest_of_table {
            0 => usize::MAX,
            largest => (WORST_BYTES / largest).max(self.rows_min),
        };
        let fit = match &self.seen {
            None if self.largest_of_table == 0 => FIRST_ROWS_UNKNOWN,
            None => (FIRST_BYTES / self.largest_of_table).clamp(2, FIRST_ROWS),
            Some(seen) => {
                let by_bytes = self.bytes_max / seen.largest.max(1) + 1;
                // A scan does not need the row that tells whether there is more.
                let by_bytes = by_bytes.saturating_sub(usize::from(self.rows_min == 1 && by_bytes > 1));
                by_bytes.max(self.rows_min).min(seen.rows.max(1).saturating_mul(GROWTH))
            }
        };
        // One row more than fits tells whether there is more.
        (self.limit + 1 + 2 * self.ended).min(fit).min(worst).min(self.rows_max.max(self.rows_min))
    }

    /// Notes what a fetch returned.
    pub(super) fn fetched(&mut self, rows: usize, bytes: usize, largest: usize) {
        self.fetched_bytes += bytes;
        if rows > 0 {
            let before = self.seen.map_or(0, |seen| seen.largest);
            self.seen = Some(Seen { rows, largest: largest.max(before) });
            self.largest_of_table = self.largest_of_table.max(largest);
        }
    }

    /// Returns whether the page's bytes are used up, counting everything that was fetched for it.
    pub(super) fn is_spent(&self) -> bool {
        self.fetched_bytes >= self.bytes_max
    }

    /// Returns whether a fetch of `rows` rows that did not fill the page is worth making again, larger. `ended` of them are not
    /// on the page.
    pub(super) fn is_worth_more(&mut self, rows: usize, ended: usize) -> bool {
        self.ended = ended;
        let next = self.rows();
        !self.is_spent() && (next >= rows.saturating_mul(2) || next > rows && ended > 0)
    }

    /// Returns what is known of the rows now.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.seen
    }
}

/// The sizes of the rows that one clone has read from a table lately.
#[derive(Debug)]
pub(super) struct RowSizes {
    largest: AtomicUsize,
    /// Bytes that rows of the table may have by its marks, if they have more than those that need none.
    marked: AtomicUsize,
    /// Rows that the next fetch may have. A fetch that fails halves it, and each that is answered doubles it again.
    rows_max: AtomicUsize,
    /// For each slot the upper half of a partition's hash, twelve bits of rows and twenty of the largest row's bytes.
    partitions: Box<[AtomicU64]>,
}

const ROWS_BITS: u32 = 12;
const BYTES_BITS: u32 = 20;

impl RowSizes {
    pub(super) fn new() -> Self {
        Self {
            largest: AtomicUsize::new(0),
            marked: AtomicUsize::new(0),
            rows_max: AtomicUsize::new(usize::MAX),
            partitions: (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Returns the size of the largest row that was seen or is marked; 0 before any was.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed).max(self.marked())
    }

    /// Returns the bytes that rows of the table may have by its marks; 0 without any.
    pub(super) fn marked(&self) -> usize {
        self.marked.load(Ordering::Relaxed)
    }

    /// Notes a mark of the table.
    pub(super) fn note_marked(&self, bytes: usize) {
        self.marked.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Returns the number of rows that a fetch may have.
    pub(super) fn rows_max(&self) -> usize {
        self.rows_max.load(Ordering::Relaxed)
    }

    /// Notes how a fetch of so many rows has ended: after a failure the next ones are smaller, as it may have been too large for a
    /// node.
    pub(super) fn judged<T>(&self, rows: usize, outcome: Result<T, Error>) -> Result<T, Error> {
        match &outcome {
            Err(Error::ReadFailed { .. }) => {
                self.rows_max.fetch_min((rows / 2).max(FIRST_ROWS_UNKNOWN), Ordering::Relaxed);
            }
            Err(_) => {}
            Ok(_) => {
                let more = |max: usize| (rows >= max).then(|| max.saturating_mul(2));
                let _unchanged = self.rows_max.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            }
        }
        outcome
    }

    /// Notes the size of a row, or of the largest of several.
    pub(super) fn note(&self, bytes: usize) {
        self.largest.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Returns what the last page of a partition has shown of its rows.
    pub(super) fn of_partition(&self, partition: &str) -> Option<Seen> {
        let (slot, tag) = self.slot(partition);
        let stored = slot.load(Ordering::Relaxed);
        let rows = usize::try_from(stored >> BYTES_BITS & ((1 << ROWS_BITS) - 1)).ok()?;
        let largest = usize::try_from(stored & ((1 << BYTES_BITS) - 1)).ok()?;
        (stored >> (ROWS_BITS + BYTES_BITS) == tag && rows > 0).then_some(Seen { rows, largest })
    }

    /// Remembers what a page of a partition has shown.
    pub(super) fn remember(&self, partition: &str, seen: Seen) {
        let (slot, tag) = self.slot(partition);
        let rows = seen.rows.min((1 << ROWS_BITS) - 1) as u64;
        let largest = seen.largest.min((1 << BYTES_BITS) - 1) as u64;
        slot.store(tag << (ROWS_BITS + BYTES_BITS) | rows << BYTES_BITS | largest, Ordering::Relaxed);
    }

    fn slot(&self, partition: &str) -> (&AtomicU64, u64) {
        let hash = xxhash_rust::xxh3::xxh3_64(partition.as_bytes());
        let at = usize::try_from(hash & (PARTITIONS as u64 - 1)).unwrap_or(0);
        (&self.partitions[at], hash >> (ROWS_BITS + BYTES_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the fetches of a page over rows of one size, until it is full or spent.
    fn fetches(limit: usize, row_bytes: usize, seen: Option<Seen>, largest_of_table: usize) -> Vec<usize> {
        let mut plan = FetchPlan::new(limit, seen, largest_of_table, usize::MAX);
        let mut fetches = Vec::new();
        loop {
            let rows = plan.rows();
            fetches.push(rows);
            plan.fetched(rows, rows * row_bytes, row_bytes);
            if rows > limit || !plan.is_worth_more(rows, 0) {
                return fetches;
            }
        }
    }

    #[test]
    fn first_fetch_of_strangers_is_small() {
        assert_eq!(fetches(100, 900_000, None, 0), [4]);
        assert_eq!(fetches(1000, 900_000, None, 100), [16]);
        assert_eq!(fetches(100, 900_000, None, 900_000), [2]);
    }

    #[test]
    fn fetches_grow_by_what_came() {
        assert_eq!(fetches(100, 100, None, 0), [4, 32, 101]);
        assert_eq!(fetches(100, 100, None, 100), [16, 101]);
        assert_eq!(fetches(10, 100, None, 100), [11]);
        assert_eq!(fetches(1000, 100, None, 100), [16, 128, 1001]);
        let seen = Some(Seen { rows: 101, largest: 100 });
        assert_eq!(fetches(100, 100, seen, 100), [101]);
        assert_eq!(fetches(1000, 400_000, Some(Seen { rows: 2, largest: 400_000 }), 0), [3]);
    }

    #[test]
    fn all_fetched_bytes_count() {
        for (row_bytes, largest) in [(100, 0), (5_000, 0), (70_000, 200), (1 << 20, 0), (1 << 20, 1 << 20)] {
            let fetched: usize =
                fetches(1000, row_bytes, None, largest).iter().map(|rows| rows * row_bytes).sum();
            let most = (FIRST_ROWS * row_bytes).max(3 * PAGE_BYTES_MAX);
            assert!(fetched <= most, "{row_bytes}: {fetched}");
        }
    }

    #[test]
    fn failed_fetches_make_smaller_ones() {
        let sizes = RowSizes::new();
        let rows =
            || FetchPlan::new(1000, Some(Seen { rows: 900, largest: 10 }), 10, sizes.rows_max()).rows();
        let failed = || Err::<(), _>(Error::ReadFailed { engine: "cassandra", detail: String::new() });
        assert_eq!(rows(), 1001);
        let mut fetches = Vec::new();
        for _ in 0..10 {
            assert!(sizes.judged(rows(), failed()).is_err());
            fetches.push(rows());
        }
        assert_eq!(fetches, [500, 250, 125, 62, 31, 15, 7, 4, 4, 4]);
        for _ in 0..8 {
            sizes.judged(rows(), Ok(())).unwrap();
        }
        assert_eq!(rows(), 1001, "it recovers");
    }

    #[test]
    fn scans_fetch_large_rows_alone() {
        let seen = Some(Seen { rows: 4, largest: 1 << 20 });
        let plan = FetchPlan::new(5000, seen, 1 << 20, usize::MAX).of_bytes(256 << 10);
        assert_eq!(plan.rows(), 1);
    }

    #[test]
    fn partition_sizes_are_remembered() {
        let sizes = RowSizes::new();
        assert_eq!(sizes.of_partition("a"), None);
        sizes.remember("a", Seen { rows: 101, largest: 345 });
        assert_eq!(sizes.of_partition("a"), Some(Seen { rows: 101, largest: 345 }));
        sizes.remember("a", Seen { rows: 9999, largest: 1 << 22 });
        assert_eq!(sizes.of_partition("a"), Some(Seen { rows: 4095, largest: (1 << 20) - 1 }));
        assert_eq!(sizes.of_partition("b"), None);
    }
}
