//! Arguments of `shoal data`, with their examples.

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

pub(crate) const PUT_EXAMPLES: &str = "An attribute is NAME=TEXT or NAME:TYPE=VALUE. The types are string, int, double, bool, bytes (base64) and time (RFC 3339).
Attributes of other names come with --json, in the form that --output json prints.

Examples:
  shoal data put orders customer-7 2026-03-01 state=paid total:int=4200
  shoal data put orders customer-7 2026-03-02 paid:bool=true at:time=2026-03-02T10:00:00Z --ttl 30d
  shoal data put settings global theme=dark          a table without sort keys
  shoal data put orders c 1 --json '{\"total\": 4200, \"rate\": 0.5, \"raw\": {\"bytes\": \"3q2+7w==\"}}'";

/// Where to ask.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// Address of a gateway or of a clone of the data service
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000", env = "SHOAL_ADDR")]
    pub(crate) addr: String,
    /// Longest time of one call
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// How to print.
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
    /// Name of the table
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

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a duration is a number with a unit, such as 500ms, 10s or 30d"))
}
