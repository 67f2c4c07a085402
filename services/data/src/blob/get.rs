//! Downloads: the chunks of the upload that a row names, one after the other.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use sha2::{Digest as _, Sha256};
use shoal_kit::{Invalid, reason};
use tokio::sync::OwnedSemaphorePermit;

use super::{Blob, attribute, bytes_of, checksum, chunk_partition};
use crate::data::{BLOBS_MAX, Data};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::store::{Consistency, Lookup, Store};
use crate::table::{Table, TableName};
use crate::value::Value;

/// Bytes of a blob, as the caller asks for them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BlobRange {
    /// First byte.
    pub(crate) offset: i64,
    /// Most bytes; 0 for all from the first on.
    pub(crate) length: i64,
}

/// Chunks that are being read. One is in memory at a time, and the next is read when it is asked for.
struct Download<S> {
    data: Data<S>,
    table: Arc<Table>,
    chunks: Option<Arc<Table>>,
    partition: PartitionKey,
    sort_key: SortKey,
    blob: Blob,
    /// The next byte, and the one behind the last.
    next: u64,
    end: u64,
    /// The hash of what was read of a whole blob.
    hash: Option<Sha256>,
    _permit: OwnedSemaphorePermit,
}

impl<S: Store> Data<S> {
    /// Finds a blob, and returns it with its bytes and their places.
    ///
    /// # Errors
    /// Invalid fields, [`Error::BlobNotFound`], [`Error::TooManyBlobs`], and errors of the store; later errors end the stream.
    pub(crate) async fn get_blob(
        &self,
        table: &str,
        partition_key: String,
        sort_key: Option<Value>,
        range: BlobRange,
    ) -> Result<(Blob, impl Stream<Item = Result<(u64, Bytes), Error>> + Send + use<S>), Error> {
        let permit = self.blobs.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::TooManyBlobs { limit: BLOBS_MAX })?;
        let partition = PartitionKey::parse(partition_key)?;
        let table = self.table_for(table, Consistency::Quorum).await?;
        let sort_key = SortKey::parse(table.definition.sort_key_type, sort_key, "sort_key")?;
        let row = self.blob_row(&table, &partition, &sort_key).await?;
        let blob = row.as_ref().and_then(Blob::of_row).ok_or(Error::BlobNotFound)?;
        let (next, end) = bounds(range, blob.size)?;
        let chunks = match next < end {
            true => Some(self.store.table(&TableName::of_chunks(table.id)).await.map_err(
                |error| match error {
                    Error::TableNotFound(_) => Error::BlobDamaged("its chunks are gone".to_owned()),
                    error => error,
                },
            )?),
            false => None,
        };
        let hash = (next == 0 && end == blob.size).then(Sha256::new);
        let (data, found) = (self.clone(), blob.clone());
        let download =
            Download { data, table, chunks, partition, sort_key, blob, next, end, hash, _permit: permit };
        let bytes = stream::unfold(Some(download), |download| async {
            let mut download = download?;
            match download.read().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(download))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok((found, bytes))
    }
}

/// Returns the first byte of a range, and the one behind its last.
fn bounds(range: BlobRange, size: u64) -> Result<(u64, u64), Invalid> {
    let bad = |field, problem: String| Invalid::new(reason::INVALID_BLOB_RANGE, field, problem);
    let offset = u64::try_from(range.offset).ok().filter(|offset| *offset <= size);
    let offset = offset.ok_or_else(|| bad("offset", format!("must be 0 to {size}, the blob's size")))?;
    let length = u64::try_from(range.length).map_err(|_| bad("length", "must not be negative".to_owned()))?;
    Ok((offset, if length == 0 { size } else { size.min(offset.saturating_add(length)) }))
}

impl<S: Store> Download<S> {
    /// Returns the next bytes, and where they stand.
    async fn read(&mut self) -> Result<Option<(u64, Bytes)>, Error> {
        let Some(chunks) = self.chunks.clone().filter(|_| self.next < self.end) else { return Ok(None) };
        let (at, size) = (self.next, self.blob.chunk_bytes);
        let index = at / size;
        let lookup = Lookup {
            table: chunks,
            partition: chunk_partition(&self.blob.upload, index)?,
            sort_key: SortKey::Int(index.cast_signed()),
            consistency: Consistency::Quorum,
        };
        let row = match self.data.store.get(lookup).await {
            Ok(Some(row)) => row,
            Ok(None) | Err(Error::TableNotFound(_)) => return Err(self.lost(index).await?),
            Err(Error::DataLoss(detail)) => return Err(Error::BlobDamaged(detail)),
            Err(error) => return Err(error),
        };
        let expected = size.min(self.blob.size - index * size);
        let data = bytes_of(&row.attributes, "d").filter(|data| {
            data.len() as u64 == expected
                && attribute(&row.attributes, "h").is_some_and(|stored| *stored == checksum(index, data))
        });
        let Some(data) = data else {
            return Err(Error::BlobDamaged(format!(
                "chunk {index} has not the checksum or the size that it had"
            )));
        };
        let from = at - index * size;
        let to = expected.min(self.end - index * size);
        self.next = index * size + to;
        if let Some(hash) = &mut self.hash {
            hash.update(&data);
            if self.next == self.end && hash.clone().finalize()[..] != self.blob.sha256[..] {
                return Err(Error::BlobDamaged("its bytes have not the SHA-256 that they had".to_owned()));
            }
        }
        let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
        Ok(Some((at, data.slice(range))))
    }

    /// Says why a chunk is not there: a blob that was replaced or deleted has none after a while.
    async fn lost(&self, index: u64) -> Result<Error, Error> {
        let row = match self.data.blob_row(&self.table, &self.partition, &self.sort_key).await {
            Err(Error::TableNotFound(_)) => None,
            row => row?,
        };
        let same = row.as_ref().and_then(super::upload_of).is_some_and(|upload| upload == self.blob.upload);
        Ok(match same {
            true => Error::BlobDamaged(format!("chunk {index} is lost")),
            false => Error::BlobChanged,
        })
    }
}
