//! The data service: a two-level map on Cassandra, or embedded in the process.
//!
//! `service` answers gRPC, `data` is the logic, `store` says what a store promises and holds the
//! backends.

mod cell;
mod clock;
mod coalesce;
mod config;
mod data;
mod error;
mod key;
mod mutation;
mod page_token;
mod row;
mod service;
mod store;
mod table;
mod value;

use anyhow::Context as _;
use shoal_embedded::Database;
use shoal_kit::role::Role;
use shoal_kit::service::Background;
use shoal_kit::{Service, Settings};
use shoal_proto::data::v1::data_service_server::DataServiceServer;

pub use config::Config;

use data::Data;
use service::Api;
use store::Store;
use store::cassandra::Cassandra;
use store::embedded::{Embedded, sweep_forever};

/// The store behind the service.
#[derive(Clone)]
pub struct Engine(Kind);

#[derive(Clone)]
enum Kind {
    Embedded { store: Embedded, place: String },
    Cassandra { config: Config, contact_points: Vec<String> },
}

impl Engine {
    /// Cassandra when the settings name one, else the embedded database in `data_dir/data`. Cassandra need not be
    /// reachable: clones connect when they are made, and until then their calls answer UNAVAILABLE.
    ///
    /// # Errors
    /// When the configuration is not valid or the embedded database cannot be opened.
    pub async fn open(settings: &Settings) -> anyhow::Result<Engine> {
        let config: Config = settings.section("data")?;
        config.check()?;
        if !settings.cassandra.is_empty() {
            return Ok(Engine(Kind::Cassandra { config, contact_points: settings.cassandra.clone() }));
        }
        let dir = settings.data_dir.as_ref().map(|dir| dir.join(Role::Data.name()));
        let place = dir.as_ref().map_or("memory".to_owned(), |dir| format!("embedded {}", dir.display()));
        let opened = tokio::task::spawn_blocking(move || match dir {
            Some(dir) => Database::open(&dir),
            None => Database::ephemeral(),
        });
        let database = opened.await.context("opening the database")??;
        let store = Embedded::new(database).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Engine(Kind::Embedded { store, place }))
    }

    /// For the table of what runs.
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Embedded { place, .. } => place.clone(),
            Kind::Cassandra { contact_points, .. } => format!("cassandra {}", contact_points.join(",")),
        }
    }

    /// A clone's own engine: connections of its own to Cassandra, the same embedded database.
    ///
    /// # Errors
    /// None today; a connection is made later.
    pub async fn for_clone(&self, _settings: &Settings) -> anyhow::Result<Engine> {
        Ok(self.clone())
    }
}

/// One clone of the service.
///
/// # Errors
/// None today: what could fail has failed in [`Engine::open`].
pub async fn service(_settings: &Settings, engine: Engine, clone: String) -> anyhow::Result<Service> {
    let background = Background::default();
    match engine.0 {
        Kind::Embedded { store, .. } => {
            background.spawn(sweep_forever(store.clone()));
            Ok(of_store(store, clone, background))
        }
        Kind::Cassandra { config, contact_points } => {
            let store = Cassandra::start(config, contact_points);
            let watched = store.clone();
            Ok(of_store(store, clone, background).ready_when(move || watched.healthy()))
        }
    }
}

fn of_store(store: impl Store, clone: String, background: Background) -> Service {
    let api = Api::new(Data::new(store));
    Service::new(Role::Data, clone, shoal_proto::DESCRIPTOR_SET, background).with(DataServiceServer::new(api))
}
