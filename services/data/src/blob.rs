//! Blobs: large values in chunks, each behind a row of its table that is put when all chunks are stored.
//!
//! The chunks of a table's blobs stand in a hidden table of the same store, named by the table's id. There each upload has
//! partitions of its own that no other upload writes:
//!
//! | partition | sort key | attributes |
//! |---|---|---|
//! | upload | 0 | `p`, `s`: the partition and sort key of the row that the upload is for |
//! | upload `/` number | number of the chunk | `d`, `h`: the bytes and their checksum |
//!
//! The row names its upload, so a reader finds the chunks of one upload or none. The sweeper clears away uploads that no row names.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_kit::{Invalid, reason};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::mutation::{Mutation, Write};
use crate::row::Row;
use crate::store::{Consistency, Lookup, Store};
use crate::table::Table;
use crate::value::{Attributes, Value};
use crate::write_token::WriteToken;

mod get;
mod put;
mod sweep;

pub(crate) use get::BlobRange;
pub(crate) use put::BlobStart;
#[cfg(test)]
pub(crate) use sweep::Unnamed;
pub(crate) use sweep::sweep_blobs_forever;

/// Beginning of the names of the attributes that rows of blobs have.
pub(crate) const RESERVED_PREFIX: &str = "blob.";
/// Bytes of a stored chunk; the last one of a blob has fewer.
pub(crate) const CHUNK_BYTES: usize = 512 << 10;
/// Most bytes of a chunk that a caller sends.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Chunks of one partition: 32 MiB, well below the 100 MiB that Cassandra takes without slowing down.
const PARTITION_CHUNKS: u64 = 64;
/// Longest media type.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Longest time of an upload.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(3600);
/// Age of an upload at which it is cleared away if no row names it: twice its longest time, so that no clock that is within
/// bounds takes one that may still be published.
const SWEEP_AGE_SECONDS: u32 = 2 * 3600;
/// Time for which a sweeper has to have seen an upload unnamed as well, by a clock that no step moves.
const UNNAMED_TIME: Duration = Duration::from_secs(70 * 60);

/// A blob that its row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    /// The number of bytes.
    pub(crate) size: u64,
    /// The SHA-256 of all bytes.
    pub(crate) sha256: Bytes,
    /// The media type that the writer gave.
    pub(crate) content_type: String,
    /// The timestamp of the write.
    pub(crate) write_time: WriteTimestamp,
    /// The time when the blob ends.
    pub(crate) expire_time: Option<WriteTimestamp>,
    upload: String,
    chunk_bytes: u64,
}

impl Blob {
    fn attributes(&self) -> Attributes {
        let number = |number: u64| Value::Int(number.cast_signed());
        [
            ("blob.size", number(self.size)),
            ("blob.sha256", Value::Bytes(self.sha256.clone())),
            ("blob.content_type", Value::String(self.content_type.clone())),
            ("blob.chunk_bytes", number(self.chunk_bytes)),
            ("blob.upload", Value::String(self.upload.clone())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Returns the blob that a row names, if it is the row of one.
    fn of_row(row: &Row) -> Option<Self> {
        let number = |name| match attribute(&row.attributes, name)? {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let chunk_bytes = number("blob.chunk_bytes").filter(|bytes| *bytes > 0)?;
        Some(Self {
            size: number("blob.size")?,
            sha256: bytes_of(&row.attributes, "blob.sha256")?,
            content_type: text_of(&row.attributes, "blob.content_type")?,
            write_time: row.write_time,
            expire_time: row.expire_time,
            upload: upload_of(row)?,
            chunk_bytes,
        })
    }
}

/// Returns the upload that a row names.
fn upload_of(row: &Row) -> Option<String> {
    text_of(&row.attributes, "blob.upload")
}

fn attribute<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a Value> {
    attributes.iter().find(|(of, _)| *of == name).map(|(_, value)| value)
}

fn bytes_of(attributes: &Attributes, name: &str) -> Option<Bytes> {
    match attribute(attributes, name)? {
        Value::Bytes(bytes) => Some(bytes.clone()),
        _ => None,
    }
}

fn text_of(attributes: &Attributes, name: &str) -> Option<String> {
    match attribute(attributes, name)? {
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// Returns the partition of a chunk.
fn chunk_partition(upload: &str, index: u64) -> Result<PartitionKey, Invalid> {
    PartitionKey::parse(format!("{upload}/{}", index / PARTITION_CHUNKS))
}

/// Returns the checksum of a chunk, which no chunk of another place has.
fn checksum(index: u64, data: &[u8]) -> Value {
    Value::Int(xxh3_64_with_seed(data, index).cast_signed())
}

fn bad_blob(field: &'static str, problem: impl Into<String>) -> Error {
    Invalid::new(reason::INVALID_BLOB, field, problem.into()).into()
}

impl<S: Store> Data<S> {
    /// Writes to a hidden table. Nobody is told, for nobody reads it but blobs.
    pub(crate) async fn write_hidden(
        &self,
        chunks: &Arc<Table>,
        partition: PartitionKey,
        mutation: Mutation,
    ) -> Result<(), Error> {
        let token = WriteToken::generate(self.clock.next()?);
        self.store.mutate(Write::parse(chunks.clone(), partition, token, vec![mutation])?).await
    }

    /// Reads the note of an upload, if it is there.
    async fn upload_note(&self, chunks: &Arc<Table>, upload: &PartitionKey) -> Result<Option<Row>, Error> {
        self.blob_row(chunks, upload, &SortKey::Int(0)).await
    }

    /// Reads the row of a blob.
    async fn blob_row(
        &self,
        table: &Arc<Table>,
        partition: &PartitionKey,
        sort_key: &SortKey,
    ) -> Result<Option<Row>, Error> {
        let lookup = Lookup {
            table: table.clone(),
            partition: partition.clone(),
            sort_key: sort_key.clone(),
            consistency: Consistency::Quorum,
        };
        self.store.get(lookup).await
    }
}
