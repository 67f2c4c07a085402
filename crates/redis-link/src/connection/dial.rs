//! Connects a socket to a server by name. The name is resolved anew for each connection, and its addresses are tried one after
//! the other without waiting for those that do not answer (RFC 8305, "Happy Eyeballs").

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::config::Settings;
use crate::connection::sentinel::Sentinels;
use crate::endpoint::Endpoint;

/// The number of addresses of one name to try; further ones are ignored.
const ADDRESSES_MAX: usize = 16;

/// The longest pause before the next address is tried while one has not answered (RFC 8305, section 5). The pause is shorter
/// where the time for connecting would not be enough for all addresses.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to one server by its name.
#[derive(Debug)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    /// The Sentinels, if they are asked in place of a resolver of names.
    sentinels: Option<Sentinels>,
    order: Mutex<Order>,
}

/// Decides which addresses come first and last.
#[derive(Debug, Default)]
struct Order {
    /// The address in use.
    home: Option<SocketAddr>,
    /// Addresses that took a connection and were of no use; the latest one is last.
    shunned: Vec<SocketAddr>,
}

impl Dialer {
    pub(crate) fn new(endpoint: Endpoint, settings: &Settings) -> Dialer {
        Dialer { endpoint, sentinels: Sentinels::of(settings), order: Mutex::default() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns whether there is a name to resolve.
    pub(crate) fn has_name(&self) -> bool {
        self.sentinels.is_some() || self.endpoint.host.parse::<IpAddr>().is_err()
    }

    /// Returns the addresses that the name has now.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let named = match &self.sentinels {
            Some(sentinels) => Some(sentinels.primary().await?),
            None => None,
        };
        let (host, port) = named
            .as_ref()
            .map_or((self.endpoint.host.as_str(), self.endpoint.port), |(host, port)| (host.as_str(), *port));
        let found = tokio::net::lookup_host((host, port)).await?;
        let mut addresses = Vec::new();
        for address in found {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// Connects to the first address that answers, and returns that address too. The caller must bound the time by `within` as
    /// well.
    pub(crate) async fn connect(&self, within: Duration) -> io::Result<(TcpStream, SocketAddr)> {
        let mut addresses = self.resolve().await?;
        self.sort(&mut addresses);
        let share = within / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
        race(addresses, ATTEMPT_DELAY.min(share)).await
    }

    /// Returns whether another address was in use before.
    pub(crate) fn has_moved_to(&self, address: SocketAddr) -> bool {
        self.order().home.is_some_and(|home| home != address)
    }

    /// Tries this address first from now on.
    pub(crate) fn prefer(&self, address: SocketAddr) {
        let mut order = self.order();
        order.home = Some(address);
        order.shunned.clear();
    }

    /// Tries this address last from now on, because it is not the wanted server.
    pub(crate) fn shun(&self, address: SocketAddr) {
        if let Some(sentinels) = &self.sentinels {
            sentinels.turn();
        }
        let mut order = self.order();
        order.shunned.retain(|shunned| *shunned != address);
        if order.shunned.len() == ADDRESSES_MAX {
            order.shunned.remove(0);
        }
        order.shunned.push(address);
    }

    fn sort(&self, addresses: &mut [SocketAddr]) {
        let order = self.order();
        addresses.sort_by_key(|address| {
            let shunned = order.shunned.iter().position(|shunned| shunned == address);
            (shunned.map_or(0, |at| at + 1), order.home != Some(*address))
        });
    }

    fn order(&self) -> std::sync::MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts an attempt at once, and the next one when one has failed or after `pause`; the first connection wins.
async fn race(addresses: Vec<SocketAddr>, pause: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match waiting.next() {
            Some(address) => {
                attempts
                    .push(async move { TcpStream::connect(address).await.map(|stream| (stream, address)) });
            }
            None if attempts.is_empty() => return Err(failed),
            None => {}
        }
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = error,
            },
            () = sleep(pause), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use socket2::{Domain, Socket, Type};
    use tokio::time::{Instant, timeout};

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 6379))
    }

    /// Makes an address that drops SYNs, because its queue of connections is full. Keep the returned sockets, which fill the
    /// queue.
    fn hole() -> (SocketAddr, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut held = vec![listener];
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            // In progress.
            let _ = filler.connect(&address.into());
            held.push(filler);
        }
        (address, held)
    }

    #[tokio::test]
    async fn silent_address_does_not_hide_next() {
        let (hole, _held) = hole();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = (good.local_addr().unwrap(), good);
        let deadline = Instant::now() + Duration::from_secs(20);
        // The queue takes a moment to fill.
        while timeout(Duration::from_millis(100), TcpStream::connect(hole)).await.is_ok() {
            assert!(Instant::now() < deadline, "the hole answers");
        }
        let race = race(vec![hole, good.0], Duration::from_millis(10));
        let (_, reached) = timeout(Duration::from_secs(20), race).await.unwrap().unwrap();
        assert_eq!(reached, good.0);
    }

    #[tokio::test]
    async fn refusing_address_gives_way_at_once() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let patience = Duration::from_secs(3600);
        let race = race(vec![free, good.local_addr().unwrap()], patience);
        let (_, reached) = timeout(Duration::from_secs(20), race).await.unwrap().unwrap();
        assert_eq!(reached, good.local_addr().unwrap());
    }

    #[test]
    fn home_comes_first_and_shunned_last() {
        let endpoint = Endpoint { host: "redis".into(), port: 6379 };
        let dialer = Dialer { endpoint, sentinels: None, order: Mutex::default() };
        let sorted = || {
            let mut all = [1, 2, 3].map(address);
            dialer.sort(&mut all);
            all
        };
        dialer.prefer(address(3));
        assert_eq!(sorted(), [3, 1, 2].map(address));
        dialer.shun(address(3));
        assert_eq!(sorted(), [1, 2, 3].map(address));
        dialer.shun(address(1));
        assert_eq!(sorted(), [2, 3, 1].map(address));
        dialer.prefer(address(2));
        assert_eq!(sorted(), [2, 1, 3].map(address));
    }
}
