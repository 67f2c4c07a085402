//! The gRPC face: decodes, calls, encodes.

mod codec;
mod jobs;
#[cfg(test)]
mod tests;
mod worker;

use shoal_kit::role::Role;
use shoal_kit::service::Background;
use shoal_proto::jobs::v1::jobs_service_server::JobsServiceServer;
use shoal_proto::jobs::v1::worker_service_server::WorkerServiceServer;
use tonic::codec::CompressionEncoding;

use crate::job::new_job::PAYLOAD_BYTES_MAX;
use crate::jobs::Jobs;

/// Largest request: a batch with everything around its payloads.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Largest request of a worker: a result that is somewhat too large is told its own limit.
const WORKER_MESSAGE_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;

/// Both services of one clone: [`jobs`] for those who enqueue and watch, [`worker`] for those who work.
#[derive(Clone)]
pub(crate) struct Service(Jobs);

/// Makes the clone's services, ready to be served.
pub(crate) fn assemble(jobs: Jobs, clone: String, background: Background) -> shoal_kit::Service {
    let service = Service(jobs);
    shoal_kit::Service::new(Role::Jobs, clone, shoal_proto::DESCRIPTOR_SET, background)
        .with(
            JobsServiceServer::new(service.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
            MESSAGE_BYTES_MAX,
        )
        .with(
            WorkerServiceServer::new(service)
                .max_decoding_message_size(WORKER_MESSAGE_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
            WORKER_MESSAGE_BYTES_MAX,
        )
}
