//! The statements on the registry of tables.

use std::sync::Arc;

use scylla::client::execution_profile::ExecutionProfileHandle;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

use crate::store::cassandra::schema::{COLUMNS, CREATING, DROPPING, READY, REGISTRY};

/// The statements on the registry of tables, prepared once for a session.
#[derive(Debug)]
pub(super) struct RegistryStatements {
    pub(super) one: PreparedStatement,
    pub(super) page: PreparedStatement,
    pub(super) insert: PreparedStatement,
    /// Marks a table that was made, unless it is being dropped.
    pub(super) ready: PreparedStatement,
    /// Removes a table that was never made.
    pub(super) unregister: PreparedStatement,
    /// Changes a definition that is still as it was read.
    pub(super) update: PreparedStatement,
    /// Replaces the build of a view that is still as it was read.
    pub(super) replace_build: PreparedStatement,
    /// Removes the build of a view that is still as it was read.
    pub(super) end_build: PreparedStatement,
    /// Marks a table that is being dropped.
    pub(super) dropping: PreparedStatement,
    /// Removes a table that was dropped.
    pub(super) dropped: PreparedStatement,
}

impl RegistryStatements {
    /// Prepares the statements. Those that take a lightweight transaction get the slower `schema` profile.
    pub(super) async fn prepare(
        session: &Arc<Session>,
        keyspace: &str,
        schema: &ExecutionProfileHandle,
    ) -> Result<Self, String> {
        let registry = format!("{keyspace}.{REGISTRY}");
        // All of them may be sent twice: an insert again under the same id is the same row, and each update names the id.
        let prepare = |text: String, transaction: bool| {
            let session = session.clone();
            async move {
                let mut statement = session.prepare(text).await.map_err(|error| error.to_string())?;
                statement.set_consistency(Consistency::LocalQuorum);
                // A table is one in all data centres.
                statement.set_serial_consistency(Some(SerialConsistency::Serial));
                statement.set_is_idempotent(true);
                if transaction {
                    statement.set_execution_profile_handle(Some(schema.clone()));
                }
                Ok::<_, String>(statement)
            }
        };
        Ok(Self {
            one: prepare(format!("SELECT {COLUMNS} FROM {registry} WHERE space = ? AND name = ?"), false)
                .await?,
            page: prepare(
                format!("SELECT {COLUMNS} FROM {registry} WHERE space = ? AND name > ? LIMIT ?"),
                false,
            )
            .await?,
            insert: prepare(
                format!(
                    "INSERT INTO {registry} (space, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"
                ),
                true,
            )
            .await?,
            ready: prepare(
                format!(
                    "UPDATE {registry} SET state = '{READY}' WHERE space = ? AND name = ? \
                     IF id = ? AND state IN ('{CREATING}', '{READY}')"
                ),
                true,
            )
            .await?,
            unregister: prepare(
                format!("DELETE FROM {registry} WHERE space = ? AND name = ? IF id = ? AND state = '{CREATING}'"),
                true,
            )
            .await?,
            update: prepare(
                format!(
                    "UPDATE {registry} SET default_ttl_seconds = ?, description = ?, options = ?, layout = ? \
                     WHERE space = ? AND name = ? IF id = ? AND state = '{READY}' AND default_ttl_seconds = ? \
                     AND description = ? AND options = ?"
                ),
                true,
            )
            .await?,
            replace_build: prepare(
                format!("UPDATE {registry} SET options = ? WHERE space = ? AND name = ? IF options = ?"),
                true,
            )
            .await?,
            end_build: prepare(format!("DELETE FROM {registry} WHERE space = ? AND name = ? IF options = ?"), true)
                .await?,
            dropping: prepare(
                format!("UPDATE {registry} SET state = '{DROPPING}' WHERE space = ? AND name = ? IF id = ?"),
                true,
            )
            .await?,
            dropped: prepare(
                format!("DELETE FROM {registry} WHERE space = ? AND name = ? IF id = ? AND state = '{DROPPING}'"),
                true,
            )
            .await?,
        })
    }
}
