//! Arguments of `shoal top`.

use std::time::Duration;

use clap::Args;

use crate::help;
use crate::row::Column;

const USE: &str = "Draws a table that follows the gateway. Prints it once and ends with --once, or where stdin or stdout is no terminal. Gives \
up an address where no gateway answered three times; waits for one that answered before.";

const EXAMPLES: &str = "Examples:
  shoal top
  shoal top --addr 127.0.0.1:7000 --sort p99
  shoal top --once --filter session";

fn after_help() -> String {
    [USE, help::KEYS, help::COLUMNS, EXAMPLES].join("\n\n")
}

/// Show every clone behind a gateway: state, rates, latencies.
#[derive(Debug, Clone, Args)]
#[command(after_help = after_help())]
pub struct TopArgs {
    /// Address of a gateway
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000", env = "SHOAL_ADDR")]
    pub(crate) addr: String,
    /// Print the table once, as text, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between two updates, from 0.1 to 60; rates are over this time
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Column to sort by; numbers from the highest
    #[arg(long, value_name = "COLUMN", value_enum, default_value = "service")]
    pub(crate) sort: Column,
    /// Show only rows with this text in them  [default: all]
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) filter: String,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.1..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not from 0.1 to 60 seconds".to_owned())
    }
}
