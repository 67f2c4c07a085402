//! Printing: columns for people, one JSON object a line for programs.

use std::io::Write as _;

use serde_json::{Value as Json, json};
use shoal_proto::data::v1::{AttributeRule, Row, SortKeyType, Table, View, ViewState, WriteMode};

use crate::args::Output;
use crate::{json, key};

/// The width beyond which a cell of a table is cut.
const CELL_CHARS_MAX: usize = 60;

/// Prints a line; a closed pipe is not an error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints definitions of tables.
pub(crate) fn tables(tables: &[Table], output: Output) {
    if output == Output::Json {
        for table in tables {
            line(table_json(table));
        }
        return;
    }
    let rows = tables.iter().map(|table| {
        let ttl = table.default_ttl.map_or_else(|| "-".to_owned(), |ttl| ttl.to_string());
        let created = table.create_time.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let feed = if table.change_feed.is_some() { "yes" } else { "-" };
        let (keys, writes) = (sort_key_name(table.sort_key_type()), mode_name(table));
        let views: Vec<_> = table.views.iter().map(view_name).collect();
        let views = if views.is_empty() { "-".to_owned() } else { views.join(", ") };
        let described = table.description.escape_debug().to_string();
        vec![table.name.clone(), keys.into(), writes.into(), ttl, feed.into(), views, created, described]
    });
    let header = ["TABLE", "SORT KEYS", "WRITES", "TTL", "FEED", "VIEWS", "CREATED", "DESCRIPTION"];
    line(columns(&header, rows));
}

/// Returns the name of a view, and how far it is if it is being built.
fn view_name(view: &View) -> String {
    let progress = view.build.as_ref().map(|build| format!(" {:.0} %", build.progress * 100.0));
    match view.state() {
        ViewState::Building => format!("{} (building{})", view.name, progress.unwrap_or_default()),
        ViewState::Ready | ViewState::Unspecified => view.name.clone(),
    }
}

fn view_json(view: &View) -> Json {
    json!({
        "name": view.name,
        "partition": view.partition,
        "sort": view.sort,
        "sort_key_type": sort_key_name(view.sort_key_type()),
        "filter": view.filter,
        "attributes": view.attributes,
        "keys_only": view.keys_only,
        "state": if view.state() == ViewState::Ready { "ready" } else { "building" },
        "progress": view.build.as_ref().map(|build| build.progress),
    })
}

/// Returns a definition as an object.
pub(crate) fn table_json(table: &Table) -> Json {
    let mut definition = json!({
        "name": table.name,
        "sort_key_type": sort_key_name(table.sort_key_type()),
        "write_mode": mode_name(table),
        "default_ttl": table.default_ttl.map(|ttl| ttl.to_string()),
        "change_feed": table.change_feed.as_ref().map(|feed| json!({
            "old_rows": feed.old_rows,
            "retention": feed.retention.map(|retention| retention.to_string()),
        })),
        "description": table.description,
        "create_time": table.create_time.map(|time| time.to_string()),
        "views": table.views.iter().map(view_json).collect::<Vec<_>>(),
    });
    if !table.sort_key_parts.is_empty() {
        definition["sort_key_parts"] = json!(key::parts_text(&table.sort_key_parts));
    }
    if let Some(schema) = &table.attribute_schema {
        let mut attributes: Vec<_> = schema.attributes.iter().collect();
        attributes.sort_unstable_by_key(|(name, _)| *name);
        let rule = |(name, rule): (&String, &AttributeRule)| {
            let of = key::type_name(rule.r#type());
            (name.clone(), json!({ "type": of, "required": rule.required, "bytes_max": rule.bytes_max }))
        };
        let attributes: serde_json::Map<_, _> = attributes.into_iter().map(rule).collect();
        definition["attribute_schema"] = json!({ "closed": schema.closed, "attributes": attributes });
    }
    definition
}

fn sort_key_name(of: SortKeyType) -> &'static str {
    match of {
        SortKeyType::String | SortKeyType::Unspecified => "string",
        SortKeyType::Int64 => "int64",
        SortKeyType::Bytes => "bytes",
        SortKeyType::None => "none",
        SortKeyType::Composite => "composite",
    }
}

fn mode_name(table: &Table) -> &'static str {
    match table.write_mode() {
        WriteMode::Unspecified | WriteMode::LastWriteWins => "last-write-wins",
        WriteMode::Conditional => "conditional",
    }
}

/// Prints rows of a view, each with the partition that it has in its table.
pub(crate) fn view_rows(rows: &[Row], output: Output) {
    print(rows, output, true);
}

/// Prints rows: as a table, a line for each attribute.
pub(crate) fn rows(rows: &[Row], output: Output) {
    print(rows, output, false);
}

fn print(rows: &[Row], output: Output, partitions: bool) {
    if output == Output::Json {
        for row in rows {
            line(json::row(row));
        }
        return;
    }
    let lines = rows.iter().flat_map(|row| {
        let key = row.sort_key.as_ref().map_or_else(|| "-".to_owned(), |key| text(&json::value(key)));
        let mut names: Vec<_> = row.attributes.iter().collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        let written = row.write_time.map_or_else(String::new, |time| time.to_string());
        let ends = row.expire_time.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let mut lines: Vec<Vec<String>> = names
            .into_iter()
            .map(|(name, value)| {
                vec![String::new(), name.clone(), text(&json::value(value)), String::new(), String::new()]
            })
            .collect();
        if lines.is_empty() {
            lines.push(vec![String::new(), "-".to_owned(), "-".to_owned(), String::new(), String::new()]);
        }
        lines[0][0] = key;
        lines[0][3] = written;
        lines[0][4] = ends;
        if partitions {
            for (at, line) in lines.iter_mut().enumerate() {
                let keys =
                    row.view_sort_key.as_ref().map_or_else(|| "-".to_owned(), |key| text(&json::value(key)));
                let first = |text: String| if at == 0 { text } else { String::new() };
                line.splice(0..0, [first(keys), first(row.partition_key.escape_debug().to_string())]);
            }
        }
        lines
    });
    let header = ["VIEW KEY", "PARTITION", "SORT KEY", "ATTRIBUTE", "VALUE", "WRITTEN", "ENDS"];
    line(columns(if partitions { &header } else { &header[2..] }, lines));
}

/// Returns JSON as people read it: text without quotes.
fn text(json: &Json) -> String {
    match json {
        Json::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    }
}

/// Formats rows under a header, with columns as wide as their content.
fn columns(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(ToString::to_string).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(header).chain(rows.map(|row| row.into_iter().map(cut).collect())).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let format = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(format).collect::<Vec<_>>().join("\n")
}

fn cut(cell: String) -> String {
    if cell.chars().count() <= CELL_CHARS_MAX {
        return cell;
    }
    let kept: String = cell.chars().take(CELL_CHARS_MAX - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_content() {
        let rows = [vec!["a".to_owned(), "ä".repeat(100)], vec!["long".to_owned(), "x".to_owned()]];
        let text = columns(&["K", "V"], rows.into_iter());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "K     V");
        assert_eq!(lines[1], format!("a     {}…", "ä".repeat(CELL_CHARS_MAX - 1)));
        assert_eq!(lines[2], "long  x");
    }
}
