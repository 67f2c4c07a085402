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
use crate::results::{Column, Table};
use crate::run::{Found, Run, RunArgs};
use clients::{Clients, Loader};
use meter::{IDLE, Meter, Usage};

/// The title of the table of operations.
const COSTS: &str = "Operations";

/// Jobs of a large claim.
const CLAIM: usize = 32;

/// Settings of a measurement.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Calls of each operation in a round
    #[arg(long, default_value_t = 5_000)]
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
    let title = format!(
        "What an operation costs Redis, with {} calls in flight: commands and CPU time of the process, less what clones do at \
         rest; and the memory of each stored object.",
        args.in_flight
    );
    let run = Run::begin("engine", &title, &args.run).await?;
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
        costs: Vec::new(),
    };
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
    for round in 1..=args.run.rounds {
        report::progress(&format!(
            "round {round} of {}: {} calls of each operation",
            args.run.rounds, args.calls
        ));
        operations::all(&mut meter, &clients, round).await?;
    }
    let memory = memory::all(&mut meter, &clients, args.objects).await?;
    let at_rest = format!(
        "One clone each of session, jobs and cache at rest: {:.0} commands/s, {:.0} µs/s.",
        meter.idle.commands, meter.idle.cpu_us
    );
    loading.abort();
    let warm_up = format!("the clones stand for {} s", IDLE.as_secs());
    let tables = vec![costs(&meter), memory];
    run.end(Found { warm_up, tables, notes: vec![at_rest], ..Found::default() }).await
}

/// Returns the table of the operations; their peer is a bare GET for reads, and a bare SET for the others.
fn costs(meter: &Meter) -> Table {
    let columns = vec![
        Column::new("commands", "commands", 1),
        Column::new("redis_cpu_us", "Redis CPU µs", 1).with_ratio(),
        Column::new("calls_per_second", "calls/s", 0).with_ratio(),
    ];
    let mut table = Table::new(COSTS, columns);
    for cost in &meter.costs {
        let peer = match cost.operation.as_str() {
            operations::BARE_GET | operations::BARE_SET => None,
            name if operations::READS.contains(&name) => Some(operations::BARE_GET),
            _ => Some(operations::BARE_SET),
        };
        let figures = [&cost.commands, &cost.cpu_us, &cost.per_second].map(Clone::clone).to_vec();
        table.row(&cost.operation, peer, figures);
    }
    table
}
