//! The tables in Cassandra: one registry of all tables, and one CQL table for each.
//!
//! Two clones may create the same table at once, on different nodes. Both then use the same id: one of them inserts the
//! registry's row (a lightweight transaction), and the CQL table is created under the id in this row.

use std::collections::BTreeMap;

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::clock::WriteTimestamp;
use crate::config::Config;
use crate::error::Error;
use crate::table::{Definition, Options, SortKeyType, Table, TableName, Ttl, View, WriteMode};

/// Name of the registry's table.
pub(super) const REGISTRY: &str = "tables";
/// Partition of the registry. It is one partition, so that tables are listed in order.
pub(super) const SPACE: &str = "shoal";
/// Partition of the row with the store's own name, which is in no list.
pub(super) const STORE_SPACE: &str = "store";
/// Name of the row with the store's own name.
pub(super) const STORE_NAME: &str = "id";
/// Partition of the rows with the keys of page tokens, by number. The id of such a row is the key's secret.
pub(super) const KEY_SPACE: &str = "page_keys";
/// Partition of the marks of large rows, by the id of the table and the class of the row.
pub(super) const MARK_SPACE: &str = "row_marks";
/// Partition of the rows with the builds of views, by the ids of the views. The options of such a row are the build.
pub(super) const BUILD_SPACE: &str = "view_builds";
/// State of a table whose CQL table may not be there yet.
pub(super) const CREATING: &str = "creating";
/// State of a table whose CQL table is there, on every node.
pub(super) const READY: &str = "ready";

/// State of a table that is being dropped: no clone finds it any more, and its CQL table may be gone.
pub(super) const DROPPING: &str = "dropping";

/// Latest layout of tables that this release knows: what a clone must know to read and write one. A row of the registry without
/// a layout is of layout 1; a table with a change feed is of layout 2, one with an attribute schema of layout 4 and one with views
/// of layout 5, because a clone that does not know them would leave them out.
pub(super) const LAYOUT: i32 = 5;
/// The column with the layout, which registries of earlier releases do not have.
pub(super) const LAYOUT_COLUMN: &str = "layout int";
/// The column with the description, which registries of earlier releases do not have.
pub(super) const DESCRIPTION_COLUMN: &str = "description text";

/// The column with a table's options, which registries of earlier releases do not have.
pub(super) const OPTIONS_COLUMN: &str = "options blob";
/// Name of the log of all change feeds.
pub(super) const CHANGES: &str = "changes";

/// Columns of the registry in the order of [`Record`].
pub(super) const COLUMNS: &str = "name, id, state, sort_key_type, write_mode, default_ttl_seconds, create_time_micros, layout, description, options";

/// A row of the registry.
pub(super) type Record =
    (String, Uuid, String, String, String, Option<i64>, i64, Option<i32>, Option<String>, Option<Vec<u8>>);

/// Returns the statement that makes the keyspace, with this many replicas in each data centre.
pub(super) fn create_keyspace(keyspace: &str, factors: &BTreeMap<String, u8>) -> String {
    let factors: String =
        factors.iter().map(|(datacenter, factor)| format!(", '{datacenter}': {factor}")).collect();
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy'{factors}}}"
    )
}

/// Returns the id of the registry, which every clone derives alike.
pub(super) fn registry_id(keyspace: &str) -> Uuid {
    let hash = xxh3_128(format!("{keyspace}.{REGISTRY}").as_bytes());
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}

/// Returns the statement that makes the registry.
pub(super) fn create_registry(config: &Config) -> String {
    let keyspace = &config.keyspace;
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.{REGISTRY} (space text, name text, id uuid, state text, \
         sort_key_type text, write_mode text, default_ttl_seconds bigint, create_time_micros bigint, {LAYOUT_COLUMN}, \
         {DESCRIPTION_COLUMN}, {OPTIONS_COLUMN}, \
         PRIMARY KEY (space, name)) WITH ID = '{}' AND speculative_retry = '{}'",
        registry_id(keyspace),
        config.speculative_retry
    )
}

/// Returns the layout of a table with these options.
pub(super) fn layout_of(options: &Options) -> i32 {
    match options {
        Options { views, .. } if !views.is_empty() => LAYOUT,
        Options { attribute_schema: Some(_), .. } => 4,
        Options { change_feed: Some(_), .. } => 2,
        _ => 1,
    }
}

/// A CQL table to make.
#[derive(Debug)]
pub(super) struct CqlTable {
    /// The name of the table.
    pub(super) name: String,
    /// The id under which it is made, which every clone derives alike.
    pub(super) id: Uuid,
    /// The statement that makes it.
    pub(super) text: String,
}

/// Returns the log of change feeds, and the table with the records of a table's feed.
pub(super) fn create_feed(config: &Config, table: &Table) -> Vec<CqlTable> {
    let keyspace = &config.keyspace;
    let new = |name: String, id_of: &[u8], columns: &str| {
        let id = uuid::Builder::from_custom_bytes(xxh3_128(id_of).to_be_bytes()).into_uuid();
        // Whole files end together, so that nothing has to be compacted away.
        let text = format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.{name} ({columns}) WITH ID = '{id}' AND speculative_retry = '{}' \
             AND compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS', \
             'compaction_window_size': '2'}}",
            config.speculative_retry
        );
        CqlTable { name, id, text }
    };
    let log = "feed uuid, shard int, bucket bigint, at bigint, id bigint, pk text, size int, \
               PRIMARY KEY ((feed, shard, bucket), at, id)";
    let mut tables = vec![new(CHANGES.to_owned(), format!("{keyspace}.{CHANGES}").as_bytes(), log)];
    // The records of a conditional table stand beside its rows.
    if table.definition.write_mode == WriteMode::LastWriteWins {
        let columns = "pk text, at bigint, id bigint, record blob, PRIMARY KEY (pk, at, id)";
        let id_of = [table.id.as_bytes(), &b".records"[..]].concat();
        tables.push(new(cql_outbox(&table.definition.name), &id_of, columns));
    }
    tables
}

/// Returns the table with the entries of a view. Its comment names the view, because its own name cannot: it would be too long.
pub(super) fn create_view(config: &Config, table: &Table, view: &View) -> CqlTable {
    let hidden = view.table();
    let text = create_table(config, &hidden);
    let text = format!("{text} AND comment = 'shoal: view {}.{}'", table.definition.name, view.name);
    CqlTable { name: cql_table(&hidden.definition.name), id: hidden.id, text }
}

/// Returns the name of the CQL table with the records of a table's change feed.
pub(super) fn cql_outbox(name: &TableName) -> String {
    format!("o_{name}")
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
pub(super) fn create_table(config: &Config, table: &Table) -> String {
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
        "CREATE TABLE IF NOT EXISTS {}.{name} (pk text, {aux}{sk}cell blob, {more}PRIMARY KEY ({key})) \
         WITH ID = '{}' AND speculative_retry = '{}'",
        config.keyspace, table.id, config.speculative_retry
    )
}

/// Returns the CQL type of the sort key column.
fn column_type(of: SortKeyType) -> Option<&'static str> {
    match of {
        SortKeyType::String => Some("text"),
        SortKeyType::Int64 => Some("bigint"),
        SortKeyType::Bytes | SortKeyType::Composite(_) => Some("blob"),
        SortKeyType::None => None,
    }
}

/// Reads the table of a registry row, and whether its CQL table is there.
///
/// # Errors
/// [`Error::NewerLayout`] when a later release wrote the row.
pub(super) fn table_of(record: Record) -> Result<(Table, bool), Error> {
    let (name, id, state, sort_key_type, write_mode, ttl, create_time, layout, description, options) = record;
    let layout = layout.unwrap_or(1);
    if layout > LAYOUT {
        let detail = format!("it has layout {layout}, and this clone knows layouts up to {LAYOUT}");
        return Err(Error::NewerLayout { table: name, detail });
    }
    let definition = || {
        Some(Definition {
            name: TableName::of_stored(&name)?,
            sort_key_type: SortKeyType::of_name(&sort_key_type)?,
            write_mode: WriteMode::of_name(&write_mode)?,
            default_ttl: match ttl {
                None => None,
                Some(seconds) => Some(Ttl::of_seconds(seconds.try_into().ok()?)?),
            },
            description: description.clone().unwrap_or_default(),
            options: Options::decode(options.as_deref().unwrap_or_default())?,
        })
    };
    let Some(definition) = definition() else {
        let detail = format!("sort_key_type `{sort_key_type}`, write_mode `{write_mode}`");
        return Err(Error::NewerLayout { table: name, detail });
    };
    Ok((Table { definition, id, create_time: WriteTimestamp(create_time) }, state == READY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::table;

    fn config(keyspace: &str) -> Config {
        Config { keyspace: keyspace.to_owned(), ..Config::default() }
    }

    #[test]
    fn every_clone_says_the_same() {
        let one = table("users", SortKeyType::Int64);
        assert_eq!(
            create_table(&config("ks"), &one),
            format!(
                "CREATE TABLE IF NOT EXISTS ks.t_users (pk text, sk bigint, cell blob, PRIMARY KEY (pk, sk)) WITH ID = '{}' \
                 AND speculative_retry = '50ms'",
                one.id
            )
        );
        assert!(
            create_table(&config("ks"), &table("u", SortKeyType::None))
                .contains("(pk text, cell blob, PRIMARY KEY (pk))")
        );
        assert_eq!(create_registry(&config("ks")), create_registry(&config("ks")));
        assert_ne!(registry_id("ks"), registry_id("ks2"));
        let mut conditional = table("c", SortKeyType::String);
        conditional.definition.write_mode = WriteMode::Conditional;
        let conditional = create_table(&config("ks"), &conditional);
        assert!(conditional.contains("sk text, cell blob, write_time bigint"), "{conditional}");
        assert!(conditional.contains("PRIMARY KEY (pk, aux, sk)"), "{conditional}");
        let factors = [("dc1".to_owned(), 3), ("dc2".to_owned(), 2)].into();
        assert!(
            create_keyspace("ks", &factors)
                .ends_with("{'class': 'NetworkTopologyStrategy', 'dc1': 3, 'dc2': 2}")
        );
    }

    #[test]
    fn newer_layout_is_refused() {
        let row = |mode: &str, layout| {
            let (sort_key_type, mode) = ("STRING".to_owned(), mode.to_owned());
            table_of((
                "t".to_owned(),
                Uuid::nil(),
                READY.to_owned(),
                sort_key_type,
                mode,
                None,
                5,
                layout,
                None,
                None,
            ))
        };
        let known = WriteMode::LastWriteWins.name();
        assert!(row(known, None).is_ok() && row(known, Some(LAYOUT)).is_ok());
        for newer in [row(known, Some(LAYOUT + 1)), row("LATER", None)] {
            assert!(matches!(&newer, Err(Error::NewerLayout { table, .. }) if table == "t"), "{newer:?}");
        }
    }
}
