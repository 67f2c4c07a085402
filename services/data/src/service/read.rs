//! The calls that read rows.

use futures::stream::{BoxStream, StreamExt as _};
use shoal_kit::Invalid;
use shoal_proto::data::v1 as pb;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::data::Data;
use crate::read::{QueryRequest, ReadMode, ScanMessage, ScanRequest};
use crate::service::codec::{
    consistency_in, consistency_out, optional, page_end, row_out, unknown_enum, value_out,
};
use crate::service::stalled::until_stalled;
use crate::store::Store;

pub(super) async fn get<S: Store>(
    data: &Data<S>,
    request: pb::GetRequest,
) -> Result<Response<pb::GetResponse>, Status> {
    let pb::GetRequest { table, partition_key, sort_key, consistency } = request;
    let sort_key = optional(sort_key, "sort_key")?;
    let consistency = consistency_in(consistency)?;
    let row = data.get(&table, partition_key.clone(), sort_key, consistency).await?;
    let consistency_achieved = consistency_out(data.achieved(&table, consistency).await).into();
    Ok(shoal_kit::answer(pb::GetResponse { row: Some(row_out(partition_key, row)), consistency_achieved }))
}

pub(super) async fn batch_get<S: Store>(
    data: &Data<S>,
    request: pb::BatchGetRequest,
) -> Result<Response<pb::BatchGetResponse>, Status> {
    let pb::BatchGetRequest { table, keys, consistency } = request;
    let consistency = consistency_in(consistency)?;
    let partitions: Vec<String> = keys.iter().map(|key| key.partition_key.clone()).collect();
    let keys = keys
        .into_iter()
        .enumerate()
        .map(|(i, key)| Ok((key.partition_key, optional(key.sort_key, &format!("keys[{i}].sort_key"))?)))
        .collect::<Result<_, Invalid>>()?;
    let rows = data.batch_get(&table, keys, consistency).await?;
    let results = partitions.into_iter().zip(rows);
    let results = results
        .map(|(partition, row)| pb::BatchGetResult { row: row.map(|row| row_out(partition, row)) })
        .collect();
    let consistency_achieved = consistency_out(data.achieved(&table, consistency).await).into();
    Ok(shoal_kit::answer(pb::BatchGetResponse { results, consistency_achieved }))
}

pub(super) async fn query<S: Store>(
    data: &Data<S>,
    request: Request<pb::QueryRequest>,
) -> Result<Response<pb::QueryResponse>, Status> {
    let until = page_end(request.metadata());
    let request = request.into_inner();
    let consistency = consistency_in(request.consistency)?;
    let partition_key = request.partition_key.clone();
    let table = request.table.clone();
    let query = QueryRequest {
        table: request.table,
        partition_key: request.partition_key,
        start: optional(request.start, "start")?,
        end: optional(request.end, "end")?,
        prefix: optional(request.prefix, "prefix")?,
        descending: request.descending,
        page_size: request.page_size,
        page_token: request.page_token,
        until,
        read_mode: read_mode(request.read_mode)?,
        allow_building: request.allow_building,
    };
    if let Some((of, _)) = table.split_once('.') {
        let page = data.query_view(query, consistency).await?;
        let asked = page.consistency.unwrap_or(consistency);
        let consistency_achieved = consistency_out(data.achieved(of, asked).await).into();
        let rows = page.rows.into_iter().map(|of| pb::Row {
            view_sort_key: of.view_sort_key.map(value_out),
            ..row_out(of.partition.as_str().to_owned(), of.row)
        });
        let age = page.age.map(|age| prost_types::Duration::try_from(age).unwrap_or_default());
        let (rows, next_page_token) = (rows.collect(), page.next);
        return Ok(shoal_kit::answer(pb::QueryResponse { rows, next_page_token, consistency_achieved, age }));
    }
    let (rows, next_page_token) = data.query(query, consistency).await?;
    let rows = rows.into_iter().map(|row| row_out(partition_key.clone(), row)).collect();
    let consistency_achieved = consistency_out(data.achieved(&table, consistency).await).into();
    Ok(shoal_kit::answer(pb::QueryResponse { rows, next_page_token, consistency_achieved, age: None }))
}

fn read_mode(number: i32) -> Result<ReadMode, Invalid> {
    match pb::ReadMode::try_from(number) {
        Ok(pb::ReadMode::Unspecified | pb::ReadMode::Verified) => Ok(ReadMode::Verified),
        Ok(pb::ReadMode::Eventual) => Ok(ReadMode::Eventual),
        Err(_) => Err(unknown_enum("read_mode", number)),
    }
}

pub(super) async fn count<S: Store>(
    data: &Data<S>,
    request: Request<pb::CountRequest>,
) -> Result<Response<pb::CountResponse>, Status> {
    let until = page_end(request.metadata());
    let request = request.into_inner();
    let consistency = consistency_in(request.consistency)?;
    let query = QueryRequest {
        table: request.table,
        partition_key: request.partition_key,
        start: optional(request.start, "start")?,
        end: optional(request.end, "end")?,
        prefix: optional(request.prefix, "prefix")?,
        page_token: request.page_token,
        until,
        read_mode: read_mode(request.read_mode)?,
        allow_building: request.allow_building,
        ..QueryRequest::default()
    };
    let (count, next_page_token) = match query.table.contains('.') {
        true => data.count_view(query, consistency).await?,
        false => data.count(query, consistency).await?,
    };
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    Ok(Response::new(pb::CountResponse { count, next_page_token }))
}

pub(super) async fn list_partitions<S: Store>(
    data: &Data<S>,
    request: Request<pb::ListPartitionsRequest>,
) -> Result<Response<pb::ListPartitionsResponse>, Status> {
    let until = page_end(request.metadata());
    let pb::ListPartitionsRequest { table, prefix, page_size, page_token } = request.into_inner();
    let (keys, next_page_token) = data.partitions(&table, prefix, page_size, &page_token, until).await?;
    let partition_keys = keys.iter().map(|key| key.as_str().to_owned()).collect();
    Ok(shoal_kit::answer(pb::ListPartitionsResponse { partition_keys, next_page_token }))
}

/// The messages of a scan.
pub(super) type ScanStream = BoxStream<'static, Result<pb::ScanResponse, Status>>;

pub(super) async fn scan<S: Store>(
    data: &Data<S>,
    request: Request<pb::ScanRequest>,
    draining: CancellationToken,
) -> Result<Response<ScanStream>, Status> {
    let until = page_end(request.metadata());
    let pb::ScanRequest { table, prefix, parallelism, resume_token, consistency } = request.into_inner();
    let consistency = consistency_in(consistency)?;
    let request = ScanRequest { table, prefix, parallelism, resume_token, until };
    let messages = data.scan(request, consistency, draining).await?;
    let messages = messages.map(|message| {
        let ScanMessage { rows, resume_token } = message?;
        let rows = rows.into_iter().map(|(partition, row)| row_out(partition.as_str().to_owned(), row));
        Ok(pb::ScanResponse { rows: rows.collect(), resume_token })
    });
    Ok(Response::new(until_stalled(messages, data.stream_idle_max, "Scan")))
}
