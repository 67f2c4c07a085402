//! `shoal bench data`: reads and writes of rows beside the scylla driver, which sends the same statements to the same tables.

mod calls;
mod seed;
mod tables;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use tonic::transport::Endpoint;

use crate::cql::{Driven, Operation};
use crate::load::level::Level;
use crate::load::target::Target;
use crate::mesh;
use crate::process::{Server, listener};
use crate::round::{Sample, interleaved, sample, warm_up};
use crate::run::{Found, Run, RunArgs, seconds};

/// Keyspace of its own, which stays when the benchmark is over, without tables.
const KEYSPACE: &str = "shoal_bench";
/// Calls in flight that share a connection.
const CALLS_PER_CONNECTION: usize = 64;

/// Settings of a measurement.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Seconds of each scenario in a round
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Calls in flight
    #[arg(long, default_value = "1,64,256", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// Operations to measure; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    operations: Vec<Operation>,
    /// Cassandra, host:port; none: the embedded engine alone, without a driver beside it
    #[arg(long)]
    cassandra: Option<String>,
}

/// Way by which the rows of a table are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The scylla driver, in a program of its own.
    Driver,
    /// A clone of the data service on Cassandra.
    Clone,
    /// The same clone through a gateway.
    Gateway,
    /// A clone on the embedded engine.
    Embedded,
}

impl Way {
    fn title(self) -> &'static str {
        match self {
            Way::Driver => "scylla driver",
            Way::Clone => "data service",
            Way::Gateway => "data service, through the gateway",
            Way::Embedded => "data service, embedded engine",
        }
    }
}

/// Row of a table.
pub(crate) struct Scenario {
    pub(crate) operation: Operation,
    pub(crate) way: Way,
    pub(crate) in_flight: usize,
}

impl Scenario {
    pub(crate) fn name(&self) -> String {
        named(self.way, self.in_flight)
    }

    /// Returns the name of the row that it is compared with.
    pub(crate) fn peer(&self) -> Option<String> {
        (self.way != Way::Driver).then(|| named(Way::Driver, self.in_flight))
    }
}

fn named(way: Way, in_flight: usize) -> String {
    format!("{}, {in_flight} in flight", way.title())
}

/// Processes that are measured.
struct Bed {
    /// The clone on Cassandra with its gateway, if there is a Cassandra.
    cassandra: Option<OnCassandra>,
    embedded: Server,
}

struct OnCassandra {
    contact: String,
    /// Process of Cassandra, if it runs on this machine.
    pid: Option<u32>,
    clone: Server,
    gateway: Server,
}

pub(crate) async fn run(args: &DataArgs) -> anyhow::Result<()> {
    let title = if args.cassandra.is_some() {
        "Reads and writes of rows at a clone of the data service, directly and through the gateway, beside the scylla driver, which \
         sends the same statements to the same Cassandra from a program of its own."
    } else {
        "Reads and writes of rows at a clone of the data service on the embedded engine."
    };
    let run = Run::begin("data", title, &args.run).await?;
    let bed = Bed::start(args.cassandra.as_deref()).await?;
    let mut clones = vec![bed.embedded.address];
    clones.extend(bed.cassandra.as_ref().map(|on| on.clone.address));
    for clone in clones.iter().copied() {
        seed::tables(connect(clone).await?).await.context("preparing the tables")?;
    }
    let scenarios = scenarios(args);
    let time = Duration::from_secs_f64(args.seconds);
    let samples = interleaved(
        &scenarios,
        |scenario| format!("{}: {}", scenario.operation.title(), scenario.name()),
        (args.run.rounds, time),
        async |scenario, time, _| bed.sample(scenario, time).await,
    )
    .await?;
    for clone in clones {
        seed::drop_tables(connect(clone).await?).await.context("dropping the tables")?;
    }
    let tables = tables::of(&scenarios, &samples);
    let notes = tables::notes(&tables, args.in_flight.iter().copied().max().unwrap_or(1));
    run.end(Found { warm_up: warm_up(time), tables, notes, ..Found::default() }).await
}

/// Returns what is measured, each driver before what is compared with it.
fn scenarios(args: &DataArgs) -> Vec<Scenario> {
    let ways: &[Way] = match args.cassandra {
        Some(_) => &[Way::Driver, Way::Clone, Way::Gateway, Way::Embedded],
        None => &[Way::Embedded],
    };
    let operations = if args.operations.is_empty() { &Operation::ALL } else { &args.operations[..] };
    let mut scenarios = Vec::new();
    for operation in operations.iter().copied() {
        for in_flight in args.in_flight.iter().copied() {
            scenarios.extend(ways.iter().map(|way| Scenario { operation, way: *way, in_flight }));
        }
    }
    scenarios
}

async fn connect(address: SocketAddr) -> anyhow::Result<tonic::transport::Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.connect().await?)
}

impl Bed {
    async fn start(cassandra: Option<&str>) -> anyhow::Result<Bed> {
        let embedded = Server::start(&["serve", "data", "--ephemeral", "--admin", "127.0.0.1:0"]).await?;
        let Some(contact) = cassandra else { return Ok(Bed { cassandra: None, embedded }) };
        let file = tempfile::NamedTempFile::with_suffix(".toml")?;
        std::fs::write(file.path(), format!("[data]\nkeyspace = '{KEYSPACE}'\n"))?;
        let config = file.path().to_string_lossy().into_owned();
        let options = ["--cassandra", contact, "--admin", "127.0.0.1:0", "--config", &config];
        let clone = Server::start(&[&["serve", "data"], &options[..]].concat()).await?;
        let peer = format!("data={}", clone.address);
        let gateway = Server::start(&["serve", "gateway", "--peer", &peer, "--admin", "127.0.0.1:0"]).await?;
        // Once it answers, the clone has connected to Cassandra.
        mesh::connect(gateway.address, &["data"]).await?;
        let pid = match tokio::net::lookup_host(contact).await {
            Ok(mut addresses) => addresses.find_map(listener::of),
            Err(_) => None,
        };
        let contact = contact.to_owned();
        Ok(Bed { cassandra: Some(OnCassandra { contact, pid, clone, gateway }), embedded })
    }

    /// Measures a scenario. The CPU times are the program's, Cassandra's and the gateway's; not a number where there is none.
    async fn sample(&self, scenario: &Scenario, time: Duration) -> anyhow::Result<Sample> {
        let on = || self.cassandra.as_ref().context("no Cassandra");
        let (address, pids) = match scenario.way {
            Way::Driver => return driven(on()?, scenario, time).await,
            Way::Clone => (on()?.clone.address, [Some(on()?.clone.pid()), on()?.pid, None]),
            Way::Gateway => {
                (on()?.gateway.address, [Some(on()?.clone.pid()), on()?.pid, Some(on()?.gateway.pid())])
            }
            Way::Embedded => (self.embedded.address, [Some(self.embedded.pid()), None, None]),
        };
        let target = Target {
            addresses: vec![address],
            connections: scenario.in_flight.div_ceil(CALLS_PER_CONNECTION),
            workload: calls::of(scenario.operation),
            pids: pids.iter().copied().flatten().collect(),
            accepted: Vec::new(),
        };
        let measured = sample(&target, &Level::closed(scenario.in_flight, time)).await?;
        let mut used = measured.cpu_us.iter().copied();
        let cpu_us = pids.iter().map(|pid| pid.and_then(|_| used.next()).unwrap_or(f64::NAN)).collect();
        Ok(Sample { cpu_us, ..measured })
    }
}

/// Measures the driver.
async fn driven(on: &OnCassandra, scenario: &Scenario, time: Duration) -> anyhow::Result<Sample> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["bench", "cql", "--cassandra", &on.contact, "--keyspace", KEYSPACE]);
    command.args(["--operation", &scenario.operation.name(), "--in-flight", &scenario.in_flight.to_string()]);
    command.args(["--seconds", &time.as_secs_f64().to_string()]);
    if let Some(pid) = on.pid {
        command.args(["--pid", &pid.to_string()]);
    }
    let output = command.kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the driver's program ended ({}): {said}", output.status);
    let driven: Driven = serde_json::from_slice(&output.stdout).context("what the driver's program says")?;
    let operations = driven.operations.max(1) as f64;
    let mut used = driven.cpu_us.iter().map(|used| used / operations);
    let mut next = || used.next().unwrap_or(f64::NAN);
    Ok(Sample {
        per_second: driven.operations as f64 / driven.seconds,
        p50_us: driven.p50_us,
        p99_us: driven.p99_us,
        lost: 0,
        cpu_us: vec![next(), next(), f64::NAN],
    })
}
