//! Typed clients over the balancing channel, with which services call each other and a Rust caller calls the mesh. They add no
//! retries of their own: those live in `balance` and the gateway.

use std::str::FromStr as _;

use shoal_balance::{Balancer, Options, Source, discover};
use shoal_proto::cache::v1::cache_service_client::CacheServiceClient;
use shoal_proto::cache::v1::object_loader_service_client::ObjectLoaderServiceClient;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::jobs::v1::jobs_service_client::JobsServiceClient;
use shoal_proto::jobs::v1::worker_service_client::WorkerServiceClient;
use shoal_proto::session::v1::session_service_client::SessionServiceClient;
use tokio_util::sync::CancellationToken;

pub use shoal_balance::{Channel, ChannelOptions};

/// The largest message that a client accepts; the services' own limits are lower.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Makes a channel over the clones at `source` (`ADDR,ADDR`, `dns:HOST:PORT`, `srv:NAME` or `file:PATH`). It connects in the
/// background of the current runtime until `cancel`. Errors call the upstream `name`; spans have the caller's `role`.
///
/// # Errors
/// Returns an error if `source` is none of the four.
pub fn connect(
    source: &str,
    name: &str,
    role: &'static str,
    cancel: &CancellationToken,
) -> Result<Channel, shoal_balance::ParseError> {
    connect_with(source, name, role, ChannelOptions::default(), cancel)
}

/// Makes a channel like [`connect`], with options of its own.
///
/// # Errors
/// Returns an error if `source` is none of the four.
pub fn connect_with(
    source: &str,
    name: &str,
    role: &'static str,
    options: ChannelOptions,
    cancel: &CancellationToken,
) -> Result<Channel, shoal_balance::ParseError> {
    let targets = discover(Source::from_str(source)?, cancel.clone());
    let balancer = Balancer::start(Options::new(name, role), targets, cancel.clone());
    Ok(Channel::new(balancer, options))
}

macro_rules! client {
    ($(#[$doc:meta])* $name:ident, $client:ident) => {
        $(#[$doc])*
        pub fn $name(channel: Channel) -> $client<Channel> {
            $client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
        }
    };
}

client!(/** Makes a client of the session service. */ session, SessionServiceClient);
client!(/** Makes a client of the cache. */ cache, CacheServiceClient);
client!(/** Makes a client of a loader of cached objects. */ object_loader, ObjectLoaderServiceClient);
client!(/** Makes a client of the data service. */ data, DataServiceClient);
client!(/** Makes a client of the jobs service, to enqueue and watch. */ jobs, JobsServiceClient);
client!(/** Makes a client of the jobs service, for workers. */ worker, WorkerServiceClient);
