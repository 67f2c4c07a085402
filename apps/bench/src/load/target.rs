//! Target of a load: addresses, methods with their weights, and the requests they are called with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, Uri};

use crate::load::call::Call;

/// Servers under load, and the calls that they get.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Servers; the connections are spread over them evenly.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Connections in all. Every address has at least one.
    pub(crate) connections: usize,
    pub(crate) workload: Arc<Workload>,
    /// Processes whose CPU time is measured, each with its children.
    pub(crate) pids: Vec<u32>,
    /// Status codes other than OK that are as good as OK.
    pub(crate) accepted: Vec<u16>,
}

/// Methods to be called, in proportion to their weights.
#[derive(Debug)]
pub(crate) struct Workload {
    methods: Vec<Method>,
    weights: u32,
    /// Calls made of it so far, over all runs: a request with its number in it is never made again.
    made: AtomicU64,
}

/// A method with its share of the calls.
#[derive(Debug)]
pub(crate) struct Method {
    /// `/package.Service/Method`.
    pub(crate) path: String,
    /// Share of the calls, relative to the other methods' weights.
    pub(crate) weight: u32,
    /// Metadata of each call.
    pub(crate) metadata: HeaderMap,
    pub(crate) content: Content,
}

/// Source of a method's requests.
pub(crate) enum Content {
    /// The same request for each call, framed as gRPC does.
    Fixed(Bytes),
    /// A request of its own for each call, framed as gRPC does.
    Made(Box<dyn Fn(&mut Draw) -> Bytes + Send + Sync>),
}

/// Randomness and number of a call, from which its request is made.
#[derive(Debug)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    /// Number of the call, from 0, over all runs of the workload.
    pub(crate) number: u64,
}

impl Draw {
    pub(crate) fn new(seed: u64, number: u64) -> Draw {
        // Not the generator of the arrivals, whose seed is the same: content and gaps would go together.
        Draw { seed, rng: Rng::with_seed(seed ^ 0x5eed_0f5e_ed0f_5eed), number }
    }
}

/// A call to be made.
#[derive(Debug)]
pub(crate) struct Request {
    /// Index of its method.
    pub(crate) method: usize,
    /// Request, framed as gRPC does.
    pub(crate) framed: Bytes,
}

impl Target {
    /// Returns a server that gets the same call again and again.
    pub(crate) fn single(address: SocketAddr, connections: usize, call: &Call) -> Target {
        let method = Method {
            path: call.path.to_owned(),
            weight: 1,
            metadata: HeaderMap::new(),
            content: Content::Fixed(call.framed.clone()),
        };
        Target {
            addresses: vec![address],
            connections,
            workload: Arc::new(Workload::new(vec![method])),
            pids: Vec::new(),
            accepted: Vec::new(),
        }
    }

    /// Returns whether an answer with a status is a good one.
    pub(crate) fn accepts(&self, status: Option<u16>) -> bool {
        status.is_some_and(|status| status == 0 || self.accepted.contains(&status))
    }

    /// Returns the address of each connection.
    pub(crate) fn connected(&self) -> Vec<SocketAddr> {
        let connections = self.connections.max(self.addresses.len());
        self.addresses.iter().copied().cycle().take(connections).collect()
    }
}

impl Workload {
    pub(crate) fn new(methods: Vec<Method>) -> Workload {
        let weights = methods.iter().map(|method| method.weight).sum();
        Workload { methods, weights, made: AtomicU64::new(0) }
    }

    pub(crate) fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Returns a request of one method, outside any run.
    pub(crate) fn request_of(&self, method: usize, seed: u64) -> Bytes {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.made_for(method, &mut Draw::new(seed, number))
    }

    fn made_for(&self, method: usize, draw: &mut Draw) -> Bytes {
        match self.methods.get(method).map(|method| &method.content) {
            Some(Content::Fixed(framed)) => framed.clone(),
            Some(Content::Made(make)) => make(draw),
            None => Bytes::new(),
        }
    }

    /// Returns the URI of each method at an address.
    pub(crate) fn uris(&self, address: SocketAddr) -> anyhow::Result<Vec<Uri>> {
        self.methods.iter().map(|method| Ok(format!("http://{address}{}", method.path).parse()?)).collect()
    }

    /// Returns the calls of a run, without end. The same seed makes the same calls.
    pub(crate) fn requests(self: &Arc<Self>, seed: u64) -> Requests {
        Requests { workload: self.clone(), draw: Draw::new(seed, 0) }
    }
}

/// Calls of a run, in their order.
#[derive(Debug)]
pub(crate) struct Requests {
    workload: Arc<Workload>,
    draw: Draw,
}

impl Requests {
    pub(crate) fn next(&mut self) -> Request {
        let method = self.pick();
        self.draw.number = self.workload.made.fetch_add(1, Ordering::Relaxed);
        let framed = self.workload.made_for(method, &mut self.draw);
        Request { method, framed }
    }

    fn pick(&mut self) -> usize {
        if self.workload.methods.len() == 1 {
            return 0;
        }
        let mut left = self.draw.rng.u32(..self.workload.weights.max(1));
        for (index, method) in self.workload.methods.iter().enumerate() {
            match left.checked_sub(method.weight) {
                Some(rest) => left = rest,
                None => return index,
            }
        }
        0
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Fixed(framed) => write!(f, "Fixed({} bytes)", framed.len()),
            Content::Made(_) => f.write_str("Made"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Arc<Workload> {
        let method = |path: &str, weight| Method {
            path: path.to_owned(),
            weight,
            metadata: HeaderMap::new(),
            content: Content::Made(Box::new(|draw| Bytes::from(draw.rng.u64(..).to_string()))),
        };
        Arc::new(Workload::new(vec![method("/a.B/C", 3), method("/a.B/D", 1)]))
    }

    #[test]
    fn methods_are_called_by_weight() {
        let mut requests = workload().requests(1);
        let second = (0..10_000).filter(|_| requests.next().method == 1).count();
        // 2 500 expected, with a standard deviation of 43.
        assert!((2_300..2_700).contains(&second), "{second}");
    }

    #[test]
    fn a_seed_makes_the_same_requests() {
        let made = |seed| {
            let mut requests = workload().requests(seed);
            (0..20).map(|_| requests.next()).map(|r| (r.method, r.framed)).collect::<Vec<_>>()
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }

    #[test]
    fn every_address_has_a_connection() {
        let call = Call { path: "/a.B/C", framed: Bytes::new() };
        let mut target = Target::single(([127, 0, 0, 1], 1).into(), 3, &call);
        assert_eq!(target.connected().len(), 3);
        target.addresses = (1..=4).map(|port| ([127, 0, 0, 1], port).into()).collect();
        assert_eq!(target.connected(), target.addresses);
    }
}
