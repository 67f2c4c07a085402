//! The registry of tables: creates, finds and lists tables.

use std::net::SocketAddr;
use std::sync::Arc;

use scylla::response::query_result::QueryResult;
use scylla::statement::Consistency;
use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::link::{Connected, Link};
use crate::store::cassandra::schema::{
    CREATING, READY, REGISTRY, Record, SPACE, STORE_NAME, STORE_SPACE, cql_table, create_table, table_of,
};
use crate::table::{Definition, Table, Ttl};

/// Returns the table of a name, if the registry has it. Completes a creation that was cut short.
pub(super) async fn find(
    link: &Link,
    connected: &Arc<Connected>,
    name: &str,
) -> Result<Option<Table>, Error> {
    match look(link, connected, name, Consistency::LocalQuorum).await? {
        None => Ok(None),
        Some((table, true)) => Ok(Some(table)),
        Some((table, false)) => complete(link, connected, table).await.map(Some),
    }
}

/// Returns tables whose names come after `after`, by name, without those that are still being created.
pub(super) async fn list(
    link: &Link,
    connected: &Arc<Connected>,
    after: &str,
    limit: usize,
) -> Result<Vec<Table>, Error> {
    let (connected, mut after) = (connected.clone(), after.to_owned());
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    let mut tables = Vec::new();
    loop {
        let values = (SPACE, after.clone(), limit);
        let session = connected.clone();
        let page = async move {
            let page = &session.registry.page;
            answer(session.session.execute_unpaged(page, values).await?)
        };
        let records = records(link.run(Intent::Read, "SELECT", REGISTRY, page).await?)?;
        let last = records.len() < usize::try_from(limit).unwrap_or(usize::MAX);
        for record in records {
            record.0.clone_into(&mut after);
            let (table, ready) = table_of(record)?;
            if ready {
                tables.push(table);
            }
        }
        if last || tables.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            tables.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            return Ok(tables);
        }
    }
}

/// Returns the name of the store: the id in a row of the registry beside the tables, which the first clone that finds none
/// writes.
pub(super) async fn store_name(link: &Link, connected: &Arc<Connected>) -> Result<Uuid, Error> {
    if let Some(name) = stored_name(link, connected, Consistency::LocalQuorum).await? {
        return Ok(name);
    }
    let none: Option<i64> = None;
    let values = (STORE_SPACE, STORE_NAME, Uuid::new_v4(), READY, "", "", none, 0_i64);
    let session = connected.clone();
    let insert = async move {
        let insert = &session.registry.insert;
        answer(session.session.execute_unpaged(insert, values).await?)
    };
    link.run(Intent::Schema, "INSERT", REGISTRY, insert).await?;
    let name = stored_name(link, connected, Consistency::Serial).await?;
    name.ok_or_else(|| Error::Internal("the store was given a name and has none".to_owned()))
}

async fn stored_name(
    link: &Link,
    connected: &Arc<Connected>,
    consistency: Consistency,
) -> Result<Option<Uuid>, Error> {
    let session = connected.clone();
    let read = async move {
        let mut one = session.registry.one.clone();
        one.set_consistency(consistency);
        answer(session.session.execute_unpaged(&one, (STORE_SPACE, STORE_NAME)).await?)
    };
    let result = link.run(Intent::Read, "SELECT", REGISTRY, read).await?;
    Ok(records(result)?.into_iter().next().map(|record| record.1))
}

/// Creates a table, or returns the table that is there.
pub(super) async fn create(
    link: &Link,
    connected: &Arc<Connected>,
    definition: Definition,
    now: WriteTimestamp,
) -> Result<Table, Error> {
    let name = definition.name.to_string();
    if let Some(table) = find(link, connected, &name).await? {
        return table.if_same(&definition);
    }
    let values = (
        SPACE,
        name.clone(),
        Uuid::new_v4(),
        CREATING,
        definition.sort_key_type.name(),
        definition.write_mode.name(),
        definition.default_ttl.map(|ttl| i64::from(Ttl::seconds(ttl))),
        now.0,
    );
    let session = connected.clone();
    let insert = async move {
        let insert = &session.registry.insert;
        answer(session.session.execute_unpaged(insert, values).await?)
    };
    // Applied or not, the registry has the row now. SERIAL shows it even if its commit is under way.
    link.run(Intent::Schema, "INSERT", REGISTRY, insert).await?;
    let found = look(link, connected, &name, Consistency::Serial).await?;
    let Some((table, ready)) = found else {
        return Err(Error::Internal(format!("table `{name}` was registered and is not in the registry")));
    };
    let table = table.if_same(&definition)?;
    if ready { Ok(table) } else { complete(link, connected, table).await }
}

/// Makes the CQL table and marks it ready in the registry. Several clones may do it at once.
async fn complete(link: &Link, connected: &Arc<Connected>, table: Table) -> Result<Table, Error> {
    let keyspace = link.config().keyspace.clone();
    let cql_name = cql_table(&table.definition.name);
    let (session, text) = (connected.clone(), create_table(&keyspace, &table));
    let create = async move { answer(session.session.query_unpaged(text, ()).await?) };
    link.run(Intent::Schema, "CREATE TABLE", &cql_name, create).await?;

    let (session, values) = (connected.clone(), (keyspace, cql_name.clone()));
    let check =
        async move { answer(session.session.execute_unpaged(&session.registry.cql_id, values).await?) };
    let found = link.run(Intent::Read, "SELECT", "system_schema.tables", check).await?;
    let found = found.into_rows_result().map_err(undecodable)?;
    let found: Option<(Uuid,)> = found.maybe_first_row().map_err(undecodable)?;
    if found != Some((table.id,)) {
        let detail = format!("its id is {:?}, the registry has {}", found.map(|(id,)| id), table.id);
        return Err(Error::ForeignTable { table: cql_name, detail });
    }

    let (session, values) = (connected.clone(), (SPACE, table.definition.name.to_string(), table.id));
    let ready =
        async move { answer(session.session.execute_unpaged(&session.registry.ready, values).await?) };
    link.run(Intent::Schema, "UPDATE", REGISTRY, ready).await?;
    Ok(table)
}

async fn look(
    link: &Link,
    connected: &Arc<Connected>,
    name: &str,
    consistency: Consistency,
) -> Result<Option<(Table, bool)>, Error> {
    let (session, values) = (connected.clone(), (SPACE, name.to_owned()));
    let read = async move {
        let mut one = session.registry.one.clone();
        one.set_consistency(consistency);
        answer(session.session.execute_unpaged(&one, values).await?)
    };
    let result = link.run(Intent::Read, "SELECT", REGISTRY, read).await?;
    records(result)?.into_iter().next().map(table_of).transpose()
}

fn records(result: QueryResult) -> Result<Vec<Record>, Error> {
    let result = result.into_rows_result().map_err(undecodable)?;
    let rows = result.rows::<Record>().map_err(undecodable)?;
    rows.map(|row| row.map_err(undecodable)).collect()
}

/// Returns a result with the node that gave it, as [`Link::run`] takes it.
pub(super) fn answer<E>(result: QueryResult) -> Result<(QueryResult, Option<SocketAddr>), E> {
    let coordinator = result.request_coordinator().connection_address();
    Ok((result, Some(coordinator)))
}

/// Makes the error of an answer that has another shape than the schema says.
pub(super) fn undecodable(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("cassandra's answer: {error}"))
}
