//! The prepared statements of one table: a fixed set, each prepared when it is first needed, and shared by all calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use scylla::client::session::Session;
use scylla::cluster::metadata::ColumnType;
use scylla::serialize::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::OnceCell;

use crate::error::Error;
use crate::key::SortKey;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::link::Link;
use crate::store::cassandra::schema::cql_table;
use crate::table::{SortKeyType, Table};

/// Assumed size of a table's rows before any was read.
const ROW_BYTES_GUESS: usize = 1024;

/// Kind of statement. `From` and `To` are its bounds. A scan always has a lower bound, the smallest key of all if need be, so
/// that few statements are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    AscendingFrom,
    AscendingFromTo,
    DescendingFrom,
    DescendingFromTo,
    Put,
    Delete,
    DeletePartition,
    DeleteFrom,
    DeleteFromTo,
}

const KINDS: usize = Kind::DeleteFromTo as usize + 1;

/// The statements of one table.
pub(super) struct Statements {
    keyspace: String,
    table: String,
    has_sort_key: bool,
    prepared: [OnceCell<PreparedStatement>; KINDS],
    row_bytes: AtomicUsize,
}

impl Statements {
    pub(super) fn new(keyspace: &str, table: &Table) -> Self {
        Self {
            keyspace: keyspace.to_owned(),
            table: cql_table(&table.definition.name),
            has_sort_key: table.definition.sort_key_type != SortKeyType::None,
            prepared: [const { OnceCell::const_new() }; KINDS],
            row_bytes: AtomicUsize::new(ROW_BYTES_GUESS),
        }
    }

    /// Returns the name of the CQL table.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Returns a prepared statement, which the caller gives its consistency.
    pub(super) async fn get(
        &self,
        kind: Kind,
        link: &Link,
        session: &Arc<Session>,
    ) -> Result<PreparedStatement, Error> {
        let prepare = || async {
            let (session, text) = (session.clone(), self.text(kind));
            let prepared = async move {
                let mut statement = session.prepare(text).await?;
                // The clone gives the timestamps, so every statement may be repeated.
                statement.set_is_idempotent(true);
                Ok((statement, None))
            };
            link.run(Intent::Read, "PREPARE", &self.table, prepared).await
        };
        self.prepared[kind as usize].get_or_try_init(prepare).await.cloned()
    }

    fn text(&self, kind: Kind) -> String {
        let table = format!("{}.{}", self.keyspace, self.table);
        let row = if self.has_sort_key { "pk = ? AND sk = ?" } else { "pk = ?" };
        let select = |bounds: &str, order: &str| {
            format!(
                "SELECT sk, cell, WRITETIME(cell) FROM {table} WHERE pk = ? AND {bounds} ORDER BY sk {order} LIMIT ?"
            )
        };
        match kind {
            Kind::Get => format!("SELECT cell, WRITETIME(cell) FROM {table} WHERE {row}"),
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
        }
    }

    /// Returns the average size of the rows read lately.
    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes.load(Ordering::Relaxed).max(1)
    }

    /// Adds a fetch of rows to the average.
    pub(super) fn learn(&self, rows: usize, bytes: usize) {
        if let Some(seen) = bytes.checked_div(rows) {
            // The new size counts a quarter; a lost update costs nothing.
            let average = self.row_bytes() / 4 * 3 + seen / 4 + 1;
            self.row_bytes.store(average, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statements").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Returns the smallest sort key of a type.
pub(super) fn lowest(of: SortKeyType) -> SortKey {
    match of {
        SortKeyType::String => SortKey::Text("\0".to_owned()),
        SortKeyType::Int64 => SortKey::Int(i64::MIN),
        SortKeyType::Bytes => SortKey::Bytes(Bytes::from_static(&[0])),
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
}

impl Bind {
    /// Returns the value of the sort key column; none where the table has none.
    pub(super) fn sort_key(key: &SortKey) -> Option<Self> {
        match key {
            SortKey::Unit => None,
            SortKey::Text(text) => Some(Bind::Text(text.clone())),
            SortKey::Int(int) => Some(Bind::BigInt(*int)),
            SortKey::Bytes(bytes) => Some(Bind::Blob(bytes.clone())),
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
        }
    }
}
