//! Closed loop: a fixed number of calls in flight, each followed by the next. Measures throughput and cost per call, but not
//! latency under a load that does not wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::load::call::{Call, connect, once};
use crate::load::{Done, histogram, micros, on_own_thread};

/// Shape of a closed loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closed {
    /// Calls in flight, over all connections.
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    /// Threads of the generator, each with its share of the connections.
    pub(crate) threads: usize,
}

impl Closed {
    /// Returns a loop of a single thread with a connection for each 64 calls in flight.
    pub(crate) fn of(in_flight: usize) -> Closed {
        Closed { in_flight, connections: in_flight.div_ceil(64), threads: 1 }
    }

    /// The share of the thread `n`.
    fn share(&self, n: usize) -> Closed {
        let share = |whole: usize| whole / self.threads + usize::from(n < whole % self.threads);
        Closed { in_flight: share(self.in_flight), connections: share(self.connections), threads: 1 }
    }
}

/// Keeps the calls going for `time`.
///
/// # Errors
/// When a connection fails or a call is not OK.
pub(crate) async fn closed_loop(
    address: SocketAddr,
    call: &Call,
    shape: Closed,
    time: Duration,
) -> anyhow::Result<Done> {
    let mut threads = JoinSet::new();
    for n in 0..shape.threads {
        let (call, share) = (call.clone(), shape.share(n));
        if share.in_flight > 0 {
            threads.spawn(on_own_thread(move || run(address, call, share, time)));
        }
    }
    let mut sum = Done { calls: 0, failed: 0, missed: 0, elapsed: Duration::ZERO, latency: histogram()? };
    while let Some(done) = threads.join_next().await {
        let done = done??;
        sum.calls += done.calls;
        sum.elapsed = sum.elapsed.max(done.elapsed);
        sum.latency.add(done.latency)?;
    }
    Ok(sum)
}

async fn run(address: SocketAddr, call: Call, shape: Closed, time: Duration) -> anyhow::Result<Done> {
    let mut connections = Vec::new();
    for _ in 0..shape.connections.max(1) {
        connections.push(connect(address).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let loops: Vec<_> = (0..shape.in_flight)
        .map(|i| {
            let sender = connections[i % connections.len()].clone();
            tokio::spawn(one_after_another(sender, address, call.clone(), stop.clone()))
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let elapsed = begun.elapsed();
    let mut latency = histogram()?;
    for each in loops {
        latency.add(each.await??)?;
    }
    Ok(Done { calls: latency.len(), failed: 0, missed: 0, elapsed, latency })
}

async fn one_after_another(
    mut sender: SendRequest<Bytes>,
    address: SocketAddr,
    call: Call,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let uri = call.uri(address)?;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = once(&mut sender, &uri, call.framed.clone(), None).await?;
        ensure!(answer.status == Some(0), "{}: grpc-status {:?}", call.path, answer.status);
        latency.record(micros(begun.elapsed()))?;
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_all_calls_and_connections() {
        let shape = Closed { in_flight: 65, connections: 9, threads: 2 };
        let shares = [shape.share(0), shape.share(1)];
        assert_eq!(shares.map(|share| share.in_flight), [33, 32]);
        assert_eq!(shares.map(|share| share.connections), [5, 4]);
    }
}
