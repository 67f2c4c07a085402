//! The kinds of objects, and the loader and policy of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_kit::Invalid;
use shoal_kit::reason;
use tokio::sync::Semaphore;

use crate::config::{Config, KindPolicy, Source, TABLE_PREFIX};
use crate::error::Error;
use crate::key::NamespaceName;
use crate::loader::Loader;

/// The most characters of a table's name, as in the data service.
const TABLE_LENGTH_MAX: usize = 40;

/// A kind of objects.
#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) name: String,
    /// The namespace of its objects.
    pub(crate) namespace: NamespaceName,
    pub(crate) policy: KindPolicy,
    pub(crate) loader: Arc<dyn Loader>,
    /// Permits for the loads that may go on at once.
    pub(crate) loads: Arc<Semaphore>,
}

/// Makes the loader of a table's rows, whose calls take at most this long.
pub(crate) type TableLoader = Box<dyn Fn(&str, Duration) -> Arc<dyn Loader> + Send + Sync>;

/// The kinds of one clone.
pub(crate) struct Kinds {
    declared: HashMap<String, Result<Arc<Kind>, Error>>,
    tables: Option<TableLoader>,
    /// The policy of tables that are not declared; one set of permits serves all of them.
    built_in: KindPolicy,
    table_loads: Arc<Semaphore>,
}

impl Kinds {
    /// Makes the kinds. `remote` makes the loader of a kind from its name, source and timeout; `tables` is `None` when
    /// the data service is not known.
    ///
    /// # Errors
    /// Returns an error if a source is not valid, or a kind has no valid name.
    pub(crate) fn new(
        config: &Config,
        remote: impl Fn(&str, &str, Duration) -> anyhow::Result<Arc<dyn Loader>>,
        tables: Option<TableLoader>,
    ) -> anyhow::Result<Self> {
        let mut declared = HashMap::new();
        for (name, policy) in config.kinds()? {
            let loader = match (&policy.source, &tables) {
                (Source::Loader { source, .. }, _) => Ok(remote(&name, source, policy.timeout)?),
                (Source::Table(table), Some(tables)) => Ok(tables(table, policy.timeout)),
                (Source::Table(_), None) => Err(Error::NoDataPeer { kind: name.clone() }),
            };
            let namespace = NamespaceName::of_kind(&name)?;
            let loads = Arc::new(Semaphore::new(policy.loads_max));
            let kind =
                loader.map(|loader| Arc::new(Kind { name: name.clone(), namespace, policy, loader, loads }));
            declared.insert(name, kind);
        }
        let built_in = config.built_in("");
        let table_loads = Arc::new(Semaphore::new(built_in.loads_max));
        Ok(Self { declared, tables, built_in, table_loads })
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
            loader: tables(table, self.built_in.timeout),
            loads: self.table_loads.clone(),
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
}

fn is_table_name(name: &str) -> bool {
    let (Some(first), length) = (name.bytes().next(), name.len()) else { return false };
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    length <= TABLE_LENGTH_MAX && first.is_ascii_lowercase() && name.bytes().all(rest)
}
