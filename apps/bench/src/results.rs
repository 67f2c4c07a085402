//! Results of a benchmark: the one shape in which all of them print, keep and publish their figures.
//!
//! The JSON is these types, field by field. `format` changes when a reader of an older file would read it wrongly.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::report;

/// Version of the JSON.
pub(crate) const FORMAT: &str = "shoal-bench/1";

/// Results of one run of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Name and version of this shape, `shoal-bench/1`.
    pub(crate) format: String,
    /// Name of the benchmark, as it is given to `shoal bench`.
    pub(crate) benchmark: String,
    /// Sentence that says what was measured.
    pub(crate) title: String,
    /// Command that repeats it.
    pub(crate) command: String,
    /// Version of Shoal.
    pub(crate) version: String,
    /// Time at which it began, RFC 3339.
    pub(crate) begun: String,
    /// Seconds that it took.
    pub(crate) seconds: f64,
    /// Repetitions of each row, interleaved with those of the others.
    pub(crate) repetitions: u32,
    /// Runs before the first repetition, and not counted.
    pub(crate) warm_up: String,
    /// Facts about the machine.
    pub(crate) machine: Machine,
    /// Tables of figures.
    pub(crate) tables: Vec<Table>,
    /// Sentences that belong to the figures.
    pub(crate) notes: Vec<String>,
    /// Texts that the figures depend on, such as configuration files. The page of results leaves them out.
    pub(crate) attachments: Vec<Attachment>,
}

/// Text that the figures depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// Subject that it belongs to.
    pub(crate) name: String,
    /// The text.
    pub(crate) text: String,
}

/// Rows of figures that are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// Heading.
    pub(crate) title: String,
    /// Columns, in the order of the cells of a row.
    pub(crate) columns: Vec<Column>,
    /// Rows.
    pub(crate) rows: Vec<Row>,
}

/// Column of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Column {
    /// Stable name, with the unit last.
    pub(crate) key: String,
    /// Heading.
    pub(crate) title: String,
    /// Decimals that are printed.
    pub(crate) digits: usize,
    /// True if a row's figure is also given as a ratio to its peer's.
    pub(crate) ratio: bool,
}

/// Row of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Figures that were measured.
    pub(crate) name: String,
    /// Name of the row that it is compared with; a peer has none.
    pub(crate) peer: Option<String>,
    /// A figure for each column; null where there is none.
    pub(crate) cells: Vec<Option<Cell>>,
}

/// Figure of a row, over the repetitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Median of the repetitions.
    pub(crate) median: f64,
    /// Lowest repetition.
    pub(crate) min: f64,
    /// Highest repetition.
    pub(crate) max: f64,
    /// Median divided by the peer's median, where the column has ratios.
    pub(crate) ratio: Option<f64>,
    /// Figures of the repetitions, in their order.
    pub(crate) samples: Vec<f64>,
}

impl Column {
    pub(crate) fn new(key: &str, title: &str, digits: usize) -> Column {
        Column { key: key.to_owned(), title: title.to_owned(), digits, ratio: false }
    }

    pub(crate) fn with_ratio(self) -> Column {
        Column { ratio: true, ..self }
    }
}

impl Cell {
    /// Returns the figure of the repetitions `samples`; those that are no number do not count.
    pub(crate) fn of(samples: Vec<f64>) -> Option<Cell> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|sample| sample.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        let samples = samples.into_iter().filter(|sample| sample.is_finite()).collect();
        Some(Cell { median, min, max, ratio: None, samples })
    }

    fn text(&self, digits: usize) -> String {
        if self.samples.len() < 2 {
            return format!("{:.digits$}", self.median);
        }
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }
}

impl Table {
    pub(crate) fn new(title: &str, columns: Vec<Column>) -> Table {
        Table { title: title.to_owned(), columns, rows: Vec::new() }
    }

    /// Adds a row with the repetitions of each column, and its ratios to the row `peer`, which was added before.
    pub(crate) fn row(&mut self, name: &str, peer: Option<&str>, samples: Vec<Vec<f64>>) {
        let of_peer = peer.and_then(|peer| self.rows.iter().find(|row| row.name == peer));
        let cells = samples.into_iter().zip(&self.columns).enumerate().map(|(n, (samples, column))| {
            let mut cell = Cell::of(samples)?;
            if column.ratio
                && let Some(peer) = of_peer.and_then(|row| row.cells[n].as_ref())
            {
                let ratio = cell.median / peer.median;
                cell.ratio = ratio.is_finite().then_some(ratio);
            }
            Some(cell)
        });
        let cells = cells.collect();
        let peer = of_peer.map(|row| row.name.clone());
        self.rows.push(Row { name: name.to_owned(), peer, cells });
    }

    /// Returns the figure of the row `name` in the column `key`.
    pub(crate) fn cell(&self, name: &str, key: &str) -> Option<&Cell> {
        let column = self.columns.iter().position(|column| column.key == key)?;
        self.rows.iter().find(|row| row.name == name)?.cells.get(column)?.as_ref()
    }

    /// Returns the table as Markdown: medians, with the range behind them, and ratios as columns of their own.
    pub(crate) fn markdown(&self) -> String {
        let ratio = |row: &Row, n: usize| row.cells.get(n)?.as_ref()?.ratio;
        let has_ratio: Vec<bool> =
            (0..self.columns.len()).map(|n| self.rows.iter().any(|row| ratio(row, n).is_some())).collect();
        let mut header = vec![String::new()];
        for (column, has_ratio) in self.columns.iter().zip(&has_ratio) {
            header.push(column.title.clone());
            if *has_ratio {
                header.push("×".to_owned());
            }
        }
        let rows = self.rows.iter().map(|row| {
            let mut cells = vec![row.name.clone()];
            for (n, (column, cell)) in self.columns.iter().zip(&row.cells).enumerate() {
                cells.push(cell.as_ref().map_or_else(none, |cell| cell.text(column.digits)));
                if has_ratio[n] {
                    cells.push(ratio(row, n).map_or_else(none, |ratio| format!("{ratio:.2}")));
                }
            }
            cells
        });
        report::markdown(&header, &rows.collect::<Vec<_>>())
    }
}

fn none() -> String {
    "–".to_owned()
}

impl Results {
    /// Returns the run as Markdown, with headings of `level`.
    pub(crate) fn markdown(&self, level: usize) -> String {
        let machine = &self.machine;
        let mark = "#".repeat(level);
        let mut text = format!(
            "{mark} shoal bench {name}\n\n{title}\n\n`{command}`\n\n\
             {cpu}, {cores} cores (used: {allowed}), Linux {kernel}, {memory:.0} GiB; {build} build of Shoal {version}; {begun}, \
             {seconds:.0} s. Load {load_before:.1} before and {load_after:.1} after, {busy:.0} % of the CPUs busy before, \
             {steal:.1} % stolen; calibration loop {before:.1} ms before, {after:.1} ms after ({drift:+.1} %). \
             Medians of {repetitions} interleaved repetitions (lowest–highest) after a warm-up: {warm_up}. \
             ×: the median divided by the peer's.\n",
            name = self.benchmark,
            title = self.title,
            command = self.command,
            cpu = machine.cpu,
            cores = machine.cores,
            allowed = machine.allowed_cpus,
            kernel = machine.kernel,
            memory = machine.memory_bytes as f64 / f64::from(1 << 30),
            build = machine.build,
            version = self.version,
            begun = self.begun,
            seconds = self.seconds,
            load_before = machine.load_before,
            load_after = machine.load_after,
            busy = 100.0 * machine.busy_before,
            steal = 100.0 * machine.steal,
            before = machine.calibration_before_ms,
            after = machine.calibration_after_ms,
            drift = 100.0 * machine.drift(),
            repetitions = self.repetitions,
            warm_up = self.warm_up,
        );
        let doubts = machine.doubts();
        if !doubts.is_empty() {
            text.push_str(&format!("\n**Do not trust these figures:** {}.\n", doubts.join("; ")));
        }
        for table in &self.tables {
            text.push_str(&format!("\n{mark}# {}\n\n{}\n", table.title, table.markdown()));
        }
        for note in &self.notes {
            text.push_str(&format!("\n{note}\n"));
        }
        text
    }

    /// Writes the run to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Reads a run from a file.
    ///
    /// # Errors
    /// When the file is not one of these.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Results> {
        let read = || -> anyhow::Result<Results> {
            let results: Results = serde_json::from_slice(&std::fs::read(path)?)?;
            ensure!(
                results.format == FORMAT,
                "its format is {}, and this program reads {FORMAT}: run the benchmark again",
                results.format
            );
            Ok(results)
        };
        read().with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::tests::quiet;

    /// Results with a peer and a row.
    pub(crate) fn example() -> Results {
        let columns = vec![
            Column::new("calls_per_second", "calls/s", 0).with_ratio(),
            Column::new("gateway_cpu_us", "gateway µs", 1),
        ];
        let mut table = Table::new("Small calls", columns);
        table.row("echo", None, vec![vec![300.0, 100.0, 200.0], vec![]]);
        table.row("shoal", Some("echo"), vec![vec![100.0, 120.0], vec![3.25, f64::NAN]]);
        Results {
            format: FORMAT.to_owned(),
            benchmark: "example".to_owned(),
            title: "What a call costs.".to_owned(),
            command: "shoal bench example".to_owned(),
            version: "0.1.0".to_owned(),
            begun: "2026-01-01T00:00:00Z".to_owned(),
            seconds: 12.0,
            repetitions: 3,
            warm_up: "0.5 s of each row".to_owned(),
            machine: quiet(),
            tables: vec![table],
            notes: vec!["A note.".to_owned()],
            attachments: Vec::new(),
        }
    }

    #[test]
    fn medians_have_ranges_and_ratios() {
        let expected = "\
|       |       calls/s |    × | gateway µs |
| ----- | ------------: | ---: | ---------: |
| echo  | 200 (100–300) |    – |          – |
| shoal | 110 (100–120) | 0.55 |        3.2 |";
        assert_eq!(example().tables[0].markdown(), expected);
    }

    #[test]
    fn json_is_read_back_whole() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let results = example();
        results.write(file.path()).expect("written");
        assert_eq!(Results::read(file.path()).expect("read"), results);
    }

    #[test]
    fn another_format_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        Results { format: "shoal-bench/0".to_owned(), ..example() }.write(file.path()).expect("written");
        let error = format!("{:#}", Results::read(file.path()).expect_err("refused"));
        assert!(error.contains("shoal-bench/0") && error.contains("run the benchmark again"), "{error}");
    }

    #[test]
    fn a_run_says_where_it_ran() {
        let text = example().markdown(2);
        for part in [
            "## shoal bench example",
            "A CPU, 2 cores",
            "Linux 6.1.0",
            "(+1.0 %)",
            "### Small calls",
            "A note.",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains("Do not trust"), "{text}");
        let mut doubted = example();
        doubted.machine.busy_before = 0.9;
        let text = doubted.markdown(2);
        assert!(text.contains("**Do not trust these figures:** others used 90 %"), "{text}");
    }
}
