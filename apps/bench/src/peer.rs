//! The gateways beside ours: how each is found, set and started. All are set alike as far as each can be: HTTP/2 without
//! TLS on both sides, the same windows and stream limits, power of two choices, upstream connections kept, no access log,
//! a thread a core. The names of their settings are theirs.

mod envoy;
mod haproxy;
mod nginx;
pub(crate) mod shoal;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::process::Server;
use crate::process::affinity::Cpus;

/// Bytes that may be under way on one call before its receiver takes them.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// The same on one connection.
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls in flight on one connection.
pub(crate) const STREAMS_MAX: u32 = 1_000;
/// Timeout of a call, in seconds.
pub(crate) const CALL_SECONDS_MAX: u32 = 30;

/// Returns the folder of the peers' programs: the one given, or that of `scripts/engines`.
pub(crate) fn folder(given: Option<&PathBuf>) -> PathBuf {
    let in_cache = || match (std::env::var_os("SHOAL_CACHE"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache).join("peers"),
        (None, home) => PathBuf::from(home.unwrap_or_default()).join(".cache/shoal/peers"),
    };
    given.cloned().unwrap_or_else(in_cache)
}

/// Finds a program in a folder, or else on PATH.
pub(crate) fn program(name: &str, folder: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(folder.to_path_buf())
        .chain(std::env::split_paths(&path))
        // Not on every PATH, and where Debian has them.
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// A gateway of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// HAProxy 2.6
    Haproxy,
    /// Envoy 1.40
    Envoy,
    /// nginx 1.22
    Nginx,
}

/// Where a gateway stands.
pub(crate) struct Site<'s> {
    pub(crate) listen: SocketAddr,
    pub(crate) upstreams: &'s [SocketAddr],
    pub(crate) cpus: &'s Cpus,
    /// A folder of its own, for its configuration and whatever else it writes.
    pub(crate) dir: &'s Path,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Haproxy => "haproxy",
            Peer::Envoy => "envoy",
            Peer::Nginx => "nginx",
        }
    }

    /// Its program: in the folder where `scripts/engines install peers` puts it, or else on PATH.
    pub(crate) fn find(self, dir: &Path) -> Option<PathBuf> {
        program(self.name(), dir)
    }

    /// Its configuration file.
    pub(crate) fn settings(self, site: &Site<'_>) -> String {
        match self {
            Peer::Haproxy => haproxy::settings(site),
            Peer::Envoy => envoy::settings(site),
            Peer::Nginx => nginx::settings(site),
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it does not listen in time, with what it said.
    pub(crate) async fn start(self, program: &Path, site: &Site<'_>) -> anyhow::Result<Server> {
        // Envoy tells the format by the name.
        let config = site.dir.join(format!("{}.yaml", self.name()));
        std::fs::write(&config, self.settings(site))?;
        let mut command = site.cpus.command(program);
        match self {
            Peer::Haproxy => haproxy::arguments(&mut command, &config),
            Peer::Envoy => envoy::arguments(&mut command, &config, site.cpus.len()),
            Peer::Nginx => nginx::arguments(&mut command, &config, site.dir),
        }
        let server = Server::spawn(command, site.listen).await?;
        Ok(if self == Peer::Nginx { server.with_children() } else { server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_get_the_same_settings() {
        let upstreams = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let cpus = Cpus::allowed().expect("Linux");
        let site = Site {
            listen: SocketAddr::from(([127, 0, 0, 1], 3)),
            upstreams: &upstreams,
            cpus: &cpus,
            dir: Path::new("/d"),
        };
        for peer in [Peer::Haproxy, Peer::Envoy, Peer::Nginx] {
            let text = peer.settings(&site);
            for port in ["1", "2"] {
                let plain = format!("127.0.0.1:{port}");
                let yaml = format!("address: 127.0.0.1, port_value: {port}}}");
                assert!(text.contains(&plain) || text.contains(&yaml), "{peer:?}: {plain} in\n{text}");
            }
            assert!(text.contains(&STREAMS_MAX.to_string()), "{peer:?}\n{text}");
            let window = [STREAM_WINDOW.to_string(), "1m".to_owned()];
            assert!(window.iter().any(|window| text.contains(window)), "{peer:?}\n{text}");
            assert!(text.contains(&format!("{CALL_SECONDS_MAX}s")), "{peer:?}\n{text}");
        }
        let ours = shoal::settings(&site, "127.0.0.1:4".parse().expect("an address"), None);
        assert!(ours.contains("'127.0.0.1:1', '127.0.0.1:2'") && ours.contains("streams = 1000"), "{ours}");
    }
}
