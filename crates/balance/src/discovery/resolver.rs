//! Resolves names: the system for addresses, its name servers for SRV records, for which the system has no call.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

use super::srv::Service;

/// Answers questions about names. Every question is asked anew, whatever the TTL of the last answer.
pub(super) trait Resolver: Send + Sync {
    /// Resolves the A and AAAA records of `host`; each address gets `port`.
    fn addresses(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Resolves the SRV records of `name`.
    fn services(&self, name: &str) -> impl Future<Output = io::Result<Vec<Service>>> + Send;
}

/// The resolver that the machine is configured with: `/etc/hosts`, `/etc/resolv.conf`, search domains.
pub(super) struct System;

impl Resolver for System {
    /// Resolves by the system's own call, which knows more than libraries do (nsswitch, mDNS). The system bounds the time
    /// (`resolv.conf`: by default 5 s × 2 attempts a server). The caller gives up sooner; the call then ends in a thread of its
    /// own.
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let absolute = tokio::net::lookup_host((host, port)).await;
        let found = match (absolute, host.strip_suffix('.')) {
            (Ok(found), _) => found,
            // SRV records name hosts with a final dot. The dot skips the search domains, but a hosts file has names without it.
            (Err(_), Some(relative)) => tokio::net::lookup_host((relative, port)).await?,
            (Err(error), None) => return Err(error),
        };
        Ok(found.collect())
    }

    async fn services(&self, name: &str) -> io::Result<Vec<Service>> {
        // A resolver is created for each question, so that a changed `resolv.conf` counts. This costs little beside the
        // question.
        let mut builder = TokioResolver::builder_tokio().map_err(io::Error::other)?;
        builder.options_mut().cache_size = 0;
        services_of(&builder.build().map_err(io::Error::other)?, name).await
    }
}

async fn services_of(resolver: &TokioResolver, name: &str) -> io::Result<Vec<Service>> {
    let answer = resolver.srv_lookup(name).await.map_err(io::Error::other)?;
    let services = answer.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(Service {
            priority: srv.priority,
            weight: srv.weight,
            host: srv.target.to_string(),
            port: srv.port,
        }),
        _ => None,
    });
    Ok(services.collect())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
    use hickory_resolver::proto::rr::rdata::SRV;
    use hickory_resolver::proto::rr::{Name, Record, RecordType};
    use tokio::net::UdpSocket;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NAME: &str = "_grpc._tcp.fish.test.";

    /// Starts a name server that answers `NAME` with these ports, at a TTL of ten minutes, one more each time it is asked, and
    /// every other name with NXDOMAIN.
    async fn server(ports: &'static [u16]) -> (SocketAddr, AbortOnDropHandle<()>) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let serve = async move {
            let mut asked = 0;
            let mut packet = [0; 1024];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                let mut message = Message::from_vec(&packet[..length]).unwrap();
                let query = &message.queries[0];
                assert_eq!(query.query_type(), RecordType::SRV);
                let known = query.name().to_string().eq_ignore_ascii_case(NAME);
                let name = query.name().clone();
                message.metadata.message_type = MessageType::Response;
                message.additionals.clear();
                if known {
                    asked += 1;
                    for port in &ports[..asked.min(ports.len())] {
                        let srv = SRV::new(10, *port, *port, Name::from_ascii("localhost.").unwrap());
                        message.add_answer(Record::from_rdata(name.clone(), 600, RData::SRV(srv)));
                    }
                } else {
                    message.metadata.response_code = ResponseCode::NXDomain;
                }
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        };
        (address, AbortOnDropHandle::new(tokio::spawn(serve)))
    }

    fn asking(server: SocketAddr) -> TokioResolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        builder.build().unwrap()
    }

    #[tokio::test]
    async fn srv_records_are_refetched_within_ttl() {
        let (address, _server) = server(&[7101, 7102]).await;
        let resolver = asking(address);
        for ports in [&[7101][..], &[7101, 7102]] {
            let asked = tokio::time::timeout(SOON, services_of(&resolver, NAME)).await.unwrap();
            let expected: Vec<Service> = ports
                .iter()
                .map(|port| Service { priority: 10, weight: *port, host: "localhost.".into(), port: *port })
                .collect();
            assert_eq!(asked.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn missing_name_is_an_error() {
        let (address, _server) = server(&[]).await;
        let resolver = asking(address);
        let asked = services_of(&resolver, "_grpc._tcp.nobody.test.");
        tokio::time::timeout(SOON, asked).await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn system_resolves_this_host() {
        // As a target of an SRV record is written, with a dot at its end, and without.
        for host in ["localhost", "localhost."] {
            let addresses = System.addresses(host, 7).await.unwrap();
            let all_here = addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7);
            assert!(all_here && !addresses.is_empty(), "{host}: {addresses:?}");
        }
    }
}
