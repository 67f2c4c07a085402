//! The definitions of tables that a clone remembers, each with its prepared statements.
//!
//! A definition is looked up again when it is older than [`FRESH`]. While the registry cannot be read, the remembered one serves:
//! for an EVENTUAL read at once, for everything else after a part of the statement's time. Writes alone stop when it is older than
//! [`stale_max`]: the table may be dropped by then, and another one may have its name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scylla::statement::Consistency as CqlConsistency;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::coalesce::{Coalescer, Ticket};
use crate::error::Error;
use crate::store::Consistency;
use crate::store::cassandra::failure::ENGINE;
use crate::store::cassandra::statements::Statements;
use crate::store::cassandra::{CassandraStore, registry};
use crate::table::{Table, TableName};

/// Time for which a definition is remembered without looking again.
pub(super) const FRESH: Duration = Duration::from_secs(5);
/// Most definitions remembered, each with its prepared statements. The one that was looked up longest ago goes first.
const DEFINITIONS_MAX: usize = 1024;
/// Part of a statement's time that a look-up may take when there is a remembered definition to go on with: one of so many.
const LOOKUP_PART: u32 = 4;

/// Returns the age up to which a definition is written with. It is that of the moment when its look-up began.
pub(super) fn stale_max(statement_timeout: Duration) -> Duration {
    FRESH + statement_timeout
}

type Looked = Result<Arc<Table>, Error>;

/// The definitions that are remembered, and the look-ups in flight.
#[derive(Debug)]
pub(super) struct Definitions {
    known: Mutex<HashMap<TableName, Known>>,
    lookups: Coalescer<TableName, Looked>,
}

#[derive(Debug)]
struct Known {
    table: Arc<Table>,
    statements: Arc<Statements>,
    looked_up: Instant,
}

impl Definitions {
    /// Remembers nothing yet.
    pub(super) fn new() -> Self {
        Self { known: Mutex::default(), lookups: Coalescer::new() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<TableName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CassandraStore {
    /// Returns the definition of a table for a call at this level.
    pub(super) async fn definition(&self, name: &TableName, consistency: Consistency) -> Looked {
        let timeout = self.inner.link.config().statement_timeout;
        let Some((table, fresh)) = self.remembered(name) else {
            let looked = within(timeout, self.lookup(name)).await;
            return match looked {
                Err(error) if consistency == Consistency::Eventual && is_outage(&error) => {
                    self.seen_by_one(name).await.ok_or(error)
                }
                looked => looked,
            };
        };
        if fresh {
            return Ok(table);
        }
        let lookup = self.lookup(name);
        if consistency == Consistency::Eventual {
            // It goes on in its own task.
            return Ok(table);
        }
        match within(timeout / LOOKUP_PART, lookup).await {
            Err(error) if is_outage(&error) => Ok(table),
            looked => looked,
        }
    }

    /// Returns the definition of a table for a call that writes.
    pub(super) async fn definition_to_write(&self, name: &TableName) -> Looked {
        let timeout = self.inner.link.config().statement_timeout;
        let age = self.age_of(name).map(|(_, age)| age);
        let looked = match age {
            Some(age) if age < stale_max(timeout) => return self.definition(name, Consistency::Quorum).await,
            _ => within(timeout, self.lookup(name)).await,
        };
        if let (Err(error), Some(age)) = (&looked, age) {
            tracing::debug!(%error, ?age, "the remembered definition is too old to write with");
        }
        looked
    }

    /// Refuses to send a write with a definition that is too old, or whose table was dropped.
    ///
    /// # Errors
    /// [`Error::TableNotFound`] when another table has its name, and errors of the look-up. Nothing was sent.
    pub(super) async fn still_there(&self, table: &Table) -> Result<(), Error> {
        let name = &table.definition.name;
        let timeout = self.inner.link.config().statement_timeout;
        match self.age_of(name) {
            Some((id, age)) if id == table.id && age < stale_max(timeout) => Ok(()),
            _ => match within(timeout, self.lookup(name)).await? {
                found if found.id == table.id => Ok(()),
                _ => Err(Error::TableNotFound(name.to_string())),
            },
        }
    }

    /// Returns the error of a statement on a table. When Cassandra does not have the table, the registry says whether it exists.
    pub(super) async fn explained(&self, table: &Table, error: Error) -> Error {
        if !matches!(error, Error::TableMissing { .. }) {
            return error;
        }
        self.forget(&table.definition.name);
        let timeout = self.inner.link.config().statement_timeout;
        match within(timeout, self.lookup(&table.definition.name)).await {
            Err(found @ (Error::TableNotFound(_) | Error::Unavailable { .. })) => found,
            Ok(_) | Err(_) => error,
        }
    }

    /// Remembers a table as the registry had it at a moment. The prepared statements of the same table are kept.
    pub(super) fn remember(&self, table: Table, looked_up: Instant) -> Arc<Table> {
        let mut known = self.inner.definitions.known();
        let name = table.definition.name.clone();
        if !known.contains_key(&name) && known.len() >= DEFINITIONS_MAX {
            let oldest = known.iter().min_by_key(|(_, known)| known.looked_up).map(|(name, _)| name.clone());
            oldest.map(|name| known.remove(&name));
        }
        let statements = match known.get(&name) {
            Some(known) if known.table.id == table.id => known.statements.clone(),
            _ => Arc::new(Statements::new(&self.inner.link.config().keyspace, &table)),
        };
        let table = Arc::new(table);
        known.insert(name, Known { table: table.clone(), statements, looked_up });
        table
    }

    /// Forgets a table.
    pub(super) fn forget(&self, name: &TableName) {
        self.inner.definitions.known().remove(name);
    }

    /// Makes a definition older than it is.
    #[cfg(test)]
    pub(super) fn age(&self, name: &TableName) {
        self.age_to(name, FRESH);
    }

    /// Makes a definition this old.
    #[cfg(test)]
    pub(super) fn age_to(&self, name: &TableName, age: Duration) {
        if let Some(known) = self.inner.definitions.known().get_mut(name) {
            known.looked_up = Instant::now().checked_sub(age).unwrap_or(known.looked_up);
        }
    }

    /// Returns the id of the remembered table of a name, and how long ago its look-up began.
    fn age_of(&self, name: &TableName) -> Option<(Uuid, Duration)> {
        let known = self.inner.definitions.known();
        known.get(name).map(|known| (known.table.id, known.looked_up.elapsed()))
    }

    /// Returns the prepared statements of a table.
    pub(super) fn statements(&self, table: &Table) -> Arc<Statements> {
        match self.inner.definitions.known().get(&table.definition.name) {
            Some(known) if known.table.id == table.id => return known.statements.clone(),
            // The definition was forgotten between the lookup and now.
            _ if !table.definition.name.is_hidden() => {
                return Arc::new(Statements::new(&self.inner.link.config().keyspace, table));
            }
            // The entries of a view, which are in no registry.
            _ => {}
        }
        self.remember(table.clone(), Instant::now());
        match self.inner.definitions.known().get(&table.definition.name) {
            Some(known) if known.table.id == table.id => known.statements.clone(),
            _ => Arc::new(Statements::new(&self.inner.link.config().keyspace, table)),
        }
    }

    /// Returns the remembered definition, and whether it need not be looked up again yet.
    fn remembered(&self, name: &TableName) -> Option<(Arc<Table>, bool)> {
        let known = self.inner.definitions.known();
        let known = known.get(name)?;
        Some((known.table.clone(), known.looked_up.elapsed() < FRESH))
    }

    /// Looks a definition up, in a task that ends whatever happens to the caller. Identical look-ups share one.
    fn lookup(&self, name: &TableName) -> oneshot::Receiver<Looked> {
        match self.inner.definitions.lookups.join(name.clone()) {
            Ticket::Follow(receiver) => receiver,
            Ticket::Lead(leader, receiver) => {
                let (store, name) = (self.clone(), name.clone());
                self.inner.link.spawn(leader.run(move || {
                    let (store, name) = (store.clone(), name.clone());
                    async move { store.look_up(&name).await }
                }));
                receiver
            }
        }
    }

    async fn look_up(&self, name: &TableName) -> Looked {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let began = Instant::now();
        if let Some(table) = registry::find(link, &connected, name.as_str()).await? {
            let known = self.age_of(name).is_some_and(|(id, _)| id == table.id);
            let table = self.remember(table, began);
            let (store, of) = (self.clone(), table.clone());
            let marks = async move { store.read_marks(&of).await };
            if known {
                link.spawn(marks);
            } else {
                marks.await;
            }
            return Ok(table);
        }
        self.forget(name);
        Err(Error::TableNotFound(name.to_string()))
    }

    /// Returns a table that one replica of the registry knows to be ready.
    async fn seen_by_one(&self, name: &TableName) -> Option<Arc<Table>> {
        let link = &self.inner.link;
        let connected = link.connected().await.ok()?;
        let began = Instant::now();
        let found = registry::look(link, &connected, name.as_str(), CqlConsistency::One).await.ok()??;
        found.1.then(|| self.remember(found.0, began))
    }
}

/// Waits for a look-up as long as this.
async fn within(time: Duration, lookup: oneshot::Receiver<Looked>) -> Looked {
    match tokio::time::timeout(time, lookup).await {
        Ok(Ok(looked)) => looked,
        Ok(Err(_)) => Err(Error::Internal("a lookup's task was lost".to_owned())),
        Err(_) => {
            let detail = format!("the table's definition was not found out within {time:?}");
            Err(Error::ReadFailed { engine: ENGINE, detail })
        }
    }
}

/// Returns whether the registry could not be read. What it holds may be as before.
fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::ReadFailed { .. } | Error::OutcomeUnknown { .. })
}
