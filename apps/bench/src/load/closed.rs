//! Closed loop: a fixed number of callers, each of whom makes the next call when the last one is answered. Measures
//! throughput and cost per call at a concurrency, but not latency under a load that does not wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::load::thread::{Due, Thread};

/// Time between looks at whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Pause of a caller whose call failed, so that a server that refuses is not called in a circle as fast as it can.
const PAUSE: Duration = Duration::from_millis(1);

/// Keeps `callers` calls in flight until the run is over, and waits a grace for the last answers. `n` is the number of
/// this thread: each draws other requests.
pub(super) async fn callers(thread: &Arc<Thread>, callers: usize, n: usize) {
    let mut calls = JoinSet::new();
    for caller in 0..callers {
        calls.spawn(one_after_another(thread.clone(), (n as u64) << 32 | caller as u64));
    }
    while !thread.run.over() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let _ = timeout(thread.run.level.grace, async { while calls.join_next().await.is_some() {} }).await;
    calls.shutdown().await;
}

async fn one_after_another(thread: Arc<Thread>, caller: u64) {
    let run = &thread.run;
    let mut requests =
        run.target.workload.requests(run.level.seed.wrapping_add(caller.wrapping_mul(0x9e37_79b9)));
    while !run.over() {
        let at = Instant::now();
        run.live.due();
        if !thread.call(Due { at, request: requests.next() }, at).await {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
