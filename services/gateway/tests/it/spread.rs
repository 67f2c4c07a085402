//! The spread of calls over endpoints.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, Upstream, as_session};

/// Fixes the gateway's choices; what a busy machine does to latencies it cannot fix.
const SEED: u64 = 7;

/// The calls each of `n` equal clones got, of `calls` made by `callers` at once.
async fn counts(n: usize, calls: usize, callers: usize) -> Vec<usize> {
    let mut upstreams = Vec::new();
    for _ in 0..n {
        upstreams.push(
            Upstream::start(|call| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                call.answer(b"ok").await;
            })
            .await,
        );
    }
    let configuration =
        format!("gateway.seed = {SEED}\n{}", as_session(&upstreams.iter().collect::<Vec<_>>()));
    let mesh = Mesh::start(&configuration).await;
    mesh.ready("session", n).await;
    let left = AtomicUsize::new(calls);
    let callers = (0..callers).map(|_| async {
        let caller = mesh.caller().await;
        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
        }
    });
    futures::future::join_all(callers).await;
    upstreams.iter().map(Upstream::calls).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_clones_get_equal_shares() {
    let calls = 4_000;
    let counts = counts(4, calls, 64).await;
    let expected = calls as f64 / counts.len() as f64;
    let chi: f64 = counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
    eprintln!("seed {SEED}: {counts:?}, chi-square {chi:.1}");
    // 3 degrees of freedom, 99.9 %: 16.27.
    assert!(chi < 16.27, "seed {SEED}: {counts:?}, chi-square {chi:.1}");
}
