//! Everything that runs during one measurement: the upstreams, our gateway in each of its settings, and its peers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tempfile::TempDir;

use super::workload;
use crate::peer::shoal::{self, Switch};
use crate::peer::{Peer, Site};
use crate::process::affinity::Placing;
use crate::process::{Server, free_address};
use crate::report;

/// Number of upstreams behind each gateway.
const UPSTREAMS: usize = 2;

/// Time that a gateway may take to forward its first call.
const FORWARDS_WITHIN: Duration = Duration::from_secs(15);

/// A measured gateway, or an upstream without one.
pub(super) struct Gateway {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    /// Process of the gateway; `None` if callers go to an upstream directly.
    pub(super) server: Option<Server>,
    /// Its configuration file.
    pub(super) settings: String,
}

impl Gateway {
    pub(super) fn pids(&self) -> Vec<u32> {
        self.server.iter().map(Server::pid).collect()
    }
}

/// The gateways and upstreams of a measurement, ended with it.
pub(super) struct Bed {
    /// Measured gateways in their order: an upstream without a gateway, our gateway, and the peers.
    pub(super) gateways: Vec<Gateway>,
    /// Our gateway, each time with one feature switched off.
    pub(super) switched: Vec<Gateway>,
    _upstreams: Vec<Server>,
    _folders: Vec<TempDir>,
}

impl Bed {
    /// Starts everything and sees that each gateway forwards.
    ///
    /// # Errors
    /// When something does not start, or does not forward rightly.
    pub(super) async fn start(
        placing: &Placing,
        peers: &[Peer],
        peers_dir: &Path,
        also: &[PathBuf],
    ) -> anyhow::Result<Bed> {
        placing.rest.move_here().await?;
        let mut upstreams = Vec::new();
        for _ in 0..UPSTREAMS {
            upstreams.push(Server::start(&["bench", "echo"]).await?);
        }
        let spans = Server::start(&["bench", "echo"]).await?;
        let addresses: Vec<SocketAddr> = upstreams.iter().map(|server| server.address).collect();
        let mut folders = Vec::new();
        let mut gateways = vec![Gateway {
            name: "no gateway".to_owned(),
            address: addresses[0],
            server: None,
            settings: String::new(),
        }];
        let mut switched = Vec::new();
        let mut ours = vec![("shoal".to_owned(), None, None)];
        ours.extend(also.iter().map(|program| (program.display().to_string(), Some(program), None)));
        ours.extend(Switch::ALL.map(|off| (format!("shoal without {}", off.name()), None, Some(off))));
        for (name, program, off) in ours {
            let dir = tempfile::tempdir()?;
            let site = site(&addresses, placing, dir.path())?;
            let settings = shoal::settings(&site, spans.address, off);
            let server = Some(shoal::start(program, &site, &settings).await?);
            let gateway = Gateway { name, address: site.listen, server, settings };
            if off.is_some() {
                switched.push(gateway);
            } else {
                gateways.push(gateway);
            }
            folders.push(dir);
        }
        for peer in peers.iter().copied() {
            let Some(program) = peer.find(peers_dir) else {
                report::progress(&format!(
                    "{} is not in {} nor on PATH: scripts/engines install peers. Going on without it.",
                    peer.name(),
                    peers_dir.display()
                ));
                continue;
            };
            let dir = tempfile::tempdir()?;
            let site = site(&addresses, placing, dir.path())?;
            gateways.push(Gateway {
                name: peer.name().to_owned(),
                address: site.listen,
                server: Some(peer.start(&program, &site).await?),
                settings: peer.settings(&site),
            });
            folders.push(dir);
        }
        for gateway in gateways.iter().chain(&switched) {
            forwards(gateway.address).await.with_context(|| format!("{} forwards", gateway.name))?;
        }
        upstreams.push(spans);
        Ok(Bed { gateways, switched, _upstreams: upstreams, _folders: folders })
    }
}

fn site<'s>(upstreams: &'s [SocketAddr], placing: &'s Placing, dir: &'s Path) -> anyhow::Result<Site<'s>> {
    Ok(Site { listen: free_address()?, upstreams, cpus: &placing.measured, dir })
}

/// A gateway may listen before it has its upstreams; what it says after a while counts.
async fn forwards(address: SocketAddr) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match workload::check(address).await {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > FORWARDS_WITHIN => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
