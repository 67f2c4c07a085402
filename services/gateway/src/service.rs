//! The gateway's own services: GatewayService, and health and reflection for the whole mesh. With the files under
//! `service/` the only place that names their bindings.

mod health;
mod reflection;
pub(crate) mod status;
mod upstreams;

use std::sync::Arc;

use shoal_kit::message::SMALL_MESSAGE_BYTES_MAX;
use shoal_proto::gateway::v1::gateway_service_server::GatewayServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::v1::server_reflection_server::ServerReflectionServer;

use crate::routing::catalog::Catalog;

/// The services, ready to be called. `draining` makes health say NOT_SERVING.
pub(crate) fn routes(catalog: &Arc<Catalog>, draining: &CancellationToken) -> Routes {
    const MAX: usize = SMALL_MESSAGE_BYTES_MAX;
    const GZIP: CompressionEncoding = CompressionEncoding::Gzip;
    let health = HealthServer::new(health::MeshHealth::new(catalog.clone(), draining.clone()));
    let reflection = ServerReflectionServer::new(reflection::MeshReflection::new(catalog.clone()));
    let upstreams = GatewayServiceServer::new(upstreams::Upstreams::new(catalog.clone()));
    Routes::new(health.max_decoding_message_size(MAX).accept_compressed(GZIP))
        .add_service(reflection.max_decoding_message_size(MAX).accept_compressed(GZIP))
        .add_service(upstreams.max_decoding_message_size(MAX).accept_compressed(GZIP))
        .prepare()
}
