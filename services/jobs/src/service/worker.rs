//! `WorkerService`: for those who do the work.

use shoal_proto::jobs::v1 as pb;
use shoal_proto::jobs::v1::worker_service_server::WorkerService;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{Service, codec};
use crate::job::Failure;
use crate::jobs;
use crate::request::lease::{self, LeaseRequest};
use crate::trace;

#[tonic::async_trait]
impl WorkerService for Service {
    async fn lease_jobs(
        &self,
        request: Request<pb::LeaseJobsRequest>,
    ) -> Result<Response<pb::LeaseJobsResponse>, Status> {
        let pb::LeaseJobsRequest { queue, max_jobs, worker, lease_duration, wait } = request.into_inner();
        let wait = lease::check_wait(codec::duration("wait", wait)?)?;
        let lease_duration = codec::duration("lease_duration", lease_duration);
        let request = LeaseRequest::check(&queue, max_jobs, worker, lease_duration?)?;
        let span = trace::lease(&request.queue);
        let leased = self.0.lease(&request, wait).instrument(span.clone()).await?;
        for job in &leased.claim().jobs {
            trace::link(&span, &job.spec.traceparent);
        }
        span.record("messaging.batch.message_count", leased.claim().jobs.len());
        drop(span);
        // Nothing is awaited from here on: the answer is the worker's.
        let claim = leased.taken();
        let lease = codec::lease(claim.fence, claim.expire);
        let jobs = claim
            .jobs
            .into_iter()
            .map(|job| pb::LeasedJob { job: Some(codec::encode(job)), lease: Some(lease) });
        Ok(shoal_kit::answer(pb::LeaseJobsResponse { jobs: jobs.collect() }))
    }

    async fn extend_lease(
        &self,
        request: Request<pb::ExtendLeaseRequest>,
    ) -> Result<Response<pb::ExtendLeaseResponse>, Status> {
        let request = request.into_inner();
        let duration = codec::duration("lease_duration", request.lease_duration)?;
        let duration = lease::check_duration(duration)?;
        let (id, fence) = (codec::job_id(&request.id)?, codec::fence(request.fencing_token)?);
        let expire = self.0.extend(&id, fence, duration).await?;
        Ok(Response::new(pb::ExtendLeaseResponse { lease: Some(codec::lease(fence, expire)) }))
    }

    async fn complete_job(
        &self,
        request: Request<pb::CompleteJobRequest>,
    ) -> Result<Response<pb::CompleteJobResponse>, Status> {
        let request = request.into_inner();
        jobs::check_result(&request.result)?;
        let (id, fence) = (codec::job_id(&request.id)?, codec::fence(request.fencing_token)?);
        let job = self.0.complete(&id, fence, request.result).await?;
        Ok(shoal_kit::answer(pb::CompleteJobResponse { job: Some(codec::encode(job)) }))
    }

    async fn fail_job(
        &self,
        request: Request<pb::FailJobRequest>,
    ) -> Result<Response<pb::FailJobResponse>, Status> {
        let request = request.into_inner();
        jobs::check_message(&request.message)?;
        let (id, fence) = (codec::job_id(&request.id)?, codec::fence(request.fencing_token)?);
        let failure = Failure { message: request.message, permanent: request.permanent };
        let job = self.0.fail(&id, fence, failure).await?;
        Ok(shoal_kit::answer(pb::FailJobResponse { job: Some(codec::encode(job)) }))
    }
}
