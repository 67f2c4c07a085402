//! The calls on blobs.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use shoal_kit::{Invalid, reason};
use shoal_proto::data::v1 as pb;
use shoal_proto::data::v1::get_blob_response::Part as Answer;
use shoal_proto::data::v1::put_blob_request::Part;
use tonic::{Response, Status, Streaming};

use crate::blob::{Blob, BlobRange, BlobStart};
use crate::data::Data;
use crate::service::codec::{optional, timestamp, ttl};
use crate::service::stalled::until_stalled;
use crate::store::Store;

pub(super) async fn put_blob<S: Store>(
    data: &Data<S>,
    mut requests: Streaming<pb::PutBlobRequest>,
) -> Result<Response<pb::PutBlobResponse>, Status> {
    let first = requests.message().await?;
    let Some(Part::Start(start)) = first.and_then(|first| first.part) else {
        let problem = "the first message says where the blob is put, with start";
        return Err(Invalid::new(reason::INVALID_BLOB, "start", problem).into());
    };
    let start = BlobStart {
        table: start.table,
        partition_key: start.partition_key,
        sort_key: optional(start.sort_key, "start.sort_key")?,
        content_type: start.content_type,
        size: start.size,
        sha256: start.sha256,
        ttl: ttl(start.ttl, "start.ttl")?,
        token: start.idempotency_token,
    };
    let sized = start.size.is_some();
    let bytes = stream::unfold(Some(requests), move |requests| async move {
        let mut requests = requests?;
        match next_chunk(&mut requests, sized).await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(requests))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    let blob = data.put_blob(start, bytes).await?;
    Ok(Response::new(pb::PutBlobResponse { blob: Some(blob_out(blob)) }))
}

/// Returns the next bytes of a blob, and none at its end. The end of the stream is that of the blob only if the size was said:
/// a stream that its caller has cut can look like one that has ended.
async fn next_chunk(
    requests: &mut Streaming<pb::PutBlobRequest>,
    sized: bool,
) -> Result<Option<Bytes>, Status> {
    let bad = |field, problem| Err(Invalid::new(reason::INVALID_BLOB, field, problem).into());
    match requests.message().await?.map(|request| request.part) {
        Some(Some(Part::Chunk(bytes))) => Ok(Some(bytes)),
        Some(Some(Part::End(_))) => Ok(None),
        Some(_) => bad("chunk", "every message after the first has a chunk or the end"),
        None if sized => Ok(None),
        None => {
            bad("end", "the stream ended before the blob: send end as the last message, or the size in start")
        }
    }
}

/// The messages of a GetBlob.
pub(super) type BlobStream = BoxStream<'static, Result<pb::GetBlobResponse, Status>>;

pub(super) async fn get_blob<S: Store>(
    data: &Data<S>,
    request: pb::GetBlobRequest,
) -> Result<Response<BlobStream>, Status> {
    let pb::GetBlobRequest { table, partition_key, sort_key, offset, length } = request;
    let sort_key = optional(sort_key, "sort_key")?;
    let range = BlobRange { offset, length };
    let (blob, bytes) = data.get_blob(&table, partition_key, sort_key, range).await?;
    let first = pb::GetBlobResponse { part: Some(Answer::Blob(blob_out(blob))) };
    let chunks = bytes.map(|bytes| {
        let (offset, data) = bytes?;
        let chunk = pb::BlobChunk { offset: offset.cast_signed(), data };
        Ok(pb::GetBlobResponse { part: Some(Answer::Chunk(chunk)) })
    });
    let answers = stream::iter([Ok(first)]).chain(chunks);
    Ok(Response::new(until_stalled(answers, data.stream_idle_max, "GetBlob")))
}

fn blob_out(blob: Blob) -> pb::Blob {
    pb::Blob {
        size: blob.size.cast_signed(),
        sha256: blob.sha256,
        content_type: blob.content_type,
        write_time: Some(timestamp(blob.write_time)),
        expire_time: blob.expire_time.map(timestamp),
    }
}
