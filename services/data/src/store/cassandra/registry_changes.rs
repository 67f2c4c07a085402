//! Changes of the registry's tables: updates of definitions, and the end of a table.
//!
//! A table that is dropped is marked first. Once every clone has had time to find that out, no statement is on its way to it; then
//! its CQL table is dropped, and at last its row of the registry, which frees the name. A new table of the name gets another id.

use std::sync::Arc;
use std::time::Duration;

use scylla::statement::Statement;
use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::store::cassandra::agreement::{schema_agreed, table_somewhere};
use crate::store::cassandra::connect::Connected;
use crate::store::cassandra::definitions::stale_max;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::link::{Link, SCHEMA_TIMEOUT};
use crate::store::cassandra::registry::{Attempts, answer, make, read_record, transact};
use crate::store::cassandra::schema::{
    DROPPING, READY, SPACE, cql_outbox, cql_table, create_feed, create_view, layout_of, table_of,
};
use crate::table::{Table, TableChange, TableName, Ttl, View};

/// Part of the time from the mark on a table to the end of its CQL table, for the clocks and the queues of clones.
const SLACK: Duration = Duration::from_secs(1);
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
            // The new definition is made of the very row that the condition names, or a change between two reads would be lost.
            let Some(stored) = read_record(link, connected, name.as_str()).await? else {
                return Err(Error::TableNotFound(name.to_string()));
            };
            if stored.2 == DROPPING {
                return Err(Error::TableDropping(name.to_string()));
            }
            let (before_ttl, before_description, before_options) =
                (stored.5, stored.8.clone(), stored.9.clone());
            let (table, true) = table_of(stored)? else {
                return Err(Error::TableNotFound(name.to_string()));
            };
            let definition = change.applied_to(&table.definition);
            let values = (
                definition.default_ttl.map(|ttl| i64::from(Ttl::seconds(ttl))),
                definition.description.clone(),
                definition.options.encode(),
                layout_of(&definition.options),
                SPACE,
                name.to_string(),
                table.id,
                before_ttl,
                before_description,
                before_options,
            );
            let begins = table.change_feed().is_none() && definition.options.change_feed.is_some();
            let updated = Table { definition, ..table };
            if begins {
                make_feed(link, connected, &updated).await?;
            }
            match transact(link, connected, "UPDATE", |session| &session.registry.update, values).await? {
                true => Ok((updated, begins)),
                false => Err(Intent::Schema.unanswered("another change of the table came first".to_owned())),
            }
        };
        if let Some(outcome) = attempts.settled(link, updated.await).await {
            let (table, begins) = outcome?;
            if begins {
                // Clones that remember the table without its feed record nothing: after this every write is recorded.
                tokio::time::sleep(forgotten_after(link.config().statement_timeout)).await;
            }
            return Ok(table);
        }
    }
}

/// Makes the CQL tables of a change feed, and waits until the nodes have them.
async fn make_feed(link: &Link, connected: &Arc<Connected>, table: &Table) -> Result<(), Error> {
    for cql in create_feed(link.config(), table) {
        if let Some(other) = make(link, connected, &cql).await? {
            let detail = format!("its id is {other}, the feed's is {}", cql.id);
            return Err(Error::ForeignTable { table: cql.name, detail });
        }
    }
    Ok(())
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
    let ready = record.2 == READY;
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
    let forgotten_after = forgotten_after(link.config().statement_timeout);
    // A creation that is under way may make the CQL table for as long as its statements take.
    tokio::time::sleep(if ready { forgotten_after } else { forgotten_after.max(SCHEMA_TIMEOUT) }).await;
    drop_cql_table(link, connected, &table).await?;
    let mut attempts = Attempts::new();
    loop {
        let dropped = async {
            if transact(link, connected, "DELETE", |session| &session.registry.dropped, values()).await? {
                return Ok(());
            }
            match read_record(link, connected, name.as_str()).await? {
                // Another call has completed it.
                None => Ok(()),
                Some(record) if record.1 != table.id => Ok(()),
                Some(_) => Err(Intent::Schema.unanswered("the table is no longer marked".to_owned())),
            }
        };
        if let Some(outcome) = attempts.settled(link, dropped.await).await {
            return outcome;
        }
    }
}

/// Returns the time from the mark on a table to the end of its CQL table. A clone writes with a definition that is at most
/// [`stale_max`] old when it sends a statement, and the statement ends with its time-out.
pub(super) fn forgotten_after(statement_timeout: Duration) -> Duration {
    stale_max(statement_timeout) + statement_timeout + SLACK
}

/// Drops the CQL table of a table, and the one with the records of a change feed that it has or had. Its pointers in the log end by
/// themselves.
async fn drop_cql_table(link: &Link, connected: &Arc<Connected>, table: &Table) -> Result<(), Error> {
    let records = cql_outbox(&table.definition.name);
    for cql in create_feed(link.config(), table).into_iter().filter(|cql| cql.name == records) {
        drop_cql(link, connected, cql.name, cql.id).await?;
    }
    for view in &table.definition.options.views {
        drop_view(link, connected, view).await?;
    }
    drop_cql(link, connected, cql_table(&table.definition.name), table.id).await
}

/// Drops the CQL table of a view.
pub(super) async fn drop_view(link: &Link, connected: &Arc<Connected>, view: &View) -> Result<(), Error> {
    drop_cql(link, connected, cql_table(&view.table().definition.name), view.id).await
}

/// Makes the CQL table of a view, and waits until the nodes have it.
pub(super) async fn make_view(
    link: &Link,
    connected: &Arc<Connected>,
    table: &Table,
    view: &View,
) -> Result<(), Error> {
    let cql = create_view(link.config(), table, view);
    match make(link, connected, &cql).await? {
        None => Ok(()),
        Some(other) => {
            let detail = format!("its id is {other}, the view's is {}", view.id);
            Err(Error::ForeignTable { table: cql.name, detail })
        }
    }
}

/// Drops a CQL table, unless another one is in its place.
async fn drop_cql(link: &Link, connected: &Arc<Connected>, name: String, id: Uuid) -> Result<(), Error> {
    let keyspace = link.config().keyspace.clone();
    let (session, space, cql_name) = (connected.session.clone(), keyspace.clone(), name.clone());
    let ask = async move { Ok((table_somewhere(&session, &space, &cql_name, id, AGREEMENT).await, None)) };
    match link.run(Intent::Schema, "SELECT", &name, ask).await? {
        Some(true) => {}
        Some(false) => return Ok(()),
        None => {
            let detail = format!("not every node said within {AGREEMENT:?} whether it has `{name}`");
            return Err(Intent::Schema.unanswered(detail));
        }
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
