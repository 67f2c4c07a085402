//! `shoal bench engine`: the cost of each operation in Redis, and the memory of each stored object.

mod clients;
mod memory;
mod meter;
mod operations;

use clap::Args;
use shoal_proto::cache::v1 as cache;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use tonic::transport::Endpoint;

use crate::process::{Server, free_address};
use crate::report;
use clients::{Clients, Loader};
use meter::{IDLE, Meter, Usage};

/// Jobs of a large claim.
const CLAIM: usize = 32;

/// Settings of a measurement.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Calls of each operation
    #[arg(long, default_value_t = 20_000)]
    calls: usize,
    /// Calls in flight: what is in flight together shares Redis' system calls
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Objects of each kind whose memory is measured
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// The redis-server to start
    #[arg(long, default_value = "redis-server", env = "SHOAL_TEST_REDIS_SERVER")]
    redis_server: String,
}

pub(crate) async fn run(args: &EngineArgs) -> anyhow::Result<()> {
    let address = free_address()?;
    let dir = tempfile::tempdir()?;
    let mut command = tokio::process::Command::new(&args.redis_server);
    command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no"]).arg("--dir").arg(dir.path());
    let _redis = Server::spawn(command, address).await?;
    let url = format!("redis://{address}");
    let redis = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    let mut meter = Meter {
        redis,
        calls: args.calls,
        in_flight: args.in_flight,
        idle: Usage::default(),
        rows: Vec::new(),
    };
    // Before clones are there, which would miss what is removed after it.
    operations::floor(&mut meter).await?;
    let file = tempfile::NamedTempFile::with_suffix(".toml")?;
    let loader = free_address()?;
    std::fs::write(file.path(), format!("[cache.object.thing]\nloader = 'http://{loader}'\nttl = '5m'\n"))?;
    let config = file.path().to_string_lossy().into_owned();
    let service = cache::object_loader_service_server::ObjectLoaderServiceServer::new(Loader);
    let loading = tokio::spawn(tonic::transport::Server::builder().add_service(service).serve(loader));
    let clone = async |role: &'static str| {
        let options = ["--redis", &url, "--admin", "127.0.0.1:0", "--config", &config];
        Server::start(&[&["serve", role], &options[..]].concat()).await
    };
    let (sessions, jobs, cache) = (clone("session").await?, clone("jobs").await?, clone("cache").await?);
    let to = async |server: &Server| {
        anyhow::Ok(Endpoint::from_shared(format!("http://{}", server.address))?.connect().await?)
    };
    let clients = Clients {
        sessions: session::session_service_client::SessionServiceClient::new(to(&sessions).await?),
        jobs: jobs::jobs_service_client::JobsServiceClient::new(to(&jobs).await?),
        workers: jobs::worker_service_client::WorkerServiceClient::new(to(&jobs).await?),
        cache: cache::cache_service_client::CacheServiceClient::new(to(&cache).await?),
    };
    tokio::time::sleep(IDLE).await;
    meter.watch_idle().await?;
    operations::all(&mut meter, &clients).await?;
    report::line(&format!("\nWhat an operation costs Redis, {} in flight\n", args.in_flight));
    let header = ["operation", "commands", "µs", "calls/s"];
    report::line(&report::markdown(header, &meter.rows));
    let rows = memory::all(&mut meter, &clients, args.objects).await?;
    report::line(&format!("\nWhat an object takes of Redis' memory, of {}\n", args.objects));
    report::line(&report::markdown(["object", "bytes"], &rows));
    report::line(&format!(
        "One clone each of session, jobs and cache at rest: {:.0} commands/s, {:.0} µs/s",
        meter.idle.commands, meter.idle.cpu_us
    ));
    loading.abort();
    Ok(())
}
