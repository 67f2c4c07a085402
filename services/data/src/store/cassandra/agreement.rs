//! Agreement of the nodes on the schema: asks each node for itself, since a statement goes to any of them.
//!
//! A node that does not answer is left out: it may be frozen or dead, and would hold up every change of the schema. What it does
//! not know yet is asked of another node ([`super::retry`]). That a table is nowhere is said by answers alone: silence is none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::response::query_result::QueryResult;
use scylla::statement::{Consistency, Statement};
use uuid::Uuid;

/// Time that a node has to answer; one that takes longer counts as silent.
const PATIENCE: Duration = Duration::from_millis(700);
/// Time after which the driver gives up a question, long after nobody waits for it.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two rounds. It doubles up to the second figure.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Reason why the nodes do not all have a table.
#[derive(Debug, Clone)]
pub(super) enum Disagreement {
    /// All nodes agree that the table has another id.
    OtherTable(Uuid),
    /// The table is not at every node yet, or no node answered.
    NotYet(String),
}

/// Ids of a table at the nodes that answered, none where a node has no such table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TableIds {
    /// The ids.
    pub(super) ids: Vec<Option<Uuid>>,
    /// The number of nodes that are connected and did not answer.
    pub(super) silent: usize,
}

impl TableIds {
    /// Returns whether a node has the table of an id; none while that is open: it is said to be nowhere only when every node that
    /// is connected has answered, and at least one.
    pub(super) fn has(&self, id: Uuid) -> Option<bool> {
        if self.ids.contains(&Some(id)) {
            return Some(true);
        }
        (self.silent == 0 && !self.ids.is_empty()).then_some(false)
    }
}

/// Waits until it is known whether a node has the table of an id. Returns none if that is not known in time.
pub(super) async fn table_somewhere(
    session: &Arc<Session>,
    keyspace: &str,
    table: &str,
    id: Uuid,
    within: Duration,
) -> Option<bool> {
    let until = Instant::now() + within;
    let mut pause = PAUSE_MIN;
    loop {
        let found = table_ids(session, keyspace, table).await;
        if let Some(known) = found.has(id) {
            return Some(known);
        }
        if Instant::now() + pause > until {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits until every node that answers has the table under this id.
pub(super) async fn table_everywhere(
    session: &Arc<Session>,
    keyspace: &str,
    table: &str,
    id: Uuid,
    within: Duration,
) -> Result<(), Disagreement> {
    let until = Instant::now() + within;
    let mut pause = PAUSE_MIN;
    loop {
        let ids = table_ids(session, keyspace, table).await.ids;
        if !ids.is_empty() && ids.iter().all(|found| *found == Some(id)) {
            return Ok(());
        }
        if let Some(other) = only(&ids).flatten()
            && agreed(session).await
        {
            return Err(Disagreement::OtherTable(other));
        }
        if Instant::now() + pause > until {
            let with = ids.iter().filter(|found| **found == Some(id)).count();
            return Err(Disagreement::NotYet(format!(
                "{with} of {} nodes that answer have the table after {within:?}",
                ids.len()
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits until the nodes that answer have one version of the schema. Returns whether they do.
pub(super) async fn schema_agreed(session: &Arc<Session>, within: Duration) -> bool {
    let until = Instant::now() + within;
    let mut pause = PAUSE_MIN;
    loop {
        if agreed(session).await {
            return true;
        }
        if Instant::now() + pause > until {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Returns the id of a table at each node that answers; none where it has no such table.
///
/// DESCRIBE says what a node works with. Its `system_schema` has a new table well before that.
pub(super) async fn table_ids(session: &Arc<Session>, keyspace: &str, table: &str) -> TableIds {
    let question = format!("DESCRIBE TABLE {keyspace}.{table} WITH INTERNALS");
    let id = |answer: Result<QueryResult, ExecutionError>| match answer {
        Ok(description) => described_id(description).map(Some),
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _))) => {
            Some(None)
        }
        Err(_) => None,
    };
    let connected = connected_nodes(session);
    let ids: Vec<_> = ask_each(session, &question).await.into_iter().filter_map(id).collect();
    TableIds { silent: connected.saturating_sub(ids.len()), ids }
}

/// Returns the number of nodes that the driver is connected to.
fn connected_nodes(session: &Session) -> usize {
    session.get_cluster_state().get_nodes_info().iter().filter(|node| node.is_connected()).count()
}

/// Reads the id in the statement that a node describes a table with.
fn described_id(description: QueryResult) -> Option<Uuid> {
    let rows = description.into_rows_result().ok()?;
    let (_, _, _, statement) = rows.first_row::<(&str, &str, &str, &str)>().ok()?;
    id_in(statement)
}

fn id_in(statement: &str) -> Option<Uuid> {
    let (_, after) = statement.split_once("WITH ID = ")?;
    let id = after.split(|c: char| !(c.is_ascii_hexdigit() || c == '-' || c == '\'')).next()?;
    Uuid::parse_str(id.trim_matches('\'')).ok()
}

async fn agreed(session: &Arc<Session>) -> bool {
    let versions = ask_each(session, "SELECT schema_version FROM system.local WHERE key = 'local'").await;
    let versions: Vec<Option<Uuid>> = versions.into_iter().flatten().filter_map(first_uuid).collect();
    only(&versions).is_some()
}

/// Returns what all have in common.
fn only(found: &[Option<Uuid>]) -> Option<Option<Uuid>> {
    let (first, rest) = found.split_first()?;
    rest.iter().all(|other| other == first).then_some(*first)
}

/// Asks each node for itself. The questions run in tasks of their own, so that none is cut off in the driver.
async fn ask_each(session: &Arc<Session>, question: &str) -> Vec<Result<QueryResult, ExecutionError>> {
    let state = session.get_cluster_state();
    let questions = state.get_nodes_info().iter().map(|node| {
        let mut statement = Statement::new(question);
        statement.set_consistency(Consistency::One);
        statement.set_is_idempotent(true);
        statement.set_request_timeout(Some(QUESTION_TIMEOUT));
        let target = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::HostId(node.host_id), None);
        statement.set_load_balancing_policy(Some(target));
        let session = session.clone();
        let asked = tokio::spawn(async move { session.query_unpaged(statement, ()).await });
        tokio::time::timeout(PATIENCE, asked)
    });
    join_all(questions).await.into_iter().filter_map(|answer| answer.ok()?.ok()).collect()
}

/// Returns the id in the only row, none of an answer without rows, and nothing of an answer of another shape.
fn first_uuid(result: QueryResult) -> Option<Option<Uuid>> {
    let rows = result.into_rows_result().ok()?;
    let row: Option<(Uuid,)> = rows.maybe_first_row().ok()?;
    Some(row.map(|(id,)| id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_not_absence() {
        let id = Uuid::from_u128(7);
        let found = |ids: &[Option<Uuid>], silent| TableIds { ids: ids.to_vec(), silent }.has(id);
        assert_eq!(found(&[], 1), None);
        assert_eq!(found(&[], 0), None);
        assert_eq!(found(&[None], 1), None);
        assert_eq!(found(&[None, None], 0), Some(false));
        assert_eq!(found(&[None, Some(Uuid::from_u128(8))], 0), Some(false));
        assert_eq!(found(&[Some(id)], 2), Some(true));
        assert_eq!(found(&[None, Some(id)], 0), Some(true));
    }

    #[test]
    fn described_table_has_its_id() {
        let id = Uuid::from_u128(7);
        let described = format!("CREATE TABLE ks.t (\n    pk text\n) WITH ID = {id}\n    AND comment = ''");
        assert_eq!(id_in(&described), Some(id));
        assert_eq!(id_in(&format!("CREATE TABLE ks.t (pk text) WITH ID = '{id}';")), Some(id));
        assert_eq!(id_in("CREATE TABLE ks.t (pk text PRIMARY KEY)"), None);
    }
}
