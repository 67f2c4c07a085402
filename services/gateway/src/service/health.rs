//! `grpc.health.v1` for the mesh: of each service, whether its upstream can take calls; of `""`, whether the gateway itself
//! can, whatever stands behind it.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::stream::unfold;
use shoal_kit::reason;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::routing::catalog::Catalog;

/// Longest name asked for.
const NAME_BYTES_MAX: usize = 1024;

#[derive(Clone)]
pub(crate) struct MeshHealth {
    catalog: Arc<Catalog>,
    draining: CancellationToken,
}

impl MeshHealth {
    pub(crate) fn new(catalog: Arc<Catalog>, draining: CancellationToken) -> MeshHealth {
        MeshHealth { catalog, draining }
    }

    fn status(&self, service: &str) -> ServingStatus {
        let table = self.catalog.table();
        let ready = if service.is_empty() || table.is_local(service) {
            true
        } else {
            let mut upstreams = table.upstreams_of(service).peekable();
            if upstreams.peek().is_none() {
                return ServingStatus::ServiceUnknown;
            }
            // A canary that is down costs its share of the calls.
            upstreams.all(|upstream| upstream.ready() > 0)
        };
        if ready && !self.draining.is_cancelled() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

#[tonic::async_trait]
impl Health for MeshHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = name_of(request)?;
        match self.status(&service) {
            ServingStatus::ServiceUnknown => {
                let fault = shoal_kit::ApiError::new(
                    tonic::Code::NotFound,
                    reason::UNKNOWN_SERVICE,
                    format!(
                        "no service `{service}` behind this gateway; list them with reflection (grpcurl list)"
                    ),
                );
                Err(fault.meta("service", service).into())
            }
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (service, health) = (name_of(request)?, self.clone());
        let start = (None, self.catalog.changes());
        let stream = unfold(start, move |(last, mut changes)| {
            let (health, service) = (health.clone(), service.clone());
            async move {
                loop {
                    changes.mark_unchanged();
                    let status = health.status(&service);
                    if last != Some(status) {
                        let answer = HealthCheckResponse { status: status.into() };
                        return Some((Ok(answer), (Some(status), changes)));
                    }
                    // Once draining nothing changes any more but by the end of the stream.
                    let drained = health.draining.is_cancelled();
                    tokio::select! {
                        changed = changes.changed() => changed.ok()?,
                        () = health.draining.cancelled(), if !drained => {}
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn name_of(request: Request<HealthCheckRequest>) -> Result<String, Status> {
    let service = request.into_inner().service;
    if service.len() > NAME_BYTES_MAX {
        let fault =
            shoal_kit::ApiError::invalid(reason::NAME_TOO_LONG, "service", "must be at most 1024 bytes");
        return Err(fault.into());
    }
    Ok(service)
}
