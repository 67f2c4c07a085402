//! BulkMutate: many Mutates over one stream, each with a result.

use std::sync::Arc;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use prost::Message as _;
use shoal_kit::{ApiError, Invalid, reason};
use shoal_proto::data::v1 as pb;
use shoal_proto::data::v1::bulk_mutate_response::Result as Outcome;
use tokio::sync::Semaphore;
use tonic::{Response, Status};

use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::service::codec::timestamp;
use crate::service::write::mutation_in;
use crate::store::Store;

/// Most Mutates of one stream that are in flight.
const IN_FLIGHT_MAX: usize = 64;
/// Most KiB of requests of one stream that are in flight, beside the one that is being read.
const IN_FLIGHT_KIB_MAX: usize = 8 << 10;

/// Results of a stream.
pub(super) type Results = BoxStream<'static, Result<pb::BulkMutateResponse, Status>>;

pub(super) fn bulk_mutate<S: Store>(
    data: &Data<S>,
    requests: impl Stream<Item = Result<pb::BulkMutateRequest, Status>> + Send + 'static,
) -> Response<Results> {
    let data = data.clone();
    let room = Arc::new(Semaphore::new(IN_FLIGHT_KIB_MAX));
    let results = requests
        .enumerate()
        .then(move |(index, request)| {
            let room = room.clone();
            async move {
                let kib =
                    request.as_ref().map_or(0, |request| request.encoded_len() >> 10).min(IN_FLIGHT_KIB_MAX);
                // Held until the result is there. The semaphore is never closed.
                let held = room.acquire_many_owned(u32::try_from(kib).unwrap_or(0)).await.ok();
                (index, request, held)
            }
        })
        .map(move |(index, request, held)| {
            // A write without a token gets its time here, so that writes of one row stay in the order of the stream.
            let write = request.map(|request| begin(&data, request));
            async move {
                let outcome = match write? {
                    Ok(write) => write.await,
                    Err(error) => Err(error),
                };
                drop(held);
                Ok(result(index, outcome))
            }
        })
        .buffered(IN_FLIGHT_MAX);
    Response::new(results.boxed())
}

/// Reads a request and dates its write. The write itself runs when it is awaited.
fn begin<S: Store>(
    data: &Data<S>,
    request: pb::BulkMutateRequest,
) -> Result<impl Future<Output = Result<WriteTimestamp, Error>> + Send + use<S>, Error> {
    let Some(mutate) = request.mutate else {
        return Err(Invalid::new(reason::INVALID_MUTATIONS, "mutate", "is required").into());
    };
    let pb::MutateRequest { table, partition_key, mutations, idempotency_token } = mutate;
    let mutations = mutations
        .into_iter()
        .enumerate()
        .map(|(i, mutation)| mutation_in(i, mutation))
        .collect::<Result<_, _>>()?;
    let token = data.token(&idempotency_token)?;
    let data = data.clone();
    Ok(async move { data.mutate_under(&table, partition_key, mutations, token).await })
}

fn result(index: usize, outcome: Result<WriteTimestamp, Error>) -> pb::BulkMutateResponse {
    let outcome = match outcome {
        Ok(write_time) => Outcome::WriteTime(timestamp(write_time)),
        Err(error) => {
            let error = ApiError::from(error);
            Outcome::Error(pb::BulkMutateError {
                code: error.code().into(),
                reason: error.reason().as_str().to_owned(),
                message: error.message().to_owned(),
                metadata: error.metadata().clone(),
            })
        }
    };
    pb::BulkMutateResponse { index: i64::try_from(index).unwrap_or(i64::MAX), result: Some(outcome) }
}
