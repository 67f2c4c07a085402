//! The tasks of one upstream: starts and ends the supervisor of each endpoint as targets come and go.

mod endpoint_supervisor;
mod health;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::discovery::source::TARGETS_MAX;
use crate::discovery::subset;
use crate::discovery::target::Target;
use crate::endpoint::Endpoint;
use crate::upstream_state::UpstreamState;

/// Owns the task of every endpoint.
pub(crate) async fn supervise(
    shared: Arc<UpstreamState>,
    targets: watch::Receiver<Arc<[Target]>>,
    cancel: CancellationToken,
) {
    // Marks the end even if the runtime drops this task.
    let _stop = Stop(shared.clone());
    let mut tasks = JoinSet::new();
    tokio::select! {
        () = cancel.cancelled() => {}
        () = follow(&shared, targets, &mut tasks) => {}
        () = shared.follow_stores() => {}
    }
    shared.stop();
    tasks.shutdown().await;
}

/// Starts and ends endpoints as targets come and go. Never returns.
async fn follow(
    shared: &Arc<UpstreamState>,
    mut targets: watch::Receiver<Arc<[Target]>>,
    tasks: &mut JoinSet<()>,
) {
    let mut running = HashMap::new();
    loop {
        let list = targets.borrow_and_update().clone();
        reconcile(shared, &list, &mut running, tasks);
        loop {
            tokio::select! {
                changed = targets.changed() => match changed {
                    Ok(()) => break,
                    // Discovery has ended: its last list stays valid.
                    Err(_) => std::future::pending().await,
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }
}

fn reconcile(
    shared: &Arc<UpstreamState>,
    list: &[Target],
    running: &mut HashMap<SocketAddr, CancellationToken>,
    tasks: &mut JoinSet<()>,
) {
    if list.len() > TARGETS_MAX {
        tracing::warn!(
            upstream = shared.options.name,
            targets = list.len(),
            "too many targets; only the first {TARGETS_MAX} are used"
        );
    }
    let known: BTreeMap<SocketAddr, u32> =
        list.iter().take(TARGETS_MAX).map(|target| (target.address, target.weight)).collect();
    let wanted: BTreeMap<SocketAddr, u32> = match &shared.options.subset {
        Some(subset) => {
            let known = known.into_iter().collect();
            subset::of(known, subset, |target: &(SocketAddr, u32)| target.0).into_iter().collect()
        }
        None => known,
    };
    running.retain(|address, removed| {
        let stays = wanted.contains_key(address);
        if !stays {
            removed.cancel();
            shared.endpoints().remove(address);
        }
        stays
    });
    for (address, weight) in wanted {
        if let Some(known) = shared.endpoints().get(&address) {
            known.load.set_weight(weight);
            continue;
        }
        let endpoint = Arc::new(Endpoint::new(address, weight, &shared.options));
        shared.endpoints().insert(address, endpoint.clone());
        let removed = CancellationToken::new();
        running.insert(address, removed.clone());
        tasks.spawn(endpoint_supervisor::run(endpoint, shared.clone(), removed));
    }
    shared.publish();
}

/// Removes all endpoints on drop.
struct Stop(Arc<UpstreamState>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.clear();
    }
}
