//! The keyspace: makes it where it is not there and the configuration says so, and finds what is wrong with one that is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;

use crate::config::Config;
use crate::store::cassandra::agreement::{schema_agreed, table_everywhere, table_ids};
use crate::store::cassandra::schema::{
    DESCRIPTION_COLUMN, LAYOUT_COLUMN, OPTIONS_COLUMN, REGISTRY, create_keyspace, create_registry,
    registry_id,
};
use crate::store::cassandra::topology::Topology;

/// Time that the nodes have to agree on the schema while a session is made.
const AGREEMENT: Duration = Duration::from_secs(8);
/// Most replicas of a data centre in a keyspace that is made without being told how many.
const FACTOR_MAX: usize = 3;

/// Parts that had to be made before the first statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// All of it was there.
    Nothing,
    /// The registry of tables.
    Registry,
    /// The keyspace, and the registry in it.
    Keyspace,
}

/// Makes keyspace and registry if they are not there, and says what is wrong with a keyspace that is.
///
/// # Errors
/// When Cassandra refuses, and when the keyspace is missing and is not to be made.
pub(super) async fn prepare(
    session: &Arc<Session>,
    config: &Config,
    topology: &Topology,
    datacenter: &str,
) -> Result<Made, String> {
    let keyspace = &config.keyspace;
    let mut made = Made::Nothing;
    // Looked up first: where an operator has made them, this user need not be allowed to.
    if let Some(replication) = replication(session, keyspace).await? {
        for finding in findings(&replication, &topology.datacenters(), datacenter) {
            tracing::warn!(keyspace, "cassandra: {finding}");
        }
    } else {
        make_keyspace(session, config, topology).await?;
        made = Made::Keyspace;
    }
    if !session_has(session, keyspace, REGISTRY, "table_name").await? {
        if made == Made::Nothing
            && table_ids(session, keyspace, REGISTRY).await.ids.iter().any(Option::is_some)
        {
            return Err("the nodes do not agree on the schema yet".to_owned());
        }
        run(session, create_registry(config)).await?;
        let id = registry_id(keyspace);
        table_everywhere(session, keyspace, REGISTRY, id, AGREEMENT)
            .await
            .map_err(|disagreement| format!("the registry of tables: {disagreement:?}"))?;
        made = if made == Made::Keyspace { made } else { Made::Registry };
    } else if !session_has(session, keyspace, REGISTRY, "options").await? {
        // A registry of an earlier release.
        for column in [LAYOUT_COLUMN, DESCRIPTION_COLUMN, OPTIONS_COLUMN] {
            run(session, format!("ALTER TABLE {keyspace}.{REGISTRY} ADD IF NOT EXISTS {column}")).await?;
        }
        if !schema_agreed(session, AGREEMENT).await {
            return Err("the nodes do not agree on the schema yet".to_owned());
        }
    }
    Ok(made)
}

async fn make_keyspace(session: &Arc<Session>, config: &Config, topology: &Topology) -> Result<(), String> {
    let keyspace = &config.keyspace;
    if !config.create_keyspace {
        return Err(format!("the keyspace `{keyspace}` is not there, and data.create_keyspace is false"));
    }
    // A node that has not heard of the keyspace would let it be made anew, with other replication.
    if !schema_agreed(session, AGREEMENT).await || replication(session, keyspace).await?.is_some() {
        return Err("the nodes do not agree on the schema yet".to_owned());
    }
    let factors = factors(config, &topology.datacenters());
    for (datacenter, factor) in &factors {
        if *factor == 1 {
            let nodes = topology.datacenters().get(datacenter.as_str()).copied().unwrap_or_default();
            tracing::warn!(
                keyspace,
                datacenter,
                nodes,
                "cassandra: the keyspace is made with one replica: without that node its rows cannot be read, and its disk is \
                 their only copy; name data.replication, or ALTER the keyspace and repair when there are more nodes"
            );
        }
    }
    tracing::info!(keyspace, replication = ?factors, "cassandra: the keyspace is made");
    run(session, create_keyspace(keyspace, &factors)).await?;
    if !schema_agreed(session, AGREEMENT).await {
        return Err("the nodes do not agree on the schema yet".to_owned());
    }
    // The driver must know the replication to send a statement to a replica.
    session.refresh_metadata().await.map_err(|error| error.to_string())
}

/// Returns the number of replicas of each data centre: as configured, else one for each node, at most three.
fn factors(config: &Config, datacenters: &BTreeMap<&str, usize>) -> BTreeMap<String, u8> {
    if !config.replication.is_empty() {
        return config.replication.clone();
    }
    let factor = |nodes: usize| match config.replication_factor {
        Some(factor) => factor,
        None => u8::try_from(nodes.clamp(1, FACTOR_MAX)).unwrap_or(1),
    };
    datacenters.iter().map(|(name, nodes)| ((*name).to_owned(), factor(*nodes))).collect()
}

/// Returns what is wrong with the replication of a keyspace, in words for an operator.
fn findings(
    replication: &HashMap<String, String>,
    datacenters: &BTreeMap<&str, usize>,
    local: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    let factor = |text: &str| text.split('/').next().and_then(|count| count.parse::<usize>().ok());
    let mut check = |place: &str, factor: usize, nodes: usize| {
        if factor > nodes {
            let majority = factor / 2 + 1;
            let consequence = if majority > nodes { "no quorum can answer" } else { "some have no node" };
            found.push(format!("{place} has {factor} replicas and {nodes} nodes are known: {consequence}"));
        } else if factor == 1 && nodes > 1 {
            found.push(format!(
                "{place} has one replica although {nodes} nodes are known: each node that is away takes its rows with it; \
                 ALTER the keyspace and repair"
            ));
        }
    };
    match replication.get("class").map(|class| class.rsplit('.').next().unwrap_or(class)) {
        Some("SimpleStrategy") => {
            let nodes = datacenters.values().sum();
            if let Some(factor) = replication.get("replication_factor").and_then(|text| factor(text)) {
                check("the keyspace", factor, nodes);
            }
            if datacenters.len() > 1 {
                found.push(format!(
                    "the keyspace has SimpleStrategy, which does not know the data centres {}: LOCAL_QUORUM may find no local \
                     replica; ALTER it to NetworkTopologyStrategy",
                    datacenters.keys().copied().collect::<Vec<_>>().join(", ")
                ));
            }
        }
        Some("NetworkTopologyStrategy") => {
            for (datacenter, text) in replication.iter().filter(|(key, _)| *key != "class") {
                let nodes = datacenters.get(datacenter.as_str()).copied().unwrap_or_default();
                if let Some(factor) = factor(text) {
                    check(&format!("the keyspace in data centre `{datacenter}`"), factor, nodes);
                }
            }
            if !replication.contains_key(local) {
                found.push(format!(
                    "the keyspace has no replicas in this clone's data centre `{local}`: no LOCAL_QUORUM can answer"
                ));
            }
        }
        _ => {}
    }
    found.sort();
    found
}

/// Returns the replication of a keyspace; none if it is not there.
async fn replication(
    session: &Arc<Session>,
    keyspace: &str,
) -> Result<Option<HashMap<String, String>>, String> {
    let text = format!("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = '{keyspace}'");
    let result = session.query_unpaged(text, ()).await.map_err(|error| error.to_string())?;
    let rows = result.into_rows_result().map_err(|error| error.to_string())?;
    let row: Option<(HashMap<String, String>,)> =
        rows.maybe_first_row().map_err(|error| error.to_string())?;
    Ok(row.map(|(replication,)| replication))
}

/// Returns whether a table is there (`table_name`), or a column of it.
async fn session_has(
    session: &Arc<Session>,
    keyspace: &str,
    table: &str,
    column: &str,
) -> Result<bool, String> {
    let (of, and) = match column {
        "table_name" => ("tables", String::new()),
        column => ("columns", format!(" AND column_name = '{column}'")),
    };
    let text = format!(
        "SELECT table_name FROM system_schema.{of} WHERE keyspace_name = '{keyspace}' AND table_name = '{table}'{and}"
    );
    let result = session.query_unpaged(text, ()).await.map_err(|error| error.to_string())?;
    Ok(result.into_rows_result().map_err(|error| error.to_string())?.rows_num() > 0)
}

async fn run(session: &Arc<Session>, statement: String) -> Result<(), String> {
    session.query_unpaged(statement, ()).await.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn wrong(replication: &[(&str, &str)], datacenters: &[(&str, usize)]) -> String {
        findings(&of(replication), &datacenters.iter().copied().collect(), "dc1").join("; ")
    }

    #[test]
    fn bad_replication_is_named() {
        const SIMPLE: (&str, &str) = ("class", "org.apache.cassandra.locator.SimpleStrategy");
        const BY_DC: (&str, &str) = ("class", "org.apache.cassandra.locator.NetworkTopologyStrategy");
        let simple = wrong(&[SIMPLE, ("replication_factor", "3")], &[("dc1", 3), ("dc2", 3)]);
        assert!(simple.contains("SimpleStrategy") && simple.contains("dc1, dc2"), "{simple}");
        let single = wrong(&[BY_DC, ("dc1", "1")], &[("dc1", 3)]);
        assert!(single.contains("one replica"), "{single}");
        let many = wrong(&[SIMPLE, ("replication_factor", "3")], &[("dc1", 1)]);
        assert!(many.contains("no quorum can answer"), "{many}");
        let elsewhere = wrong(&[BY_DC, ("dc2", "3")], &[("dc1", 3), ("dc2", 3)]);
        assert!(elsewhere.contains("no replicas in this clone's data centre `dc1`"), "{elsewhere}");
        for well in [&[BY_DC, ("dc1", "3")][..], &[SIMPLE, ("replication_factor", "3")]] {
            assert_eq!(wrong(well, &[("dc1", 3)]), "");
        }
        assert_eq!(wrong(&[SIMPLE, ("replication_factor", "1")], &[("dc1", 1)]), "", "one node is no fault");
    }

    #[test]
    fn nodes_give_the_replication_factor() {
        let factor = |nodes| factors(&Config::default(), &BTreeMap::from([("dc1", nodes)]))["dc1"];
        assert_eq!((factor(1), factor(2), factor(3), factor(9)), (1, 2, 3, 3));
        let configured = Config {
            replication: [("dc1".to_owned(), 5)].into(),
            replication_factor: Some(2),
            ..Config::default()
        };
        let both = BTreeMap::from([("dc1", 3), ("dc2", 3)]);
        assert_eq!(factors(&configured, &both), BTreeMap::from([("dc1".to_owned(), 5)]));
        let alike = Config { replication_factor: Some(2), ..Config::default() };
        assert_eq!(factors(&alike, &both), [("dc1".to_owned(), 2), ("dc2".to_owned(), 2)].into());
    }
}
