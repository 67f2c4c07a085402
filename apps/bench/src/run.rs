//! A run of a benchmark, from its first look at the machine to its report. All benchmarks begin and end here.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use clap::Args;

use crate::machine::{BUSY_MAX, Watch};
use crate::report;
use crate::results::{Attachment, FORMAT, Results, Table};

/// Flags of every benchmark.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Repetitions of everything that is measured, interleaved
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// File for the results as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The longest a scenario may take in a round.
const SECONDS_MAX: f64 = 60.0;

/// Parses the seconds of a scenario in a round.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("not a number of seconds from 0.05 to {SECONDS_MAX}")),
    }
}

/// A run under way.
#[derive(Debug)]
pub(crate) struct Run {
    benchmark: &'static str,
    title: String,
    rounds: u32,
    json: Option<PathBuf>,
    begun: SystemTime,
    clock: Instant,
    watch: Watch,
}

/// Findings of a run.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Runs before the first repetition, and not counted.
    pub(crate) warm_up: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) notes: Vec<String>,
    pub(crate) attachments: Vec<Attachment>,
}

impl Run {
    /// Looks at the machine before anything is started, and says on the terminal what will disturb the figures.
    ///
    /// # Errors
    /// When the kernel does not say which CPUs may be used.
    pub(crate) async fn begin(benchmark: &'static str, title: &str, args: &RunArgs) -> anyhow::Result<Run> {
        let (begun, clock) = (SystemTime::now(), Instant::now());
        if cfg!(debug_assertions) {
            report::progress("This is a debug build: its figures say nothing. Build with --profile dist.");
        }
        report::progress("calibrating");
        let watch = Watch::begin().await?;
        let busy = watch.busy_before();
        if busy > BUSY_MAX {
            report::progress(&format!(
                "Others use {:.0} % of the CPUs: this machine is not quiet.",
                100.0 * busy
            ));
        }
        let title = title.to_owned();
        Ok(Run { benchmark, title, rounds: args.rounds, json: args.json.clone(), begun, clock, watch })
    }

    /// Looks at the machine again, prints the report, and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) async fn end(self, found: Found) -> anyhow::Result<()> {
        let results = Results {
            format: FORMAT.to_owned(),
            benchmark: self.benchmark.to_owned(),
            title: self.title,
            command: command(std::env::args().skip(1)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            begun: timestamp(self.begun),
            seconds: self.clock.elapsed().as_secs_f64(),
            repetitions: self.rounds,
            warm_up: found.warm_up,
            machine: self.watch.end().await?,
            tables: found.tables,
            notes: found.notes,
            attachments: found.attachments,
        };
        report::line(&results.markdown(1));
        for attachment in &results.attachments {
            report::line(&format!("{}:\n```\n{}```\n", attachment.name, attachment.text));
        }
        if let Some(path) = &self.json {
            results.write(path)?;
            report::progress(&format!("written to {}", path.display()));
        }
        Ok(())
    }
}

/// Returns a moment as RFC 3339 in UTC, to the second.
pub(crate) fn timestamp(time: SystemTime) -> String {
    prost_types::Timestamp { nanos: 0, ..time.into() }.to_string()
}

/// Flags with files that a run writes.
const WRITTEN: [&str; 3] = ["--json", "--figures", "--html"];

/// Returns the command that repeats a run. The secrets of URLs, and the files of its results, are left out.
pub(crate) fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["shoal".to_owned()];
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if WRITTEN.contains(&argument.as_str()) {
            arguments.next();
        } else if argument == "--metadata" {
            words.push(argument);
            words.extend(arguments.next().map(|metadata| quoted(&without_value(&metadata))));
        } else if let Some(metadata) = argument.strip_prefix("--metadata=") {
            words.push(quoted(&format!("--metadata={}", without_value(metadata))));
        } else if !argument.split_once('=').is_some_and(|(flag, _)| WRITTEN.contains(&flag)) {
            words.push(quoted(&without_secret(&argument)));
        }
    }
    words.join(" ")
}

/// Returns the name of a metadata entry: its value may be a token.
fn without_value(metadata: &str) -> String {
    format!("{}: …", metadata.split_once(':').map_or("", |(name, _)| name))
}

/// Returns a word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:,=@+%…".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn without_secret(argument: &str) -> String {
    match argument.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, address))) => format!("{scheme}://…@{address}"),
        None => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_show_no_secrets() {
        let arguments = ["bench", "mesh", "--json", "a.json", "--redis", "redis://:pw@h:1/0", "--figures=b"];
        let command = command(arguments.map(str::to_owned).into_iter());
        assert_eq!(command, "shoal bench mesh --redis redis://…@h:1/0");
        let arguments = ["--metadata", "authorization: Bearer x", "--metadata=k: v"];
        let command = super::command(arguments.map(str::to_owned).into_iter());
        assert_eq!(command, "shoal --metadata 'authorization: …' '--metadata=k: …'");
    }

    #[test]
    fn commands_can_be_pasted_into_shells() {
        let arguments = ["--data", r#"{"a": "it's"}"#, "--method", "a.B/C=3", ""];
        let command = super::command(arguments.map(str::to_owned).into_iter());
        assert_eq!(command, r#"shoal --data '{"a": "it'\''s"}' --method a.B/C=3 ''"#);
    }

    #[test]
    fn moments_are_whole_seconds() {
        let moment = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_500);
        assert_eq!(timestamp(moment), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn rounds_have_bounded_lengths() {
        assert_eq!(seconds("0.05"), Ok(0.05));
        for text in ["0", "61", "NaN", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
