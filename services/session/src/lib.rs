//! The session service: sessions in a central store, so that any clone answers for any session.
//!
//! `service` (gRPC) → `sessions` (what is asked and answered) → `store` (Redis or embedded), with the pure rules beside:
//! `token`, `keyring`, `rotation`, `attribute`, `event`.

mod clock;
mod config;
mod engine;
mod error;
mod event;
mod id;
mod key_comparison;
mod keys;
mod service;
mod session;
mod sessions;
mod store;
mod sweeper;
mod watch;

use std::sync::Arc;

use shoal_kit::role::Role;
use shoal_kit::service::Background;
use shoal_kit::{Backing, Settings};
use shoal_proto::session::v1::session_service_server::SessionServiceServer;
use tonic::codec::CompressionEncoding;

use crate::engine::Backend;
use crate::keys::fingerprint::KeyRetention;
use crate::service::Service;
use crate::sessions::Sessions;
use crate::store::Store;
use crate::store::keys::KeySource;

pub use crate::config::Config;
pub use crate::engine::Engine;
pub use crate::keys::keyring::KeysText as Keys;
pub use crate::session::AtLimit;

/// Builds one clone of the service, with its background tasks.
///
/// # Errors
/// Returns an error if the configuration cannot be used.
pub async fn service(
    settings: &Settings,
    engine: Engine,
    clone: String,
) -> anyhow::Result<shoal_kit::Service> {
    let config = settings.valid_section(Role::Session.name(), Config::validate)?;
    let backing = engine.backing();
    Ok(match engine.store {
        Backend::Redis(store) => build(config, store, engine.keys, backing, clone),
        Backend::Embedded(store) => build(config, store, engine.keys, backing, clone),
    })
}

fn build<S: Store>(
    config: Config,
    store: S,
    keys: KeySource,
    backing: Backing,
    clone: String,
) -> shoal_kit::Service {
    let background = Background::default();
    background.spawn(sweeper::run(store.clone(), config.sweep_interval));
    let retention = KeyRetention { sessions: config.absolute_ttl_max, requests: config.request_kept };
    background.spawn(key_comparison::run(keys.clone(), retention));
    let ready = store.clone();
    let message_bytes_max = config.message_bytes_max();
    let sessions = Sessions { store, keys, config: Arc::new(config) };
    let server = SessionServiceServer::new(Service::new(sessions, background.clone()))
        .max_decoding_message_size(message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    shoal_kit::Service::new(Role::Session, clone, shoal_proto::DESCRIPTOR_SET, background)
        .with(server, message_bytes_max)
        .on(backing, move || ready.ready())
}
