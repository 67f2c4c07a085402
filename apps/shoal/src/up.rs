//! `shoal up`: the whole mesh in one process. The same code as many processes, on real loopback sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use shoal_gateway::Gateway;
use shoal_kit::cli::{CommonArgs, serve_defaults};
use shoal_kit::role::Role;
use shoal_kit::serve::{Drain, bind, serve};
use shoal_kit::settings::Defaults;
use shoal_kit::{Memory, Service, Settings, admin, metric, open_files, shutdown, telemetry};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::engines::Engines;
use crate::report;

/// Time within which every clone must answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Time to wait for an engine before the terminal says that it is not reachable.
const ENGINES_WITHIN: Duration = Duration::from_secs(2);
/// The services behind the gateway, in the order they start.
const SERVICES: [Role; 4] = [Role::Session, Role::Data, Role::Cache, Role::Jobs];

const EXAMPLES: &str = "Examples:
  shoal up                                        embedded engines with files in ./.shoal
  shoal up --ephemeral --clones session=3,jobs=1  nothing is kept when it ends
  shoal up --redis redis://127.0.0.1:6379 --cassandra 127.0.0.1:9042 --otlp http://127.0.0.1:4317";

/// Run the whole mesh in one process: a gateway and two clones of every service.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// A clone that is bound and not yet serving.
struct Bound {
    role: Role,
    name: String,
    listener: TcpListener,
    address: SocketAddr,
}

/// Returns what holds for `up` when nothing else is given. People read its terminal: the table says what a log line of level
/// INFO would, and one line of ours what a driver says of each attempt to connect.
pub(crate) fn defaults() -> Defaults {
    Defaults { log: "warn,scylla=off", ..serve_defaults() }
}

pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut settings = Settings::load(&args.common, defaults())?;
    if let Some(peer) = settings.given("peer") {
        anyhow::bail!(
            "{peer}: `up` runs the clones of every role itself and knows where they are; \
             `shoal serve gateway --peer …` is a gateway before clones that run elsewhere"
        );
    }
    let telemetry = telemetry::install(&settings.telemetry)?;
    open_files::raise_limit();
    settings.log_ignored_variables();
    let metrics = metric::install()?;
    let signal = shutdown::on_signal()?;

    let admin_listener = bind(settings.admin).await?;
    let admin_address = admin_listener.local_addr()?;
    let gateway = Gateway::bind(&settings)?;
    let address = gateway.address();
    let bound = bind_clones(&mut settings).await?;
    settings.peers.insert(Role::Gateway, address.to_string());

    let mut rows = vec![["gateway".into(), "1".into(), address.to_string(), String::new()]];
    let mut parts = vec![gateway.readiness().part()];
    let mut clones = JoinSet::new();
    let stop_clones = CancellationToken::new();
    let expected: Vec<(String, SocketAddr)> = bound.iter().map(|b| (b.name.clone(), b.address)).collect();
    let (mut engines, mut watches) = (Engines::default(), Vec::new());
    let built = build(&settings, bound, &mut rows, &mut engines).await?;
    let (memory, mut measures) = (Memory::default(), BTreeMap::new());
    for (clone, service) in built {
        parts.push(admin::Part::of_clone(clone.name, service.role(), service.probe()));
        watches.push(service.draining());
        if let Some(measure) = service.measure() {
            // One clone of a role tells for all.
            measures.entry(service.role()).or_insert(measure);
        }
        let service = service.within(memory.clone());
        clones.spawn(serve(service, clone.listener, settings.drain, stop_clones.clone()));
    }
    let admin = tokio::spawn(admin::serve(
        admin::Admin { metrics, parts, shutdown: signal.clone(), measures },
        admin_listener,
    ));
    let mesh = gateway.readiness();
    let stop_gateway = CancellationToken::new();
    let mut gateway = {
        let (settings, stop) = (settings.clone(), stop_gateway.clone());
        tokio::spawn(async move { gateway.run(&settings, stop).await })
    };

    let interrupted = tokio::select! {
        () = signal.cancelled() => true,
        ended = &mut gateway => return ended.context("the gateway panicked")?.context("the gateway stopped"),
        ready = tokio::time::timeout(READY_WITHIN, async {
            for (name, address) in &expected {
                answers(*address).await.with_context(|| format!("{name} at {address}"))?;
            }
            // A mesh without an engine is ready all the same: calls that need it are told that it is away.
            let _ = tokio::time::timeout(ENGINES_WITHIN, engines.reachable()).await;
            let reached = engines.roles_reached();
            mesh.when(|mesh| reached.iter().all(|role| mesh.endpoints(role.name()) > 0)).await;
            anyhow::Ok(())
        }) => {
            ready.with_context(|| format!("not every clone answered within {READY_WITHIN:?}"))??;
            false
        }
    };
    if !interrupted {
        announce(&rows, address, admin_address, begun.elapsed(), engines.away());
        // A clone or the gateway that ends by itself has failed.
        tokio::select! {
            () = signal.cancelled() => {}
            never = engines.follow() => match never {},
            ended = &mut gateway => return ended.context("the gateway panicked")?.context("the gateway stopped"),
            Some(ended) = clones.join_next() => {
                ended.context("a clone panicked")?.context("a clone stopped")?;
                anyhow::bail!("a clone stopped by itself");
            }
        }
    }
    report::line(format_args!("draining: calls in flight have {:?}", settings.drain.grace));
    // They have no end of their own, and no other clone to go on at: a watcher is told, instead of being cut off later.
    watches.iter().for_each(CancellationToken::cancel);
    drain(gateway, &stop_gateway, clones, &stop_clones, settings.drain).await?;
    admin.abort();
    telemetry.flush().await;
    report::line("stopped");
    Ok(())
}

/// Binds a loopback socket for every clone, so that each can be told where all the others are before any is built.
async fn bind_clones(settings: &mut Settings) -> anyhow::Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for role in SERVICES {
        let mut addresses = Vec::new();
        for i in 1..=settings.clones[&role] {
            let listener = bind(([127, 0, 0, 1], 0).into()).await?;
            let address = listener.local_addr()?;
            addresses.push(address.to_string());
            bound.push(Bound { role, name: format!("{role}-{i}"), listener, address });
        }
        settings.peers.insert(role, addresses.join(","));
    }
    Ok(bound)
}

/// Opens each role's engine once and builds its clones on it.
async fn build(
    settings: &Settings,
    bound: Vec<Bound>,
    rows: &mut Vec<[String; 4]>,
    engines: &mut Engines,
) -> anyhow::Result<Vec<(Bound, Service)>> {
    let mut built = Vec::new();
    let mut bound = bound.into_iter().peekable();
    macro_rules! clones {
        ($service:ident, $role:expr) => {{
            let engine = $service::Engine::open(settings).await.with_context(|| $role.to_string())?;
            let mut addresses = Vec::new();
            let description = engine.describe();
            while let Some(clone) = bound.next_if(|b| b.role == $role) {
                let engine = engine.for_clone(settings).await?;
                let service = $service::service(settings, engine, clone.name.clone()).await?;
                addresses.push(clone.address.to_string());
                engines.add(&description, $role, service.probe());
                built.push((clone, service));
            }
            rows.push([$role.to_string(), addresses.len().to_string(), addresses.join(" "), description]);
        }};
    }
    clones!(shoal_session, Role::Session);
    clones!(shoal_data, Role::Data);
    clones!(shoal_cache, Role::Cache);
    clones!(shoal_jobs, Role::Jobs);
    Ok(built)
}

/// Asks a clone for its health, which it must answer once its listener is bound and its routes are built. It does not serve
/// before it has reached its engine.
async fn answers(address: SocketAddr) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
    Ok(())
}

fn announce(
    rows: &[[String; 4]],
    gateway: SocketAddr,
    admin: SocketAddr,
    took: Duration,
    away: Option<String>,
) {
    report::line(report::table(["SERVICE", "CLONES", "ADDRESS", "ENGINE"], rows));
    report::line(format_args!("  admin     http://{admin}/metrics /livez /readyz /status\n"));
    let away = away.map_or(String::new(), |away| format!("; {away}"));
    report::line(format_args!("ready in {} ms{away}. Try:\n", took.as_millis()));
    report::line(format_args!("  grpcurl -plaintext {gateway} list"));
    report::line(format_args!(
        "  grpcurl -plaintext -d '{{\"user_id\":\"ada\"}}' {gateway} shoal.session.v1.SessionService/CreateSession"
    ));
    report::line("\nCtrl-C drains and stops.");
}

/// The gateway first, so that no caller meets a clone that is gone; then the clones.
async fn drain(
    gateway: tokio::task::JoinHandle<anyhow::Result<()>>,
    stop_gateway: &CancellationToken,
    mut clones: JoinSet<anyhow::Result<()>>,
    stop_clones: &CancellationToken,
    bounds: Drain,
) -> anyhow::Result<()> {
    let margin = Duration::from_secs(2);
    stop_gateway.cancel();
    tokio::time::timeout(bounds.grace + margin, gateway)
        .await
        .context("the gateway did not drain in time")?
        .context("the gateway panicked")??;
    stop_clones.cancel();
    let all = async {
        while let Some(ended) = clones.join_next().await {
            ended.context("a clone panicked")??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(bounds.grace * 2 + margin, all).await.context("the clones did not drain in time")?
}
