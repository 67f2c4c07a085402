//! The gRPC face: decodes, calls, encodes.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use shoal_kit::role::Role;
use shoal_kit::service::Background;
use shoal_kit::{page, reason};
use shoal_proto::jobs::v1 as pb;
use shoal_proto::jobs::v1::jobs_service_server::{JobsService, JobsServiceServer};
use shoal_proto::jobs::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::error::Error;
use crate::hub::Hub;
use crate::id::{JobId, QueueName};
use crate::job::{Failure, Job, State};
use crate::lease::{Counter, Order};
use crate::moment::Moment;
use crate::new_job::{NewJob, PAYLOAD_BYTES_MAX, Wanted, too_large};
use crate::store::{CLAIM_JOBS_MAX, Counts, Enqueued, PAGE_JOBS_MAX, Store};
use crate::trace;
use crate::watch::{Seen, Watch};

/// Largest request: a batch with everything around its payloads.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Largest request of a worker: a result that is somewhat too large is told its own limit.
const WORKER_MESSAGE_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;
/// Most jobs of one batch.
const BATCH_JOBS_MAX: usize = 100;
/// Most bytes of their payloads.
const BATCH_BYTES_MAX: usize = 3 << 20;
/// Queues of one page, and their counts that are read at the same time.
const PAGE_QUEUES_MAX: usize = 100;
const COUNTS_AT_ONCE: usize = 16;
const PAGE_DEFAULT: usize = 50;
/// Longest page token that is looked at.
const PAGE_TOKEN_BYTES_MAX: usize = 1024;
/// Longest id that is looked at.
const ID_BYTES_MAX: usize = 256;
/// Longest name of a worker.
const WORKER_BYTES_MAX: usize = 128;
/// Longest message of a failure.
const FAILURE_BYTES_MAX: usize = 4 << 10;
const LEASE_DEFAULT: Duration = Duration::from_secs(30);
const LEASE_MIN: Duration = Duration::from_secs(1);
const LEASE_MAX: Duration = Duration::from_secs(3600);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Both services of one clone.
#[derive(Clone)]
pub(crate) struct Jobs {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    counter: Counter,
    draining: CancellationToken,
}

/// The clone's services, ready to be served.
pub(crate) fn assemble(jobs: Jobs, clone: String, background: Background) -> shoal_kit::Service {
    shoal_kit::Service::new(Role::Jobs, clone, shoal_proto::DESCRIPTOR_SET, background)
        .with(
            JobsServiceServer::new(jobs.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
            MESSAGE_BYTES_MAX,
        )
        .with(
            WorkerServiceServer::new(jobs)
                .max_decoding_message_size(WORKER_MESSAGE_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
            WORKER_MESSAGE_BYTES_MAX,
        )
}

impl Jobs {
    /// The services over a store and what waits at this clone.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        hub: Arc<Hub>,
        counter: Counter,
        draining: CancellationToken,
    ) -> Self {
        Self { store, hub, counter, draining }
    }
}

#[tonic::async_trait]
impl JobsService for Jobs {
    async fn enqueue(
        &self,
        request: Request<pb::EnqueueRequest>,
    ) -> Result<Response<pb::EnqueueResponse>, Status> {
        let callers = callers_traceparent(&request);
        let request = request.into_inner();
        let span = trace::send(&QueueName::parse(&request.queue)?);
        let new = decode(request, trace::traceparent(&span).or(callers).unwrap_or_default())?;
        let enqueued = self.store.enqueue_all(vec![new]).instrument(span).await?.pop();
        let Enqueued { job, deduplicated } =
            enqueued.ok_or_else(|| Error::Internal("one job was enqueued and none came back".to_owned()))?;
        Ok(shoal_kit::answer(pb::EnqueueResponse { job: Some(encode(job)), deduplicated }))
    }

    async fn batch_enqueue(
        &self,
        request: Request<pb::BatchEnqueueRequest>,
    ) -> Result<Response<pb::BatchEnqueueResponse>, Status> {
        let callers = callers_traceparent(&request);
        let requests = request.into_inner().requests;
        let first = requests.first().filter(|_| requests.len() <= BATCH_JOBS_MAX).ok_or_else(|| {
            Error::invalid(reason::INVALID_BATCH, "requests", format!("must be 1 to {BATCH_JOBS_MAX} jobs"))
        })?;
        if let Some(other) = requests.iter().position(|request| request.queue != first.queue) {
            let problem = "must be the queue of requests[0]; send a batch for each queue";
            return Err(Error::invalid(reason::INVALID_BATCH, "queue", problem).of_request(other).into());
        }
        if requests.iter().map(|request| request.payload.len()).sum::<usize>() > BATCH_BYTES_MAX {
            let problem =
                format!("must have at most {BATCH_BYTES_MAX} bytes of payload together; send fewer at once");
            return Err(Error::invalid(reason::BATCH_TOO_LARGE, "requests", problem).into());
        }
        let queue = QueueName::parse(&first.queue).map_err(|error| error.of_request(0))?;
        let span = trace::send(&queue);
        let traceparent = trace::traceparent(&span).or(callers).unwrap_or_default();
        let jobs = requests.into_iter().enumerate().map(|(index, request)| {
            decode(request, traceparent.clone()).map_err(|error| error.of_request(index))
        });
        let jobs = jobs.collect::<Result<_, _>>()?;
        let enqueued = self.store.enqueue_all(jobs).instrument(span).await.map_err(Error::in_batch)?;
        let deduplicated = enqueued.iter().map(|enqueued| enqueued.deduplicated).collect();
        let jobs = enqueued.into_iter().map(|enqueued| encode(enqueued.job)).collect();
        Ok(shoal_kit::answer(pb::BatchEnqueueResponse { jobs, deduplicated }))
    }

    async fn get_job(
        &self,
        request: Request<pb::GetJobRequest>,
    ) -> Result<Response<pb::GetJobResponse>, Status> {
        let id = job_id(&request.into_inner().id)?;
        let job = self.store.get(&id).await?.ok_or_else(|| Error::not_found(&id))?;
        Ok(shoal_kit::answer(pb::GetJobResponse { job: Some(encode(job)) }))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let queue = QueueName::parse(&request.queue)?;
        let state = u8::try_from(request.state).ok().and_then(State::of);
        let state =
            state.ok_or_else(|| Error::invalid(reason::INVALID_STATE, "state", "must be one of JobState"))?;
        let max = page::size(request.page_size, PAGE_DEFAULT, PAGE_JOBS_MAX)?;
        // A token goes with the state it was made for.
        let after = match page_token(&request.page_token)? {
            "" => None,
            token => {
                let (of, rest) = token.split_once(':').ok_or_else(Error::page_token)?;
                if of != (state as u8).to_string() {
                    return Err(Error::page_token().into());
                }
                Some(rest.to_owned())
            }
        };
        let page = self.store.list(&queue, state, max, after).await?;
        let next_page_token = page.next.map(|next| format!("{}:{next}", state as u8)).unwrap_or_default();
        Ok(shoal_kit::answer(pb::ListJobsResponse {
            jobs: page.jobs.into_iter().map(encode).collect(),
            next_page_token,
        }))
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let id = job_id(&request.into_inner().id)?;
        let job = self.store.cancel(&id).await?;
        Ok(shoal_kit::answer(pb::CancelJobResponse { job: Some(encode(job)) }))
    }

    async fn get_queue(
        &self,
        request: Request<pb::GetQueueRequest>,
    ) -> Result<Response<pb::GetQueueResponse>, Status> {
        let queue = QueueName::parse(&request.into_inner().name)?;
        let counts =
            self.store.count(&queue).await?.ok_or_else(|| Error::NoQueue { queue: queue.clone() })?;
        Ok(Response::new(pb::GetQueueResponse { queue: Some(encode_queue(&queue, &counts)) }))
    }

    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let request = request.into_inner();
        let max = page::size(request.page_size, PAGE_DEFAULT, PAGE_QUEUES_MAX)?;
        let after = page_token(&request.page_token)?;
        let mut names = self.store.queues().await?;
        names.retain(|name| name.as_str() > after);
        names.sort_unstable();
        let more = names.len() > max;
        names.truncate(max);
        let next_page_token = names.last().filter(|_| more).map(ToString::to_string).unwrap_or_default();
        let queues: Vec<_> = futures::stream::iter(names)
            .map(|name| async move { self.store.count(&name).await.map(|counts| (name, counts)) })
            .buffered(COUNTS_AT_ONCE)
            .try_collect()
            .await?;
        // One that was dropped meanwhile is none.
        let queues = queues.iter().filter_map(|(name, counts)| Some(encode_queue(name, counts.as_ref()?)));
        Ok(Response::new(pb::ListQueuesResponse { queues: queues.collect(), next_page_token }))
    }

    type WatchJobStream = BoxStream<'static, Result<pb::WatchJobResponse, Status>>;

    async fn watch_job(
        &self,
        request: Request<pb::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.id)?;
        let seen = match request.resume_token.as_str() {
            "" => None,
            token => Some(Seen::parse(token)?),
        };
        let watch = Watch::open(self.store.clone(), &self.hub, id, seen, self.draining.clone()).await?;
        let states = futures::stream::unfold(watch, |mut watch| async move {
            let state = watch.next().await?.map_err(Status::from).map(|job| pb::WatchJobResponse {
                resume_token: Seen::of(&job).token(),
                job: Some(encode(job)),
            });
            Some((state, watch))
        });
        Ok(Response::new(states.boxed()))
    }
}

#[tonic::async_trait]
impl WorkerService for Jobs {
    async fn lease_jobs(
        &self,
        request: Request<pb::LeaseJobsRequest>,
    ) -> Result<Response<pb::LeaseJobsResponse>, Status> {
        let request = request.into_inner();
        let wait = duration("wait", request.wait)?.unwrap_or_default();
        if wait > WAIT_MAX {
            return Err(Error::invalid(
                reason::INVALID_WAIT,
                "wait",
                "must be at most 30 seconds; call again instead",
            )
            .into());
        }
        let order = order(request)?;
        let span = trace::lease(&order.queue);
        let delivery = self.counter.lease(&order, wait).instrument(span.clone()).await?;
        for job in &delivery.claim().jobs {
            trace::link(&span, &job.spec.traceparent);
        }
        span.record("messaging.batch.message_count", delivery.claim().jobs.len());
        drop(span);
        // Nothing is awaited from here on: the answer is the worker's.
        let claim = delivery.taken();
        let lease =
            pb::Lease { fencing_token: claim.fence as i64, expire_time: Some(timestamp(claim.expire)) };
        let jobs =
            claim.jobs.into_iter().map(|job| pb::LeasedJob { job: Some(encode(job)), lease: Some(lease) });
        Ok(shoal_kit::answer(pb::LeaseJobsResponse { jobs: jobs.collect() }))
    }

    async fn extend_lease(
        &self,
        request: Request<pb::ExtendLeaseRequest>,
    ) -> Result<Response<pb::ExtendLeaseResponse>, Status> {
        let request = request.into_inner();
        let duration = lease_duration(request.lease_duration)?;
        let (id, fence) = (job_id(&request.id)?, fence(request.fencing_token)?);
        let expire = self.store.extend(&id, fence, duration).await?;
        let lease = pb::Lease { fencing_token: fence as i64, expire_time: Some(timestamp(expire)) };
        Ok(Response::new(pb::ExtendLeaseResponse { lease: Some(lease) }))
    }

    async fn complete_job(
        &self,
        request: Request<pb::CompleteJobRequest>,
    ) -> Result<Response<pb::CompleteJobResponse>, Status> {
        let request = request.into_inner();
        if request.result.len() > PAYLOAD_BYTES_MAX {
            return Err(too_large("result", request.result.len()).into());
        }
        let (id, fence) = (job_id(&request.id)?, fence(request.fencing_token)?);
        let job = self.store.complete(&id, fence, request.result).await?;
        Ok(shoal_kit::answer(pb::CompleteJobResponse { job: Some(encode(job)) }))
    }

    async fn fail_job(
        &self,
        request: Request<pb::FailJobRequest>,
    ) -> Result<Response<pb::FailJobResponse>, Status> {
        let request = request.into_inner();
        if request.message.len() > FAILURE_BYTES_MAX {
            let problem = format!("must have at most {FAILURE_BYTES_MAX} bytes");
            return Err(Error::invalid(reason::MESSAGE_TOO_LONG, "message", problem).into());
        }
        let (id, fence) = (job_id(&request.id)?, fence(request.fencing_token)?);
        let failure = Failure { message: request.message, permanent: request.permanent };
        let job = self.store.fail(&id, fence, failure).await?;
        Ok(shoal_kit::answer(pb::FailJobResponse { job: Some(encode(job)) }))
    }
}

fn order(request: pb::LeaseJobsRequest) -> Result<Order, Error> {
    let max_jobs = match usize::try_from(request.max_jobs) {
        Ok(0) => 1,
        Ok(n) if n <= CLAIM_JOBS_MAX => n,
        _ => {
            let problem = format!("must be 1 to {CLAIM_JOBS_MAX}, or 0 for 1");
            return Err(Error::invalid(reason::INVALID_MAX_JOBS, "max_jobs", problem));
        }
    };
    if request.worker.len() > WORKER_BYTES_MAX {
        let problem = format!("must have at most {WORKER_BYTES_MAX} bytes");
        return Err(Error::invalid(reason::INVALID_WORKER, "worker", problem));
    }
    let duration = lease_duration(request.lease_duration)?;
    Ok(Order { queue: QueueName::parse(&request.queue)?, max_jobs, worker: request.worker, duration })
}

fn lease_duration(value: Option<prost_types::Duration>) -> Result<Duration, Error> {
    let duration = duration("lease_duration", value)?.unwrap_or(LEASE_DEFAULT);
    if !(LEASE_MIN..=LEASE_MAX).contains(&duration) {
        return Err(Error::invalid(
            reason::INVALID_LEASE_DURATION,
            "lease_duration",
            "must be 1 second to 1 hour",
        ));
    }
    Ok(duration)
}

/// The caller's own context: where this clone is not traced, it is the one to link to.
fn callers_traceparent<T>(request: &Request<T>) -> Option<String> {
    let text = request.metadata().get("traceparent")?.to_str().ok()?;
    trace::is_traceparent(text).then(|| text.to_owned())
}

fn decode(request: pb::EnqueueRequest, traceparent: String) -> Result<NewJob, Error> {
    let wanted = Wanted {
        kind: request.kind,
        payload: request.payload,
        traceparent,
        request_id: request.request_id,
        delay: duration("delay", request.delay)?,
        run_time: moment("run_time", request.run_time)?,
        max_attempts: request.max_attempts,
        backoff: duration("backoff", request.backoff)?,
        retention: duration("retention", request.retention)?,
    };
    NewJob::check(QueueName::parse(&request.queue)?, wanted)
}

fn page_token(token: &str) -> Result<&str, Error> {
    if token.len() > PAGE_TOKEN_BYTES_MAX { Err(Error::page_token()) } else { Ok(token) }
}

/// An id is opaque to callers: one that no job can have is simply not found.
fn job_id(text: &str) -> Result<JobId, Error> {
    if text.is_empty() || text.len() > ID_BYTES_MAX {
        return Err(Error::invalid(reason::INVALID_ID, "id", "must be an id that Enqueue gave"));
    }
    JobId::parse(text).ok_or_else(|| Error::NotFound { id: text.to_owned() })
}

fn fence(token: i64) -> Result<u64, Error> {
    let problem = "must be the fencing_token of the job's lease";
    u64::try_from(token)
        .ok()
        .filter(|fence| *fence > 0)
        .ok_or_else(|| Error::invalid(reason::INVALID_FENCING_TOKEN, "fencing_token", problem))
}

fn duration(field: &'static str, value: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    let Some(value) = value else { return Ok(None) };
    Duration::try_from(value)
        .map(Some)
        .map_err(|_| Error::invalid(reason::INVALID_DURATION, field, "must not be negative"))
}

fn moment(field: &'static str, value: Option<prost_types::Timestamp>) -> Result<Option<Moment>, Error> {
    let Some(value) = value else { return Ok(None) };
    let time = SystemTime::try_from(value).map_err(|_| {
        Error::invalid(reason::INVALID_TIMESTAMP, field, "must be a time between the years 1 and 9999")
    })?;
    // What lies before 1970 is past as well.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some(Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))))
}

fn timestamp(moment: Moment) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: (moment.0 / 1000) as i64, nanos: (moment.0 % 1000 * 1_000_000) as i32 }
}

fn encode(job: Job) -> pb::Job {
    let standing = job.standing;
    let errors = standing.errors.into_iter().map(|error| pb::JobError {
        attempt: error.attempt as i32,
        message: error.message,
        time: Some(timestamp(error.time)),
    });
    pb::Job {
        id: job.id.to_string(),
        queue: job.id.queue().to_string(),
        kind: job.spec.kind,
        payload: job.spec.payload,
        state: state(standing.state).into(),
        attempt: standing.attempt as i32,
        lost_count: standing.lost_count as i32,
        max_attempts: job.spec.max_attempts as i32,
        run_time: standing.run_at.map(timestamp),
        result: standing.result,
        errors: errors.collect(),
        create_time: Some(timestamp(job.create)),
        start_time: standing.start.map(timestamp),
        finish_time: standing.finish.map(timestamp),
        traceparent: job.spec.traceparent,
    }
}

fn encode_queue(name: &QueueName, counts: &Counts) -> pb::Queue {
    let age = |head: Moment| head.until(counts.now).try_into().ok();
    pb::Queue {
        name: name.to_string(),
        scheduled_count: counts.scheduled as i64,
        ready_count: counts.ready as i64,
        running_count: counts.running as i64,
        retrying_count: counts.retrying as i64,
        succeeded_count: counts.succeeded as i64,
        dead_count: counts.dead as i64,
        cancelled_count: counts.cancelled as i64,
        oldest_ready_age: counts.head.and_then(age),
    }
}

fn state(state: State) -> pb::JobState {
    match state {
        State::Scheduled => pb::JobState::Scheduled,
        State::Ready => pb::JobState::Ready,
        State::Running => pb::JobState::Running,
        State::Succeeded => pb::JobState::Succeeded,
        State::Retrying => pb::JobState::FailedRetrying,
        State::Dead => pb::JobState::Dead,
        State::Cancelled => pb::JobState::Cancelled,
    }
}
