//! `shoal data lint`: reads a whole table, and says which partitions and rows will cause trouble.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;
use serde_json::json;
use shoal_proto::data::v1::{self as pb, Row, ScanRequest};

use crate::args::{LintArgs, Output};
use crate::connection::Connection;
use crate::file::micros;
use crate::output;
use crate::progress::Progress;
use crate::scan::Scan;

/// Partitions that are named for each kind of trouble.
const NAMED_MAX: usize = 10;
/// A partition is hot if it has this part of the recent writes of a table, which has at least so many.
const HOT_PART: u64 = 10;
const RECENT_MIN: u64 = 1000;

pub(crate) async fn run(args: LintArgs) -> anyhow::Result<()> {
    let connection = Connection::open(&args.server).await?;
    let table = connection.table(&args.table).await?;
    let request = ScanRequest {
        table: args.table.clone(),
        // One part at a time: the rows of a partition come one after the other, and only one has to be counted.
        parallelism: 1,
        consistency: pb::Consistency::Eventual.into(),
        ..Default::default()
    };
    let mut progress = Progress::new("lint", args.rate);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
    let mut found = Found::new(&args, now);
    let mut scan = Scan::new(connection, request);
    while let Some(part) = scan.next().await? {
        for row in &part.rows {
            found.row(row);
        }
        progress.did(part.rows.len() as u64, found.bytes, None).await;
    }
    found.partition_ends();
    progress.done();
    let advice = found.advice();
    if args.output == Output::Json {
        for (kind, partition, amount, _) in &advice {
            output::line(json!({ "kind": kind, "partition_key": partition, "amount": amount }));
        }
    } else {
        for (kind, partition, _, text) in &advice {
            output::line(format!("{kind}: partition {partition:?} {text}"));
        }
        output::line(found.summary(&table.name));
    }
    Ok(())
}

/// Findings so far.
struct Found<'a> {
    args: &'a LintArgs,
    now: i64,
    recent_since: i64,
    partition: Option<Partition>,
    partitions: u64,
    rows: u64,
    bytes: u64,
    recent: u64,
    ending: u64,
    large: Top,
    long: Top,
    hot: Top,
    wide: Top,
}

#[derive(Default)]
struct Partition {
    key: String,
    rows: u64,
    bytes: u64,
    recent: u64,
    row_bytes_max: u64,
}

/// The partitions with the largest amounts.
#[derive(Default)]
struct Top(BTreeSet<(u64, String)>);

impl Top {
    fn offer(&mut self, amount: u64, key: &str) {
        self.0.insert((amount, key.to_owned()));
        if self.0.len() > NAMED_MAX {
            self.0.pop_first();
        }
    }
}

type Advice = (&'static str, String, u64, String);

impl<'a> Found<'a> {
    fn new(args: &'a LintArgs, now: i64) -> Self {
        let recent_since = now.saturating_sub(i64::try_from(args.recent.as_micros()).unwrap_or(i64::MAX));
        Self {
            args,
            now,
            recent_since,
            partition: None,
            partitions: 0,
            rows: 0,
            bytes: 0,
            recent: 0,
            ending: 0,
            large: Top::default(),
            long: Top::default(),
            hot: Top::default(),
            wide: Top::default(),
        }
    }

    fn row(&mut self, row: &Row) {
        if self.partition.as_ref().is_none_or(|partition| partition.key != row.partition_key) {
            self.partition_ends();
            self.partition = Some(Partition { key: row.partition_key.clone(), ..Partition::default() });
        }
        let bytes = row.encoded_len() as u64;
        let recent = row.write_time.as_ref().is_some_and(|time| micros(time) >= self.recent_since);
        let ending = row.expire_time.as_ref().is_some_and(|end| micros(end) < self.now + 86_400_000_000);
        self.rows += 1;
        self.bytes += bytes;
        self.recent += u64::from(recent);
        self.ending += u64::from(ending);
        if let Some(partition) = &mut self.partition {
            partition.rows += 1;
            partition.bytes += bytes;
            partition.recent += u64::from(recent);
            partition.row_bytes_max = partition.row_bytes_max.max(bytes);
        }
    }

    fn partition_ends(&mut self) {
        let Some(Partition { key, rows, bytes, recent, row_bytes_max }) = self.partition.take() else {
            return;
        };
        self.partitions += 1;
        for (top, amount, limit) in [
            (&mut self.large, bytes, self.args.partition_bytes),
            (&mut self.long, rows, self.args.partition_rows),
            (&mut self.wide, row_bytes_max, self.args.row_bytes),
            (&mut self.hot, recent, RECENT_MIN / HOT_PART),
        ] {
            if amount >= limit {
                top.offer(amount, &key);
            }
        }
    }

    /// Returns what to say of partitions, the worst first.
    fn advice(&self) -> Vec<Advice> {
        let mut advice = Vec::new();
        let mut all = |kind: &'static str, top: &Top, text: &dyn Fn(u64) -> String| {
            for (amount, key) in top.0.iter().rev() {
                advice.push((kind, key.clone(), *amount, text(*amount)));
            }
        };
        all("large", &self.large, &|bytes| {
            format!("has {} MiB: spread its rows over more partitions", bytes >> 20)
        });
        all("long", &self.long, &|rows| format!("has {rows} rows: spread them over more partitions"));
        all("wide", &self.wide, &|bytes| {
            format!("has a row of {} KiB: keep large values elsewhere, or in rows of their own", bytes >> 10)
        });
        let hot = self.hot.0.iter().filter(|(recent, _)| {
            self.recent >= RECENT_MIN && self.partitions > HOT_PART && recent * HOT_PART >= self.recent
        });
        let hot = Top(hot.cloned().collect());
        all("hot", &hot, &|recent| {
            let part = recent * 100 / self.recent.max(1);
            format!("has {part} % of the rows that were written lately: one replica set does that work")
        });
        advice
    }

    fn summary(&self, table: &str) -> String {
        let part = self.ending * 100 / self.rows.max(1);
        format!(
            "{table}: {} rows in {} partitions, {} MiB; {} written within {}; {part} % end within a day, and each becomes a tombstone",
            self.rows,
            self.partitions,
            self.bytes >> 20,
            self.recent,
            humantime::format_duration(self.args.recent),
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use prost_types::Timestamp;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: LintArgs,
    }

    fn row(partition: &str, written: i64, bytes: usize) -> Row {
        Row {
            partition_key: partition.to_owned(),
            attributes: crate::typed::attributes(&[format!("v={}", "x".repeat(bytes))]).unwrap(),
            write_time: Some(Timestamp { seconds: written, nanos: 0 }),
            ..Row::default()
        }
    }

    #[test]
    fn troublesome_partitions_are_named() {
        let args = Cli::parse_from([
            "lint",
            "t",
            "--partition-bytes",
            "100000",
            "--partition-rows",
            "500",
            "--row-bytes",
            "5000",
        ]);
        let mut found = Found::new(&args.args, 10_000_000_000);
        for partition in 0..20 {
            let key = format!("p{partition}");
            let rows = if partition == 3 { 600 } else { 60 };
            (0..rows).for_each(|_| found.row(&row(&key, if partition == 5 { 1 } else { 9_999 }, 10)));
        }
        (0..30).for_each(|_| found.row(&row("big", 1, 6000)));
        found.partition_ends();
        let kinds: Vec<_> = found.advice().into_iter().map(|(kind, key, ..)| (kind, key)).collect();
        let expected = [("large", "big"), ("long", "p3"), ("wide", "big"), ("hot", "p3")];
        assert_eq!(kinds, expected.map(|(kind, key)| (kind, key.to_owned())));
        assert!(found.summary("t").starts_with("t: 1770 rows in 21 partitions"), "{}", found.summary("t"));
    }
}
