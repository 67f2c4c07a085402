//! The gateway's own services: GatewayService, and health and reflection for the whole mesh. With the files under
//! `service/` the only place that names their bindings.

mod health;
pub(crate) mod reflection;
mod upstreams;

use std::sync::Arc;

use http::Uri;
use http::uri::PathAndQuery;
use shoal_kit::message::SMALL_MESSAGE_BYTES_MAX;
use shoal_proto::gateway::v1::gateway_service_server::GatewayServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::v1::server_reflection_server::ServerReflectionServer;

use crate::catalog::Catalog;
use crate::descriptors::Files;

/// Their names. Calls of these are answered here, whatever any upstream claims.
pub(crate) const LOCAL: [&str; 4] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "shoal.gateway.v1.GatewayService",
];

const REFLECTION_V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

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

/// The descriptors of every Shoal service, of the gateway's own, and of the details of errors.
pub(crate) fn descriptors() -> Result<Files, prost::DecodeError> {
    Files::of_sets(&[
        shoal_proto::DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_types::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ])
}

/// v1alpha of reflection is v1 under another name: its messages have the same fields under the same numbers, so one
/// implementation answers both.
pub(crate) fn same_wire(uri: &mut Uri) {
    if uri.path() == REFLECTION_V1ALPHA {
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static(REFLECTION_V1));
        *uri = Uri::from_parts(parts).unwrap_or_default();
    }
}
