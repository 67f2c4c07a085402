//! `shoal bench session`: GetSession beside the least that could answer it: a bare tonic echo with one Redis GET.

use std::time::Duration;

use clap::Args;

use crate::load::call::Call;
use crate::process::{Server, free_address};
use crate::round::{Scenario, closed_loops, warm_up};
use crate::run::{Found, Run, RunArgs, seconds};
use crate::{echo, mesh};

/// Settings of a measurement.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Seconds of each scenario in a round
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Calls in flight
    #[arg(long, default_value = "1,64,256", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// The redis-server to start
    #[arg(long, default_value = "redis-server", env = "SHOAL_TEST_REDIS_SERVER")]
    redis_server: String,
}

pub(crate) async fn run(args: &SessionArgs) -> anyhow::Result<()> {
    let title =
        "GetSession on Redis beside the least that could answer it: a bare tonic echo with one Redis GET.";
    let run = Run::begin("session", title, &args.run).await?;
    let address = free_address()?;
    let dir = tempfile::tempdir()?;
    let mut command = tokio::process::Command::new(&args.redis_server);
    command
        .args([
            "--port",
            &address.port().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .arg("--dir")
        .arg(dir.path());
    let redis = Server::spawn(command, address).await?;
    let url = format!("redis://{address}");
    let echo = Server::start(&["bench", "echo", "--redis", &url]).await?;
    let session = Server::start(&["serve", "session", "--redis", &url, "--admin", "127.0.0.1:0"]).await?;
    let peer = format!("session={}", session.address);
    let gateway = Server::start(&["serve", "gateway", "--peer", &peer, "--admin", "127.0.0.1:0"]).await?;

    let get = mesh::a_session(mesh::connect(gateway.address, &["session"]).await?).await?;
    let echo_call = Call::new(echo::ECHO, &echo::Text { text: "key".to_owned(), value: Vec::new() });
    let mut scenarios = Vec::new();
    for in_flight in args.in_flight.iter().copied() {
        let name = |what: &str| format!("{what}, {in_flight} in flight");
        let echo_name = name("tonic echo + Redis GET");
        let mut add = |name: String, server: &Server, call: &Call, processes: &[(&'static str, u32)]| {
            scenarios.push(Scenario {
                peer: (name != echo_name).then(|| echo_name.clone()),
                name,
                address: server.address,
                call: call.clone(),
                in_flight,
                processes: processes.to_vec(),
            });
        };
        let redis = ("redis", redis.pid());
        add(echo_name.clone(), &echo, &echo_call, &[("service", echo.pid()), redis]);
        let service = ("service", session.pid());
        add(name("GetSession, direct"), &session, &get, &[service, redis]);
        let through = [service, redis, ("gateway", gateway.pid())];
        add(name("GetSession, through the gateway"), &gateway, &get, &through);
    }
    let time = Duration::from_secs_f64(args.seconds);
    let calls = closed_loops(mesh::CALLS, &scenarios, (args.run.rounds, time)).await?;
    run.end(Found { warm_up: warm_up(time), tables: vec![calls], ..Found::default() }).await
}
