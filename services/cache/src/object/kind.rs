//! The kinds of objects, and the loader and policy of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_kit::Invalid;
use shoal_kit::reason;
use tokio::sync::Semaphore;

use super::breaker::{Breaker, Paused};
use super::meter::LoadMeter;
use crate::config::{Config, KindPolicy, Source};
use crate::error::Error;
use crate::key::NamespaceName;
use crate::limit::TABLE_PREFIX;
use crate::loader::{LoadError, Loader};

/// The most characters of a table's name, as in the data service.
const TABLE_LENGTH_MAX: usize = 40;
/// The label `kind` of all tables that are not declared: callers choose their names, and they have one loader.
const UNDECLARED_TABLES: &str = "data";

/// A kind of objects.
#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) name: String,
    /// The namespace of its objects.
    pub(crate) namespace: NamespaceName,
    pub(crate) policy: KindPolicy,
    pub(crate) loader: Arc<dyn Loader>,
    pub(crate) running: Arc<Running>,
}

/// The state of a loader, at one clone.
pub(crate) struct Running {
    /// Permits for the loads that may go on at once.
    pub(crate) loads: Arc<Semaphore>,
    pub(crate) breaker: Breaker,
    pub(crate) meter: LoadMeter,
}

impl Running {
    fn new(kind: &str, clone: &str, policy: &KindPolicy) -> Arc<Self> {
        let labels = [("kind", kind.to_owned()), ("clone", clone.to_owned())];
        let gauge = metrics::gauge!("shoal_cache_breaker_state", &labels);
        Arc::new(Self {
            loads: Arc::new(Semaphore::new(policy.loads_max)),
            breaker: Breaker::new(policy.breaker, policy.loads_max, gauge),
            meter: LoadMeter::new(kind, clone),
        })
    }
}

/// Makes the loader of a table's rows, whose calls take at most this long.
pub(crate) type TableLoader = Box<dyn Fn(&str, Duration) -> Arc<dyn Loader> + Send + Sync>;

/// The kinds of one clone.
pub(crate) struct Kinds {
    declared: HashMap<String, Result<Arc<Kind>, Error>>,
    tables: Option<TableLoader>,
    /// The policy of tables that are not declared; one set of permits and one breaker serve all of them.
    built_in: KindPolicy,
    tables_running: Arc<Running>,
}

impl Kinds {
    /// Makes the kinds. `remote` makes the loader of a kind from its name, source and timeout; `tables` is `None` when
    /// the data service is not known.
    ///
    /// # Errors
    /// Returns an error if a source is not valid, or a kind has no valid name.
    pub(crate) fn new(
        clone: &str,
        config: &Config,
        remote: impl Fn(&str, &str, Duration) -> anyhow::Result<Arc<dyn Loader>>,
        tables: Option<TableLoader>,
    ) -> anyhow::Result<Self> {
        let mut declared = HashMap::new();
        for (name, policy) in config.kinds()? {
            let loader = match (&policy.source, &tables) {
                (Source::Loader { source, .. }, _) => Ok(remote(&name, source, policy.load_timeout)?),
                (Source::Table(table), Some(tables)) => Ok(tables(table, policy.load_timeout)),
                (Source::Table(_), None) => Err(Error::NoDataPeer { kind: name.clone() }),
            };
            let namespace = NamespaceName::of_kind(&name)?;
            let running = Running::new(&name, clone, &policy);
            let kind = loader
                .map(|loader| Arc::new(Kind { name: name.clone(), namespace, policy, loader, running }));
            declared.insert(name, kind);
        }
        let built_in = config.built_in("");
        let tables_running = Running::new(UNDECLARED_TABLES, clone, &built_in);
        Ok(Self { declared, tables, built_in, tables_running })
    }

    /// Returns the kind of this name.
    pub(crate) fn of(&self, name: &str) -> Result<Arc<Kind>, Error> {
        if let Some(kind) = self.declared.get(name) {
            return kind.clone();
        }
        let namespace = NamespaceName::of_kind(name)?;
        let Some(table) = name.strip_prefix(TABLE_PREFIX) else {
            return Err(Error::KindNotDeclared { kind: name.to_owned() });
        };
        if !is_table_name(table) {
            let problem = format!(
                "`{table}` is not the name of a table: 1 to {TABLE_LENGTH_MAX} characters of [a-z][a-z0-9_]*"
            );
            return Err(Invalid::new(reason::INVALID_NAME, "kind", problem).into());
        }
        let Some(tables) = &self.tables else { return Err(Error::NoDataPeer { kind: name.to_owned() }) };
        Ok(Arc::new(Kind {
            name: name.to_owned(),
            namespace,
            policy: KindPolicy { source: Source::Table(table.to_owned()), ..self.built_in.clone() },
            loader: tables(table, self.built_in.load_timeout),
            running: self.tables_running.clone(),
        }))
    }
}

impl Kind {
    /// Returns the loader's name as an operator knows it.
    pub(crate) fn loader_name(&self) -> String {
        match &self.policy.source {
            Source::Loader { named, .. } => named.clone(),
            Source::Table(table) => format!("data (table `{table}`)"),
        }
    }

    /// Returns the error for those who wait for a load that failed.
    pub(crate) fn failed(&self, error: LoadError) -> Error {
        Error::Load { kind: self.name.clone(), loader: self.loader_name(), error: Box::new(error) }
    }

    /// Returns the error for an object that its loader does not know.
    pub(crate) fn not_found(&self) -> Error {
        Error::ObjectNotFound { kind: self.name.clone() }
    }

    /// Returns the error for those who have waited for the kind's load_timeout.
    pub(crate) fn timed_out(&self) -> Error {
        self.failed(LoadError::TimedOut { after: self.policy.load_timeout })
    }

    /// Returns the error for those whose load the breaker refused.
    pub(crate) fn paused(&self, paused: Paused) -> Error {
        let Paused { retry_after, last } = paused;
        let last = last.map(Box::new);
        Error::Paused { kind: self.name.clone(), loader: self.loader_name(), retry_after, last }
    }
}

fn is_table_name(name: &str) -> bool {
    let (Some(first), length) = (name.bytes().next(), name.len()) else { return false };
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    length <= TABLE_LENGTH_MAX && first.is_ascii_lowercase() && name.bytes().all(rest)
}
