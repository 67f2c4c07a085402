//! The calls on tables.

use shoal_kit::{Invalid, reason};
use shoal_proto::data::v1 as pb;
use tonic::{Response, Status};

use crate::data::Data;
use crate::service::codec::{duration, micros, timestamp, ttl, unknown_enum};
use crate::store::Store;
use crate::table::{SortKeyType, Table, TableChange, Ttl, WriteMode};
use crate::tables::NewTable;

pub(super) async fn create_table<S: Store>(
    data: &Data<S>,
    request: pb::CreateTableRequest,
) -> Result<Response<pb::CreateTableResponse>, Status> {
    let Some(table) = request.table else {
        return Err(Invalid::new(reason::TABLE_REQUIRED, "table", "is required").into());
    };
    let sort_key_type = sort_key_type(table.sort_key_type)?;
    let write_mode = write_mode(table.write_mode)?;
    let default_ttl = ttl(table.default_ttl, "table.default_ttl")?;
    let change_feed = match table.change_feed {
        None => None,
        Some(feed) => Some((feed.old_rows, duration(feed.retention, "table.change_feed.retention")?)),
    };
    let (name, description) = (table.name, table.description);
    let new = NewTable { name, sort_key_type, write_mode, default_ttl, description, change_feed };
    let table = data.create(new).await?;
    Ok(Response::new(pb::CreateTableResponse { table: Some(table_out(&table)) }))
}

pub(super) async fn update_table<S: Store>(
    data: &Data<S>,
    request: pb::UpdateTableRequest,
) -> Result<Response<pb::UpdateTableResponse>, Status> {
    let Some(table) = request.table else {
        return Err(Invalid::new(reason::TABLE_REQUIRED, "table", "is required").into());
    };
    let paths = request.update_mask.unwrap_or_default().paths;
    let mut change = TableChange::default();
    for path in &paths {
        match path.as_str() {
            "default_ttl" => {
                let ttl = ttl(table.default_ttl, "table.default_ttl")?;
                let ttl = ttl.map(|ttl| Ttl::parse(ttl, "table.default_ttl")).transpose()?;
                change.default_ttl = Some(ttl);
            }
            "description" => change.description = Some(table.description.clone()),
            other => return Err(bad_mask(&format!("`{other}` cannot be changed")).into()),
        }
    }
    if paths.is_empty() {
        return Err(bad_mask("is required").into());
    }
    let table = data.update_table(&table.name, change).await?;
    Ok(Response::new(pb::UpdateTableResponse { table: Some(table_out(&table)) }))
}

fn bad_mask(problem: &str) -> Invalid {
    let text = format!("{problem}; name default_ttl, description or both");
    Invalid::new(reason::INVALID_UPDATE_MASK, "update_mask", text)
}

pub(super) async fn drop_table<S: Store>(
    data: &Data<S>,
    request: pb::DropTableRequest,
) -> Result<Response<pb::DropTableResponse>, Status> {
    let create_time = request.create_time.map(|at| micros(&at, "create_time")).transpose()?;
    data.drop_table(&request.name, create_time).await?;
    Ok(Response::new(pb::DropTableResponse {}))
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
        default_ttl: definition.default_ttl.map(|ttl| seconds(ttl.seconds())),
        create_time: Some(timestamp(table.create_time)),
        description: definition.description.clone(),
        change_feed: table.change_feed().map(|feed| pb::ChangeFeed {
            old_rows: feed.old_rows,
            retention: Some(seconds(feed.retention_seconds)),
        }),
    }
}

fn seconds(seconds: u32) -> prost_types::Duration {
    prost_types::Duration { seconds: seconds.into(), nanos: 0 }
}
