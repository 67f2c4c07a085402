//! The statements on the registry of tables, and how the registry itself comes to be.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

use crate::config::Config;
use crate::store::cassandra::schema::{COLUMNS, READY, REGISTRY, create_keyspace, create_registry};

/// The statements on the registry of tables, prepared once for a session.
#[derive(Debug)]
pub(super) struct RegistryStatements {
    pub(super) one: PreparedStatement,
    pub(super) page: PreparedStatement,
    pub(super) insert: PreparedStatement,
    pub(super) ready: PreparedStatement,
    pub(super) cql_id: PreparedStatement,
}

impl RegistryStatements {
    /// Makes keyspace and registry if they are not there, and prepares the statements.
    pub(super) async fn prepare(
        session: &Arc<Session>,
        config: &Config,
        contact_points: usize,
    ) -> Result<Self, String> {
        let keyspace = &config.keyspace;
        let exists = format!(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}' AND table_name = '{REGISTRY}'"
        );
        let exists = session.query_unpaged(exists, ()).await.map_err(|error| error.to_string())?;
        // Looked up first: where an operator has made them, this user need not be allowed to.
        if exists.into_rows_result().map_err(|error| error.to_string())?.rows_num() == 0 {
            for statement in [create_keyspace(config, contact_points), create_registry(keyspace)] {
                session.query_unpaged(statement, ()).await.map_err(|error| error.to_string())?;
            }
        }
        let registry = format!("{keyspace}.{REGISTRY}");
        let prepare = |text: String, idempotent: bool| {
            let session = session.clone();
            async move {
                let mut statement = session.prepare(text).await.map_err(|error| error.to_string())?;
                statement.set_consistency(Consistency::LocalQuorum);
                statement.set_serial_consistency(Some(SerialConsistency::Serial));
                statement.set_is_idempotent(idempotent);
                Ok::<_, String>(statement)
            }
        };
        Ok(Self {
            one: prepare(format!("SELECT {COLUMNS} FROM {registry} WHERE space = ? AND name = ?"), true)
                .await?,
            page: prepare(
                format!("SELECT {COLUMNS} FROM {registry} WHERE space = ? AND name > ? LIMIT ?"),
                true,
            )
            .await?,
            insert: prepare(
                format!(
                    "INSERT INTO {registry} (space, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"
                ),
                false,
            )
            .await?,
            ready: prepare(
                format!("UPDATE {registry} SET state = '{READY}' WHERE space = ? AND name = ? IF id = ?"),
                false,
            )
            .await?,
            cql_id: prepare(
                "SELECT id FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?".to_owned(),
                true,
            )
            .await?,
        })
    }
}
