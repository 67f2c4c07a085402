//! The cache: entries in RAM or in Redis, and whole objects that are loaded once per miss.
//!
//! Losing it makes misses, never stale values: a read that starts after a write or delete returned never gives an older
//! value. `object/flight` (who may wait for which load) and the store's trait (leases) say how that is kept.

mod body;
mod cache;
mod config;
mod engine;
mod error;
mod gate;
mod hot_keys;
mod key;
mod limit;
mod loader;
mod namespace;
mod object;
mod service;
mod store;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shoal_client::ChannelOptions;
use shoal_kit::Settings;
use shoal_kit::role::Role;
use shoal_kit::service::Background;
use shoal_proto::cache::v1::cache_service_server::CacheServiceServer;
use tonic::codec::CompressionEncoding;

pub use config::{Config, NamespaceConfig, ObjectConfig};
pub use engine::Engine;

use crate::cache::Cache;
use crate::loader::{Loader, RemoteLoader, Tables};
use crate::namespace::Namespaces;
use crate::object::Objects;
use crate::object::kind::{Kinds, TableLoader};

/// The most bytes of names, tags and framing of a request beside its value.
const REQUEST_OVERHEAD_BYTES: usize = 64 << 10;

/// Builds one clone of the cache on an engine.
///
/// # Errors
/// Returns an error if the configuration is not valid.
pub async fn service(
    settings: &Settings,
    engine: Engine,
    clone: String,
) -> anyhow::Result<shoal_kit::Service> {
    let config = settings.valid_section(Role::Cache.name(), Config::validate)?;
    let background = Background::default();
    let namespaces = Arc::new(Namespaces::new(&clone, &config)?);
    let objects = Objects::new(
        engine.store(),
        namespaces.clone(),
        kinds(&clone, settings, &config, &background)?,
        config.flights_max,
        background.tasks.clone(),
        background.stop.clone(),
    );
    let service = service::Service { cache: Cache::new(engine.store(), namespaces), objects };
    let message_bytes_max = config.value_bytes_max() + REQUEST_OVERHEAD_BYTES;
    let server = CacheServiceServer::new(service)
        .max_decoding_message_size(message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Ok(shoal_kit::Service::new(Role::Cache, clone, shoal_proto::DESCRIPTOR_SET, background)
        .with(server, message_bytes_max)
        .on(engine.backing(), move || engine.ready()))
}

/// Connects to every loader, in the background.
fn kinds(
    clone: &str,
    settings: &Settings,
    config: &Config,
    background: &Background,
) -> anyhow::Result<Kinds> {
    let connect = |source: &str, name: &str, options| {
        shoal_client::connect_with(source, name, Role::Cache.name(), options, &background.stop)
    };
    let tables = match settings.peers.get(&Role::Data) {
        None => None,
        Some(source) => {
            let channel = connect(source, Role::Data.name(), ChannelOptions::default())
                .with_context(|| settings.peer_given(Role::Data))?;
            let tables = Tables::new(channel);
            let rows: TableLoader =
                Box::new(move |table, timeout| Arc::new(tables.rows(table, timeout)) as Arc<dyn Loader>);
            Some(rows)
        }
    };
    let remote = |kind: &str, source: &str, timeout: Duration| -> anyhow::Result<Arc<dyn Loader>> {
        // A loader that cannot be reached is said to be that, before the time is over.
        let defaults = ChannelOptions::default();
        let unavailable_after = defaults.unavailable_after.min(timeout / 2);
        let options = ChannelOptions { unavailable_after, ..defaults };
        let channel = connect(source, &format!("loader of {kind}"), options)
            .with_context(|| format!("[cache.object.\"{kind}\"] loader"))?;
        Ok(Arc::new(RemoteLoader::new(channel, timeout)))
    };
    Kinds::new(clone, config, remote, tables)
}
