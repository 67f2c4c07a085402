//! `shoal bench mesh`: the cost of a call at each service and at the gateway.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use shoal_proto::cache::v1 as cache;
use shoal_proto::data::v1 as data;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use tonic::transport::{Channel, Endpoint};

use crate::echo;
use crate::load::call::Call;
use crate::process::{Server, cpu};
use crate::results::{Column, Table};
use crate::round::{Scenario, closed_loops, warm_up};
use crate::run::{Found, Run, RunArgs, seconds};

/// Settings of a measurement.
#[derive(Debug, Args)]
pub(crate) struct MeshArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Seconds of each scenario in a round
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Calls in flight
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Redis for session, cache and jobs; none: embedded engines
    #[arg(long)]
    redis: Option<String>,
    /// Cassandra for data; none: the embedded engine
    #[arg(long)]
    cassandra: Option<String>,
}

/// The peer.
const ECHO: &str = "tonic echo 100 B";
/// The title of the table of memory.
const MEMORY: &str = "Resident memory after it";
/// The title of the table of loads.
pub(crate) const CALLS: &str = "Calls";

pub(crate) async fn run(args: &MeshArgs) -> anyhow::Result<()> {
    let engine = match (&args.redis, &args.cassandra) {
        (None, None) => "embedded engines",
        (Some(_), Some(_)) => "Redis and Cassandra",
        (Some(_), None) => "Redis, embedded data",
        (None, Some(_)) => "Cassandra, the rest embedded",
    };
    let title = format!(
        "A read of every service on {engine}, one clone each, at the clone and through the gateway, beside a bare tonic echo. \
         {} calls in flight.",
        args.in_flight
    );
    let run = Run::begin("mesh", &title, &args.run).await?;
    let echo = Server::start(&["bench", "echo"]).await?;
    let mut engines = vec!["--ephemeral"];
    if let Some(redis) = &args.redis {
        engines.extend(["--redis", redis]);
    }
    if let Some(cassandra) = &args.cassandra {
        engines.extend(["--cassandra", cassandra]);
    }
    let clone = async |role: &'static str| {
        Server::start(&[&["serve", role, "--admin", "127.0.0.1:0"], &engines[..]].concat()).await
    };
    let (session, cache, data, jobs) =
        (clone("session").await?, clone("cache").await?, clone("data").await?, clone("jobs").await?);
    let peers = format!(
        "session={};cache={};data={};jobs={}",
        session.address, cache.address, data.address, jobs.address
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml")?;
    std::fs::write(
        file.path(),
        format!(
            "[gateway.upstream.echo]\nendpoints = ['{}']\nservices = ['shoal.bench.Echo']\n",
            echo.address
        ),
    )?;
    let config = file.path().to_string_lossy().into_owned();
    let gateway =
        Server::start(&["serve", "gateway", "--admin", "127.0.0.1:0", "--peer", &peers, "--config", &config])
            .await?;

    let echo_call = Call::new(echo::ECHO, &echo::Text { text: "x".repeat(100), value: Vec::new() });
    let mut scenarios = Vec::new();
    let mut add = |name: &str, server: &Server, call: &Call| {
        for through in [false, true] {
            let mut processes = vec![("service", server.pid())];
            let address = if through { gateway.address } else { server.address };
            if through {
                processes.push(("gateway", gateway.pid()));
            }
            let way = if through { "through the gateway" } else { "direct" };
            scenarios.push(Scenario {
                name: format!("{name}, {way}"),
                peer: (name != ECHO).then(|| format!("{ECHO}, {way}")),
                address,
                call: call.clone(),
                in_flight: args.in_flight,
                processes,
            });
        }
    };
    add(ECHO, &echo, &echo_call);
    let channel = connect(gateway.address, &["session", "cache", "data", "jobs"]).await?;
    add("GetSession", &session, &a_session(channel.clone()).await?);
    add("data Get", &data, &a_row(channel.clone()).await?);
    add("cache Get", &cache, &an_entry(channel.clone()).await?);
    add("GetJob", &jobs, &a_job(channel).await?);

    let time = Duration::from_secs_f64(args.seconds);
    let calls = closed_loops(CALLS, &scenarios, (args.run.rounds, time)).await?;
    let mut memory = Table::new(MEMORY, vec![Column::new("resident_mib", "MiB", 0)]);
    for (name, server) in
        [("gateway", &gateway), ("session", &session), ("cache", &cache), ("data", &data), ("jobs", &jobs)]
    {
        let mib = cpu::resident(server.pid())? as f64 / f64::from(1 << 20);
        memory.row(name, None, vec![vec![mib]]);
    }
    run.end(Found { warm_up: warm_up(time), tables: vec![calls, memory], ..Found::default() }).await
}

/// A channel to the gateway once it has a clone of everything.
pub(crate) async fn connect(gateway: SocketAddr, services: &[&str]) -> anyhow::Result<Channel> {
    let channel = Endpoint::from_shared(format!("http://{gateway}"))?.connect().await?;
    let begun = Instant::now();
    for service in services.iter().copied() {
        loop {
            let call = match service {
                "session" => session::session_service_client::SessionServiceClient::new(channel.clone())
                    .get_session(session::GetSessionRequest { token: "x".into(), no_touch: true })
                    .await
                    .err(),
                "cache" => cache::cache_service_client::CacheServiceClient::new(channel.clone())
                    .get(cache::GetRequest {
                        namespace: "bench".into(),
                        key: "x".into(),
                        ..Default::default()
                    })
                    .await
                    .err(),
                "data" => data::data_service_client::DataServiceClient::new(channel.clone())
                    .list_tables(data::ListTablesRequest::default())
                    .await
                    .err(),
                _ => jobs::jobs_service_client::JobsServiceClient::new(channel.clone())
                    .get_job(jobs::GetJobRequest { id: "x".into() })
                    .await
                    .err(),
            };
            match call {
                Some(status) if status.code() == tonic::Code::Unavailable => {
                    anyhow::ensure!(begun.elapsed() < Duration::from_secs(20), "{service}: {status}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => break,
            }
        }
    }
    Ok(channel)
}

/// GetSession of a session with three attributes.
pub(crate) async fn a_session(channel: Channel) -> anyhow::Result<Call> {
    use shoal_proto::r#type::v1::{Value, value::Kind};
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let request = session::CreateSessionRequest {
        user_id: "ada".into(),
        attributes: ["plan", "locale", "theme"].map(|name| (name.to_owned(), value("some value"))).into(),
        ..Default::default()
    };
    let created = session::session_service_client::SessionServiceClient::new(channel)
        .create_session(request)
        .await?
        .into_inner();
    let get = session::GetSessionRequest { token: created.token, no_touch: false };
    Ok(Call::new("/shoal.session.v1.SessionService/GetSession", &get))
}

async fn a_row(channel: Channel) -> anyhow::Result<Call> {
    let mut client = data::data_service_client::DataServiceClient::new(channel);
    let table = data::Table {
        name: "bench".into(),
        sort_key_type: data::SortKeyType::None.into(),
        ..Default::default()
    };
    client.create_table(data::CreateTableRequest { table: Some(table) }).await?;
    let put = data::Mutation { kind: Some(data::mutation::Kind::Put(data::mutation::Put::default())) };
    let mutate = data::MutateRequest {
        table: "bench".into(),
        partition_key: "p".into(),
        mutations: vec![put],
        ..Default::default()
    };
    client.mutate(mutate).await?;
    let get = data::GetRequest { table: "bench".into(), partition_key: "p".into(), ..Default::default() };
    Ok(Call::new("/shoal.data.v1.DataService/Get", &get))
}

async fn an_entry(channel: Channel) -> anyhow::Result<Call> {
    let set = cache::SetRequest {
        namespace: "bench".into(),
        key: "k".into(),
        value: vec![7; 100].into(),
        ..Default::default()
    };
    cache::cache_service_client::CacheServiceClient::new(channel).set(set).await?;
    let get = cache::GetRequest { namespace: "bench".into(), key: "k".into(), ..Default::default() };
    Ok(Call::new("/shoal.cache.v1.CacheService/Get", &get))
}

async fn a_job(channel: Channel) -> anyhow::Result<Call> {
    let enqueue = jobs::EnqueueRequest { queue: "bench".into(), kind: "k".into(), ..Default::default() };
    let job =
        jobs::jobs_service_client::JobsServiceClient::new(channel).enqueue(enqueue).await?.into_inner().job;
    let get = jobs::GetJobRequest { id: job.context("a job")?.id };
    Ok(Call::new("/shoal.jobs.v1.JobsService/GetJob", &get))
}
