//! The calls on tables.

use shoal_kit::{Invalid, reason};
use shoal_proto::data::v1 as pb;
use tonic::{Response, Status};

use crate::data::Data;
use crate::service::codec::{duration, timestamp, unknown_enum};
use crate::store::Store;
use crate::table::{SortKeyType, Table, WriteMode};

pub(super) async fn create_table<S: Store>(
    data: &Data<S>,
    request: pb::CreateTableRequest,
) -> Result<Response<pb::CreateTableResponse>, Status> {
    let Some(table) = request.table else {
        return Err(Invalid::new(reason::TABLE_REQUIRED, "table", "is required").into());
    };
    let sort_key_type = sort_key_type(table.sort_key_type)?;
    let write_mode = write_mode(table.write_mode)?;
    let default_ttl = duration(table.default_ttl, "table.default_ttl")?;
    let table = data.create_table(&table.name, sort_key_type, write_mode, default_ttl).await?;
    Ok(Response::new(pb::CreateTableResponse { table: Some(table_out(&table)) }))
}

pub(super) async fn get_table<S: Store>(
    data: &Data<S>,
    request: pb::GetTableRequest,
) -> Result<Response<pb::GetTableResponse>, Status> {
    let table = data.table(&request.name, "name").await?;
    Ok(Response::new(pb::GetTableResponse { table: Some(table_out(&table)) }))
}

pub(super) async fn list_tables<S: Store>(
    data: &Data<S>,
    request: pb::ListTablesRequest,
) -> Result<Response<pb::ListTablesResponse>, Status> {
    let pb::ListTablesRequest { page_size, page_token } = request;
    let (tables, next_page_token) = data.tables(page_size, &page_token).await?;
    let tables = tables.iter().map(table_out).collect();
    Ok(Response::new(pb::ListTablesResponse { tables, next_page_token }))
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
        Ok(pb::WriteMode::Conditional) => Ok(WriteMode::Conditional),
        Err(_) => Err(unknown_enum("table.write_mode", number)),
    }
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
        WriteMode::Conditional => pb::WriteMode::Conditional,
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
