//! What `shoal top` is asked.

use std::time::Duration;

use clap::Args;

use crate::row::Column;

const EXAMPLES: &str = "Keys: q quits, s sorts by the next column, r reverses, / filters (Enter keeps, Esc clears), up and \
down scroll. An address where no gateway answers three times is given up; one that answered is waited for. Where the output is no terminal, and with --once, it prints one table and ends.

SUCCESS and RPS are of the last interval; P50, P95 and P99 (to the first byte of an answer) of the last 15 to 30 seconds.

Examples:
  shoal top
  shoal top --addr 127.0.0.1:7000 --sort p99
  shoal top --once --filter session";

/// Show every service, clone by clone, as a gateway sees it now.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    /// Address of a gateway
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000", env = "SHOAL_ADDR")]
    pub(crate) addr: String,
    /// Print one table as text and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between two looks, from 0.1 to 60
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Sort by this column; numbers from the highest
    #[arg(long, value_name = "COLUMN", value_enum, default_value = "service")]
    pub(crate) sort: Column,
    /// Show only rows with this text in them
    #[arg(long, value_name = "TEXT", default_value = "")]
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
