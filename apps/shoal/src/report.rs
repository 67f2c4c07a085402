//! Output on the terminal: results and errors.

use std::io::Write as _;
use std::process::ExitCode;

use shoal_kit::exit;

const PROGRAM: &str = "shoal";

/// Prints a line; a closed pipe is not an error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Returns the exit code of a command, and prints its error.
pub(crate) fn done(result: anyhow::Result<()>) -> ExitCode {
    exit::done(PROGRAM, result)
}

/// Prints an error with its causes.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    exit::failed(PROGRAM, error)
}

/// Formats rows under a header, with columns as wide as their content.
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
