//! What a person sees: results and errors on the terminal.

use std::io::Write as _;
use std::process::ExitCode;

use shoal_kit::exit;

const PROGRAM: &str = "shoal";

/// Prints a line; a closed pipe is not an error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The exit code of a command, with its error said.
pub(crate) fn done(result: anyhow::Result<()>) -> ExitCode {
    exit::done(PROGRAM, result)
}

/// Says an error with its causes.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    exit::failed(PROGRAM, error)
}

/// Rows under a header, columns as wide as they need.
pub(crate) fn table(header: [&str; 4], rows: &[[String; 4]]) -> String {
    let mut widths = header.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut out = String::new();
    for row in std::iter::once(&header.map(str::to_owned)).chain(rows) {
        let mut line = String::from("  ");
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
