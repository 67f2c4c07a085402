//! `shoal.gateway.v1.GatewayService`: what stands behind the gateway, summed over its cores.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_balance::{EndpointSnapshot, EndpointState};
use shoal_proto::gateway::v1 as pb;
use shoal_proto::gateway::v1::gateway_service_server::GatewayService;
use tonic::{Request, Response, Status};

use crate::catalog::Catalog;
use crate::table::Table;
use crate::upstream::Upstream;

pub(crate) struct Upstreams {
    catalog: Arc<Catalog>,
}

impl Upstreams {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Upstreams {
        Upstreams { catalog }
    }
}

#[tonic::async_trait]
impl GatewayService for Upstreams {
    async fn list_upstreams(
        &self,
        _: Request<pb::ListUpstreamsRequest>,
    ) -> Result<Response<pb::ListUpstreamsResponse>, Status> {
        Ok(Response::new(pb::ListUpstreamsResponse { upstreams: list(&self.catalog.table()) }))
    }
}

fn list(table: &Table) -> Vec<pb::Upstream> {
    let mut upstreams: Vec<pb::Upstream> =
        table.entries.iter().map(|entry| upstream(table, &entry.upstream)).collect();
    upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    upstreams
}

fn upstream(table: &Table, upstream: &Arc<Upstream>) -> pb::Upstream {
    let mut endpoints: BTreeMap<SocketAddr, pb::Endpoint> = BTreeMap::new();
    for lane in upstream.lanes() {
        for seen in lane.balancer.snapshot() {
            match endpoints.get_mut(&seen.address) {
                None => {
                    endpoints.insert(seen.address, endpoint(&seen));
                }
                Some(sum) => add(sum, &endpoint(&seen)),
            }
        }
    }
    pb::Upstream {
        name: upstream.name.clone(),
        services: table.services_of(upstream),
        endpoints: endpoints.into_values().collect(),
    }
}

fn endpoint(seen: &EndpointSnapshot) -> pb::Endpoint {
    let state = match seen.state {
        EndpointState::Connecting => pb::EndpointState::Connecting,
        EndpointState::NotServing | EndpointState::Ejected => pb::EndpointState::NotServing,
        EndpointState::Ready => pb::EndpointState::Ready,
    };
    pb::Endpoint {
        address: seen.address.to_string(),
        state: state.into(),
        reason: seen.reason.clone(),
        ewma: Some(duration(seen.ewma)),
        in_flight: seen.in_flight.into(),
        calls: seen.calls.try_into().unwrap_or(i64::MAX),
        failures: seen.failures.try_into().unwrap_or(i64::MAX),
    }
}

/// What another core sees of the same endpoint.
fn add(sum: &mut pb::Endpoint, other: &pb::Endpoint) {
    // The states are numbered from worst to best.
    if other.state > sum.state {
        sum.state = other.state;
        sum.reason.clone_from(&other.reason);
    }
    let length = |ewma: &Option<prost_types::Duration>| ewma.as_ref().map(|e| (e.seconds, e.nanos));
    if length(&other.ewma) > length(&sum.ewma) {
        sum.ewma = other.ewma;
    }
    sum.in_flight += other.in_flight;
    sum.calls += other.calls;
    sum.failures += other.failures;
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or_default()
}
