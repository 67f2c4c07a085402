//! Finds out whether a link's Redis is one server or a Cluster: one URL may be of either, and the server says which when it is
//! first connected to.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::node::{Kind, Node};
use crate::script::Scripts;

/// The destination of a link's calls.
#[derive(Debug)]
pub(crate) struct Topology {
    settings: Arc<Settings>,
    scripts: Arc<Scripts>,
    /// The server of the only URL; it stands still once it has said that it is a node of a Cluster.
    single: Option<Arc<Node>>,
    cluster: OnceLock<Cluster>,
    /// Whoever looks first starts the Cluster, and may be no task.
    runtime: Handle,
}

/// The link's Redis, of either kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route<'a> {
    Single(&'a Arc<Node>),
    Cluster(&'a Cluster),
}

impl Topology {
    /// Starts connecting in the background.
    pub(crate) fn start(
        mut seeds: Vec<Endpoint>,
        settings: Arc<Settings>,
        scripts: Arc<Scripts>,
        runtime: Handle,
    ) -> Topology {
        let cluster = OnceLock::new();
        let single = if seeds.len() == 1 {
            let start =
                Node::start(seeds.remove(0), Kind::Unknown, Arc::clone(&settings), Arc::clone(&scripts));
            Some(Arc::new(start))
        } else {
            let _ = cluster.set(Cluster::start(seeds, Arc::clone(&settings), Arc::clone(&scripts)));
            None
        };
        Topology { settings, scripts, single, cluster, runtime }
    }

    /// Returns the route as far as it is known: a single server until that tells otherwise.
    pub(crate) fn now(&self) -> Route<'_> {
        match &self.single {
            Some(node) if node.kind() != Kind::OfCluster => Route::Single(node),
            single => Route::Cluster(self.cluster.get_or_init(|| {
                let seeds = single.iter().map(|node| node.endpoint().clone()).collect();
                let _runtime = self.runtime.enter();
                Cluster::start(seeds, Arc::clone(&self.settings), Arc::clone(&self.scripts))
            })),
        }
    }

    /// Waits until the kind is known, unless the server does not answer.
    pub(crate) async fn known(&self, deadline: Instant) -> Result<Route<'_>, LinkError> {
        if let Some(node) = self.single.as_ref().filter(|node| node.kind() == Kind::Unknown) {
            node.greeted(deadline).await?;
        }
        Ok(self.now())
    }

    /// Waits until the kind is known, through every outage.
    pub(crate) async fn learned(&self) -> Route<'_> {
        if let Some(node) = &self.single {
            let mut changes = node.shared.changes.subscribe();
            while node.kind() == Kind::Unknown {
                // The node holds the sender.
                let _ = changes.changed().await;
            }
        }
        self.now()
    }
}

impl Node {
    /// Waits until the server has told its kind.
    async fn greeted(&self, deadline: Instant) -> Result<(), LinkError> {
        let mut changes = self.shared.changes.subscribe();
        while self.kind() == Kind::Unknown {
            if let Some(reason) = self.shared.breaker.refusal() {
                return Err(reason);
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(LinkError::Unavailable(format!("{}: still connecting", self.place())));
            }
        }
        Ok(())
    }
}
