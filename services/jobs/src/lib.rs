//! The jobs service: queues of jobs, worked on at least once, under leases with fencing tokens. On Redis, or in a database of
//! this process.
//!
//! `service` (gRPC) → `jobs` (what each call does) → `store` (Redis or embedded). `leaser` lets workers wait for jobs and `watch` follows
//! one job; `hub` wakes both. `maintainer` makes due jobs ready. `job` has the types and the pure rules of a job's life.

mod config;
mod engine;
mod error;
mod hub;
mod job;
mod jobs;
mod leaser;
mod maintainer;
mod queue_metrics;
mod request;
mod service;
mod store;
mod trace;
mod watch;

use std::sync::Arc;

use shoal_kit::Settings;
use shoal_kit::service::Background;

pub use config::Config;
pub use engine::Engine;

use crate::engine::config;
use crate::hub::Hub;
use crate::jobs::Jobs;
use crate::leaser::Leaser;
use crate::queue_metrics::QueueMetrics;

/// Starts one clone of the service with its background work: it hears what happens at the engine, looks after the queues, and
/// gives back what was claimed for workers that left.
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
    let backing = engine.backing();
    let store = engine.store();
    let (hub, due) = Hub::new();
    let (leaser, undoing) =
        Leaser::open(store.clone(), hub.clone(), background.draining.clone(), background.stop.clone());
    background.spawn(store.announce(hub.clone()));
    background.spawn(maintainer::run(store.clone(), hub.clone(), due, config.tend_interval));
    // Not stopped with the other tasks: it ends by itself, after it has given back what is queued.
    background.tasks.spawn(undoing);
    let jobs = Jobs::new(store.clone(), hub, leaser, background.draining.clone());
    let (shown, counted) = (Arc::new(QueueMetrics::default()), jobs.clone());
    let read = move || {
        let (shown, jobs) = (shown.clone(), counted.clone());
        async move { shown.read(&jobs).await }
    };
    Ok(service::assemble(jobs, clone, background).on(backing, move || store.ready()).measured_by(read))
}
