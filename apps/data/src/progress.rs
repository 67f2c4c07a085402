//! Progress of a long run on stderr, and the pace it is held to.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The interval of lines on a terminal, which replace each other.
const REDRAW_EVERY: Duration = Duration::from_millis(500);
/// The interval of lines elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Characters of the bar.
const BAR_CHARS: u64 = 24;

/// Says how far a run is, and holds it to a rate.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    rows: u64,
    /// Bytes done, and all of them if that is known.
    bytes: (u64, Option<u64>),
    /// Rows of this run, without those of earlier ones.
    paced: u64,
    begun: Instant,
    said_at: Instant,
    rate_max: Option<u32>,
    terminal: bool,
}

impl Progress {
    /// Begins a run that may do `rate_max` rows a second; 0 stands for no limit.
    pub(crate) fn new(what: &'static str, rate_max: u32) -> Self {
        Self {
            what,
            rows: 0,
            bytes: (0, None),
            paced: 0,
            begun: Instant::now(),
            said_at: Instant::now(),
            rate_max: (rate_max > 0).then_some(rate_max),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Sets what earlier runs did.
    pub(crate) fn resumed(&mut self, rows: u64) {
        self.rows = rows;
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Counts rows, says how far the run is if that is due, and waits if it is too fast.
    pub(crate) async fn did(&mut self, rows: u64, bytes: u64, of: Option<u64>) {
        self.rows += rows;
        self.paced += rows;
        self.bytes = (bytes, of);
        if self.said_at.elapsed() >= if self.terminal { REDRAW_EVERY } else { LINE_EVERY } {
            self.say();
        }
        if let Some(rate) = self.rate_max {
            tokio::time::sleep_until((self.begun + due_after(self.paced, rate)).into()).await;
        }
    }

    fn say(&mut self) {
        self.said_at = Instant::now();
        let text = self.text();
        let mut err = std::io::stderr();
        let _ = if self.terminal { write!(err, "\r\x1b[K{text}") } else { writeln!(err, "{text}") };
    }

    /// Removes the line of a terminal.
    pub(crate) fn done(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn text(&self) -> String {
        let per_second = self.paced as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (done, all) = self.bytes;
        let counts = format!("{} rows, {:.1} MiB, {per_second:.0} rows/s", self.rows, mib(done));
        match all {
            Some(all) if all > 0 => {
                let filled = (done.min(all) * BAR_CHARS / all) as usize;
                let bar = "#".repeat(filled) + &"-".repeat(BAR_CHARS as usize - filled);
                format!("{} [{bar}] {:3} %  {counts}", self.what, done.min(all) * 100 / all)
            }
            _ => format!("{}  {counts}", self.what),
        }
    }
}

/// Returns the time that so many rows take at a rate.
fn due_after(rows: u64, rate: u32) -> Duration {
    Duration::from_secs_f64(rows as f64 / f64::from(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limit_holds_a_run_back() {
        assert_eq!(due_after(300, 100), Duration::from_secs(3));
        assert_eq!(due_after(1, u32::MAX).as_millis(), 0);
    }

    #[test]
    fn bar_shows_the_part_that_is_done() {
        let mut progress = Progress::new("import", 0);
        progress.bytes = (512, Some(1024));
        assert!(
            progress.text().starts_with("import [############------------]  50 %"),
            "{}",
            progress.text()
        );
    }
}
