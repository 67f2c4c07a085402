//! Uploads: chunks are stored under the upload's own name, and the row that names it is put last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use shoal_kit::{Invalid, reason};
use tokio::time::timeout;

use super::{
    Blob, CHUNK_BYTES, CHUNK_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, UPLOAD_TIME_MAX, bad_blob, checksum,
    chunk_partition,
};
use crate::clock::WriteTimestamp;
use crate::data::{BLOBS_MAX, Data};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::mutation::Mutation;
use crate::store::Store;
use crate::table::{Definition, Options, SortKeyType, Table, TableName, Ttl, WriteMode};
use crate::value::{Attributes, Value};

/// Place and properties of a blob, as the caller gives them.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlobStart {
    /// Name of the table.
    pub(crate) table: String,
    /// Key of the partition.
    pub(crate) partition_key: String,
    /// Sort key of the row.
    pub(crate) sort_key: Option<Value>,
    /// Media type.
    pub(crate) content_type: String,
    /// Number of bytes that will come, if the caller says it.
    pub(crate) size: Option<i64>,
    /// SHA-256 of all bytes; empty if the caller does not say it.
    pub(crate) sha256: Bytes,
    /// Time to live; none stands for the table's default.
    pub(crate) ttl: Option<Duration>,
    /// Token of the write; empty for none.
    pub(crate) token: String,
}

/// Chunks that are being stored. One is in memory at a time.
struct Upload<'a, S> {
    data: &'a Data<S>,
    chunks: Arc<Table>,
    name: String,
    buffer: BytesMut,
    stored: u64,
    size: u64,
    size_max: u64,
    hash: Sha256,
}

impl<S: Store> Data<S> {
    /// Stores a blob, and puts its row when all of it is there. Each next chunk is taken when those before it are stored.
    ///
    /// # Errors
    /// Invalid fields and chunks, [`Error::TooManyBlobs`], [`Error::BlobTooSlow`], [`Error::BlobChunkTooSlow`], errors of the
    /// stream and of the store.
    pub(crate) async fn put_blob<E: From<Error>>(
        &self,
        start: BlobStart,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Blob, E> {
        let permit = self.blobs.clone().try_acquire_owned();
        let _permit = permit.map_err(|_| Error::TooManyBlobs { limit: BLOBS_MAX })?;
        // The row is put behind this: cut off there, it might be put all the same.
        match timeout(UPLOAD_TIME_MAX, self.store_blob(&start, bytes)).await {
            Ok(stored) => {
                let (table, chunks, blob) = stored?;
                Ok(self.publish(start, &table, &chunks, blob).await?)
            }
            Err(_) => Err(Error::BlobTooSlow { limit: UPLOAD_TIME_MAX }.into()),
        }
    }

    /// Stores the chunks of a blob. Nothing shows them yet. Returns the table of the blob, the one of its chunks, and the blob.
    async fn store_blob<E: From<Error>>(
        &self,
        start: &BlobStart,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<(Arc<Table>, Arc<Table>, Blob), E> {
        let (table, partition, sort_key) = self.check_start(start).await?;
        let chunks = self.chunk_table(&table).await?;
        let mut upload = Upload {
            data: self,
            chunks: chunks.clone(),
            name: format!("{:016x}{:016x}", WriteTimestamp::now().0, fastrand::u64(..)),
            buffer: BytesMut::new(),
            stored: 0,
            size: 0,
            size_max: self.blob_bytes_max,
            hash: Sha256::new(),
        };
        upload.begin(&partition, &sort_key).await?;
        let mut bytes = std::pin::pin!(bytes);
        // One who sends a little now and then would hold a place that others want for as long as an upload may take.
        let pace = self.chunk_time_max.max(self.stream_idle_max);
        let (mut stored, mut due) = (0, Instant::now() + pace);
        loop {
            let wait = due.saturating_duration_since(Instant::now()).min(self.stream_idle_max);
            let next = timeout(wait, bytes.next()).await;
            match next {
                Ok(Some(chunk)) => upload.take(chunk?, start).await?,
                Ok(None) => break,
                Err(_) if wait < self.stream_idle_max => {
                    return Err(Error::BlobChunkTooSlow { bytes: CHUNK_BYTES, limit: pace }.into());
                }
                Err(_) => return Err(Error::BlobTooSlow { limit: self.stream_idle_max }.into()),
            }
            if upload.stored > stored {
                (stored, due) = (upload.stored, Instant::now() + pace);
            }
        }
        let blob = upload.end(start).await?;
        Ok((table, chunks, blob))
    }

    /// Puts the row of a blob whose chunks are stored.
    async fn publish(
        &self,
        start: BlobStart,
        table: &Table,
        chunks: &Arc<Table>,
        mut blob: Blob,
    ) -> Result<Blob, Error> {
        // The row must not name chunks of a table that was dropped meanwhile.
        let mut now = (*self.table(&start.table, "start.table").await?).clone();
        if now.id != table.id {
            return Err(Error::TableNotFound(start.table));
        }
        // Nor of an upload that a sweeper took for one that was left, because this clone stood still for hours.
        let upload = PartitionKey::parse(blob.upload.clone())?;
        if self.upload_note(chunks, &upload).await?.is_none() {
            return Err(Error::BlobTooSlow { limit: UPLOAD_TIME_MAX });
        }
        // The row of a blob has the service's own attributes, which no schema names.
        now.definition.options.attribute_schema = None;
        let token = self.token(&start.token)?;
        let ttl = start.ttl.map(|ttl| Ttl::parse(ttl, "start.ttl")).transpose()?;
        let ttl = ttl.or(table.definition.default_ttl);
        blob.expire_time = ttl.map(|ttl| token.stamp().plus_seconds(ttl.seconds()));
        let (attributes, ttl) = (blob.attributes(), start.ttl);
        let put = Mutation::Put { sort_key: start.sort_key, attributes, ttl };
        blob.write_time = self.mutate_in(Arc::new(now), start.partition_key, vec![put], token).await?;
        Ok(blob)
    }

    /// Checks all that can be checked before a byte has come.
    async fn check_start(&self, start: &BlobStart) -> Result<(Arc<Table>, PartitionKey, SortKey), Error> {
        let partition = PartitionKey::parse(start.partition_key.clone())?;
        if start.content_type.len() > CONTENT_TYPE_BYTES_MAX {
            let problem = format!("has at most {CONTENT_TYPE_BYTES_MAX} bytes");
            return Err(bad_blob("start.content_type", problem));
        }
        if !matches!(start.sha256.len(), 0 | 32) {
            return Err(bad_blob("start.sha256", "has 32 bytes, or none"));
        }
        if let Some(size) = start.size {
            let size = u64::try_from(size).map_err(|_| bad_blob("start.size", "must not be negative"))?;
            check_size(size, self.blob_bytes_max, "start.size")?;
        }
        start.ttl.map(|ttl| Ttl::parse(ttl, "start.ttl")).transpose()?;
        if !start.token.is_empty() {
            self.token(&start.token)?;
        }
        let table = self.table(&start.table, "start.table").await?;
        table.require(WriteMode::LastWriteWins, "PutBlob")?;
        let of = table.definition.sort_key_type;
        let sort_key = SortKey::parse(of, start.sort_key.clone(), "start.sort_key")?;
        Ok((table, partition, sort_key))
    }

    /// Finds the hidden table of a table's chunks, or makes it.
    async fn chunk_table(&self, table: &Table) -> Result<Arc<Table>, Error> {
        let name = TableName::of_chunks(table.id);
        match self.store.table(&name).await {
            Err(Error::TableNotFound(_)) => {
                let definition = Definition {
                    name,
                    sort_key_type: SortKeyType::Int64,
                    write_mode: WriteMode::LastWriteWins,
                    default_ttl: None,
                    description: table.definition.name.to_string(),
                    options: Options::default(),
                };
                self.store.create_table(definition, WriteTimestamp::now()).await.map(Arc::new)
            }
            found => found,
        }
    }
}

impl<S: Store> Upload<'_, S> {
    /// Notes the row that the upload is for, by which the sweeper knows whether it is wanted.
    async fn begin(&self, partition: &PartitionKey, sort_key: &SortKey) -> Result<(), Error> {
        let attributes: Attributes = [
            ("p".to_owned(), Value::String(partition.as_str().to_owned())),
            ("s".to_owned(), Value::Bytes(sort_key.ordered_bytes().into())),
        ]
        .into_iter()
        .collect();
        let put = Mutation::Put { sort_key: Some(Value::Int(0)), attributes, ttl: None };
        self.data.write_hidden(&self.chunks, PartitionKey::parse(self.name.clone())?, put).await
    }

    /// Takes bytes, and stores each chunk that they fill.
    async fn take(&mut self, bytes: Bytes, start: &BlobStart) -> Result<(), Error> {
        if bytes.len() > CHUNK_BYTES_MAX {
            let problem = format!("has {} bytes; a chunk has at most {CHUNK_BYTES_MAX}", bytes.len());
            return Err(bad_blob("chunk", problem));
        }
        self.size += bytes.len() as u64;
        check_size(self.size, self.size_max, "chunk")?;
        if let Some(size) = start.size.filter(|size| self.size > size.cast_unsigned()) {
            return Err(bad_blob("start.size", format!("is {size}, and more bytes than that came")));
        }
        self.hash.update(&bytes);
        self.buffer.extend_from_slice(&bytes);
        while self.buffer.len() >= CHUNK_BYTES {
            let chunk = self.buffer.split_to(CHUNK_BYTES).freeze();
            self.store(chunk).await?;
        }
        Ok(())
    }

    async fn store(&mut self, chunk: Bytes) -> Result<(), Error> {
        let index = self.stored;
        let attributes: Attributes =
            [("h".to_owned(), checksum(index, &chunk)), ("d".to_owned(), Value::Bytes(chunk))]
                .into_iter()
                .collect();
        let put = Mutation::Put { sort_key: Some(Value::Int(index.cast_signed())), attributes, ttl: None };
        self.data.write_hidden(&self.chunks, chunk_partition(&self.name, index)?, put).await?;
        self.stored += 1;
        Ok(())
    }

    /// Stores the last bytes and checks the whole.
    async fn end(mut self, start: &BlobStart) -> Result<Blob, Error> {
        if let Some(size) = start.size.filter(|size| self.size != size.cast_unsigned()) {
            return Err(bad_blob("start.size", format!("is {size}, and {} bytes came", self.size)));
        }
        if !self.buffer.is_empty() {
            let chunk = self.buffer.split().freeze();
            self.store(chunk).await?;
        }
        let sha256 = Bytes::copy_from_slice(&self.hash.finalize());
        if !start.sha256.is_empty() && start.sha256 != sha256 {
            return Err(bad_blob("start.sha256", "is not that of the bytes that came"));
        }
        Ok(Blob {
            size: self.size,
            sha256,
            content_type: start.content_type.clone(),
            write_time: WriteTimestamp(0),
            expire_time: None,
            upload: self.name,
            chunk_bytes: CHUNK_BYTES as u64,
        })
    }
}

fn check_size(size: u64, limit: u64, field: &'static str) -> Result<(), Error> {
    if size <= limit {
        return Ok(());
    }
    let problem =
        format!("a blob has at most {limit} bytes (data.blob_bytes_max), and this one has {size} or more");
    Err(Invalid::new(reason::BLOB_TOO_LARGE, field, problem).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::text;
    use crate::store::model::Model;

    /// Puts a blob whose messages come after these times, with at most `pace` for a stored chunk.
    async fn put_paced(
        pace: Duration,
        pause: Duration,
        messages: usize,
        bytes: usize,
    ) -> Result<Blob, Error> {
        let mut data = Data::new(Model::default()).within(64 << 20, Duration::from_millis(400));
        data.chunk_time_max = pace;
        data.create_table("t", SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
        let start = BlobStart {
            table: "t".to_owned(),
            partition_key: "p".to_owned(),
            sort_key: text("k"),
            ..BlobStart::default()
        };
        let sent = futures::stream::iter(0..messages).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from(vec![7; bytes]))
        });
        data.put_blob(start, sent).await
    }

    #[tokio::test]
    async fn trickling_uploads_end_soon() {
        let trickle = put_paced(Duration::from_secs(1), Duration::from_millis(20), 1000, 1).await;
        assert!(matches!(trickle, Err(Error::BlobChunkTooSlow { .. })), "{trickle:?}");
        // Whole messages are no pace if a chunk does not get full.
        let slow =
            put_paced(Duration::from_secs(1), Duration::from_millis(20), 1000, CHUNK_BYTES / 500).await;
        assert!(matches!(slow, Err(Error::BlobChunkTooSlow { .. })), "{slow:?}");
    }

    #[tokio::test]
    async fn each_stored_chunk_gives_time() {
        let steady = put_paced(Duration::from_secs(2), Duration::from_millis(150), 24, CHUNK_BYTES / 2).await;
        assert_eq!(steady.unwrap().size, 12 * CHUNK_BYTES as u64);
    }
}
