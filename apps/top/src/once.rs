//! The table as text, printed once for pipes and scripts.

use std::io::Write as _;

use shoal_proto::gateway::v1::Upstream;
use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use tokio::time::{Instant, sleep};

use crate::args::TopArgs;
use crate::queues::{self, Queues};
use crate::row::{Before, Column, below, rows, sort};
use crate::{dial, watch};

/// Looks twice, so that there is a rate, and prints what it saw.
pub(crate) async fn run(args: &TopArgs) -> anyhow::Result<()> {
    let channel = dial::connect(&args.addr, watch::WITHIN).await?;
    let mut client = GatewayServiceClient::new(channel.clone());
    let (before, begun) = (watch::list(&args.addr, &mut client).await?, Instant::now());
    sleep(args.interval).await;
    let now = watch::list(&args.addr, &mut client).await?;
    let before = Some((before.as_slice(), begun.elapsed()));
    let text = text(args, &now, before, &queues::list(channel).await);
    // A closed pipe is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn text(args: &TopArgs, now: &[Upstream], before: Before<'_>, queues: &Queues) -> String {
    let mut rows = rows(now, before);
    rows.retain(|row| row.has(&args.filter));
    sort(&mut rows, args.sort, false);
    let lines: Vec<Vec<String>> =
        std::iter::once(Column::ALL.map(|column| column.title().to_owned()).to_vec())
            .chain(rows.iter().map(|row| Column::ALL.map(|column| row.text(column)).to_vec()))
            .collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..Column::ALL.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for ((cell, column), width) in line.iter().zip(Column::ALL).zip(&widths) {
            let width = *width;
            text.push_str(&if column.is_number() {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            });
            text.push_str("  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out.push('\n');
    let shown: Vec<&Upstream> =
        now.iter().filter(|upstream| rows.iter().any(|row| row.service == upstream.name)).collect();
    for line in below(&shown, queues) {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::row::tests::{endpoint, upstream};

    #[test]
    fn each_clone_has_an_aligned_line() {
        let args = TopArgs {
            addr: String::new(),
            once: true,
            interval: Duration::from_secs(1),
            sort: Column::P99,
            filter: "cache".to_owned(),
        };
        let mut failing = endpoint("10.0.0.1:70", 7, 1, 12);
        failing.reason = "ejected on 1 of 2 cores: 5 failures in a row".to_owned();
        let now = [
            upstream("cache", vec![failing, endpoint("10.0.0.22:70", 12, 0, 900)]),
            upstream("jobs", vec![endpoint("10.0.0.3:70", 0, 0, 1)]),
        ];
        let text = text(&args, &now, Some((&now, Duration::from_secs(1))), &None);
        let expected = "\
SERVICE  CLONE         READY  SUCCESS  RPS    P50    P95     P99   EWMA  IN-FLIGHT  STATE  ENGINE     WHY
cache    10.0.0.22:70  2/2          -  0.0  1.0ms  2.0ms   900ms  1.0ms          3  ready  redis a:1
cache    10.0.0.1:70   2/2          -  0.0  1.0ms  2.0ms  12.0ms  1.0ms          3  ready  redis a:1  ejected on 1 of 2 cores: 5 failures in a row

cache: no calls; retries 0 (budget 0), hedges 0 (won 0), shed 0
";
        assert_eq!(text, expected, "\n{text}");
    }
}
