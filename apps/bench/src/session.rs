//! `shoal bench session`: GetSession beside the least that could answer it: a bare tonic echo with one Redis GET.

use std::time::Duration;

use clap::Args;

use crate::load::call::Call;
use crate::load::closed::Closed;
use crate::process::{Server, free_address};
use crate::round::{Scenario, interleaved, median, table};
use crate::{echo, mesh, report};

/// Settings of a measurement.
#[derive(Debug, Args)]
pub struct SessionArgs {
    /// Rounds of every scenario
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each scenario in a round
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Calls in flight
    #[arg(long, default_value = "1,64,256", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// The redis-server to start
    #[arg(long, default_value = "redis-server", env = "SHOAL_TEST_REDIS_SERVER")]
    redis_server: String,
}

pub(crate) async fn run(args: &SessionArgs) -> anyhow::Result<()> {
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
        scenarios.push(Scenario {
            name: "tonic echo + Redis GET".to_owned(),
            address: echo.address,
            call: echo_call.clone(),
            shape: Closed::of(in_flight),
            processes: vec![("service", echo.pid()), ("redis", redis.pid())],
        });
        scenarios.push(Scenario {
            name: "GetSession, direct".to_owned(),
            address: session.address,
            call: get.clone(),
            shape: Closed::of(in_flight),
            processes: vec![("service", session.pid()), ("redis", redis.pid())],
        });
        scenarios.push(Scenario {
            name: "GetSession, through the gateway".to_owned(),
            address: gateway.address,
            call: get.clone(),
            shape: Closed::of(in_flight),
            processes: vec![("service", session.pid()), ("redis", redis.pid()), ("gateway", gateway.pid())],
        });
    }
    let samples = interleaved(&scenarios, args.rounds, Duration::from_secs(args.seconds)).await?;
    table("GetSession beside a bare tonic echo with a Redis GET", &scenarios, &samples);
    for group in 0..args.in_flight.len() {
        let per_second = |i: usize| median(&samples[group * 3 + i], |s| s.per_second);
        report::line(&format!(
            "{} in flight: {:.0} % of the echo's throughput directly, {:.0} % through the gateway",
            scenarios[group * 3].shape.in_flight,
            100.0 * per_second(1) / per_second(0),
            100.0 * per_second(2) / per_second(0),
        ));
    }
    Ok(())
}
