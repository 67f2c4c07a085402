//! The operations that service and driver are measured with, and the objects that they touch.

use clap::ValueEnum;
use fastrand::Rng;

/// Table of the rows that are read; its sort keys are integers.
pub(crate) const ROWS: &str = "bench_rows";
/// Table of the rows that Mutate writes.
pub(crate) const WRITES: &str = "bench_writes";
/// Conditional table, without sort keys.
pub(crate) const CONDITIONAL: &str = "bench_conditional";

/// Partitions of [`ROWS`] and [`WRITES`].
pub(crate) const PARTITIONS: u64 = 256;
/// Rows of each of them.
pub(crate) const PARTITION_ROWS: i64 = 100;
/// Partitions that are queried: a clone remembers the sizes of the rows of so many.
pub(crate) const QUERIED_PARTITIONS: u64 = 64;
/// Partitions of [`CONDITIONAL`]: enough that callers seldom meet.
pub(crate) const CONDITIONAL_PARTITIONS: u64 = 4096;
/// Bytes of the one attribute of a row.
pub(crate) const VALUE_BYTES: usize = 100;

/// A call of the data service whose statements the driver sends as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    Get,
    /// Get of the same row by all callers.
    HotGet,
    Query10,
    Query100,
    Mutate,
    CheckAndMutate,
}

impl Operation {
    pub(crate) const ALL: [Operation; 6] = [
        Operation::Get,
        Operation::HotGet,
        Operation::Query10,
        Operation::Query100,
        Operation::Mutate,
        Operation::CheckAndMutate,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Operation::Get => "Get of one row in 25 600",
            Operation::HotGet => "Get of one row by all callers",
            Operation::Query10 => "Query of 10 rows",
            Operation::Query100 => "Query of 100 rows",
            Operation::Mutate => "Mutate of one row",
            Operation::CheckAndMutate => "CheckAndMutate of one row, if it exists",
        }
    }

    /// Returns the name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Returns the key of a partition of [`ROWS`] or [`WRITES`].
pub(crate) fn partition(number: u64) -> String {
    format!("partition-{number}")
}

/// Draws the row of a Get or a Mutate.
pub(crate) fn draw_row(operation: Operation, rng: &mut Rng) -> (String, i64) {
    if operation == Operation::HotGet {
        return (partition(0), 0);
    }
    (partition(rng.u64(..PARTITIONS)), rng.i64(0..PARTITION_ROWS))
}

/// Draws the partition of a Query, and its first row and number of rows.
pub(crate) fn draw_page(operation: Operation, rng: &mut Rng) -> (String, Option<i64>, i32) {
    let partition = partition(rng.u64(..QUERIED_PARTITIONS));
    match operation {
        Operation::Query100 => (partition, None, 100),
        _ => (partition, Some(rng.i64(0..PARTITION_ROWS - 10)), 10),
    }
}
