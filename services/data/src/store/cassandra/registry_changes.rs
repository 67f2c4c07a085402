//! Changes of the registry's tables: updates of definitions, and the end of a table.
//!
//! A table that is dropped is marked first. Once every clone has had time to find that out, no statement is on its way to it; then
//! its CQL table is dropped, and at last its row of the registry, which frees the name. A new table of the name gets another id.

use std::sync::Arc;
use std::time::Duration;

use scylla::statement::{Consistency, Statement};

use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::store::cassandra::agreement::{schema_agreed, table_ids};
use crate::store::cassandra::connect::Connected;
use crate::store::cassandra::definitions::FRESH;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::link::{Link, SCHEMA_TIMEOUT};
use crate::store::cassandra::registry::{Attempts, answer, look, read_record, transact};
use crate::store::cassandra::schema::{Record, SPACE, cql_outbox, cql_table, create_feed, table_of};
use crate::table::{Table, TableChange, TableName, Ttl};

/// Time from the mark on a table to the end of its CQL table: clones remember a definition for [`FRESH`], and a statement takes
/// a moment.
const FORGOTTEN_AFTER: Duration = FRESH.saturating_add(Duration::from_secs(1));
/// Time that the nodes have to agree that a table is gone.
const AGREEMENT: Duration = SCHEMA_TIMEOUT.saturating_sub(Duration::from_secs(1));

/// Changes the definition of a table that is ready.
pub(super) async fn update(
    link: &Link,
    connected: &Arc<Connected>,
    name: &TableName,
    change: &TableChange,
) -> Result<Table, Error> {
    let mut attempts = Attempts::new();
    loop {
        let updated = async {
            let Some((table, true)) = look(link, connected, name.as_str(), Consistency::Serial).await? else {
                return Err(Error::TableNotFound(name.to_string()));
            };
            let stored: Option<Record> = read_record(link, connected, name.as_str()).await?;
            let Some(stored) = stored else { return Err(Error::TableNotFound(name.to_string())) };
            let definition = change.applied_to(&table.definition);
            let values = (
                definition.default_ttl.map(|ttl| i64::from(Ttl::seconds(ttl))),
                definition.description.clone(),
                SPACE,
                name.to_string(),
                table.id,
                stored.5,
                stored.8,
            );
            match transact(link, connected, "UPDATE", |session| &session.registry.update, values).await? {
                true => Ok(Table { definition, ..table }),
                false => Err(Intent::Schema.unanswered("another change of the table came first".to_owned())),
            }
        };
        if let Some(outcome) = attempts.settled(link, updated.await).await {
            return outcome;
        }
    }
}

/// Drops a table, or goes on with what an earlier call began.
pub(super) async fn drop_table(
    link: &Link,
    connected: &Arc<Connected>,
    name: &TableName,
    create_time: Option<WriteTimestamp>,
) -> Result<(), Error> {
    let missing = || Error::TableNotFound(name.to_string());
    let record = read_record(link, connected, name.as_str()).await?.ok_or_else(missing)?;
    let (table, _) = table_of(record)?;
    if create_time.is_some_and(|at| at != table.create_time) {
        return Err(Error::TableChanged(name.to_string()));
    }
    let values = || (SPACE, name.to_string(), table.id);
    let mut attempts = Attempts::new();
    loop {
        let marked =
            transact(link, connected, "UPDATE", |session| &session.registry.dropping, values()).await;
        if let Some(outcome) = attempts.settled(link, marked).await {
            match outcome? {
                true => break,
                // It was dropped by another call.
                false => return Err(missing()),
            }
        }
    }
    tokio::time::sleep(FORGOTTEN_AFTER).await;
    drop_cql_table(link, connected, &table).await?;
    let mut attempts = Attempts::new();
    loop {
        let dropped =
            transact(link, connected, "DELETE", |session| &session.registry.dropped, values()).await;
        if let Some(outcome) = attempts.settled(link, dropped).await {
            return outcome.map(drop);
        }
    }
}

/// Drops the CQL table of a table, and the one with the records of its change feed. Its pointers in the log end by themselves.
async fn drop_cql_table(link: &Link, connected: &Arc<Connected>, table: &Table) -> Result<(), Error> {
    if table.change_feed().is_some() {
        let records = cql_outbox(&table.definition.name);
        for cql in create_feed(link.config(), table).into_iter().filter(|cql| cql.name == records) {
            drop_cql(link, connected, cql.name, cql.id).await?;
        }
    }
    drop_cql(link, connected, cql_table(&table.definition.name), table.id).await
}

/// Drops a CQL table, unless another one is in its place.
async fn drop_cql(link: &Link, connected: &Arc<Connected>, name: String, id: Uuid) -> Result<(), Error> {
    let keyspace = link.config().keyspace.clone();
    let (session, space, cql_name) = (connected.session.clone(), keyspace.clone(), name.clone());
    let ask = async move { Ok((table_ids(&session, &space, &cql_name).await, None)) };
    let ids = link.run(Intent::Read, "SELECT", &name, ask).await?;
    if !ids.contains(&Some(id)) {
        return Ok(());
    }
    let mut text = Statement::new(format!("DROP TABLE IF EXISTS {keyspace}.{name}"));
    // Sent twice it could find a new table of the name.
    text.set_is_idempotent(false);
    text.set_execution_profile_handle(Some(connected.schema.clone()));
    let session = connected.clone();
    let send = async move { answer(session.session.query_unpaged(text, ()).await?) };
    link.run(Intent::Schema, "DROP TABLE", &name, send).await?;
    let session = connected.session.clone();
    let agree = async move { Ok((schema_agreed(&session, AGREEMENT).await, None)) };
    match link.run(Intent::Schema, "AWAIT SCHEMA", &name, agree).await? {
        true => Ok(()),
        false => Err(Intent::Schema.unanswered(format!("the nodes do not agree after {AGREEMENT:?}"))),
    }
}
