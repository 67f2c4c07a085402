//! View of a load on the terminal while it runs, and the key that ends it: Ctrl-C keeps what was measured.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::load::live::{Counts, Live};
use crate::report;

/// Interval of the lines on a terminal, and elsewhere: a log should not be filled.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_IN_A_LOG: Duration = Duration::from_secs(10);

/// Status of a process that a second Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Watches the runs of a handle, from now until it is dropped.
#[derive(Debug)]
pub(crate) struct LiveView {
    live: Live,
    lines: JoinHandle<()>,
    interrupt: JoinHandle<()>,
}

impl LiveView {
    /// Begins to write lines to stderr, and to listen to Ctrl-C.
    pub(crate) fn begin() -> LiveView {
        let live = Live::default();
        LiveView {
            lines: tokio::spawn(lines(live.clone())),
            interrupt: tokio::spawn(interrupt(live.clone())),
            live,
        }
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// Writes a line that stays.
    pub(crate) fn note(&self, text: &str) {
        clear();
        report::progress(text);
    }
}

impl Drop for LiveView {
    fn drop(&mut self) {
        self.lines.abort();
        self.interrupt.abort();
        clear();
    }
}

/// On a terminal each line replaces the one before; clearing it makes room for one that stays.
fn clear() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

async fn lines(live: Live) {
    let terminal = std::io::stderr().is_terminal();
    let every = if terminal { EVERY } else { EVERY_IN_A_LOG };
    let begun = Instant::now();
    let mut before = live.counts();
    let mut timer = tokio::time::interval(every);
    timer.tick().await;
    loop {
        timer.tick().await;
        let now = live.counts();
        let text = line(begun.elapsed(), every, &before, &now, live.take_recent().as_ref());
        before = now;
        if terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        } else {
            report::progress(&text);
        }
    }
}

/// Returns what became of the calls between two counts.
fn line(
    elapsed: Duration,
    every: Duration,
    before: &Counts,
    now: &Counts,
    recent: Option<&hdrhistogram::Histogram<u64>>,
) -> String {
    let per_second = |count: fn(&Counts) -> u64| (count(now) - count(before)) as f64 / every.as_secs_f64();
    let ms = |q| {
        recent.map_or("–".to_owned(), |times| format!("{:.1}", times.value_at_quantile(q) as f64 / 1e3))
    };
    let mut text = format!(
        "{:>4.0} s  {:.0} calls/s, {:.0} OK/s, p50 {} ms, p99 {} ms, {} in flight",
        elapsed.as_secs_f64(),
        per_second(|counts| counts.issued),
        per_second(|counts| counts.ok),
        ms(0.5),
        ms(0.99),
        now.outstanding,
    );
    for (count, what) in [
        (per_second(|counts| counts.failed), "failed/s"),
        (per_second(|counts| counts.not_issued), "not made/s"),
    ] {
        if count > 0.0 {
            text.push_str(&format!(", {count:.0} {what}"));
        }
    }
    text
}

async fn interrupt(live: Live) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    clear();
    report::progress("Ending: what was measured until now is reported. Ctrl-C again ends at once.");
    live.end();
    if tokio::signal::ctrl_c().await.is_ok() {
        std::process::exit(INTERRUPTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_show_what_went_wrong() {
        let before = Counts { issued: 100, ok: 100, ..Counts::default() };
        let mut now = Counts { outstanding: 3, issued: 600, ok: 590, failed: 0, not_issued: 0 };
        let mut times = hdrhistogram::Histogram::new(3).expect("three digits");
        times.record_n(1_500, 100).expect("recorded");
        let shown = |now: &Counts| line(Duration::from_secs(7), EVERY, &before, now, Some(&times));
        assert_eq!(shown(&now), "   7 s  500 calls/s, 490 OK/s, p50 1.5 ms, p99 1.5 ms, 3 in flight");
        now.failed = 4;
        now.not_issued = 5;
        assert!(shown(&now).ends_with(", 3 in flight, 4 failed/s, 5 not made/s"));
    }
}
