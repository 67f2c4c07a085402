//! Arguments of `shoal data`, with their examples.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub(crate) const TABLES_EXAMPLES: &str = "Examples:
  shoal data tables
  shoal data tables orders --output json";

pub(crate) const GET_EXAMPLES: &str = "Examples:
  shoal data get orders customer-7 2026-03-01
  shoal data get settings global                     a table without sort keys
  shoal data get blobs p 3q2+7w== --output json      a sort key of bytes, in base64";

pub(crate) const QUERY_EXAMPLES: &str = "Examples:
  shoal data query orders customer-7
  shoal data query orders customer-7 --prefix 2026-03 --limit 20
  shoal data query readings sensor-1 --start 100 --end 200 --descending --output json";

pub(crate) const PUT_EXAMPLES: &str = "\
An attribute is NAME=TEXT or NAME:TYPE=VALUE. The types are string, int, double, bool, bytes (base64) and time (RFC 3339).
Attributes of other names come with --json, in the form that --output json prints.

In a table with sort keys the first argument behind the partition is always the sort key. The row is replaced as a whole: \
attributes that are not given are gone. A row without attributes is written with --json '{}'.

Examples:
  shoal data put orders customer-7 2026-03-01 state=paid total:int=4200
  shoal data put orders customer-7 2026-03-02 paid:bool=true at:time=2026-03-02T10:00:00Z --ttl 30d
  shoal data put settings global theme=dark          a table without sort keys
  shoal data put orders c 1 --json '{\"total\": 4200, \"rate\": 0.5, \"raw\": {\"bytes\": \"3q2+7w==\"}}'";

pub(crate) const EXPORT_EXAMPLES: &str = "\
A line of the file is a row in the form of --output json; the first one is the table's definition, and the last one the \
number of rows. The bytes of a blob follow its line. The rows are not a snapshot: one that is written meanwhile may or may not \
be there.

What is written goes into FILE.export-checkpoint each second: the same command goes on there after any end, and the file is \
complete once that is gone.

Examples:
  shoal data export orders orders.jsonl
  shoal data export orders customers.jsonl --prefix customer- --rate 5000 --verify";

pub(crate) const IMPORT_EXAMPLES: &str = "\
Rows keep their write times, so rows that were written since stay, and a second import changes nothing; --now writes them as \
of now, over what is there. Rows that have ended are left out.

What is done goes into FILE.import-checkpoint each second: the same command goes on there after any end.

Examples:
  shoal data import orders.jsonl --create --verify
  shoal data import orders.jsonl --table orders_copy --create
  shoal data import orders.jsonl --table orders_copy --rate 2000";

pub(crate) const LINT_EXAMPLES: &str = "\
Reads the whole table with EVENTUAL. Names the ten largest partitions of each kind: large (bytes), long (rows), wide (a large \
row) and hot (a tenth of what was written lately, if that are 1000 rows and more). Bytes of blobs do not count.

Deleted rows cannot be seen through the service: `nodetool tablestats` of Cassandra counts tombstones; here stands how many \
rows are about to become some.

Examples:
  shoal data lint orders
  shoal data lint orders --rate 5000 --partition-bytes 50000000 --output json";

/// Where to ask.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// Address of a gateway or of a clone of the data service
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000", env = "SHOAL_ADDR")]
    pub(crate) addr: String,
    /// Longest time of one call; export, import and lint make many
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// One JSON object a line
    Json,
}

/// Number of replicas that a read waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// One replica; may be old
    Eventual,
    /// A majority: everything that was acknowledged before
    Quorum,
    /// The latest of conditional writes too
    Strong,
}

/// Mode in which a view is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadMode {
    /// The view as it is, in one read
    Eventual,
    /// Each entry checked against its row
    Verified,
}

/// Lists the tables.
#[derive(Debug, Args)]
pub struct TablesArgs {
    /// Show only this table
    #[arg(value_name = "TABLE")]
    pub(crate) table: Option<String>,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

/// Shows one row.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    pub(crate) table: String,
    /// Key of the partition
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: String,
    /// Sort key of the row: text, a number or base64, as the table has it; none for a table without sort keys
    #[arg(value_name = "SORT_KEY", allow_negative_numbers = true)]
    pub(crate) sort_key: Option<String>,
    /// Number of replicas to wait for
    #[arg(long, value_enum, default_value = "quorum")]
    pub(crate) consistency: Consistency,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

/// Shows the rows of a partition.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// Name of the table, or of a view as TABLE.VIEW
    #[arg(value_name = "TABLE")]
    pub(crate) table: String,
    /// Key of the partition
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: String,
    /// First sort key
    #[arg(long, value_name = "SORT_KEY", allow_negative_numbers = true)]
    pub(crate) start: Option<String>,
    /// Sort key to stop before
    #[arg(long, value_name = "SORT_KEY", allow_negative_numbers = true)]
    pub(crate) end: Option<String>,
    /// Prefix of the sort keys; not together with --start and --end
    #[arg(long, value_name = "SORT_KEY", conflicts_with_all = ["start", "end"])]
    pub(crate) prefix: Option<String>,
    /// From the largest sort key down
    #[arg(long)]
    pub(crate) descending: bool,
    /// Most rows to show; 0 shows all
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) limit: usize,
    /// Number of replicas to wait for
    #[arg(long, value_enum, default_value = "quorum")]
    pub(crate) consistency: Consistency,
    /// Mode in which a view is read: its entries checked against the table, or as they are [default: verified]
    #[arg(long, value_enum)]
    pub(crate) read_mode: Option<ReadMode>,
    /// Read a view that is still being built, in which rows may be missing
    #[arg(long)]
    pub(crate) allow_building: bool,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

/// Writes one row.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    pub(crate) table: String,
    /// Key of the partition
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: String,
    /// Sort key of the row, unless the table has none, and its attributes
    #[arg(value_name = "SORT_KEY] [NAME[:TYPE]=VALUE", allow_negative_numbers = true)]
    pub(crate) rest: Vec<String>,
    /// Attributes as a JSON object, beside those given one by one
    #[arg(long, value_name = "OBJECT")]
    pub(crate) json: Option<String>,
    /// Time to live of the row; without it the table's
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Write only if the row does not exist; for tables of conditional writes
    #[arg(long, conflicts_with = "if_exists")]
    pub(crate) if_absent: bool,
    /// Write only if the row exists; for tables of conditional writes
    #[arg(long)]
    pub(crate) if_exists: bool,
    /// Idempotency token of a write that is repeated, <microseconds since 1970>-<nonce>  [default: a new one]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

/// Writes the rows of a table to a file.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    pub(crate) table: String,
    /// File to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only partitions whose keys begin so
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Most rows a second; 0 is no limit
    #[arg(long, value_name = "ROWS", default_value = "0")]
    pub(crate) rate: u32,
    /// Parts of the table that are read at the same time; 0 leaves it to the service
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) parallelism: i32,
    /// Number of replicas to wait for
    #[arg(long, value_enum, default_value = "quorum")]
    pub(crate) consistency: Consistency,
    /// Read each row once more and compare it with the file
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

/// Writes the rows of an export.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// File of an export
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Table to write to  [default: the exported one]
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Make the table that is written to, as it was when it was exported
    #[arg(long)]
    pub(crate) create: bool,
    /// Write rows as of now, over what is there; always so in tables of conditional writes
    #[arg(long)]
    pub(crate) now: bool,
    /// Most rows a second; 0 is no limit
    #[arg(long, value_name = "ROWS", default_value = "0")]
    pub(crate) rate: u32,
    /// Read each row afterwards and compare it with the file
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

/// Says which partitions and rows of a table will cause trouble.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    pub(crate) table: String,
    /// Bytes from which on a partition is large
    #[arg(long, value_name = "BYTES", default_value = "67108864")]
    pub(crate) partition_bytes: u64,
    /// Rows from which on a partition is long
    #[arg(long, value_name = "ROWS", default_value = "100000")]
    pub(crate) partition_rows: u64,
    /// Bytes from which on a row is large
    #[arg(long, value_name = "BYTES", default_value = "262144")]
    pub(crate) row_bytes: u64,
    /// Time within which a write is recent
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub(crate) recent: Duration,
    /// Most rows a second; 0 is no limit
    #[arg(long, value_name = "ROWS", default_value = "0")]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a duration is a number with a unit, such as 500ms, 10s or 30d"))
}
