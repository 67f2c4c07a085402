//! How many rows each fetch of a page asks for, so that no node has to hold much more than a page in memory.
//!
//! Cassandra limits an answer by rows and not by bytes, and the size of rows is known only once they came. So the first fetch is
//! small, and the next ones grow by what this scan has returned. A page shows the rows of one fetch alone: rows of two fetches
//! could show parts of two writes. A fetch that was too small is therefore made again from its beginning, larger.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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
    bytes_max: usize,
    fetched_bytes: usize,
}

impl FetchPlan {
    /// Plans a page of at most `limit` rows. `seen` is what is known of rows nearby.
    pub(super) fn new(limit: usize, seen: Option<Seen>, largest_of_table: usize) -> Self {
        Self { limit, ended: 0, seen, largest_of_table, bytes_max: PAGE_BYTES_MAX, fetched_bytes: 0 }
    }

    /// Plans fetches of so many bytes.
    pub(super) fn of_bytes(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// Returns the number of rows to ask for next.
    pub(super) fn rows(&self) -> usize {
        let worst = match self.largest_of_table {
            0 => usize::MAX,
            largest => (WORST_BYTES / largest).max(2),
        };
        let fit = match &self.seen {
            None if self.largest_of_table == 0 => FIRST_ROWS_UNKNOWN,
            None => (FIRST_BYTES / self.largest_of_table).clamp(2, FIRST_ROWS),
            Some(seen) => {
                let by_bytes = self.bytes_max / seen.largest.max(1) + 1;
                by_bytes.max(2).min(seen.rows.max(1).saturating_mul(GROWTH))
            }
        };
        // One row more than fits tells whether there is more.
        (self.limit + 1 + 2 * self.ended).min(fit).min(worst)
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
    /// For each slot the upper half of a partition's hash, twelve bits of rows and twenty of the largest row's bytes.
    partitions: Box<[AtomicU64]>,
}

const ROWS_BITS: u32 = 12;
const BYTES_BITS: u32 = 20;

impl RowSizes {
    pub(super) fn new() -> Self {
        Self {
            largest: AtomicUsize::new(0),
            partitions: (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Returns the size of the largest row; 0 before any was seen.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
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
        let mut plan = FetchPlan::new(limit, seen, largest_of_table);
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
