//! The tables in Cassandra: one registry of all tables, and one CQL table for each.
//!
//! Two clones may create the same table at once, on different nodes. Both then use the same id: one of them inserts the
//! registry's row (a lightweight transaction), and the CQL table is created under the id in this row.

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::clock::WriteTimestamp;
use crate::config::Config;
use crate::error::Error;
use crate::table::{Definition, SortKeyType, Table, TableName, Ttl, WriteMode};

/// Name of the registry's table.
pub(super) const REGISTRY: &str = "tables";
/// Partition of the registry. It is one partition, so that tables are listed in order.
pub(super) const SPACE: &str = "shoal";
/// Partition of the row with the store's own name, which is in no list.
pub(super) const STORE_SPACE: &str = "store";
/// Name of the row with the store's own name.
pub(super) const STORE_NAME: &str = "id";
/// State of a table whose CQL table may not be there yet.
pub(super) const CREATING: &str = "creating";
/// State of a table whose CQL table is there, on every node.
pub(super) const READY: &str = "ready";

/// Columns of the registry in the order of [`Record`].
pub(super) const COLUMNS: &str =
    "name, id, state, sort_key_type, write_mode, default_ttl_seconds, create_time_micros";

/// A row of the registry.
pub(super) type Record = (String, Uuid, String, String, String, Option<i64>, i64);

/// Returns the statement that makes the keyspace.
pub(super) fn create_keyspace(config: &Config, contact_points: usize) -> String {
    let factor = config.replication_factor.map_or(contact_points.clamp(1, 3), usize::from);
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = \
         {{'class': 'SimpleStrategy', 'replication_factor': {factor}}}",
        config.keyspace
    )
}

/// Returns the statement that makes the registry, under an id that every clone derives alike.
pub(super) fn create_registry(keyspace: &str) -> String {
    let id =
        uuid::Builder::from_custom_bytes(xxh3_128(format!("{keyspace}.{REGISTRY}").as_bytes()).to_be_bytes());
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.{REGISTRY} (space text, name text, id uuid, state text, \
         sort_key_type text, write_mode text, default_ttl_seconds bigint, create_time_micros bigint, \
         PRIMARY KEY (space, name)) WITH ID = '{}'",
        id.into_uuid()
    )
}

/// Returns the name of a table's CQL table.
pub(super) fn cql_table(name: &TableName) -> String {
    format!("t_{name}")
}

/// Column of a conditional table's key: empty in rows, and not in what stands beside them.
const CONDITIONAL_KEY: &str = "aux blob, ";
/// Columns of a conditional table that others do not have. Writes condition on `version`; `guard` is never set.
const CONDITIONAL_COLUMNS: &str = "write_time bigint, version blob, guard boolean, ";

/// Returns the statement that makes a table's CQL table.
pub(super) fn create_table(keyspace: &str, table: &Table) -> String {
    let name = cql_table(&table.definition.name);
    let sk = column_type(table.definition.sort_key_type);
    let (aux, more, key) = match (table.definition.write_mode, sk) {
        (WriteMode::LastWriteWins, Some(_)) => ("", "", "pk, sk"),
        (WriteMode::LastWriteWins, None) => ("", "", "pk"),
        (WriteMode::Conditional, Some(_)) => (CONDITIONAL_KEY, CONDITIONAL_COLUMNS, "pk, aux, sk"),
        (WriteMode::Conditional, None) => (CONDITIONAL_KEY, CONDITIONAL_COLUMNS, "pk, aux"),
    };
    let sk = sk.map(|sk| format!("sk {sk}, ")).unwrap_or_default();
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.{name} (pk text, {aux}{sk}cell blob, {more}PRIMARY KEY ({key})) \
         WITH ID = '{}'",
        table.id
    )
}

/// Returns the CQL type of the sort key column.
fn column_type(of: SortKeyType) -> Option<&'static str> {
    match of {
        SortKeyType::String => Some("text"),
        SortKeyType::Int64 => Some("bigint"),
        SortKeyType::Bytes => Some("blob"),
        SortKeyType::None => None,
    }
}

/// Reads the table of a registry row, and whether its CQL table is there.
pub(super) fn table_of(record: Record) -> Result<(Table, bool), Error> {
    let (name, id, state, sort_key_type, write_mode, ttl, create_time) = record;
    let definition = || {
        Some(Definition {
            name: TableName::parse(&name, "name").ok()?,
            sort_key_type: SortKeyType::of_name(&sort_key_type)?,
            write_mode: WriteMode::of_name(&write_mode)?,
            default_ttl: match ttl {
                None => None,
                Some(seconds) => Some(Ttl::of_seconds(seconds.try_into().ok()?)?),
            },
        })
    };
    let Some(definition) = definition() else {
        return Err(Error::Internal(format!(
            "the registry's row of table `{name}` holds what this release does not know; update this clone"
        )));
    };
    Ok((Table { definition, id, create_time: WriteTimestamp(create_time) }, state == READY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::table;

    #[test]
    fn every_clone_says_the_same() {
        let one = table("users", SortKeyType::Int64);
        assert_eq!(
            create_table("ks", &one),
            format!(
                "CREATE TABLE IF NOT EXISTS ks.t_users (pk text, sk bigint, cell blob, PRIMARY KEY (pk, sk)) WITH ID = '{}'",
                one.id
            )
        );
        assert!(
            create_table("ks", &table("u", SortKeyType::None))
                .contains("(pk text, cell blob, PRIMARY KEY (pk))")
        );
        let mut conditional = table("c", SortKeyType::String);
        conditional.definition.write_mode = WriteMode::Conditional;
        assert!(create_table("ks", &conditional).contains("sk text, cell blob, write_time bigint"));
        assert!(create_table("ks", &conditional).contains("PRIMARY KEY (pk, aux, sk)"));
        assert_eq!(create_registry("ks"), create_registry("ks"));
        assert_ne!(create_registry("ks"), create_registry("ks2"));
        assert!(create_keyspace(&Config::default(), 1).ends_with("'replication_factor': 1}"));
        assert!(create_keyspace(&Config::default(), 5).ends_with("'replication_factor': 3}"));
    }
}
