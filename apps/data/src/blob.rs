//! Blobs of an export: their bytes come from the service and go to it chunk by chunk, and never stand in memory as a whole.

use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use futures::stream;
use shoal_kit::reason;
use shoal_proto::data::v1::{
    Blob, BlobEnd, BlobStart, GetBlobRequest, GetBlobResponse, PutBlobRequest, Row, get_blob_response,
    put_blob_request,
};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::connection::Connection;
use crate::file::{self, Line};
use crate::retry;

/// The attribute that only the row of a blob has.
const UPLOAD: &str = "blob.upload";
/// The slowest pace that a blob may have, for the time-out of its call.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// Returns whether a blob stands behind a row.
pub(crate) fn is_blob(row: &Row) -> bool {
    row.attributes.contains_key(UPLOAD)
}

/// A blob that is being read.
pub(crate) struct Reader {
    pub(crate) blob: Blob,
    stream: Streaming<GetBlobResponse>,
}

impl Reader {
    /// Begins to read the blob of a row; `None` if there is none any more.
    pub(crate) async fn open(
        connection: &Connection,
        table: &str,
        row: &Row,
    ) -> Result<Option<Self>, Status> {
        let request = GetBlobRequest {
            table: table.to_owned(),
            partition_key: row.partition_key.clone(),
            sort_key: row.sort_key.clone(),
            ..Default::default()
        };
        // How long it takes is known when its size is.
        let answer = connection.client.clone().get_blob(Request::new(request)).await;
        let mut stream = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if is_missing(&status) => return Ok(None),
            Err(status) => return Err(status),
        };
        match stream.message().await {
            Ok(Some(GetBlobResponse { part: Some(get_blob_response::Part::Blob(blob)) })) => {
                Ok(Some(Self { blob, stream }))
            }
            Ok(_) => Err(Status::unavailable("the blob ended before it began")),
            Err(status) if is_missing(&status) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Returns the next bytes; `None` behind the last.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Status> {
        match self.stream.message().await? {
            None => Ok(None),
            Some(GetBlobResponse { part: Some(get_blob_response::Part::Chunk(chunk)) }) => {
                Ok(Some(chunk.data))
            }
            Some(_) => Err(Status::internal("a part of a blob that is no chunk")),
        }
    }
}

fn is_missing(status: &Status) -> bool {
    let info = status.get_details_error_info();
    status.code() == Code::NotFound && info.is_some_and(|info| info.reason == reason::BLOB_NOT_FOUND.as_str())
}

/// Reads behind the chunks of a blob. Returns the number of lines and of bytes of the file that they take.
///
/// # Errors
/// When the file has other lines there, or chunks of another size.
pub(crate) fn skip(from: &mut BufReader<File>, line: &mut String, size: u64) -> anyhow::Result<(u64, u64)> {
    let (mut lines, mut bytes, mut left) = (0, 0, size);
    while left > 0 {
        let chunk = next_chunk(from, line)?;
        lines += 1;
        bytes += line.len() as u64;
        left = left
            .checked_sub(chunk.len() as u64)
            .filter(|_| !chunk.is_empty())
            .context("the chunks of a blob are not as long as the blob")?;
    }
    Ok((lines, bytes))
}

fn next_chunk(from: &mut BufReader<File>, line: &mut String) -> anyhow::Result<Bytes> {
    ensure!(file::read_line(from, line)?, "the file ends within a blob");
    match file::parse_line(line)? {
        Line::Chunk(chunk) => Ok(chunk),
        _ => Err(anyhow!("a blob has fewer chunks than its size says")),
    }
}

/// Writes a blob whose chunks stand at `offset` of the file, until it is acknowledged. A repeat with the same token changes nothing
/// more.
pub(crate) async fn put(
    connection: &Connection,
    start: BlobStart,
    path: &Path,
    offset: u64,
) -> anyhow::Result<()> {
    let size = start.size.unwrap_or_default().unsigned_abs();
    let sent = retry::repeat(async || {
        let unread = |error: std::io::Error| Status::invalid_argument(format!("{}: {error}", path.display()));
        let mut from = BufReader::new(File::open(path).map_err(unread)?);
        from.seek(SeekFrom::Start(offset)).map_err(unread)?;
        let first = put_blob_request::Part::Start(start.clone());
        let end = put_blob_request::Part::End(BlobEnd {});
        let chunks = Chunks { from, line: String::new(), left: size }.map(put_blob_request::Part::Chunk);
        let parts = std::iter::once(first).chain(chunks).chain([end]);
        let messages = stream::iter(parts.map(|part| PutBlobRequest { part: Some(part) }));
        let mut request = Request::new(messages);
        request.set_timeout(connection.timeout + Duration::from_secs(size / BYTES_PER_SECOND_MIN));
        connection.client.clone().put_blob(request).await
    });
    match sent.await {
        Ok(_) => Ok(()),
        Err(status) => Err(connection.explain(&status).await),
    }
}

/// The chunks of one blob in a file that was read before. A chunk that is not there any more ends them, and the service refuses the
/// blob as too short.
struct Chunks {
    from: BufReader<File>,
    line: String,
    left: u64,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let chunk = next_chunk(&mut self.from, &mut self.line).ok()?;
        self.left = self.left.saturating_sub(chunk.len() as u64);
        Some(chunk)
    }
}
