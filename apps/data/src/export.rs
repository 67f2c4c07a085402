//! `shoal data export`: the rows of a table as JSON lines in a file.

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::json;
use shoal_proto::data::v1::{self as pb, Row, ScanRequest, Table};
use tonic::Status;

use crate::args::ExportArgs;
use crate::checkpoint::Checkpoint;
use crate::connection::Connection;
use crate::file;
use crate::progress::Progress;
use crate::scan::Scan;
use crate::verify::{self, Compare};
use crate::{blob, json, output, retry};

pub(crate) async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let connection = Connection::open(&args.server).await?;
    let table = connection.table(&args.table).await?;
    let mut checkpoint = Checkpoint::of(&args.file, "export");
    let mut progress = Progress::new("export", args.rate);
    let (mut target, resume_token) = begin(&args, &table, &checkpoint, &mut progress)?;
    let request = ScanRequest {
        table: args.table.clone(),
        prefix: args.prefix.clone(),
        parallelism: args.parallelism,
        resume_token,
        consistency: pb::Consistency::from(args.consistency).into(),
    };
    // Before the first row, so that a file of a run that was cut is known as one.
    checkpoint.write(&target.state(&args, &table, &request.resume_token, progress.rows()))?;
    let mut scan = Scan::new(connection.clone(), request);
    while let Some(part) = scan.next().await.context("start the same command to go on")? {
        let mut written = 0;
        for row in &part.rows {
            if blob::is_blob(row) {
                written += u64::from(target.blob(&connection, &table.name, row).await?);
            } else {
                target.line(&json::row(row).to_string())?;
                written += 1;
            }
        }
        progress.did(written, target.bytes, None).await;
        if checkpoint.is_due() && !part.resume_token.is_empty() {
            target.sync()?;
            checkpoint.write(&target.state(&args, &table, &part.resume_token, progress.rows()))?;
        }
    }
    target.line(&file::end(progress.rows()))?;
    target.sync()?;
    progress.done();
    checkpoint.remove()?;
    output::line(format!("{} rows of {} are in {}", progress.rows(), table.name, args.file.display()));
    if args.verify {
        verify::run(&connection, &table, &args.file, Compare::Rows, args.rate).await?;
    }
    Ok(())
}

/// The file that is written.
struct Target {
    file: BufWriter<File>,
    bytes: u64,
}

/// Opens the file, behind the rows of the checkpoint if there is one. Returns it with the token to go on with.
fn begin(
    args: &ExportArgs,
    table: &Table,
    checkpoint: &Checkpoint,
    progress: &mut Progress,
) -> anyhow::Result<(Target, String)> {
    let said = || args.file.display().to_string();
    let Some(state) = checkpoint.read()? else {
        let file = File::options().write(true).create_new(true).open(&args.file);
        let mut target = match file {
            Ok(file) => Target { file: BufWriter::new(file), bytes: 0 },
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!("{} exists, and no export of it is under way; remove it or name another file", said())
            }
            Err(error) => return Err(error).with_context(said),
        };
        target.line(&file::header(table))?;
        target.sync()?;
        return Ok((target, String::new()));
    };
    resume(args, table, &state, progress)
        .with_context(|| format!("{}; remove it and {} to begin again", checkpoint.path().display(), said()))
}

fn resume(
    args: &ExportArgs,
    table: &Table,
    state: &serde_json::Value,
    progress: &mut Progress,
) -> anyhow::Result<(Target, String)> {
    ensure!(state["table"] == args.table, "it is of an export of {}", state["table"]);
    ensure!(state["prefix"] == args.prefix, "it is of an export with --prefix {}", state["prefix"]);
    let created = table.create_time.map(|time| time.to_string());
    ensure!(state["table_created"] == json!(created), "the table was made anew since");
    let number = |of: &str| state[of].as_u64().ok_or_else(|| anyhow!("it has no {of}"));
    let (bytes, rows) = (number("bytes")?, number("rows")?);
    let token = state["resume_token"].as_str().unwrap_or_default().to_owned();
    let file = cut(&args.file, bytes)?;
    progress.resumed(rows);
    eprintln!("goes on behind {rows} rows");
    Ok((Target { file: BufWriter::new(file), bytes }, token))
}

/// Opens a file and cuts off what was written after the checkpoint.
fn cut(path: &Path, bytes: u64) -> anyhow::Result<File> {
    let mut file = File::options().write(true).open(path).with_context(|| path.display().to_string())?;
    ensure!(file.metadata()?.len() >= bytes, "{} has less than the checkpoint says", path.display());
    file.set_len(bytes)?;
    file.seek(SeekFrom::Start(bytes))?;
    Ok(file)
}

impl Target {
    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.file, "{line}").context("writing the export")?;
        self.bytes += line.len() as u64 + 1;
        Ok(())
    }

    /// Writes a blob with its bytes. Returns false if it is gone.
    async fn blob(&mut self, connection: &Connection, table: &str, row: &Row) -> anyhow::Result<bool> {
        let begin = self.bytes;
        let mut failed = 0;
        loop {
            match self.try_blob(connection, table, row).await? {
                Ok(written) => return Ok(written),
                Err(status) => {
                    failed += 1;
                    if !retry::is_passing(&status) || failed >= retry::ATTEMPTS_MAX {
                        let error = connection.explain(&status).await;
                        return Err(error.context(format!("the blob in partition {:?}", row.partition_key)));
                    }
                    self.cut_to(begin)?;
                    retry::pause(failed).await;
                }
            }
        }
    }

    /// Does so once. The outer error is one of the file.
    async fn try_blob(
        &mut self,
        connection: &Connection,
        table: &str,
        row: &Row,
    ) -> anyhow::Result<Result<bool, Status>> {
        let mut reader = match blob::Reader::open(connection, table, row).await {
            Ok(Some(reader)) => reader,
            Ok(None) => return Ok(Ok(false)),
            Err(status) => return Ok(Err(status)),
        };
        self.line(&file::blob(row, &reader.blob))?;
        loop {
            match reader.chunk().await {
                Ok(Some(bytes)) => self.line(&file::chunk(&bytes))?,
                Ok(None) => return Ok(Ok(true)),
                Err(status) => return Ok(Err(status)),
            }
        }
    }

    /// Takes back what was written behind a place.
    fn cut_to(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.file.flush()?;
        let file = self.file.get_mut();
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes))).context("writing the export")?;
        self.bytes = bytes;
        Ok(())
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).context("writing the export")
    }

    fn state(&self, args: &ExportArgs, table: &Table, resume_token: &str, rows: u64) -> serde_json::Value {
        json!({
            "table": args.table,
            "table_created": table.create_time.map(|time| time.to_string()),
            "prefix": args.prefix,
            "resume_token": resume_token,
            "bytes": self.bytes,
            "rows": rows,
        })
    }
}
