//! `shoal data import`: writes the rows of an export.
//!
//! Rows keep their write times, so a row that was written later stays, and an import that is repeated changes nothing. In a table of
//! conditional writes, and with `--now`, they are written as of now.

use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use shoal_proto::data::v1::{
    Blob, BlobStart, CheckAndMutateRequest, CreateTableRequest, MutateRequest, Mutation, Row, Table,
    WriteMode, mutation,
};

use crate::args::ImportArgs;
use crate::checkpoint::Checkpoint;
use crate::connection::Connection;
use crate::file::{self, Line, micros};
use crate::progress::Progress;
use crate::put::new_token;
use crate::verify::{self, Compare};
use crate::{blob, output, retry, typed};

/// Writes in flight.
const WRITES_MAX: usize = 32;
/// Rows and bytes of one write, below the limits of a Mutate.
const ROWS_MAX: usize = 100;
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Rows between two looks at the checkpoint. All of them are acknowledged before it is written.
const WINDOW_ROWS: usize = 2000;
const WINDOW_BYTES: usize = 8 << 20;

pub(crate) async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let connection = Connection::open(&args.server).await?;
    let said = || format!("{} line 1", args.file.display());
    let mut from = BufReader::new(File::open(&args.file).with_context(|| args.file.display().to_string())?);
    let mut line = String::new();
    ensure!(file::read_line(&mut from, &mut line)?, "{} is empty", args.file.display());
    let mut exported = file::parse_header(&line).with_context(said)?;
    if let Some(name) = &args.table {
        exported.name.clone_from(name);
    }
    let table = target(&connection, &exported, args.create).await?;
    let mut checkpoint = Checkpoint::of(&args.file, "import");
    let mut import = Import {
        connection: connection.clone(),
        conditional: table.write_mode() == WriteMode::Conditional,
        now: args.now || table.write_mode() == WriteMode::Conditional,
        table: table.clone(),
        progress: Progress::new("import", args.rate),
        ended: 0,
        all: args.file.metadata().map_or(0, |file| file.len()),
    };
    let mut place = Place { offset: line.len() as u64, line: 1, rows: 0 };
    if let Some(state) = checkpoint.read()? {
        place = Place::resumed(&state, &table.name)
            .with_context(|| format!("{}; remove it to begin again", checkpoint.path().display()))?;
        from.seek(SeekFrom::Start(place.offset))?;
        import.progress.resumed(place.rows);
        eprintln!("goes on behind {} rows", place.rows);
    }
    loop {
        let (window, next) = read_window(&mut from, &mut line, &mut place)
            .with_context(|| format!("{} line {}", args.file.display(), place.line))?;
        let within = || format!("rows up to line {} of {}", place.line, args.file.display());
        import.write(window, place.offset).await.with_context(within)?;
        match next {
            Next::Row => {}
            Next::Blob(blob) => {
                import
                    .blob(*blob, &args.file, &mut from, &mut line, &mut place)
                    .await
                    .with_context(|| format!("the blob of line {} of {}", place.line, args.file.display()))?;
            }
            Next::End => break,
        }
        if checkpoint.is_due() {
            checkpoint.write(&place.state(&table.name))?;
        }
    }
    import.progress.done();
    checkpoint.remove()?;
    output::line(format!(
        "{} rows are in {}{}",
        import.progress.rows() - import.ended,
        table.name,
        if import.ended > 0 { format!("; {} had ended", import.ended) } else { String::new() }
    ));
    if args.verify {
        let compare = if import.now { Compare::Attributes } else { Compare::Rows };
        verify::run(&connection, &table, &args.file, compare, args.rate).await?;
    }
    Ok(())
}

/// Returns the table to write to, made from the exported definition if that was asked for.
async fn target(connection: &Connection, exported: &Table, create: bool) -> anyhow::Result<Table> {
    if create {
        let request = CreateTableRequest { table: Some(exported.clone()) };
        let answer = connection.client.clone().create_table(connection.request(request)).await;
        connection.answer(answer).await?;
    }
    let table = connection.table(&exported.name).await;
    let table = table.context("--create makes the table as it was exported, --table names another")?;
    ensure!(
        typed::sort_key_type(&table) == typed::sort_key_type(exported)
            && table.sort_key_parts == exported.sort_key_parts,
        "{} has sort keys of another type than the exported table",
        table.name
    );
    Ok(table)
}

/// A place in the file: everything before it is written.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    line: u64,
    rows: u64,
}

impl Place {
    fn state(self, table: &str) -> serde_json::Value {
        json!({ "table": table, "offset": self.offset, "line": self.line, "rows": self.rows })
    }

    fn resumed(state: &serde_json::Value, table: &str) -> anyhow::Result<Place> {
        ensure!(state["table"] == table, "it is of an import into {}", state["table"]);
        let number = |of: &str| state[of].as_u64().ok_or_else(|| anyhow!("it has no {of}"));
        Ok(Place { offset: number("offset")?, line: number("line")?, rows: number("rows")? })
    }
}

/// Part of the file behind a window of rows.
enum Next {
    Row,
    /// A blob whose line was read, and its chunks not.
    Blob(Box<(Row, Blob)>),
    End,
}

/// Reads rows for the next writes.
fn read_window(
    from: &mut BufReader<File>,
    line: &mut String,
    place: &mut Place,
) -> anyhow::Result<(Vec<Row>, Next)> {
    let mut rows = Vec::new();
    let begin = place.offset;
    while rows.len() < WINDOW_ROWS && (place.offset - begin) < WINDOW_BYTES as u64 {
        ensure!(file::read_line(from, line)?, "the file has no end: the export is not complete, or was cut");
        place.line += 1;
        place.offset += line.len() as u64;
        match file::parse_line(line)? {
            Line::Row(row) => rows.push(*row),
            Line::End(count) => {
                place.rows += rows.len() as u64;
                ensure!(count == place.rows, "the file has {} rows, and its end says {count}", place.rows);
                return Ok((rows, Next::End));
            }
            Line::Blob(blob) => {
                place.rows += rows.len() as u64;
                return Ok((rows, Next::Blob(blob)));
            }
            Line::Chunk(_) => bail!("a chunk without a blob before it"),
        }
    }
    place.rows += rows.len() as u64;
    Ok((rows, Next::Row))
}

struct Import {
    connection: Connection,
    table: Table,
    conditional: bool,
    /// True if rows are written as of now and not with the times that they had.
    now: bool,
    progress: Progress,
    /// Number of rows that had ended before they could be written.
    ended: u64,
    all: u64,
}

impl Import {
    /// Writes rows, and returns once all of them are acknowledged.
    async fn write(&mut self, rows: Vec<Row>, offset: u64) -> anyhow::Result<()> {
        let count = rows.len() as u64;
        let (connection, conditional) = (self.connection.clone(), self.conditional);
        stream::iter(self.writes(rows)?)
            .map(|write| send(&connection, write, conditional))
            .buffer_unordered(WRITES_MAX)
            .try_collect::<()>()
            .await?;
        self.progress.did(count, offset, Some(self.all)).await;
        Ok(())
    }

    /// Writes a blob, and moves the place behind its chunks.
    async fn blob(
        &mut self,
        (row, blob): (Row, Blob),
        path: &Path,
        from: &mut BufReader<File>,
        line: &mut String,
        place: &mut Place,
    ) -> anyhow::Result<()> {
        ensure!(
            !self.conditional,
            "{} is a table of conditional writes, which has no blobs",
            self.table.name
        );
        let chunks_at = place.offset;
        let (lines, bytes) = blob::skip(from, line, blob.size.unsigned_abs())?;
        match self.timing(&row, now_micros())? {
            None => self.ended += 1,
            Some(Timing { base, ttl }) => {
                let start = BlobStart {
                    table: self.table.name.clone(),
                    partition_key: row.partition_key,
                    sort_key: row.sort_key,
                    content_type: blob.content_type,
                    size: Some(blob.size),
                    sha256: blob.sha256,
                    ttl,
                    idempotency_token: self.token(base),
                };
                blob::put(&self.connection, start, path, chunks_at).await?;
            }
        }
        *place = Place { offset: chunks_at + bytes, line: place.line + lines, rows: place.rows + 1 };
        self.progress.did(1, place.offset, Some(self.all)).await;
        Ok(())
    }

    /// Returns when a row is written and for how long it stays; `None` if it has ended.
    fn timing(&self, row: &Row, now: i64) -> anyhow::Result<Option<Timing>> {
        let base = match row.write_time.as_ref().map(micros) {
            Some(written) if !self.now => written,
            _ if self.now => now,
            _ => bail!(
                "a row of partition {} has no write_time; --now writes such rows as of now",
                row.partition_key
            ),
        };
        let ttl = match row.expire_time.as_ref().map(micros) {
            Some(end) if end <= now => return Ok(None),
            Some(end) => {
                Some(prost_types::Duration { seconds: (end - base + 999_999) / 1_000_000, nanos: 0 })
            }
            None if !self.now && self.table.default_ttl.is_some() => bail!(
                "a row of partition {} never ends, and rows of {} do: counted from the time when it was written it might \
                 have ended; --now counts from now",
                row.partition_key,
                self.table.name
            ),
            None => None,
        };
        Ok(Some(Timing { base, ttl }))
    }

    fn token(&self, base: i64) -> String {
        if self.now { new_token() } else { format!("{base}-import") }
    }

    /// Gathers rows of one partition that were written together.
    fn writes(&mut self, rows: Vec<Row>) -> anyhow::Result<Vec<MutateRequest>> {
        let now = now_micros();
        let mut writes: Vec<MutateRequest> = Vec::new();
        let mut last: (Option<i64>, usize) = (None, 0);
        for row in rows {
            let Some(Timing { base, ttl }) = self.timing(&row, now)? else {
                self.ended += 1;
                continue;
            };
            let bytes = prost_len(&row);
            let put = mutation::Put { sort_key: row.sort_key, attributes: row.attributes, ttl };
            let change = Mutation { kind: Some(mutation::Kind::Put(put)) };
            let together = writes.last_mut().filter(|write| {
                write.partition_key == row.partition_key
                    && (self.now || last.0 == Some(base))
                    && write.mutations.len() < ROWS_MAX
                    && last.1 + bytes <= WRITE_BYTES_MAX
            });
            match together {
                Some(write) => {
                    write.mutations.push(change);
                    last.1 += bytes;
                }
                None => {
                    let idempotency_token = self.token(base);
                    writes.push(MutateRequest {
                        table: self.table.name.clone(),
                        partition_key: row.partition_key,
                        mutations: vec![change],
                        idempotency_token,
                    });
                    last = (Some(base), bytes);
                }
            }
        }
        Ok(writes)
    }
}

/// The time of a write in microseconds since 1970, and the time to live of what it writes.
struct Timing {
    base: i64,
    ttl: Option<prost_types::Duration>,
}

fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64
}

fn prost_len(row: &Row) -> usize {
    prost::Message::encoded_len(row)
}

/// Sends one write until it is acknowledged. A repeat with the same token changes nothing more.
async fn send(connection: &Connection, write: MutateRequest, conditional: bool) -> anyhow::Result<()> {
    let sent = retry::repeat(async || {
        let mut client = connection.client.clone();
        if conditional {
            let MutateRequest { table, partition_key, mutations, idempotency_token } = write.clone();
            let request = CheckAndMutateRequest {
                table,
                partition_key,
                mutations,
                idempotency_token,
                ..Default::default()
            };
            client.check_and_mutate(connection.request(request)).await.map(drop)
        } else {
            client.mutate(connection.request(write.clone())).await.map(drop)
        }
    });
    match sent.await {
        Ok(()) => Ok(()),
        Err(status) => {
            let advice = match retry::is_passing(&status) {
                true => "start the same command to go on",
                false => {
                    "it is refused each time: mend or remove its rows in the file, or write to a table that takes them"
                }
            };
            let error =
                connection.explain(&status).await.context(format!("partition {}", write.partition_key));
            Err(error.context(advice))
        }
    }
}
