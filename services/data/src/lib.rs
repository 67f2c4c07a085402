//! The data service: tables of partitions of rows, on Cassandra or embedded in the process.
//!
//! `service` answers gRPC; `tables`, `read`, `write` and `blob` are the logic of [`data::Data`] over a store; `store` says what a store
//! promises and holds the backends.

mod blob;
mod change_record;
mod clock;
mod coalesce;
mod conditional;
mod config;
mod data;
mod engine;
mod error;
mod feed;
mod key;
mod mutation;
mod page_key;
mod page_token;
mod read;
mod row;
mod row_codec;
mod service;
mod store;
mod table;
mod tables;
mod tags;
mod value;
mod view_build;
mod view_entry;
mod write;
mod write_token;

use shoal_kit::role::Role;
use shoal_kit::service::Background;
use shoal_kit::{Service, Settings};
use shoal_proto::data::v1::data_service_server::DataServiceServer;
use tonic::codec::CompressionEncoding;

pub use config::Config;
pub use engine::Engine;

use blob::sweep_blobs_forever;
use data::Data;
use engine::Kind;
use store::Store;
use store::cassandra::CassandraStore;
use store::embedded::sweep_forever;
use view_build::build_views_forever;

/// Largest request: a Mutate at its highest limits.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Starts one clone of the service.
///
/// # Errors
/// When the configuration is not valid, as [`Engine::open`] has found already.
pub async fn service(settings: &Settings, engine: Engine, clone: String) -> anyhow::Result<Service> {
    let background = Background::default();
    let limits = settings.valid_section("data", Config::check)?;
    // The series is there from the start.
    metrics::counter!("shoal_data_stalled_readers_total").increment(0);
    match &engine.0 {
        Kind::Embedded { store, name, .. } => {
            background.spawn(sweep_forever(store.clone()));
            let watched = store.clone();
            Ok(of_store(store.clone(), clone, background, &limits)
                .on(engine.own_backing(name), move || watched.ready()))
        }
        Kind::Cassandra { config, contact_points } => {
            let store = CassandraStore::start(config.clone(), contact_points.clone());
            let backing = engine.shared_backing(&store);
            let (watched, closed, stop) = (store.clone(), store.clone(), background.stop.clone());
            background.tasks.spawn(async move {
                stop.cancelled().await;
                closed.close().await;
            });
            Ok(of_store(store, clone, background, &limits).on(backing, move || watched.healthy()))
        }
    }
}

fn of_store(store: impl Store, clone: String, background: Background, limits: &Config) -> Service {
    let data = Data::new(store)
        .until(background.draining.clone())
        .within(limits.blob_bytes_max, limits.stream_idle_max);
    background.spawn(sweep_blobs_forever(data.clone()));
    background.spawn(build_views_forever(data.clone()));
    let server = DataServiceServer::new(service::Service::new(data, background.draining.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Service::new(Role::Data, clone, shoal_proto::DESCRIPTOR_SET, background).with(server, MESSAGE_BYTES_MAX)
}
