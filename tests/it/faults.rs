//! Kills one clone by SIGKILL under a steady load through the gateway.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_client::Channel;
use shoal_proto::gateway::v1::ListUpstreamsRequest;
use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::session::v1 as session;
use shoal_testing::RedisServer;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::clone::Clone;
use crate::harness::eventually;

/// The number of concurrent callers.
const CALLERS: usize = 16;
/// A bound, not a measurement: a busy machine is slow, a hang lasts for ever.
const LOAD_WITHIN: Duration = Duration::from_secs(120);

/// Returns the calls sent to each address since the gateway started.
async fn calls(channel: &Channel) -> HashMap<String, i64> {
    let upstreams = GatewayServiceClient::new(channel.clone())
        .list_upstreams(ListUpstreamsRequest {})
        .await
        .expect("upstreams")
        .into_inner()
        .upstreams;
    let session = upstreams.into_iter().find(|upstream| upstream.name == "session").expect("session");
    session.endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint.calls)).collect()
}

/// Computes χ² against an even spread; for 2 degrees of freedom 13.8 is the 0.1 % point.
fn chi_square(counts: &[i64]) -> f64 {
    let mean = counts.iter().sum::<i64>() as f64 / counts.len() as f64;
    counts.iter().map(|n| (*n as f64 - mean).powi(2) / mean).sum()
}

#[derive(Default)]
struct Tally {
    idempotent: AtomicU64,
    others: AtomicU64,
    idempotent_failed: AtomicU64,
    others_failed: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_clone_costs_only_calls_in_flight() {
    let Some(redis) = RedisServer::start().await else { return };
    let mut clones = Vec::new();
    for _ in 0..4 {
        clones.push(Clone::start("session", &["--redis", &redis.url()]).await);
    }
    let addresses: Vec<String> = clones.iter().map(|clone| clone.address.clone()).collect();
    let gateway = Clone::start("gateway", &["--peer", &format!("session={}", addresses.join(","))]).await;
    let channel = gateway.channel();
    let token = eventually("a first session", Duration::from_secs(10), async || {
        let request = session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() };
        Some(shoal_client::session(channel.clone()).create_session(request).await.ok()?.into_inner().token)
    })
    .await;

    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let callers: Vec<_> = (0..CALLERS)
        .map(|i| {
            let (channel, token, stop, tally) = (channel.clone(), token.clone(), stop.clone(), tally.clone());
            tokio::spawn(async move {
                let mut client = shoal_client::session(channel);
                while !stop.load(Ordering::Relaxed) {
                    // Every eighth caller creates: not safe to repeat, so a kill may cost it the call in flight.
                    if i % 8 == 0 {
                        let user_id = format!("u{}", fastrand::u64(..));
                        let request = session::CreateSessionRequest { user_id, ..Default::default() };
                        tally.others.fetch_add(1, Ordering::Relaxed);
                        if let Err(status) = client.create_session(request).await {
                            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                            // A Redis that was too slow on a busy machine says so itself; it is not what is asked here.
                            let info = status.get_details_error_info();
                            if info.is_none_or(|info| {
                                !matches!(info.reason.as_str(), "ENGINE_UNAVAILABLE" | "OUTCOME_UNKNOWN")
                            }) {
                                eprintln!("a create failed: {}", status.message());
                                tally.others_failed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    } else {
                        let request = session::GetSessionRequest { token: token.clone(), no_touch: true };
                        tally.idempotent.fetch_add(1, Ordering::Relaxed);
                        if let Err(status) = client.get_session(request).await {
                            eprintln!("an idempotent call failed: {status:?}");
                            tally.idempotent_failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    let reached = async |when: &str, more: u64| {
        let begun = tally.idempotent.load(Ordering::Relaxed);
        let target = begun + more;
        eventually(&format!("{more} calls {when}, {begun} so far"), LOAD_WITHIN, async || {
            (tally.idempotent.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    };
    reached("before the kill", 1000).await;
    clones[0].process.kill().await;
    reached("after the kill", 1000).await;

    // Even over the living: counted from here, when the dead one is long out.
    let before = calls(&channel).await;
    reached("over the living", 3000).await;
    let after = calls(&channel).await;
    let spread: Vec<i64> = addresses[1..].iter().map(|address| after[address] - before[address]).collect();
    assert_eq!(after[&addresses[0]], before[&addresses[0]], "the dead clone was called");

    // A returning one comes back by itself.
    let back = Clone::start_at("session", &addresses[0], &["--redis", &redis.url()]).await;
    let returned = Instant::now();
    let dead = calls(&channel).await[&addresses[0]];
    eventually("the returning clone gets calls", Duration::from_secs(10), async || {
        (calls(&channel).await[&addresses[0]] > dead).then_some(())
    })
    .await;
    eprintln!("the returning clone got calls after {:?}", returned.elapsed());
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("a caller");
    }
    drop(back);

    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    eprintln!(
        "idempotent {} of which failed {}; others {} of which failed {}; spread {spread:?}",
        count(&tally.idempotent),
        count(&tally.idempotent_failed),
        count(&tally.others),
        count(&tally.others_failed),
    );
    assert_eq!(count(&tally.idempotent_failed), 0);
    // Two callers create; each can have one call in flight at the moment of the kill.
    assert!(count(&tally.others_failed) <= 2, "{} creates failed", count(&tally.others_failed));
    let total: i64 = spread.iter().sum();
    for n in &spread {
        // P2C by latency is not a die: allow a fifth around the mean, and say χ² beside it.
        let share = *n as f64 / total as f64;
        assert!((0.2..0.5).contains(&share), "uneven: {spread:?}, chi-square {}", chi_square(&spread));
    }
}
