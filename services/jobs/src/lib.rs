//! A queue of jobs: at least once, leased, fenced. On Redis or in a database of this process.

mod backoff;
mod config;
mod error;
mod hub;
mod id;
mod job;
mod keeper;
mod lease;
mod moment;
mod new_job;
mod service;
mod store;
mod trace;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shoal_kit::Settings;
use shoal_kit::role::Role;
use shoal_kit::service::Background;

pub use config::Config;

use crate::hub::Hub;
use crate::lease::Counter;
use crate::service::Jobs;
use crate::store::Embedded;
use crate::store::Redis;
use crate::store::Store;

/// How long a start waits for a Redis that is up to be connected.
const CONNECT_WAIT: Duration = Duration::from_millis(500);

/// The store behind the service.
#[derive(Clone)]
pub struct Engine(Kind);

#[derive(Clone)]
enum Kind {
    Embedded { store: Embedded, dir: Option<PathBuf> },
    Redis { store: Redis, url: String },
}

impl Engine {
    /// Opens the role's engine: Redis if the settings name one, else a database under their data directory. A Redis
    /// that is not up yet is waited for by the calls, which answer UNAVAILABLE until it is.
    ///
    /// # Errors
    /// When the settings are not valid or the embedded database cannot be opened.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let config = config(settings)?;
        if let Some(url) = settings.redis_of(Role::Jobs) {
            let redis = Self::redis(url, &config).await;
            return redis.with_context(|| settings.redis_given(Role::Jobs));
        }
        let dir = settings.data_dir.as_ref().map(|dir| dir.join(Role::Jobs.name()));
        // Opening replays a journal: not on a thread that serves.
        let place = dir.clone();
        let queues_max = config.queues_max;
        let store =
            tokio::task::spawn_blocking(move || Embedded::open(place.as_deref(), queues_max)).await??;
        Ok(Self(Kind::Embedded { store, dir }))
    }

    async fn redis(url: String, config: &Config) -> anyhow::Result<Self> {
        let store = Redis::open(&url, config)?;
        if let Err(error) = store.connected(CONNECT_WAIT).await {
            tracing::warn!(%error, "redis is not there yet; calls answer UNAVAILABLE until it is");
        }
        Ok(Self(Kind::Redis { store, url }))
    }

    /// What it is and where, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Embedded { dir: None, .. } => "memory".to_owned(),
            Kind::Embedded { dir: Some(dir), .. } => format!("embedded {}", dir.display()),
            Kind::Redis { url, .. } => format!("redis {}", hosts(url)),
        }
    }

    /// The engine as another clone uses it: with its own connections to Redis, or the very same embedded database.
    ///
    /// # Errors
    /// When the settings are not valid.
    pub async fn for_clone(&self, settings: &Settings) -> anyhow::Result<Self> {
        match &self.0 {
            Kind::Embedded { .. } => Ok(self.clone()),
            Kind::Redis { url, .. } => Self::redis(url.clone(), &config(settings)?).await,
        }
    }

    fn store(self) -> Arc<dyn Store> {
        match self.0 {
            Kind::Embedded { store, .. } => Arc::new(store),
            Kind::Redis { store, .. } => Arc::new(store),
        }
    }
}

/// One clone of the service, with its background work: hearing what happens at the engine, looking after the queues, and
/// giving back what was claimed for workers who are gone.
///
/// # Errors
/// When the settings are not valid.
pub async fn service(
    settings: &Settings,
    engine: Engine,
    clone: String,
) -> anyhow::Result<shoal_kit::Service> {
    let config = config(settings)?;
    let background = Background::default();
    let store = engine.store();
    let (hub, due) = Hub::new();
    let (counter, giving_back) =
        Counter::open(store.clone(), hub.clone(), background.draining.clone(), background.stop.clone());
    background.spawn(store.announce(hub.clone()));
    background.spawn(keeper::run(store.clone(), hub.clone(), due, config.tend_interval));
    // Not stopped with the others: it ends by itself, after what is left.
    background.tasks.spawn(giving_back);
    let jobs = Jobs::new(store.clone(), hub, counter, background.draining.clone());
    Ok(service::assemble(jobs, clone, background).ready_when(move || store.ready()))
}

fn config(settings: &Settings) -> anyhow::Result<Config> {
    settings.valid_section(Role::Jobs.name(), Config::validate)
}

/// The addresses of a Redis URL, without the password it may hold.
fn hosts(url: &str) -> String {
    let host = |part: &str| {
        let rest = part.trim().split_once("://").map_or(part, |(_, rest)| rest);
        rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_owned()
    };
    url.split(',').map(host).collect::<Vec<_>>().join(",")
}
