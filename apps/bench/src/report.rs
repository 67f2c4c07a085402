//! Output of a benchmark.

use std::io::Write as _;

pub(crate) fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A Markdown table; every column but the first is of numbers.
pub(crate) fn markdown(header: &[String], rows: &[Vec<String>]) -> String {
    // A rule needs a dash beside its colon.
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count().max(2)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(n, (cell, &width))| match n {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
    };
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(n, width)| if n == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) })
        .collect();
    let texts = |cells: &[String]| line(cells.iter().map(String::as_str).collect());
    let mut lines = vec![texts(header), texts(&rules)];
    lines.extend(rows.iter().map(|row| texts(row)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let texts = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let rows = [texts(["a", "10"]), texts(["b µ", "7"])];
        let expected = "| x   |  × |\n| --- | -: |\n| a   | 10 |\n| b µ |  7 |";
        assert_eq!(markdown(&texts(["x", "×"]), &rows), expected);
    }
}
