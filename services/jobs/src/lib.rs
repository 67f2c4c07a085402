//! A queue of jobs: at least once, leased, fenced. On Redis or in a database of this process.

mod batch;
mod config;
mod engine;
mod error;
mod hub;
mod job;
mod jobs;
mod lease_request;
mod leaser;
mod maintainer;
mod page_token;
mod service;
mod store;
mod trace;
mod watch;

use shoal_kit::Settings;
use shoal_kit::service::Background;

pub use config::Config;
pub use engine::Engine;

use crate::engine::config;
use crate::hub::Hub;
use crate::jobs::Jobs;
use crate::leaser::Leaser;

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
    let backing = engine.backing();
    let store = engine.store();
    let (hub, due) = Hub::new();
    let (leaser, undoing) =
        Leaser::open(store.clone(), hub.clone(), background.draining.clone(), background.stop.clone());
    background.spawn(store.announce(hub.clone()));
    background.spawn(maintainer::run(store.clone(), hub.clone(), due, config.tend_interval));
    // Not stopped with the others: it ends by itself, after what is left.
    background.tasks.spawn(undoing);
    let jobs = Jobs::new(store.clone(), hub, leaser, background.draining.clone());
    Ok(service::assemble(jobs, clone, background).on(backing, move || store.ready()))
}
