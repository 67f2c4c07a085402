//! The store of a clone, chosen by the settings.

use anyhow::Context as _;
use shoal_embedded::Database;
use shoal_kit::Settings;
use shoal_kit::backing::{Backing, new_store_name};
use shoal_kit::role::Role;

use crate::config::Config;
use crate::store::cassandra::{CassandraStore, check_texts};
use crate::store::embedded::EmbeddedStore;

/// The store behind the service.
#[derive(Clone)]
pub struct Engine(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    Embedded { store: EmbeddedStore, place: String, name: String },
    Cassandra { config: Config, contact_points: Vec<String> },
}

impl Engine {
    /// Opens Cassandra when the settings name it, else the embedded database in `data_dir/data`. Cassandra need not be reachable:
    /// clones connect when they are made, and until then their calls answer UNAVAILABLE.
    ///
    /// # Errors
    /// When the configuration is not valid or the embedded database cannot be opened.
    pub async fn open(settings: &Settings) -> anyhow::Result<Engine> {
        let config = settings.valid_section("data", Config::check)?;
        if !settings.cassandra.is_empty() {
            check_texts()?;
            return Ok(Engine(Kind::Cassandra { config, contact_points: settings.cassandra.clone() }));
        }
        let dir = settings.data_dir.as_ref().map(|dir| dir.join(Role::Data.name()));
        let place = dir.as_ref().map_or("memory".to_owned(), |dir| format!("embedded {}", dir.display()));
        let opened = tokio::task::spawn_blocking(move || match dir {
            Some(dir) => Database::open(&dir),
            None => Database::ephemeral(),
        });
        let database = opened.await.context("opening the database")??;
        database.report_as(Role::Data.name());
        let store = EmbeddedStore::new(database).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Engine(Kind::Embedded { store, place, name: new_store_name() }))
    }

    /// Describes the engine, for the table of what runs.
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Embedded { place, .. } => place.clone(),
            Kind::Cassandra { contact_points, .. } => format!("cassandra {}", contact_points.join(",")),
        }
    }

    /// Returns what a clone says of its store in this process.
    pub(crate) fn own_backing(&self, name: &str) -> Backing {
        Backing::own(self.describe(), name)
    }

    /// Returns what a clone says of the Cassandra that `store` connects it to.
    pub(crate) fn shared_backing(&self, store: &CassandraStore) -> Backing {
        let store = store.clone();
        Backing::shared(self.describe(), move || {
            let store = store.clone();
            Box::pin(async move { store.name().await })
        })
    }

    /// Makes the engine of another clone: with connections of its own to Cassandra, or the same embedded database.
    ///
    /// # Errors
    /// None today: a connection is made later.
    pub async fn for_clone(&self, _settings: &Settings) -> anyhow::Result<Engine> {
        Ok(self.clone())
    }
}
