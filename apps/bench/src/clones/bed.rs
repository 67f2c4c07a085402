//! The processes of one number of clones, ended with it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use shoal_proto::gateway::v1 as gateway;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::seed::{self, Seeded};
use super::{CloneArgs, Service};
use crate::load::target::Target;
use crate::process::Server;

/// Time within which all clones must be used by the gateway.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A newcomer's share of the calls would grow for half a minute.
const GATEWAY: &str = "[gateway.balance]\nslow_start = '0s'\n";

/// Clones with their machines, behind a gateway.
pub(super) struct Bed {
    gateway: Server,
    /// The clones' processes.
    clones: Vec<Server>,
    _machines: Vec<Server>,
    seeded: Seeded,
    _config: tempfile::NamedTempFile,
}

impl Bed {
    /// Starts everything, sees that the gateway uses all clones, and stores what will be read.
    ///
    /// # Errors
    /// When something does not start in time.
    pub(super) async fn start(service: Service, args: &CloneArgs, count: u16) -> anyhow::Result<Bed> {
        let role = service.role();
        let (clones, addresses) = match args.engine(service) {
            "embedded" => embedded(role, count).await?,
            _ => on_engine(service, args, count).await?,
        };
        let seeded = seeded(service, addresses[0]).await?;
        let machines = all(addresses.iter().map(|address| {
            let mut arguments: Vec<String> = ["bench", "pace"].map(str::to_owned).to_vec();
            arguments.extend(["--target".to_owned(), address.to_string()]);
            arguments.extend(["--workers".to_owned(), args.workers.to_string()]);
            arguments.extend(["--time-ms".to_owned(), args.service_ms.to_string()]);
            for path in seeded.paths() {
                arguments.extend(["--method".to_owned(), path]);
            }
            arguments
        }));
        let machines = machines.await?;
        let peers: Vec<String> = machines.iter().map(|machine| machine.address.to_string()).collect();
        let config = tempfile::NamedTempFile::with_suffix(".toml")?;
        std::fs::write(config.path(), GATEWAY)?;
        let file = config.path().to_string_lossy().into_owned();
        let peer = format!("{role}={}", peers.join(","));
        let gateway = Server::start(&[
            "serve",
            "gateway",
            "--admin",
            "127.0.0.1:0",
            "--peer",
            &peer,
            "--config",
            &file,
        ])
        .await?;
        let bed = Bed { gateway, clones, _machines: machines, seeded, _config: config };
        endpoints(&connect(bed.gateway.address).await?, role, usize::from(count)).await?;
        Ok(bed)
    }

    /// Returns the gateway as what is called; the CPU of its process is the last one.
    pub(super) fn target(&self, connections: usize) -> Target {
        let mut pids: Vec<u32> = self.clones.iter().map(Server::pid).collect();
        pids.push(self.gateway.pid());
        let workload = self.seeded.workload();
        Target { addresses: vec![self.gateway.address], connections, workload, pids, accepted: Vec::new() }
    }
}

/// Stores what will be read, once the clone has reached its engine.
async fn seeded(service: Service, clone: SocketAddr) -> anyhow::Result<Seeded> {
    let begun = Instant::now();
    loop {
        match seed::seed(service, connect(clone).await?).await {
            Err(error) if is_unavailable(&error) && begun.elapsed() < READY_WITHIN => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            seeded => return seeded,
        }
    }
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tonic::Status>().is_some_and(|status| status.code() == tonic::Code::Unavailable)
}

async fn connect(address: SocketAddr) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.connect().await?)
}

/// Starts a process for each list of arguments, all at once.
async fn all(each: impl Iterator<Item = Vec<String>>) -> anyhow::Result<Vec<Server>> {
    let mut starting = JoinSet::new();
    for arguments in each {
        starting.spawn(async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Server::start(&arguments).await
        });
    }
    let mut servers = Vec::new();
    while let Some(started) = starting.join_next().await {
        servers.push(started??);
    }
    Ok(servers)
}

/// Clones in processes of their own, on one engine.
async fn on_engine(
    service: Service,
    args: &CloneArgs,
    count: u16,
) -> anyhow::Result<(Vec<Server>, Vec<SocketAddr>)> {
    let role = service.role();
    let engine = match service {
        Service::Data => ["--cassandra", args.cassandra.as_deref().unwrap_or_default()],
        _ => ["--redis", args.redis.as_deref().unwrap_or_default()],
    };
    let arguments =
        ["serve", role, "--admin", "127.0.0.1:0", engine[0], engine[1]].map(str::to_owned).to_vec();
    let clones = all(std::iter::repeat_n(arguments, usize::from(count))).await?;
    let addresses = clones.iter().map(|clone| clone.address).collect();
    Ok((clones, addresses))
}

/// Clones in one process, on its embedded engine. Its own gateway only says where they are.
async fn embedded(role: &str, count: u16) -> anyhow::Result<(Vec<Server>, Vec<SocketAddr>)> {
    let number = |of: &&str| format!("{of}={}", if *of == role { count } else { 1 });
    let clones: Vec<String> = ["session", "cache", "data", "jobs"].iter().map(number).collect();
    let arguments = ["up", "--ephemeral", "--admin", "127.0.0.1:0", "--clones", &clones.join(",")];
    let up = Server::start(&arguments).await?;
    let addresses = endpoints(&connect(up.address).await?, role, usize::from(count)).await?;
    Ok((vec![up], addresses))
}

/// Returns the addresses of the clones behind a gateway, when every core of it uses all of them.
async fn endpoints(channel: &Channel, role: &str, count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let begun = Instant::now();
    loop {
        let mut client = gateway::gateway_service_client::GatewayServiceClient::new(channel.clone());
        let listed =
            client.list_upstreams(gateway::ListUpstreamsRequest {}).await.map(tonic::Response::into_inner);
        let upstreams = listed.map(|listed| listed.upstreams).unwrap_or_default();
        let endpoints = upstreams.into_iter().find(|upstream| upstream.name == role);
        let endpoints = endpoints.map(|upstream| upstream.endpoints).unwrap_or_default();
        let ready = endpoints.iter().filter(|endpoint| {
            endpoint.state() == gateway::EndpointState::Ready && endpoint.ready_cores == endpoint.cores
        });
        if ready.count() == count {
            let addresses = endpoints.iter().map(|endpoint| endpoint.address.parse());
            return addresses.collect::<Result<_, _>>().context("the address of a clone");
        }
        if begun.elapsed() > READY_WITHIN {
            bail!(
                "the gateway does not use all {count} clones of {role} after {READY_WITHIN:?}: {endpoints:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_engines_are_waited_for() {
        let error = |status| anyhow::Error::new(status).context("preparing data");
        assert!(is_unavailable(&error(tonic::Status::unavailable("not yet"))));
        assert!(!is_unavailable(&error(tonic::Status::not_found("never"))));
    }
}
