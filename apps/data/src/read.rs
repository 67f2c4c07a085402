//! `shoal data tables`, `get` and `query`.

use anyhow::{anyhow, bail};
use shoal_proto::data::v1::{self as pb, GetRequest, ListTablesRequest, QueryRequest, SortKeyType, Table};
use shoal_proto::r#type::v1::Value;

use crate::args::{Consistency, GetArgs, QueryArgs, ReadMode, TablesArgs};
use crate::connection::Connection;
use crate::key::sort_key;
use crate::{output, typed};

/// Rows or tables that one call asks for.
const PAGE_SIZE: usize = 1000;

impl From<Consistency> for pb::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Eventual => pb::Consistency::Eventual,
            Consistency::Quorum => pb::Consistency::Quorum,
            Consistency::Strong => pb::Consistency::Strong,
        }
    }
}

impl From<ReadMode> for pb::ReadMode {
    fn from(mode: ReadMode) -> Self {
        match mode {
            ReadMode::Eventual => pb::ReadMode::Eventual,
            ReadMode::Verified => pb::ReadMode::Verified,
        }
    }
}

pub(crate) async fn tables(args: TablesArgs) -> anyhow::Result<()> {
    let connection = Connection::open(&args.server).await?;
    let tables = match &args.table {
        Some(name) => vec![connection.table(name).await?],
        None => all_tables(&connection).await?,
    };
    output::tables(&tables, args.output);
    Ok(())
}

async fn all_tables(connection: &Connection) -> anyhow::Result<Vec<Table>> {
    let mut tables = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListTablesRequest { page_size: PAGE_SIZE as i32, page_token };
        let answer = connection.client.clone().list_tables(connection.request(request)).await;
        let page = connection.answer(answer).await?;
        tables.extend(page.tables);
        if page.next_page_token.is_empty() {
            return Ok(tables);
        }
        page_token = page.next_page_token;
    }
}

pub(crate) async fn get(args: GetArgs) -> anyhow::Result<()> {
    let connection = Connection::open(&args.server).await?;
    let table = connection.table(&args.table).await?;
    let request = GetRequest {
        table: args.table,
        partition_key: args.partition,
        sort_key: key(&table, args.sort_key.as_deref())?,
        consistency: pb::Consistency::from(args.consistency).into(),
    };
    let answer = connection.client.clone().get(connection.request(request)).await;
    let row = connection.answer(answer).await?.row;
    let row = row.ok_or_else(|| anyhow!("the answer has no row"))?;
    output::rows(&[row], args.output);
    Ok(())
}

/// Parses the sort key of one row.
pub(crate) fn key(table: &Table, typed: Option<&str>) -> anyhow::Result<Option<Value>> {
    match (typed, typed::sort_key_type(table)) {
        (Some(typed), _) => sort_key(table, typed).map(Some),
        (None, SortKeyType::None) => Ok(None),
        (None, _) => bail!("rows of {} have sort keys: name one behind the partition", table.name),
    }
}

/// Returns the table of a query; for a view, named `TABLE.VIEW`, one with the sort keys of the view.
async fn read_table(connection: &Connection, name: &str) -> anyhow::Result<Table> {
    let Some((of, view)) = name.split_once('.') else { return connection.table(name).await };
    let table = connection.table(of).await?;
    let view = table.views.iter().find(|candidate| candidate.name == view).ok_or_else(|| {
        let names: Vec<_> = table.views.iter().map(|view| view.name.as_str()).collect();
        anyhow!(
            "{of} has no view {view}; its views: {}",
            if names.is_empty() { "none".into() } else { names.join(", ") }
        )
    })?;
    Ok(Table { name: name.to_owned(), sort_key_type: view.sort_key_type, ..Table::default() })
}

pub(crate) async fn query(args: QueryArgs) -> anyhow::Result<()> {
    let connection = Connection::open(&args.server).await?;
    let table = read_table(&connection, &args.table).await?;
    let bound = |typed: &Option<String>| typed.as_deref().map(|typed| sort_key(&table, typed)).transpose();
    let (start, end, prefix) = (bound(&args.start)?, bound(&args.end)?, bound(&args.prefix)?);
    let mut rows = Vec::new();
    let mut page_token = String::new();
    loop {
        let wanted = if args.limit == 0 { PAGE_SIZE } else { (args.limit - rows.len()).min(PAGE_SIZE) };
        let request = QueryRequest {
            table: args.table.clone(),
            partition_key: args.partition.clone(),
            start: start.clone(),
            end: end.clone(),
            prefix: prefix.clone(),
            descending: args.descending,
            page_size: wanted as i32,
            page_token,
            consistency: pb::Consistency::from(args.consistency).into(),
            read_mode: args.read_mode.map_or(pb::ReadMode::Unspecified, pb::ReadMode::from).into(),
            allow_building: args.allow_building,
        };
        let answer = connection.client.clone().query(connection.request(request)).await;
        let page = connection.answer(answer).await?;
        rows.extend(page.rows);
        let full = args.limit > 0 && rows.len() >= args.limit;
        page_token = page.next_page_token;
        if full || page_token.is_empty() {
            break;
        }
    }
    if args.table.contains('.') {
        output::view_rows(&rows, args.output);
    } else {
        output::rows(&rows, args.output);
    }
    if !page_token.is_empty() {
        eprintln!("there may be more rows; --limit 0 shows all");
    }
    Ok(())
}
