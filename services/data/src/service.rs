//! The gRPC face: decodes a request, calls [`Data`], encodes the answer. No other file knows the bindings.

use std::collections::HashMap;
use std::time::Duration;

use shoal_kit::{Invalid, reason};
use shoal_proto::convert;
use shoal_proto::data::v1 as pb;
use shoal_proto::data::v1::data_service_server::DataService;
use shoal_proto::r#type::v1 as types;
use tonic::{Request, Response, Status};

use crate::clock::WriteTimestamp;
use crate::data::{Data, QueryRequest};
use crate::mutation::Mutation;
use crate::row::Row;
use crate::store::{Consistency, Store};
use crate::table::{SortKeyType, Table, WriteMode};
use crate::value::{Attributes, Time, Value};

/// Seconds of the years 1 to 9999, the range of `google.protobuf.Timestamp`.
const TIME_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Answers the calls of `shoal.data.v1.DataService`.
#[derive(Debug, Clone)]
pub(crate) struct Service<S> {
    data: Data<S>,
}

impl<S: Store> Service<S> {
    pub(crate) fn new(data: Data<S>) -> Self {
        Self { data }
    }
}

#[tonic::async_trait]
impl<S: Store> DataService for Service<S> {
    async fn create_table(
        &self,
        request: Request<pb::CreateTableRequest>,
    ) -> Result<Response<pb::CreateTableResponse>, Status> {
        let Some(table) = request.into_inner().table else {
            return Err(Invalid::new(reason::TABLE_REQUIRED, "table", "is required").into());
        };
        let sort_key_type = sort_key_type(table.sort_key_type)?;
        let write_mode = write_mode(table.write_mode)?;
        let default_ttl = duration(table.default_ttl, "table.default_ttl")?;
        let table = self.data.create_table(&table.name, sort_key_type, write_mode, default_ttl).await?;
        Ok(Response::new(pb::CreateTableResponse { table: Some(table_out(&table)) }))
    }

    async fn get_table(
        &self,
        request: Request<pb::GetTableRequest>,
    ) -> Result<Response<pb::GetTableResponse>, Status> {
        let table = self.data.table(&request.into_inner().name, "name").await?;
        Ok(Response::new(pb::GetTableResponse { table: Some(table_out(&table)) }))
    }

    async fn list_tables(
        &self,
        request: Request<pb::ListTablesRequest>,
    ) -> Result<Response<pb::ListTablesResponse>, Status> {
        let pb::ListTablesRequest { page_size, page_token } = request.into_inner();
        let (tables, next_page_token) = self.data.tables(page_size, &page_token).await?;
        let tables = tables.iter().map(table_out).collect();
        Ok(Response::new(pb::ListTablesResponse { tables, next_page_token }))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let pb::GetRequest { table, partition_key, sort_key, consistency } = request.into_inner();
        let sort_key = optional(sort_key, "sort_key")?;
        let consistency = consistency_in(consistency)?;
        let row = self.data.get(&table, partition_key.clone(), sort_key, consistency).await?;
        Ok(shoal_kit::answer(pb::GetResponse { row: Some(row_out(partition_key, row)) }))
    }

    async fn batch_get(
        &self,
        request: Request<pb::BatchGetRequest>,
    ) -> Result<Response<pb::BatchGetResponse>, Status> {
        let pb::BatchGetRequest { table, keys, consistency } = request.into_inner();
        let consistency = consistency_in(consistency)?;
        let partitions: Vec<String> = keys.iter().map(|key| key.partition_key.clone()).collect();
        let keys = keys
            .into_iter()
            .enumerate()
            .map(|(i, key)| Ok((key.partition_key, optional(key.sort_key, &format!("keys[{i}].sort_key"))?)))
            .collect::<Result<_, Invalid>>()?;
        let rows = self.data.batch_get(&table, keys, consistency).await?;
        let results = partitions.into_iter().zip(rows);
        let results = results
            .map(|(partition, row)| pb::BatchGetResult { row: row.map(|row| row_out(partition, row)) })
            .collect();
        Ok(shoal_kit::answer(pb::BatchGetResponse { results }))
    }

    async fn query(&self, request: Request<pb::QueryRequest>) -> Result<Response<pb::QueryResponse>, Status> {
        let request = request.into_inner();
        let consistency = consistency_in(request.consistency)?;
        let partition_key = request.partition_key.clone();
        let query = QueryRequest {
            table: request.table,
            partition_key: request.partition_key,
            start: optional(request.start, "start")?,
            end: optional(request.end, "end")?,
            prefix: optional(request.prefix, "prefix")?,
            descending: request.descending,
            page_size: request.page_size,
            page_token: request.page_token,
        };
        let (rows, next_page_token) = self.data.query(query, consistency).await?;
        let rows = rows.into_iter().map(|row| row_out(partition_key.clone(), row)).collect();
        Ok(shoal_kit::answer(pb::QueryResponse { rows, next_page_token }))
    }

    async fn mutate(
        &self,
        request: Request<pb::MutateRequest>,
    ) -> Result<Response<pb::MutateResponse>, Status> {
        let pb::MutateRequest { table, partition_key, mutations, idempotency_token } = request.into_inner();
        let mutations = mutations
            .into_iter()
            .enumerate()
            .map(|(i, mutation)| mutation_in(i, mutation))
            .collect::<Result<_, _>>()?;
        let write_time = self.data.mutate(&table, partition_key, mutations, &idempotency_token).await?;
        Ok(Response::new(pb::MutateResponse { write_time: Some(timestamp(write_time)) }))
    }
}

fn sort_key_type(number: i32) -> Result<SortKeyType, Invalid> {
    match pb::SortKeyType::try_from(number) {
        Ok(pb::SortKeyType::Unspecified | pb::SortKeyType::String) => Ok(SortKeyType::String),
        Ok(pb::SortKeyType::Int64) => Ok(SortKeyType::Int64),
        Ok(pb::SortKeyType::Bytes) => Ok(SortKeyType::Bytes),
        Ok(pb::SortKeyType::None) => Ok(SortKeyType::None),
        Err(_) => Err(unknown_enum("table.sort_key_type", number)),
    }
}

fn write_mode(number: i32) -> Result<WriteMode, Invalid> {
    match pb::WriteMode::try_from(number) {
        Ok(pb::WriteMode::Unspecified | pb::WriteMode::LastWriteWins) => Ok(WriteMode::LastWriteWins),
        Err(_) => Err(unknown_enum("table.write_mode", number)),
    }
}

fn consistency_in(number: i32) -> Result<Consistency, Invalid> {
    match pb::Consistency::try_from(number) {
        Ok(pb::Consistency::Unspecified | pb::Consistency::Quorum) => Ok(Consistency::Quorum),
        Ok(pb::Consistency::Eventual) => Ok(Consistency::Eventual),
        Ok(pb::Consistency::Strong) => Ok(Consistency::Strong),
        Err(_) => Err(unknown_enum("consistency", number)),
    }
}

fn unknown_enum(field: &str, number: i32) -> Invalid {
    Invalid::new(
        reason::UNKNOWN_ENUM_VALUE,
        field.to_owned(),
        format!("{number} is not a value that this service knows"),
    )
}

fn mutation_in(index: usize, mutation: pb::Mutation) -> Result<Mutation, Invalid> {
    use pb::mutation::{Delete, DeleteRange, Kind, Put};
    let at = |field: &str| format!("mutations[{index}].{field}");
    match mutation.kind {
        None => Err(Invalid::new(
            reason::MUTATION_WITHOUT_KIND,
            format!("mutations[{index}]"),
            "set put, delete or delete_range",
        )),
        Some(Kind::Put(Put { sort_key, attributes, ttl })) => Ok(Mutation::Put {
            sort_key: optional(sort_key, &at("put.sort_key"))?,
            attributes: attributes_in(attributes, &at("put.attributes"))?,
            ttl: duration(ttl, &at("put.ttl"))?,
        }),
        Some(Kind::Delete(Delete { sort_key })) => {
            Ok(Mutation::Delete { sort_key: optional(sort_key, &at("delete.sort_key"))? })
        }
        Some(Kind::DeleteRange(DeleteRange { start, end })) => Ok(Mutation::DeleteRange {
            start: optional(start, &at("delete_range.start"))?,
            end: optional(end, &at("delete_range.end"))?,
        }),
    }
}

fn attributes_in(attributes: HashMap<String, types::Value>, field: &str) -> Result<Attributes, Invalid> {
    attributes
        .into_iter()
        .map(|(name, value)| {
            let value = value_in(value, field)?;
            Ok((name, value))
        })
        .collect()
}

fn optional(value: Option<types::Value>, field: &str) -> Result<Option<Value>, Invalid> {
    value.map(|value| value_in(value, field)).transpose()
}

fn value_in(value: types::Value, field: &str) -> Result<Value, Invalid> {
    use types::value::Kind;
    Ok(match value.kind {
        None => {
            return Err(Invalid::new(
                reason::VALUE_WITHOUT_KIND,
                field.to_owned(),
                "a Value needs exactly one of its kinds set",
            ));
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::IntValue(int)) => Value::Int(int),
        Some(Kind::DoubleValue(double)) => Value::Double(double),
        Some(Kind::BoolValue(bool)) => Value::Bool(bool),
        Some(Kind::BytesValue(bytes)) => Value::Bytes(bytes),
        Some(Kind::TimeValue(time)) => {
            if !TIME_SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
                return Err(Invalid::new(
                    reason::INVALID_TIMESTAMP,
                    field.to_owned(),
                    "a time must be in the years 1 to 9999",
                ));
            }
            Value::Time(Time { seconds: time.seconds, nanos: time.nanos })
        }
    })
}

fn value_out(value: Value) -> types::Value {
    use types::value::Kind;
    let kind = match value {
        Value::String(text) => Kind::StringValue(text),
        Value::Int(int) => Kind::IntValue(int),
        Value::Double(double) => Kind::DoubleValue(double),
        Value::Bool(bool) => Kind::BoolValue(bool),
        Value::Bytes(bytes) => Kind::BytesValue(bytes),
        Value::Time(Time { seconds, nanos }) => Kind::TimeValue(prost_types::Timestamp { seconds, nanos }),
    };
    types::Value { kind: Some(kind) }
}

fn duration(duration: Option<prost_types::Duration>, field: &str) -> Result<Option<Duration>, Invalid> {
    convert::duration(duration)
        .ok_or_else(|| Invalid::new(reason::INVALID_TTL, field.to_owned(), "must be a positive duration"))
}

fn table_out(table: &Table) -> pb::Table {
    let definition = &table.definition;
    let sort_key_type = match definition.sort_key_type {
        SortKeyType::String => pb::SortKeyType::String,
        SortKeyType::Int64 => pb::SortKeyType::Int64,
        SortKeyType::Bytes => pb::SortKeyType::Bytes,
        SortKeyType::None => pb::SortKeyType::None,
    };
    let write_mode = match definition.write_mode {
        WriteMode::LastWriteWins => pb::WriteMode::LastWriteWins,
    };
    pb::Table {
        name: definition.name.to_string(),
        sort_key_type: sort_key_type.into(),
        write_mode: write_mode.into(),
        default_ttl: definition
            .default_ttl
            .map(|ttl| prost_types::Duration { seconds: ttl.seconds().into(), nanos: 0 }),
        create_time: Some(timestamp(table.create_time)),
    }
}

fn row_out(partition_key: String, row: Row) -> pb::Row {
    pb::Row {
        partition_key,
        sort_key: row.sort_key.into_value().map(value_out),
        attributes: row.attributes.into_iter().map(|(name, value)| (name, value_out(value))).collect(),
        write_time: Some(timestamp(row.write_time)),
        expire_time: row.expire_time.map(timestamp),
    }
}

fn timestamp(at: WriteTimestamp) -> prost_types::Timestamp {
    convert::timestamp_of_micros(at.0)
}
