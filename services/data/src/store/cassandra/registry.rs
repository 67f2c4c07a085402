//! The registry of tables: creates, finds and lists tables.
//!
//! A lightweight transaction that loses its race against others is repeated. A table is `ready` only after every node that
//! answers has it, so that a clone may use it at once at any node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, Statement};
use scylla::value::Row;
use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::store::cassandra::agreement::{Disagreement, table_everywhere, table_ids};
use crate::store::cassandra::connect::Connected;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::link::{Link, SCHEMA_TIMEOUT};
use crate::store::cassandra::schema::{
    CREATING, CqlTable, DROPPING, READY, REGISTRY, Record, SPACE, STORE_NAME, STORE_SPACE, cql_table,
    create_feed, create_table, create_view, layout_of, table_of,
};
use crate::table::{Definition, Table, Ttl};

/// Most attempts at a lightweight transaction that other clones contend for.
const CAS_ATTEMPTS: usize = 6;
/// Pause after the first attempt, spread by half. It doubles each time.
const CAS_PAUSE: Duration = Duration::from_millis(50);
/// Detail of an error: somebody else's creation was refused while this one went on.
const TAKEN_BACK: &str = "another creation of the table was taken back";
/// Time that the nodes have to agree on a new table. It leaves the statements around it their time.
const AGREEMENT: Duration = SCHEMA_TIMEOUT.saturating_sub(Duration::from_secs(1));

/// Returns the table of a name, if the registry has it. Completes a creation that was cut short.
pub(super) async fn find(
    link: &Link,
    connected: &Arc<Connected>,
    name: &str,
) -> Result<Option<Table>, Error> {
    match found(look(link, connected, name, Consistency::LocalQuorum).await)? {
        None => Ok(None),
        Some((table, true)) => Ok(Some(table)),
        Some((table, false)) => match complete(link, connected, table).await {
            Err(Error::TableDropping(_)) => Ok(None),
            completed => completed.map(Some),
        },
    }
}

/// Takes a table that is being dropped for one that is not there.
fn found(looked: Result<Option<(Table, bool)>, Error>) -> Result<Option<(Table, bool)>, Error> {
    match looked {
        Err(Error::TableDropping(_)) => Ok(None),
        looked => looked,
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
            match table_of(record) {
                Ok((table, true)) => tables.push(table),
                Ok((_, false)) => {}
                // A later release made it: the others are listed.
                Err(error @ Error::NewerLayout { .. }) => tracing::debug!(%error, "a table is not listed"),
                Err(error) => return Err(error),
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
    let values =
        (STORE_SPACE, STORE_NAME, Uuid::new_v4(), READY, "", "", none, 0_i64, 1, "", Vec::<u8>::new());
    let mut attempts = Attempts::new();
    let name = loop {
        let named = async {
            transact(link, connected, "INSERT", |session| &session.registry.insert, values.clone()).await?;
            stored_name(link, connected, Consistency::Serial).await
        };
        if let Some(outcome) = attempts.settled(link, named.await).await {
            break outcome?;
        }
    };
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

/// Creates a table, or returns the table that is there. A CQL table that was lost is made again.
pub(super) async fn create(
    link: &Link,
    connected: &Arc<Connected>,
    definition: Definition,
    now: WriteTimestamp,
) -> Result<Table, Error> {
    let name = definition.name.to_string();
    let (table, ready) = match look(link, connected, &name, Consistency::LocalQuorum).await? {
        Some(found) => found,
        None => register(link, connected, &definition, now).await?,
    };
    let table = table.if_same(&definition)?;
    if ready && is_made(link, connected, &table).await? {
        return Ok(table);
    }
    complete(link, connected, table).await
}

/// Puts a table into the registry, unless another clone has. Returns what the registry has then.
async fn register(
    link: &Link,
    connected: &Arc<Connected>,
    definition: &Definition,
    now: WriteTimestamp,
) -> Result<(Table, bool), Error> {
    let name = definition.name.to_string();
    let values = (
        SPACE,
        name.clone(),
        Uuid::new_v4(),
        CREATING,
        definition.sort_key_type.name().into_owned(),
        definition.write_mode.name(),
        definition.default_ttl.map(|ttl| i64::from(Ttl::seconds(ttl))),
        now.0,
        layout_of(&definition.options),
        definition.description.clone(),
        definition.options.encode(),
    );
    let mut attempts = Attempts::new();
    loop {
        let values = values.clone();
        let registered = async {
            // Applied or not, the registry has the row now. SERIAL shows it even if its commit is under way.
            transact(link, connected, "INSERT", |session| &session.registry.insert, values).await?;
            let found = look(link, connected, &name, Consistency::Serial).await?;
            // Another clone registered it and was refused meanwhile: the next attempt inserts.
            found.ok_or_else(|| Intent::Schema.unanswered(TAKEN_BACK.to_owned()))
        };
        if let Some(outcome) = attempts.settled(link, registered.await).await {
            return outcome;
        }
    }
}

/// Returns whether some node has the CQL table of a table.
async fn is_made(link: &Link, connected: &Arc<Connected>, table: &Table) -> Result<bool, Error> {
    let (session, keyspace) = (connected.session.clone(), link.config().keyspace.clone());
    let cql_name = cql_table(&table.definition.name);
    let name = cql_name.clone();
    let ask = async move { Ok((table_ids(&session, &keyspace, &name).await, None)) };
    let found = link.run(Intent::Read, "SELECT", &cql_name, ask).await?;
    Ok(found.ids.contains(&Some(table.id)))
}

/// Makes the CQL tables of a table, waits until the nodes have them, and marks it ready in the registry. Several clones may do it
/// at once.
async fn complete(link: &Link, connected: &Arc<Connected>, table: Table) -> Result<Table, Error> {
    let name = cql_table(&table.definition.name);
    let text = create_table(link.config(), &table);
    let mut tables = vec![CqlTable { name, id: table.id, text }];
    if table.change_feed().is_some() {
        tables.extend(create_feed(link.config(), &table));
    }
    tables.extend(table.kept_views().map(|view| create_view(link.config(), &table, view)));
    for cql in tables {
        if let Some(other) = make(link, connected, &cql).await? {
            let values = (SPACE, table.definition.name.to_string(), table.id);
            // Nobody got the table, so its name is free for another definition.
            transact(link, connected, "DELETE", |session| &session.registry.unregister, values).await?;
            let detail = format!("its id is {other}, the registry had {}", cql.id);
            return Err(Error::ForeignTable { table: cql.name, detail });
        }
    }
    mark_ready(link, connected, &table).await.map(|()| table)
}

/// Marks a table in the registry whose CQL tables are made, unless it is being dropped.
pub(super) async fn mark_ready(link: &Link, connected: &Arc<Connected>, table: &Table) -> Result<(), Error> {
    let mut attempts = Attempts::new();
    loop {
        let values = (SPACE, table.definition.name.to_string(), table.id);
        let ready = transact(link, connected, "UPDATE", |session| &session.registry.ready, values).await;
        let ready = match ready {
            // It is being dropped, or another call has taken it back.
            Ok(false) => {
                match look(link, connected, table.definition.name.as_str(), Consistency::Serial).await {
                    Ok(_) => Err(Intent::Schema.unanswered(TAKEN_BACK.to_owned())),
                    Err(error) => Err(error),
                }
            }
            ready => ready,
        };
        if let Some(outcome) = attempts.settled(link, ready).await {
            return outcome.map(drop);
        }
    }
}

/// Makes a CQL table, and waits until the nodes have it. Returns the id of another one that has its name.
pub(super) async fn make(
    link: &Link,
    connected: &Arc<Connected>,
    table: &CqlTable,
) -> Result<Option<Uuid>, Error> {
    let mut text = Statement::new(&*table.text);
    // Under one id it is the same table, whichever nodes make it.
    text.set_is_idempotent(true);
    text.set_execution_profile_handle(Some(connected.schema.clone()));
    let session = connected.clone();
    let create = async move { answer(session.session.query_unpaged(text, ()).await?) };
    link.run(Intent::Schema, "CREATE TABLE", &table.name, create).await?;

    let (session, keyspace, id) = (connected.session.clone(), link.config().keyspace.clone(), table.id);
    let name = table.name.clone();
    let agree = async move { Ok((table_everywhere(&session, &keyspace, &name, id, AGREEMENT).await, None)) };
    match link.run(Intent::Schema, "AWAIT SCHEMA", &table.name, agree).await? {
        Ok(()) => Ok(None),
        Err(Disagreement::NotYet(detail)) => Err(Intent::Schema.unanswered(detail)),
        Err(Disagreement::OtherTable(other)) => Ok(Some(other)),
    }
}

/// Sends a lightweight transaction. Returns whether it was applied.
pub(super) async fn transact(
    link: &Link,
    connected: &Arc<Connected>,
    operation: &'static str,
    statement: fn(&Connected) -> &PreparedStatement,
    values: impl SerializeRow + Send + Sync + 'static,
) -> Result<bool, Error> {
    let session = connected.clone();
    let sent = async move { answer(session.session.execute_unpaged(statement(&session), values).await?) };
    let result = link.run(Intent::Schema, operation, REGISTRY, sent).await?;
    // The columns after `[applied]` depend on the answer, so the row is read without a type.
    let rows = result.into_rows_result().map_err(undecodable)?;
    let first = rows.maybe_first_row::<Row>().map_err(undecodable)?;
    let applied = first.and_then(|row| row.columns.into_iter().next().flatten());
    Ok(applied.and_then(|applied| applied.as_boolean()).unwrap_or(false))
}

/// The attempts at a lightweight transaction that may be repeated: others contend for the row, or an answer is lost.
pub(super) struct Attempts {
    left: usize,
    pause: Duration,
    until: Instant,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self { left: CAS_ATTEMPTS - 1, pause: CAS_PAUSE, until: Instant::now() + SCHEMA_TIMEOUT }
    }

    /// Returns the outcome if it is the last, else waits before the next attempt.
    pub(super) async fn settled<T>(
        &mut self,
        link: &Link,
        outcome: Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        let open = matches!(outcome, Err(Error::OutcomeUnknown { .. } | Error::ReadFailed { .. }));
        let time_left = Instant::now() + self.pause < self.until;
        if !open || self.left == 0 || !time_left || link.healthy().is_err() {
            return Some(outcome);
        }
        link.note_registry_retry();
        tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64())).await;
        self.left -= 1;
        self.pause *= 2;
        None
    }
}

/// Returns the registry's row of a name in one order with all of its changes.
pub(super) async fn read_record(
    link: &Link,
    connected: &Arc<Connected>,
    name: &str,
) -> Result<Option<Record>, Error> {
    let (session, values) = (connected.clone(), (SPACE, name.to_owned()));
    let read = async move {
        let mut one = session.registry.one.clone();
        one.set_consistency(Consistency::Serial);
        answer(session.session.execute_unpaged(&one, values).await?)
    };
    let result = link.run(Intent::Read, "SELECT", REGISTRY, read).await?;
    Ok(records(result)?.into_iter().next())
}

/// Returns the table of a name as the registry has it at this level, and whether its CQL table is there.
pub(super) async fn look(
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
    let record = records(result)?.into_iter().next();
    if record.as_ref().is_some_and(|record| record.2 == DROPPING) {
        return Err(Error::TableDropping(name.to_owned()));
    }
    record.map(table_of).transpose()
}

/// Reads the rows of the registry in a result.
pub(super) fn records(result: QueryResult) -> Result<Vec<Record>, Error> {
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
