//! Fits a table into a width. Columns are left out whole, those that matter least first, so that no number is ever cut; names
//! and reasons are cut where the cut can be seen.

use crate::row::{Column, Row};

/// Blanks between two columns.
pub(crate) const SPACING: usize = 2;

/// Columns in the order they are left out. The service, the clone and its state stay.
const LEFT_OUT: [Column; 10] = [
    Column::Ewma,
    Column::P50,
    Column::InFlight,
    Column::P95,
    Column::Ready,
    Column::Engine,
    Column::Rps,
    Column::P99,
    Column::Success,
    Column::Why,
];

/// The least of a reason that is worth its place.
const WHY_WIDTH_MIN: usize = 16;

/// The least of a clone's address: its port.
const CLONE_WIDTH_MIN: usize = ":65535".len();

/// Chooses the columns that fit into `width`, each with its own. WHY gets what is left.
pub(crate) fn columns(rows: &[Row], width: usize) -> Vec<(Column, usize)> {
    let widest = |column: Column| rows.iter().map(|row| row.text(column).chars().count()).max().unwrap_or(0);
    let wanted = |column: Column| match column {
        Column::Why => widest(column).clamp(column.title().len(), WHY_WIDTH_MIN),
        _ => widest(column).max(column.title().len()),
    };
    let mut chosen = Column::ALL.map(|column| (column, wanted(column))).to_vec();
    for column in LEFT_OUT {
        if total(&chosen) <= width {
            break;
        }
        chosen.retain(|(kept, _)| *kept != column);
    }
    let over = total(&chosen).saturating_sub(width);
    if let Some((_, clone)) = chosen.iter_mut().find(|(column, _)| *column == Column::Clone) {
        *clone = clone.saturating_sub(over).max(CLONE_WIDTH_MIN);
    }
    let left = width.saturating_sub(total(&chosen));
    if let Some((_, why)) = chosen.iter_mut().find(|(column, _)| *column == Column::Why) {
        *why += left;
    }
    // A terminal that has no room for three columns shows what it has room for.
    while chosen.len() > 1 && total(&chosen) > width {
        chosen.remove(0);
    }
    chosen
}

fn total(columns: &[(Column, usize)]) -> usize {
    let widths: usize = columns.iter().map(|(_, width)| width).sum();
    widths + SPACING * columns.len().saturating_sub(1)
}

/// Cuts what stands in a column to its width: an address at its front, which leaves the port, a text at its end.
pub(crate) fn cell(text: &str, column: Column, width: usize) -> String {
    let chars = text.chars().count();
    if chars <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    match column {
        Column::Clone => "…".chars().chain(text.chars().skip(chars - kept)).take(width).collect(),
        _ => text.chars().take(kept).chain("…".chars()).take(width).collect(),
    }
}

/// Cuts a line between two words, so that no number is cut.
pub(crate) fn line(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let room: String = text.chars().take(width).collect();
    match room.rfind(' ') {
        Some(at) => format!("{}…", room[..at].trim_end_matches([' ', ',', ';'])),
        None => "…".chars().take(width).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::rows;
    use crate::row::tests::{endpoint, upstream};

    fn two() -> Vec<Row> {
        let mut ejected = endpoint("127.0.0.1:41234", 100, 40, 90);
        ejected.reason = "ejected on 1 of 2 cores: 5 failures in a row".to_owned();
        rows(&[upstream("session", vec![ejected, endpoint("127.0.0.1:5", 200, 0, 9)])], None)
    }

    #[test]
    fn columns_are_left_out_and_never_cut() {
        let rows = two();
        let mut before = Vec::new();
        for width in 40..160 {
            let chosen = columns(&rows, width);
            assert!(total(&chosen) <= width, "{width}: {chosen:?}");
            for (column, wide) in &chosen {
                let widest = rows.iter().map(|row| row.text(*column).chars().count()).max().unwrap_or(0);
                assert!(*wide >= widest || *column == Column::Why, "{width}: {column:?} is cut");
            }
            let names: Vec<Column> = chosen.into_iter().map(|(column, _)| column).collect();
            assert!(before.iter().all(|column| names.contains(column)), "{width}: a wider one shows less");
            before = names;
        }
        assert_eq!(before, Column::ALL);
    }

    #[test]
    fn clones_keep_their_port_where_they_are_cut() {
        let rows = two();
        let chosen = columns(&rows, 27);
        let (_, width) = chosen.iter().find(|(column, _)| *column == Column::Clone).expect("stays");
        let cut = cell("127.0.0.1:41234", Column::Clone, *width);
        assert!(cut.starts_with('…') && cut.ends_with(":41234"), "{cut}");
    }

    #[test]
    fn lines_are_cut_between_words() {
        assert_eq!(line("OK 310; retries 12", 18), "OK 310; retries 12");
        assert_eq!(line("OK 310; retries 12", 17), "OK 310; retries…");
        assert_eq!(line("OK 310; retries 12", 9), "OK 310…");
        assert_eq!((line("OK", 1), line("OK", 0)), ("…".to_owned(), String::new()));
    }
}
