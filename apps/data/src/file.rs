//! The file of an export: JSON lines. The first one has the table's definition, for people and as the message it is; each other
//! one has a row, or the properties of a blob, behind which its chunks follow; the last one says how many rows there are, so that
//! a file that was cut is noticed.

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use prost::Message as _;
use prost_types::Timestamp;
use serde_json::{Value as Json, json};
use shoal_proto::data::v1::{Blob, Row, Table};

use crate::{json, output, typed};

/// The version of the format.
const VERSION: u64 = 2;

const BEGIN: &str = "shoal_export";
const END: &str = "shoal_export_rows";
const CHUNK: &str = "blob_chunk";

/// A line of the file.
#[derive(Debug)]
pub(crate) enum Line {
    Row(Box<Row>),
    /// A row without attributes that a blob stands behind.
    Blob(Box<(Row, Blob)>),
    /// Bytes of the blob before.
    Chunk(Bytes),
    /// The last line, with the number of rows before it.
    End(u64),
}

/// Returns the first line.
pub(crate) fn header(table: &Table) -> String {
    let definition = typed::base64(&table.encode_to_vec());
    json!({ BEGIN: VERSION, "table": output::table_json(table), "definition": definition }).to_string()
}

/// Returns the last line.
pub(crate) fn end(rows: u64) -> String {
    json!({ END: rows }).to_string()
}

/// Returns the line of a blob, whose chunks follow.
pub(crate) fn blob(row: &Row, blob: &Blob) -> String {
    let row = Row {
        attributes: HashMap::new(),
        write_time: blob.write_time,
        expire_time: blob.expire_time,
        ..row.clone()
    };
    let mut object = json::row(&row);
    object["blob"] = json!({
        "content_type": blob.content_type,
        "size": blob.size,
        "sha256": typed::base64(&blob.sha256),
    });
    object.to_string()
}

/// Returns the line of a chunk.
pub(crate) fn chunk(bytes: &[u8]) -> String {
    json!({ CHUNK: typed::base64(bytes) }).to_string()
}

/// Reads the definition of the table from the first line.
///
/// # Errors
/// When the line is none of an export, or of a newer one.
pub(crate) fn parse_header(line: &str) -> anyhow::Result<Table> {
    let json: Json = serde_json::from_str(line).context("its first line is no JSON: it is no export")?;
    let version = json[BEGIN].as_u64().ok_or_else(|| anyhow!("its first line is not that of an export"))?;
    ensure!(version == VERSION, "it has version {version} of the format, and this shoal reads {VERSION}");
    let definition =
        json["definition"].as_str().ok_or_else(|| anyhow!("its first line has no definition"))?;
    let definition = typed::bytes(definition).context("the definition of its table")?;
    Table::decode(definition).context("the definition of its table")
}

/// Parses a line behind the first.
///
/// # Errors
/// When it is neither a row nor the end.
pub(crate) fn parse_line(line: &str) -> anyhow::Result<Line> {
    let json: Json = serde_json::from_str(line).context("it is no JSON")?;
    if let Some(rows) = json[END].as_u64() {
        return Ok(Line::End(rows));
    }
    if let Some(chunk) = json[CHUNK].as_str() {
        return Ok(Line::Chunk(typed::bytes(chunk).context("a chunk of a blob")?));
    }
    let partition_key = json["partition_key"].as_str().ok_or_else(|| anyhow!("it has no partition_key"))?;
    let sort_key = json.get("sort_key").map(json::parse_sort_key).transpose().context("sort_key")?;
    let attributes = json.get("attributes").ok_or_else(|| anyhow!("it has no attributes"))?;
    let time = |of: &str| -> anyhow::Result<Option<Timestamp>> {
        json.get(of).and_then(Json::as_str).map(|text| typed::time(text).context(of.to_owned())).transpose()
    };
    let row = Row {
        partition_key: partition_key.to_owned(),
        sort_key,
        attributes: json::parse_attributes(attributes)?,
        write_time: time("write_time")?,
        expire_time: time("expire_time")?,
        ..Row::default()
    };
    let Some(blob) = json.get("blob") else { return Ok(Line::Row(Box::new(row))) };
    let text = |of: &str| blob[of].as_str().ok_or_else(|| anyhow!("its blob has no {of}"));
    let blob = Blob {
        size: blob["size"]
            .as_i64()
            .filter(|size| *size >= 0)
            .ok_or_else(|| anyhow!("its blob has no size"))?,
        sha256: typed::bytes(text("sha256")?).context("the sha256 of its blob")?,
        content_type: text("content_type")?.to_owned(),
        write_time: row.write_time,
        expire_time: row.expire_time,
    };
    Ok(Line::Blob(Box::new((row, blob))))
}

/// Reads one line, without its end; `None` behind the last. A line without an end is an error: the file was cut.
///
/// # Errors
/// When the file cannot be read or was cut.
pub(crate) fn read_line(from: &mut impl BufRead, line: &mut String) -> anyhow::Result<bool> {
    line.clear();
    if from.read_line(line)? == 0 {
        return Ok(false);
    }
    ensure!(line.ends_with('\n'), "the file ends in the middle of a line: it was cut");
    Ok(true)
}

/// Returns a time in microseconds since 1970.
pub(crate) fn micros(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1000)
}

#[cfg(test)]
mod tests {
    use shoal_proto::data::v1::{ChangeFeed, SortKeyType, WriteMode};

    use super::*;

    #[test]
    fn lines_come_back_as_written() {
        let table = Table {
            name: "t".into(),
            sort_key_type: SortKeyType::Int64.into(),
            write_mode: WriteMode::LastWriteWins.into(),
            default_ttl: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
            description: "readings".into(),
            change_feed: Some(ChangeFeed { old_rows: true, ..Default::default() }),
            ..Table::default()
        };
        assert_eq!(parse_header(&header(&table)).unwrap(), table);
        let row = Row {
            partition_key: "p".into(),
            sort_key: Some(typed::sort_key(&table, "-5").unwrap()),
            attributes: typed::attributes(&["a:double=0.1".into(), "b=x\n".into()]).unwrap(),
            write_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 }),
            expire_time: Some(Timestamp { seconds: 1_800_000_000, nanos: 0 }),
            ..Row::default()
        };
        let Line::Row(again) = parse_line(&json::row(&row).to_string()).unwrap() else { panic!("a row") };
        assert_eq!(*again, row);
        let put = Blob {
            size: 3,
            sha256: vec![7; 32].into(),
            content_type: "text/plain".into(),
            write_time: row.write_time,
            expire_time: None,
        };
        let Line::Blob(again) = parse_line(&blob(&row, &put)).unwrap() else { panic!("a blob") };
        assert_eq!((&again.0.sort_key, &again.1), (&row.sort_key, &put));
        assert!(matches!(parse_line(&chunk(b"abc")).unwrap(), Line::Chunk(bytes) if *bytes == *b"abc"));
        assert!(matches!(parse_line(&end(7)).unwrap(), Line::End(7)));
        for bad in ["", "{}", "x", r#"{"shoal_export": 3}"#, r#"{"shoal_export": 2}"#] {
            assert!(parse_header(bad).is_err() && parse_line(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cut_line_is_an_error() {
        let mut line = String::new();
        let mut file = "a\nb".as_bytes();
        assert!(read_line(&mut file, &mut line).unwrap());
        assert!(read_line(&mut file, &mut line).is_err());
    }
}
