//! The verify pass of an export or an import: each row of the file is read from the table and compared.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use prost_types::Timestamp;
use shoal_proto::data::v1::{BatchGetRequest, Blob, Row, RowKey, Table};

use crate::connection::Connection;
use crate::file::{self, Line, micros};
use crate::progress::Progress;
use crate::{blob, json, output, retry};

/// Rows that one call reads.
const KEYS_MAX: usize = 100;
/// Differences that are printed.
const SHOWN_MAX: u64 = 10;

/// Parts of a row that must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// Attributes, and write times: a row with a later one was written since.
    Rows,
    /// Attributes alone.
    Attributes,
}

#[derive(Debug, Default)]
struct Verdict {
    same: u64,
    /// Rows that were written after the file was.
    newer: u64,
    missing: u64,
    different: u64,
}

/// Compares the rows of a file with the table.
///
/// # Errors
/// When rows are missing or differ without having been written since.
pub(crate) async fn run(
    connection: &Connection,
    table: &Table,
    path: &Path,
    compare: Compare,
    rate: u32,
) -> anyhow::Result<()> {
    let all = path.metadata().map_or(0, |file| file.len());
    let mut from = BufReader::new(File::open(path)?);
    let mut progress = Progress::new("verify", rate);
    let mut verdict = Verdict::default();
    let mut line = String::new();
    ensure!(file::read_line(&mut from, &mut line)?, "{} is empty", path.display());
    let mut offset = line.len() as u64;
    let mut rows = Vec::new();
    loop {
        ensure!(file::read_line(&mut from, &mut line)?, "{} has no end", path.display());
        offset += line.len() as u64;
        let complete = match file::parse_line(&line)? {
            Line::Row(row) => {
                rows.push(*row);
                false
            }
            Line::Blob(blob) => {
                let (_, bytes) = blob::skip(&mut from, &mut line, blob.1.size.unsigned_abs())?;
                offset += bytes;
                verdict.blob(connection, table, *blob, compare).await?;
                progress.did(1, offset, Some(all)).await;
                false
            }
            Line::Chunk(_) => bail!("{} has a chunk without a blob before it", path.display()),
            Line::End(_) => true,
        };
        if rows.len() >= KEYS_MAX || complete {
            let count = rows.len() as u64;
            verdict.compare(connection, table, std::mem::take(&mut rows), compare).await?;
            progress.did(count, offset, Some(all)).await;
        }
        if complete {
            break;
        }
    }
    progress.done();
    let Verdict { same, newer, missing, different } = verdict;
    output::line(format!(
        "verified: {same} rows are as in {}, {newer} were written since, {missing} are missing, {different} differ",
        path.display()
    ));
    if missing + different > 0 {
        bail!(
            "{} of the rows in {} are not in {} as they should be",
            missing + different,
            path.display(),
            table.name
        );
    }
    Ok(())
}

impl Verdict {
    async fn compare(
        &mut self,
        connection: &Connection,
        table: &Table,
        rows: Vec<Row>,
        compare: Compare,
    ) -> anyhow::Result<()> {
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let keys: Vec<_> = rest.iter().map(key).collect();
            let read = retry::repeat(async || {
                let request =
                    BatchGetRequest { table: table.name.clone(), keys: keys.clone(), ..Default::default() };
                connection.client.clone().batch_get(connection.request(request)).await
            });
            let read = read.await;
            let found = connection.answer(read).await.context("reading rows to compare")?.results;
            ensure!(!found.is_empty(), "an answer without results");
            for (row, found) in rest.iter().zip(&found) {
                self.count(row, found.row.as_ref(), compare);
            }
            rest = &rest[found.len().min(rest.len())..];
        }
        Ok(())
    }

    /// Reads a blob whole, which the service checks on the way, and compares it.
    async fn blob(
        &mut self,
        connection: &Connection,
        table: &Table,
        (row, blob): (Row, Blob),
        compare: Compare,
    ) -> anyhow::Result<()> {
        let read = retry::repeat(async || {
            let Some(mut reader) = blob::Reader::open(connection, &table.name, &row).await? else {
                return Ok(None);
            };
            while reader.chunk().await?.is_some() {}
            Ok(Some(reader.blob))
        });
        match read.await {
            Ok(None) => self.absent(&row),
            Ok(Some(found)) => {
                let of = |blob: &Blob| (blob.size, blob.sha256.clone(), blob.content_type.clone());
                self.present(&row, of(&found) == of(&blob), found.write_time.as_ref(), compare);
            }
            Err(status) => {
                let error = connection.explain(&status).await;
                return Err(error.context(format!("the blob in partition {:?}", row.partition_key)));
            }
        }
        Ok(())
    }

    fn count(&mut self, row: &Row, found: Option<&Row>, compare: Compare) {
        match found {
            None => self.absent(row),
            Some(found) => self.present(row, is_same(row, found), found.write_time.as_ref(), compare),
        }
    }

    fn absent(&mut self, row: &Row) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        if row.expire_time.as_ref().is_some_and(|end| micros(end) <= now.as_micros() as i64) {
            self.newer += 1;
        } else {
            self.missing += 1;
            self.show("missing", row);
        }
    }

    fn present(&mut self, row: &Row, is_same: bool, found: Option<&Timestamp>, compare: Compare) {
        let (written, found) = (row.write_time.as_ref().map(micros), found.map(micros));
        if is_same && (compare == Compare::Attributes || found == written) {
            self.same += 1;
        } else if compare == Compare::Rows && found > written {
            self.newer += 1;
        } else {
            self.different += 1;
            self.show("different", row);
        }
    }

    fn show(&self, what: &str, row: &Row) {
        if self.missing + self.different <= SHOWN_MAX {
            let key =
                row.sort_key.as_ref().map_or_else(|| "-".to_owned(), |key| json::value(key).to_string());
            eprintln!("{what}: partition {:?}, sort key {key}", row.partition_key);
        }
    }
}

/// Returns whether two rows have the same attributes, by their printed form: one NaN is as another.
fn is_same(row: &Row, found: &Row) -> bool {
    row.attributes == found.attributes || json::row(row)["attributes"] == json::row(found)["attributes"]
}

fn key(row: &Row) -> RowKey {
    RowKey { partition_key: row.partition_key.clone(), sort_key: row.sort_key.clone() }
}
