//! The making of a session: its policies, the data centre, and what must be there before the first statement.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::{Consistency, SerialConsistency};

use crate::config::Config;
use crate::store::cassandra::hedging::{Hedging, Policy};
use crate::store::cassandra::keyspace::{self, Made};
use crate::store::cassandra::registry_statements::RegistryStatements;
use crate::store::cassandra::retry::NextNode;
use crate::store::cassandra::topology::{Topology, resolve};

/// Longest time of one attempt to connect to a node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which the driver gives up a statement, long after its caller was answered.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a change of the schema, or of the registry, is sent to another node as well: each takes a while.
const SCHEMA_HEDGE: Duration = Duration::from_secs(2);
/// Time after which a sign of life is asked of another node.
const PROBE_HEDGE: Duration = Duration::from_millis(100);
/// Most nodes that a sign of life is asked of besides the first.
const PROBE_OTHERS: usize = 4;

/// A session with the statements that are prepared once for it.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) session: Arc<Session>,
    pub(super) profiles: Profiles,
    pub(super) registry: RegistryStatements,
    /// The profile of statements that change the schema.
    pub(super) schema: ExecutionProfileHandle,
    /// The profile of probes.
    pub(super) probe: ExecutionProfileHandle,
    /// Parts that had to be made before the first statement.
    pub(super) made: Made,
}

/// The profiles of statements that name none.
#[derive(Debug)]
pub(super) struct Profiles {
    default: ExecutionProfileHandle,
    /// Profile with speculative execution.
    hedged: ExecutionProfile,
    /// Profile without it, for a cluster of one node: what watches each statement for it costs the driver time, and no other node could be asked.
    alone: ExecutionProfile,
}

impl Profiles {
    /// Uses the profile that suits the number of nodes.
    pub(super) fn follow(&self, session: &Session) {
        let nodes = session.get_cluster_state().get_nodes_info().len();
        let profile = if nodes > 1 { &self.hedged } else { &self.alone };
        self.default.clone().map_to_another_profile(profile.clone());
    }
}

/// Connects, chooses the data centre, and makes what is missing.
pub(super) async fn connect(
    config: &Config,
    contact_points: &[String],
    hedging: &Arc<Hedging>,
) -> Result<Connected, String> {
    // The driver has a time-out for each step; this one bounds them all.
    match tokio::time::timeout(DRIVER_TIMEOUT, connecting(config, contact_points, hedging)).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("no session within {DRIVER_TIMEOUT:?}")),
    }
}

async fn connecting(
    config: &Config,
    contact_points: &[String],
    hedging: &Arc<Hedging>,
) -> Result<Connected, String> {
    let anywhere = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .retry_policy(Arc::new(NextNode))
        .speculative_execution_policy(Some(Arc::new(Policy(hedging.clone()))))
        .request_timeout(Some(DRIVER_TIMEOUT))
        .build();
    let default = anywhere.into_handle();
    let mut builder = SessionBuilder::new()
        .known_nodes(contact_points)
        .connection_timeout(CONNECT_TIMEOUT)
        .hostname_resolution_timeout(Some(CONNECT_TIMEOUT))
        .keepalive_interval(Duration::from_secs(2))
        .keepalive_timeout(Duration::from_secs(3))
        .tcp_nodelay(true)
        .keyspaces_to_fetch([config.keyspace.as_str()])
        .fetch_full_schema_metadata(false)
        // The driver would wait for every node, also for one that is frozen: `agreement` asks those that answer.
        .auto_await_schema_agreement(false)
        .refresh_metadata_on_auto_schema_agreement(false)
        .default_execution_profile_handle(default.clone());
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        builder = builder.user(username, password);
    }
    let session = Arc::new(builder.build().await.map_err(|error| error.to_string())?);

    let topology = Topology::of(&session);
    let choice = topology.choose(config.datacenter.as_deref(), &resolve(contact_points).await)?;
    if let Some(advice) = &choice.advice {
        tracing::warn!("cassandra: {advice}");
    }
    let local = DefaultPolicy::builder().prefer_datacenter(choice.datacenter.clone()).build();
    let profile = default.pointee_to_builder().load_balancing_policy(local).build();
    let slower = |max_retry_count, retry_interval| {
        let policy = SimpleSpeculativeExecutionPolicy { max_retry_count, retry_interval };
        profile.to_builder().speculative_execution_policy(Some(Arc::new(policy))).build().into_handle()
    };
    let (schema, probe) = (slower(1, SCHEMA_HEDGE), slower(PROBE_OTHERS, PROBE_HEDGE));
    let profiles = Profiles {
        default,
        alone: profile.to_builder().speculative_execution_policy(None).build(),
        hedged: profile,
    };
    profiles.follow(&session);

    let made = keyspace::prepare(&session, config, &topology, &choice.datacenter).await?;
    let registry = RegistryStatements::prepare(&session, &config.keyspace, &schema).await?;
    Ok(Connected { session, profiles, registry, schema, probe, made })
}
