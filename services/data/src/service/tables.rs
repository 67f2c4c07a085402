//! The calls on tables.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_kit::{Invalid, reason};
use shoal_proto::data::v1 as pb;
use tonic::{Response, Status};

use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::service::codec::{duration, micros, timestamp, ttl, unknown_enum};
use crate::store::Store;
use crate::table::{
    AttributeRule, AttributeSchema, ChangeFeed, KeyPart, KeyParts, NewView, SortKeyType, Table, TableChange,
    Ttl, View, ViewState, WriteMode, parse_views,
};
use crate::tables::NewTable;
use crate::value::ValueType;

pub(super) async fn create_table<S: Store>(
    data: &Data<S>,
    request: pb::CreateTableRequest,
) -> Result<Response<pb::CreateTableResponse>, Status> {
    let Some(table) = request.table else {
        return Err(Invalid::new(reason::TABLE_REQUIRED, "table", "is required").into());
    };
    let sort_key_type = sort_key_type_in(table.sort_key_type, table.sort_key_parts)?;
    let write_mode = write_mode(table.write_mode)?;
    let default_ttl = ttl(table.default_ttl, "table.default_ttl")?;
    let change_feed = table.change_feed.map(feed_in).transpose()?;
    let attribute_schema = table.attribute_schema.map(schema_in).transpose()?;
    let (name, description, views) = (table.name, table.description, views_in(table.views)?);
    let new = NewTable {
        name,
        sort_key_type,
        write_mode,
        default_ttl,
        description,
        change_feed,
        attribute_schema,
        views,
    };
    let table = data.create(new).await?;
    Ok(Response::new(pb::CreateTableResponse { table: Some(table_with_builds(data, &table).await?) }))
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
            "attribute_schema" => {
                change.attribute_schema = Some(table.attribute_schema.clone().map(schema_in).transpose()?);
            }
            "change_feed" => {
                let now = WriteTimestamp::now();
                let feed = table.change_feed.map(feed_in).transpose()?;
                let feed = feed.map(|(old_rows, retention)| ChangeFeed::parse(old_rows, retention, now));
                change.change_feed = Some(feed.transpose()?.map(|feed| feed.begun_at(now)));
            }
            "views" => {
                change.views = Some(parse_views(views_in(table.views.clone())?, ViewState::Declared)?);
            }
            other => return Err(bad_mask(&format!("`{other}` cannot be changed")).into()),
        }
    }
    if paths.is_empty() {
        return Err(bad_mask("is required").into());
    }
    let table = data.update_table(&table.name, change).await?;
    Ok(Response::new(pb::UpdateTableResponse { table: Some(table_with_builds(data, &table).await?) }))
}

fn bad_mask(problem: &str) -> Invalid {
    let text =
        format!("{problem}; name any of default_ttl, description, attribute_schema, change_feed and views");
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
    Ok(Response::new(pb::GetTableResponse { table: Some(table_with_builds(data, &table).await?) }))
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

fn feed_in(feed: pb::ChangeFeed) -> Result<(bool, Option<Duration>), Invalid> {
    Ok((feed.old_rows, duration(feed.retention, "table.change_feed.retention")?))
}

fn schema_in(schema: pb::AttributeSchema) -> Result<AttributeSchema, Invalid> {
    let rule = |(name, rule): (String, pb::AttributeRule)| {
        let field = || format!("table.attribute_schema.attributes[{name}].type");
        let of = value_type(rule.r#type, &field())?;
        let bytes_max = match rule.bytes_max {
            0 => None,
            // A negative one is past every limit.
            max => Some(u32::try_from(max).unwrap_or(u32::MAX)),
        };
        Ok((name, AttributeRule { of, required: rule.required, bytes_max }))
    };
    let rules = schema.attributes.into_iter().map(rule).collect::<Result<BTreeMap<_, _>, Invalid>>()?;
    AttributeSchema::parse(rules, schema.closed)
}

fn schema_out(schema: &AttributeSchema) -> pb::AttributeSchema {
    let rule = |rule: &AttributeRule| pb::AttributeRule {
        r#type: value_type_out(rule.of).into(),
        required: rule.required,
        bytes_max: rule.bytes_max.map_or(0, u32::cast_signed),
    };
    let attributes = schema.rules().iter().map(|(name, of)| (name.clone(), rule(of))).collect();
    pb::AttributeSchema { attributes, closed: schema.is_closed() }
}

fn value_type(number: i32, field: &str) -> Result<ValueType, Invalid> {
    match pb::ValueType::try_from(number) {
        Ok(pb::ValueType::String) => Ok(ValueType::String),
        Ok(pb::ValueType::Int64) => Ok(ValueType::Int64),
        Ok(pb::ValueType::Double) => Ok(ValueType::Double),
        Ok(pb::ValueType::Bool) => Ok(ValueType::Bool),
        Ok(pb::ValueType::Bytes) => Ok(ValueType::Bytes),
        Ok(pb::ValueType::Timestamp) => Ok(ValueType::Timestamp),
        Ok(pb::ValueType::Unspecified) | Err(_) => Err(unknown_enum(field, number)),
    }
}

fn value_type_out(of: ValueType) -> pb::ValueType {
    match of {
        ValueType::String => pb::ValueType::String,
        ValueType::Int64 => pb::ValueType::Int64,
        ValueType::Double => pb::ValueType::Double,
        ValueType::Bool => pb::ValueType::Bool,
        ValueType::Bytes => pb::ValueType::Bytes,
        ValueType::Timestamp => pb::ValueType::Timestamp,
    }
}

fn key_parts(parts: Vec<pb::KeyPart>) -> Result<KeyParts, Invalid> {
    let part = |(at, part): (usize, pb::KeyPart)| {
        let of = value_type(part.r#type, &format!("table.sort_key_parts[{at}].type"))?;
        Ok(KeyPart { of, descending: part.descending })
    };
    let parts = parts.into_iter().enumerate().map(part).collect::<Result<Vec<_>, Invalid>>()?;
    KeyParts::new(&parts, PARTS)
}

const PARTS: &str = "table.sort_key_parts";

/// Reads the type of a table's sort keys.
fn sort_key_type_in(number: i32, parts: Vec<pb::KeyPart>) -> Result<SortKeyType, Invalid> {
    let of = pb::SortKeyType::try_from(number);
    if !parts.is_empty() || of == Ok(pb::SortKeyType::Composite) {
        return match of {
            Ok(pb::SortKeyType::Unspecified | pb::SortKeyType::Composite) => {
                key_parts(parts).map(SortKeyType::Composite)
            }
            _ => {
                let problem =
                    "stands beside a sort_key_type of one value: leave that unset, or set COMPOSITE";
                Err(Invalid::new(reason::INVALID_SORT_KEY_PARTS, PARTS, problem))
            }
        };
    }
    sort_key_type(number, "table.sort_key_type")
}

/// Reads a type of sort keys of one value.
fn sort_key_type(number: i32, field: &str) -> Result<SortKeyType, Invalid> {
    match pb::SortKeyType::try_from(number) {
        Ok(pb::SortKeyType::Unspecified | pb::SortKeyType::String) => Ok(SortKeyType::String),
        Ok(pb::SortKeyType::Int64) => Ok(SortKeyType::Int64),
        Ok(pb::SortKeyType::Bytes) => Ok(SortKeyType::Bytes),
        Ok(pb::SortKeyType::None) => Ok(SortKeyType::None),
        Ok(pb::SortKeyType::Composite) | Err(_) => Err(unknown_enum(field, number)),
    }
}

fn write_mode(number: i32) -> Result<WriteMode, Invalid> {
    match pb::WriteMode::try_from(number) {
        Ok(pb::WriteMode::Unspecified | pb::WriteMode::LastWriteWins) => Ok(WriteMode::LastWriteWins),
        Ok(pb::WriteMode::Conditional) => Ok(WriteMode::Conditional),
        Err(_) => Err(unknown_enum("table.write_mode", number)),
    }
}

fn views_in(views: Vec<pb::View>) -> Result<Vec<NewView>, Invalid> {
    let views = views.into_iter().enumerate().map(|(i, view)| {
        let sort_key_type = match pb::SortKeyType::try_from(view.sort_key_type) {
            Ok(pb::SortKeyType::Unspecified) => None,
            Ok(pb::SortKeyType::Composite) => {
                let problem = "cannot be COMPOSITE: join texts in sort, or take one value";
                let field = format!("table.views[{i}].sort_key_type");
                return Err(Invalid::new(reason::INVALID_VIEW, field, problem));
            }
            _ => Some(sort_key_type(view.sort_key_type, &format!("table.views[{i}].sort_key_type"))?),
        };
        let pb::View { name, partition, sort, filter, attributes, keys_only, .. } = view;
        Ok(NewView { name, partition, sort, sort_key_type, filter, attributes, keys_only })
    });
    views.collect()
}

fn view_out(view: &View) -> pb::View {
    let NewView { name, partition, sort, filter, attributes, keys_only, .. } = view.declared.clone();
    let state = match view.state {
        ViewState::Ready => pb::ViewState::Ready,
        ViewState::Declared | ViewState::Building | ViewState::Dropping => pb::ViewState::Building,
    };
    let (sort_key_type, state) = (sort_key_type_out(view.sort_key_type).into(), state.into());
    pb::View { name, partition, sort, sort_key_type, filter, attributes, keys_only, state, build: None }
}

/// Returns a table with how far its views are that are being built.
async fn table_with_builds<S: Store>(data: &Data<S>, table: &Table) -> Result<pb::Table, Status> {
    let mut out = table_out(table);
    let builds = data.builds(table).await?;
    for (view, out) in table.views().zip(&mut out.views) {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        if view.state != ViewState::Ready {
            let build = builds.get(&view.id).cloned().unwrap_or_default();
            out.build = Some(pb::ViewBuild {
                progress: build.progress(),
                rows: count(build.rows),
                entries: count(build.entries),
                lease_expire_time: (build.leased_until > 0)
                    .then(|| timestamp(WriteTimestamp(build.leased_until))),
            });
        }
    }
    Ok(out)
}

fn sort_key_type_out(of: SortKeyType) -> pb::SortKeyType {
    match of {
        SortKeyType::String => pb::SortKeyType::String,
        SortKeyType::Int64 => pb::SortKeyType::Int64,
        SortKeyType::Bytes => pb::SortKeyType::Bytes,
        SortKeyType::None => pb::SortKeyType::None,
        SortKeyType::Composite(_) => pb::SortKeyType::Composite,
    }
}

fn table_out(table: &Table) -> pb::Table {
    let definition = &table.definition;
    let sort_key_type = sort_key_type_out(definition.sort_key_type);
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
        attribute_schema: table.attribute_schema().map(schema_out),
        sort_key_parts: match definition.sort_key_type {
            SortKeyType::Composite(parts) => parts.iter().map(part_out).collect(),
            _ => Vec::new(),
        },
        views: table.views().map(view_out).collect(),
    }
}

fn part_out(part: KeyPart) -> pb::KeyPart {
    pb::KeyPart { r#type: value_type_out(part.of).into(), descending: part.descending }
}

fn seconds(seconds: u32) -> prost_types::Duration {
    prost_types::Duration { seconds: seconds.into(), nanos: 0 }
}
