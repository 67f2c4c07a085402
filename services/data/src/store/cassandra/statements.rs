//! The prepared statements of one table: a fixed set, each prepared when it is first needed, and shared by all calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use scylla::client::session::Session;
use scylla::cluster::metadata::ColumnType;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::serialize::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};
use scylla::statement::batch::BatchStatement;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, Statement};
use tokio::sync::watch;

use crate::error::Error;
use crate::key::SortKey;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::fetch_plan::RowSizes;
use crate::store::cassandra::link::Link;
use crate::store::cassandra::schema::{cql_outbox, cql_table};
use crate::table::{SortKeyType, Table, WriteMode};

/// Kind of statement. `From` and `To` are its bounds. A scan always has a lower bound, the smallest key of all if need be, so
/// that few statements are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    GetMany,
    /// Reads rows of a range of tokens.
    ScanTokens,
    /// Reads the keys of the partitions of a range of tokens.
    ListPartitions,
    AscendingFrom,
    AscendingFromTo,
    DescendingFrom,
    DescendingFromTo,
    Put,
    Delete,
    DeletePartition,
    DeleteFrom,
    DeleteFromTo,
    /// Reads the rows of a conditional write, and whether it was applied before.
    ReadForWrite,
    /// Remembers a conditional write that is applied.
    Remember,
    /// Replaces a row that has a version.
    Replace,
    /// Changes nothing, if a row has a version.
    Guard,
    /// Adds the record of a write to the change feed.
    PutRecord,
    /// Reads records of a change feed.
    GetRecords,
}

impl Kind {
    /// All kinds.
    const ALL: [Kind; KINDS] = [
        Kind::Get,
        Kind::GetMany,
        Kind::ScanTokens,
        Kind::ListPartitions,
        Kind::AscendingFrom,
        Kind::AscendingFromTo,
        Kind::DescendingFrom,
        Kind::DescendingFromTo,
        Kind::Put,
        Kind::Delete,
        Kind::DeletePartition,
        Kind::DeleteFrom,
        Kind::DeleteFromTo,
        Kind::ReadForWrite,
        Kind::Remember,
        Kind::Replace,
        Kind::Guard,
        Kind::PutRecord,
        Kind::GetRecords,
    ];

    /// Returns the first word of the statement.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Kind::Put | Kind::Remember | Kind::PutRecord => "INSERT",
            Kind::Replace | Kind::Guard => "UPDATE",
            Kind::Delete | Kind::DeletePartition | Kind::DeleteFrom | Kind::DeleteFromTo => "DELETE",
            Kind::Get
            | Kind::GetMany
            | Kind::ScanTokens
            | Kind::ListPartitions
            | Kind::AscendingFrom
            | Kind::AscendingFromTo
            | Kind::DescendingFrom
            | Kind::DescendingFromTo
            | Kind::ReadForWrite
            | Kind::GetRecords => "SELECT",
        }
    }

    /// Returns whether the columns of the result have the same types in all tables. Then Cassandra need not say them in each answer.
    /// A table that was dropped and made anew may have sort keys of another type under the same text.
    fn has_fixed_columns(self) -> bool {
        self == Kind::Get
    }

    /// Returns whether the statement has a condition. The clone gives the timestamps, so every other one may be repeated.
    fn conditional(self) -> bool {
        matches!(self, Kind::Remember | Kind::Replace | Kind::Guard)
    }
}

const KINDS: usize = Kind::GetRecords as usize + 1;

/// Time that a call waits for its statement to be prepared at every node.
const PREPARE_WAIT: Duration = Duration::from_millis(300);

/// A statement that can be sent.
#[derive(Clone)]
pub(super) enum Sendable {
    /// Every node that answered has prepared it.
    Prepared(PreparedStatement),
    /// The node that takes it prepares it first.
    Text(Statement),
}

impl Sendable {
    /// Sets the number of replicas to wait for.
    pub(super) fn set_consistency(&mut self, consistency: Consistency) {
        match self {
            Sendable::Prepared(statement) => statement.set_consistency(consistency),
            Sendable::Text(statement) => statement.set_consistency(consistency),
        }
    }

    /// Sends the statement with values.
    pub(super) async fn execute(
        self,
        session: &Session,
        values: Vec<Bind>,
    ) -> Result<QueryResult, ExecutionError> {
        match self {
            Sendable::Prepared(statement) => session.execute_unpaged(&statement, values).await,
            Sendable::Text(statement) => session.query_unpaged(statement, values).await,
        }
    }
}

impl From<Sendable> for BatchStatement {
    fn from(statement: Sendable) -> Self {
        match statement {
            Sendable::Prepared(statement) => statement.into(),
            Sendable::Text(statement) => statement.into(),
        }
    }
}

/// A prepared statement, once it is.
#[derive(Debug)]
struct Slot {
    prepared: watch::Sender<Option<PreparedStatement>>,
    /// Set while a call prepares it.
    preparing: AtomicBool,
}

impl Slot {
    fn new() -> Self {
        Self { prepared: watch::Sender::new(None), preparing: AtomicBool::new(false) }
    }
}

/// The statements of one table.
pub(super) struct Statements {
    keyspace: String,
    table: String,
    outbox: String,
    has_sort_key: bool,
    conditional: bool,
    slots: [Slot; KINDS],
    sizes: RowSizes,
}

impl Statements {
    pub(super) fn new(keyspace: &str, table: &Table) -> Self {
        Self {
            keyspace: keyspace.to_owned(),
            table: cql_table(&table.definition.name),
            outbox: format!("{keyspace}.{}", cql_outbox(&table.definition.name)),
            has_sort_key: table.definition.sort_key_type != SortKeyType::None,
            conditional: table.definition.write_mode == WriteMode::Conditional,
            slots: std::array::from_fn(|_| Slot::new()),
            sizes: RowSizes::new(),
        }
    }

    /// Returns the name of the CQL table.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Returns whether the table's writes are conditional.
    pub(super) fn conditional(&self) -> bool {
        self.conditional
    }

    /// Returns a statement, which the caller gives its consistency. The driver prepares it at every node, and waits for each: while
    /// one is frozen, the statement is sent as text, which the node that takes it prepares.
    pub(super) async fn get(
        self: &Arc<Self>,
        kind: Kind,
        link: &Link,
        session: &Arc<Session>,
    ) -> Result<Sendable, Error> {
        let slot = &self.slots[kind as usize];
        if let Some(prepared) = &*slot.prepared.borrow() {
            return Ok(Sendable::Prepared(prepared.clone()));
        }
        if slot.preparing.swap(true, Ordering::AcqRel) {
            let mut prepared = slot.prepared.subscribe();
            let ready = prepared.wait_for(Option::is_some);
            if let Ok(Ok(prepared)) = tokio::time::timeout(PREPARE_WAIT, ready).await
                && let Some(prepared) = &*prepared
            {
                return Ok(Sendable::Prepared(prepared.clone()));
            }
            return Ok(self.as_text(kind));
        }
        let (statements, session) = (self.clone(), session.clone());
        let prepare = async move {
            let slot = &statements.slots[kind as usize];
            let prepared = session.prepare(statements.text(kind)).await;
            slot.preparing.store(false, Ordering::Release);
            let mut statement = prepared?;
            statement.set_is_idempotent(!kind.conditional());
            statement.set_use_cached_result_metadata(kind.has_fixed_columns());
            slot.prepared.send_replace(Some(statement.clone()));
            Ok((statement, None))
        };
        let prepared = link.run(Intent::Read, "PREPARE", &self.table, prepare);
        match tokio::time::timeout(PREPARE_WAIT, prepared).await {
            Ok(prepared) => prepared.map(Sendable::Prepared),
            Err(_) => Ok(self.as_text(kind)),
        }
    }

    fn as_text(&self, kind: Kind) -> Sendable {
        let mut statement = Statement::new(self.text(kind));
        statement.set_is_idempotent(!kind.conditional());
        Sendable::Text(statement)
    }

    fn text(&self, kind: Kind) -> String {
        let table = format!("{}.{}", self.keyspace, self.table);
        // In a conditional table rows stand beside other things, and their time is a column.
        let (partition, time) = if self.conditional {
            ("pk = ? AND aux = 0x", "write_time")
        } else {
            ("pk = ?", "WRITETIME(cell)")
        };
        let tokens = "token(pk) > ? AND token(pk) <= ?";
        // Each partition is read from where its rows begin.
        let (tokens, filtering) = if self.conditional {
            (format!("{tokens} AND aux = 0x"), " ALLOW FILTERING")
        } else {
            (tokens.to_owned(), "")
        };
        let sk = if self.has_sort_key { ", sk" } else { "" };
        let row = if self.has_sort_key { format!("{partition} AND sk = ?") } else { partition.to_owned() };
        let select = |bounds: &str, order: &str| {
            let order =
                if self.conditional { format!("aux {order}, sk {order}") } else { format!("sk {order}") };
            format!(
                "SELECT sk, cell, {time} FROM {table} WHERE {partition} AND {bounds} ORDER BY {order} LIMIT ?"
            )
        };
        match kind {
            Kind::Get => format!("SELECT cell, {time} FROM {table} WHERE {row}"),
            Kind::GetMany => {
                format!("SELECT sk, cell, {time} FROM {table} WHERE {partition} AND sk IN ?")
            }
            Kind::ScanTokens => {
                format!(
                    "SELECT token(pk), pk{sk}, cell, {time} FROM {table} WHERE {tokens} LIMIT ?{filtering}"
                )
            }
            Kind::ListPartitions => {
                format!(
                    "SELECT token(pk), pk FROM {table} WHERE {tokens} PER PARTITION LIMIT 1 LIMIT ?{filtering}"
                )
            }
            Kind::AscendingFrom => select("sk >= ?", "ASC"),
            Kind::AscendingFromTo => select("sk >= ? AND sk < ?", "ASC"),
            Kind::DescendingFrom => select("sk >= ?", "DESC"),
            Kind::DescendingFromTo => select("sk >= ? AND sk < ?", "DESC"),
            Kind::Put if self.has_sort_key => {
                format!("INSERT INTO {table} (pk, sk, cell) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?")
            }
            Kind::Put => format!("INSERT INTO {table} (pk, cell) VALUES (?, ?) USING TIMESTAMP ? AND TTL ?"),
            Kind::Delete => format!("DELETE FROM {table} USING TIMESTAMP ? WHERE {row}"),
            Kind::DeletePartition => format!("DELETE FROM {table} USING TIMESTAMP ? WHERE pk = ?"),
            Kind::DeleteFrom => format!("DELETE FROM {table} USING TIMESTAMP ? WHERE pk = ? AND sk >= ?"),
            Kind::DeleteFromTo => {
                format!("DELETE FROM {table} USING TIMESTAMP ? WHERE pk = ? AND sk >= ? AND sk < ?")
            }
            Kind::ReadForWrite => {
                let keys = if self.has_sort_key { "(aux, sk)" } else { "aux" };
                format!("SELECT aux, cell, write_time, version{sk} FROM {table} WHERE pk = ? AND {keys} IN ?")
            }
            Kind::Remember => {
                let places = if self.has_sort_key { "?, ?, ?, ?, ?" } else { "?, ?, ?, ?" };
                format!(
                    "INSERT INTO {table} (pk, aux{sk}, cell, write_time) VALUES ({places}) IF NOT EXISTS USING TTL ?"
                )
            }
            Kind::Replace => format!(
                "UPDATE {table} USING TTL ? SET cell = ?, write_time = ?, version = ? WHERE {row} IF version = ?"
            ),
            Kind::Guard => format!("UPDATE {table} SET guard = null WHERE {row} IF version = ?"),
            Kind::PutRecord if self.conditional => {
                let places = if self.has_sort_key { "?, ?, ?, ?" } else { "?, ?, ?" };
                format!("INSERT INTO {table} (pk, aux{sk}, cell) VALUES ({places}) USING TTL ?")
            }
            Kind::PutRecord => {
                format!("INSERT INTO {} (pk, at, id, record) VALUES (?, ?, ?, ?) USING TTL ?", self.outbox)
            }
            Kind::GetRecords if self.conditional => {
                format!("SELECT aux, cell FROM {table} WHERE pk = ? AND aux IN ?")
            }
            Kind::GetRecords => {
                format!("SELECT at, id, record FROM {} WHERE pk = ? AND (at, id) IN ?", self.outbox)
            }
        }
    }

    /// Returns the sizes of the rows read lately.
    pub(super) fn sizes(&self) -> &RowSizes {
        &self.sizes
    }
}

impl fmt::Debug for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statements").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Refuses to start with a statement that has both a condition and a timestamp of ours. Cassandra orders conditional writes by
/// timestamps that it gives itself; a write with another one beside them would be lost, or hide them, without a word.
///
/// # Errors
/// When there is such a statement, which is a defect.
pub(crate) fn check_texts() -> anyhow::Result<()> {
    for conditional in [false, true] {
        for has_sort_key in [false, true] {
            let (keyspace, table, outbox) = ("k".to_owned(), "t".to_owned(), "k.o".to_owned());
            let slots = std::array::from_fn(|_| Slot::new());
            let sizes = RowSizes::new();
            let statements = Statements { keyspace, table, outbox, has_sort_key, conditional, slots, sizes };
            for kind in Kind::ALL {
                let text = statements.text(kind);
                let (condition, timestamp) = (text.contains(" IF "), text.contains("TIMESTAMP"));
                anyhow::ensure!(
                    !(condition && timestamp),
                    "{kind:?} has a condition and a timestamp: {text}"
                );
                anyhow::ensure!(condition == kind.conditional(), "{kind:?} says otherwise: {text}");
                anyhow::ensure!(
                    text.starts_with(kind.operation()),
                    "{kind:?} is no {}: {text}",
                    kind.operation()
                );
            }
        }
    }
    Ok(())
}

/// Returns the smallest sort key of a type.
pub(super) fn lowest(of: SortKeyType) -> SortKey {
    match of {
        SortKeyType::String => SortKey::Text("\0".to_owned()),
        SortKeyType::Int64 => SortKey::Int(i64::MIN),
        SortKeyType::Bytes | SortKeyType::Composite(_) => SortKey::of_blob(of, Bytes::from_static(&[0])),
        SortKeyType::None => SortKey::Unit,
    }
}

/// A value bound to a statement.
#[derive(Debug, Clone)]
pub(super) enum Bind {
    Text(String),
    BigInt(i64),
    Int(i32),
    Blob(Bytes),
    Null,
    /// Places in a conditional table: of rows, and of what stands beside them.
    Keys(Vec<(Bytes, Bind)>),
    /// The same in a table without sort keys.
    Blobs(Vec<Bytes>),
    /// Several values of one type.
    List(Vec<Bind>),
    Places(Vec<(i64, i64)>),
}

impl Bind {
    /// Returns the value of the sort key column; none where the table has none.
    pub(super) fn sort_key(key: &SortKey) -> Option<Self> {
        match key {
            SortKey::Unit => None,
            SortKey::Text(text) => Some(Bind::Text(text.clone())),
            SortKey::Int(int) => Some(Bind::BigInt(*int)),
            SortKey::Bytes(bytes) | SortKey::Composite(_, bytes) => Some(Bind::Blob(bytes.clone())),
        }
    }
}

impl SerializeValue for Bind {
    fn serialize<'b>(
        &self,
        typ: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        match self {
            Bind::Text(text) => text.serialize(typ, writer),
            Bind::BigInt(int) => int.serialize(typ, writer),
            Bind::Int(int) => int.serialize(typ, writer),
            Bind::Blob(bytes) => bytes.serialize(typ, writer),
            Bind::Null => Ok(writer.set_null()),
            Bind::Keys(keys) => keys.serialize(typ, writer),
            Bind::Blobs(blobs) => blobs.serialize(typ, writer),
            Bind::List(values) => values.serialize(typ, writer),
            Bind::Places(places) => places.serialize(typ, writer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_stand_without_timestamps() {
        check_texts().unwrap();
        let every: std::collections::BTreeSet<usize> = Kind::ALL.iter().map(|kind| *kind as usize).collect();
        assert_eq!(every.len(), KINDS, "each kind is looked at");
    }
}
