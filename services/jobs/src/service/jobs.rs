//! `JobsService`: for those who enqueue, look and watch.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use shoal_proto::jobs::v1 as pb;
use shoal_proto::jobs::v1::jobs_service_server::JobsService;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{Service, codec};
use crate::error::Error;
use crate::job::id::QueueName;
use crate::request::batch;
use crate::trace;
use crate::watch::Seen;

#[tonic::async_trait]
impl JobsService for Service {
    async fn enqueue(
        &self,
        request: Request<pb::EnqueueRequest>,
    ) -> Result<Response<pb::EnqueueResponse>, Status> {
        let callers = codec::callers_traceparent(&request);
        let request = request.into_inner();
        let span = trace::send(&QueueName::parse(&request.queue)?);
        let job = codec::new_job(request, trace::traceparent(&span).or(callers).unwrap_or_default())?;
        let enqueued = self.0.enqueue(job).instrument(span).await?;
        let (job, deduplicated) = (Some(codec::encode(enqueued.job)), enqueued.deduplicated);
        Ok(shoal_kit::answer(pb::EnqueueResponse { job, deduplicated }))
    }

    async fn batch_enqueue(
        &self,
        request: Request<pb::BatchEnqueueRequest>,
    ) -> Result<Response<pb::BatchEnqueueResponse>, Status> {
        let callers = codec::callers_traceparent(&request);
        let requests = request.into_inner().requests;
        let parts: Vec<_> =
            requests.iter().map(|request| (request.queue.as_str(), request.payload.len())).collect();
        let queue = batch::check(&parts)?;
        let span = trace::send(&queue);
        let traceparent = trace::traceparent(&span).or(callers).unwrap_or_default();
        let jobs = requests.into_iter().enumerate().map(|(index, request)| {
            codec::new_job(request, traceparent.clone()).map_err(|invalid| batch::of_request(invalid, index))
        });
        let jobs = jobs.collect::<Result<_, _>>()?;
        let enqueued = self.0.enqueue_batch(jobs).instrument(span).await.map_err(Error::in_batch)?;
        let deduplicated = enqueued.iter().map(|enqueued| enqueued.deduplicated).collect();
        let jobs = enqueued.into_iter().map(|enqueued| codec::encode(enqueued.job)).collect();
        Ok(shoal_kit::answer(pb::BatchEnqueueResponse { jobs, deduplicated }))
    }

    async fn get_job(
        &self,
        request: Request<pb::GetJobRequest>,
    ) -> Result<Response<pb::GetJobResponse>, Status> {
        let job = self.0.get(&codec::job_id(&request.into_inner().id)?).await?;
        Ok(shoal_kit::answer(pb::GetJobResponse { job: Some(codec::encode(job)) }))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let queue = QueueName::parse(&request.queue)?;
        let state = codec::state(request.state)?;
        let page = self.0.list(&queue, state, request.page_size, &request.page_token).await?;
        Ok(shoal_kit::answer(pb::ListJobsResponse {
            jobs: page.jobs.into_iter().map(codec::encode).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let job = self.0.cancel(&codec::job_id(&request.into_inner().id)?).await?;
        Ok(shoal_kit::answer(pb::CancelJobResponse { job: Some(codec::encode(job)) }))
    }

    async fn get_queue(
        &self,
        request: Request<pb::GetQueueRequest>,
    ) -> Result<Response<pb::GetQueueResponse>, Status> {
        let queue = QueueName::parse(&request.into_inner().name)?;
        let counts = self.0.queue(&queue).await?;
        Ok(Response::new(pb::GetQueueResponse { queue: Some(codec::encode_queue(&queue, &counts)) }))
    }

    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let request = request.into_inner();
        let page = self.0.queues(request.page_size, &request.page_token).await?;
        let queues = page.queues.iter().map(|(name, counts)| codec::encode_queue(name, counts)).collect();
        Ok(Response::new(pb::ListQueuesResponse { queues, next_page_token: page.next_page_token }))
    }

    type WatchJobStream = BoxStream<'static, Result<pb::WatchJobResponse, Status>>;

    async fn watch_job(
        &self,
        request: Request<pb::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let id = codec::job_id(&request.id)?;
        let seen = match request.resume_token.as_str() {
            "" => None,
            token => Some(Seen::parse(token)?),
        };
        let watch = self.0.watch(id, seen).await?;
        let states = futures::stream::unfold(watch, |mut watch| async move {
            let state = watch.next().await?.map_err(Status::from).map(|job| pb::WatchJobResponse {
                resume_token: Seen::of(&job).token(),
                job: Some(codec::encode(job)),
            });
            Some((state, watch))
        });
        Ok(Response::new(states.boxed()))
    }
}
