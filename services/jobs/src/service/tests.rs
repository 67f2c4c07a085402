//! The gRPC face over an embedded store: refusals with their fields, and the trace that crosses a queue.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use shoal_kit::service::Background;
use shoal_proto::jobs::v1 as pb;
use shoal_proto::jobs::v1::jobs_service_server::JobsService as _;
use shoal_proto::jobs::v1::worker_service_server::WorkerService as _;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request, Response, Status};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{MESSAGE_BYTES_MAX, Service, assemble};
use crate::hub::Hub;
use crate::job::id::{JobId, QueueName};
use crate::job::new_job::PAYLOAD_BYTES_MAX;
use crate::jobs::{FAILURE_BYTES_MAX, Jobs};
use crate::leaser::Leaser;
use crate::store::{EmbeddedStore, Store};
use crate::trace;

/// Makes the services of a clone. Its background work ends with the test.
fn jobs() -> Service {
    jobs_until(CancellationToken::new())
}

/// Makes the services of a clone that drains once `draining` is cancelled.
fn jobs_until(draining: CancellationToken) -> Service {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(None, 1000).unwrap());
    let (hub, _due) = Hub::new();
    let (leaser, undoing) =
        Leaser::open(store.clone(), hub.clone(), draining.clone(), CancellationToken::new());
    tokio::spawn(undoing);
    tokio::spawn(store.announce(hub.clone()));
    Service(Jobs::new(store, hub, leaser, draining))
}

fn enqueue(queue: &str) -> pb::EnqueueRequest {
    pb::EnqueueRequest { queue: queue.to_owned(), kind: "k".to_owned(), ..pb::EnqueueRequest::default() }
}

fn lease(queue: &str) -> pb::LeaseJobsRequest {
    pb::LeaseJobsRequest { queue: queue.to_owned(), ..pb::LeaseJobsRequest::default() }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Returns the field that a call was refused for.
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> String {
    use tonic_types::StatusExt as _;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.get_details_error_info().is_some());
    status.get_details_bad_request().expect("BadRequest").field_violations[0].field.clone()
}

#[tokio::test]
async fn refusals_name_the_field() {
    let jobs = jobs();
    let enqueue = async |change: fn(&mut pb::EnqueueRequest)| {
        let mut request = enqueue("q");
        change(&mut request);
        refused(jobs.enqueue(Request::new(request)).await)
    };
    assert_eq!(enqueue(|r| r.queue.clear()).await, "queue");
    assert_eq!(enqueue(|r| r.kind.clear()).await, "kind");
    assert_eq!(enqueue(|r| r.payload = vec![0; PAYLOAD_BYTES_MAX + 1].into()).await, "payload");
    assert_eq!(enqueue(|r| r.delay = seconds(-1)).await, "delay");
    assert_eq!(enqueue(|r| r.backoff = seconds(i64::MAX)).await, "backoff");
    assert_eq!(enqueue(|r| r.retention = seconds(1)).await, "retention");
    assert_eq!(enqueue(|r| r.max_attempts = -3).await, "max_attempts");
    let absurd = |r: &mut pb::EnqueueRequest| {
        r.run_time = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 });
    };
    assert_eq!(enqueue(absurd).await, "run_time");

    let lease = async |change: fn(&mut pb::LeaseJobsRequest)| {
        let mut request = lease("q");
        change(&mut request);
        refused(jobs.lease_jobs(Request::new(request)).await)
    };
    assert_eq!(lease(|r| r.queue = "a b".to_owned()).await, "queue");
    assert_eq!(lease(|r| r.max_jobs = 101).await, "max_jobs");
    assert_eq!(lease(|r| r.max_jobs = -1).await, "max_jobs");
    assert_eq!(lease(|r| r.worker = "w".repeat(129)).await, "worker");
    assert_eq!(lease(|r| r.lease_duration = seconds(0)).await, "lease_duration");
    assert_eq!(lease(|r| r.lease_duration = seconds(3601)).await, "lease_duration");
    assert_eq!(lease(|r| r.wait = seconds(31)).await, "wait");

    let id = JobId::generate(&QueueName::parse("q").unwrap()).to_string();
    let complete = async |id: &str, fencing_token, result: usize| {
        let result = vec![0; result].into();
        let request = pb::CompleteJobRequest { id: id.to_owned(), fencing_token, result };
        refused(jobs.complete_job(Request::new(request)).await)
    };
    assert_eq!(complete("", 1, 0).await, "id");
    assert_eq!(complete(&id, 0, 0).await, "fencing_token");
    assert_eq!(complete(&id, -1, 0).await, "fencing_token");
    assert_eq!(complete(&id, 1, PAYLOAD_BYTES_MAX + 1).await, "result");
    let message = "m".repeat(FAILURE_BYTES_MAX + 1);
    let fail = pb::FailJobRequest { id: id.clone(), fencing_token: 1, message, permanent: false };
    assert_eq!(refused(jobs.fail_job(Request::new(fail)).await), "message");
    let resume_token = "x".to_owned();
    let watch = pb::WatchJobRequest { id, resume_token };
    assert_eq!(refused(jobs.watch_job(Request::new(watch)).await.map(|_| Response::new(()))), "resume_token");
}

#[tokio::test]
async fn batch_refusals_name_the_request() {
    let jobs = jobs();
    let batch = async |change: fn(&mut pb::EnqueueRequest)| {
        let mut requests = vec![enqueue("q"); 3];
        change(&mut requests[1]);
        jobs.batch_enqueue(Request::new(pb::BatchEnqueueRequest { requests })).await
    };
    assert_eq!(refused(batch(|r| r.kind.clear()).await), "requests[1].kind");
    assert_eq!(refused(batch(|r| r.delay = seconds(-1)).await), "requests[1].delay");
    assert_eq!(refused(batch(|r| r.queue = "r".to_owned()).await), "requests[1].queue");
    let requests = vec![enqueue("a b"); 2];
    let bad_queue = jobs.batch_enqueue(Request::new(pb::BatchEnqueueRequest { requests })).await;
    assert_eq!(refused(bad_queue), "requests[0].queue");

    let named = pb::EnqueueRequest { request_id: "r".to_owned(), payload: "x".into(), ..enqueue("q") };
    let first = jobs.enqueue(Request::new(named.clone())).await.unwrap().into_inner();
    assert!(!first.deduplicated);
    assert_eq!(refused(batch(|r| r.request_id = "r".to_owned()).await), "requests[1].request_id");
    let other = pb::EnqueueRequest { request_id: "r".to_owned(), ..enqueue("q") };
    assert_eq!(refused(jobs.enqueue(Request::new(other)).await), "request_id");
    let again = jobs.enqueue(Request::new(named.clone())).await.unwrap().into_inner();
    assert_eq!((again.job, again.deduplicated), (first.job.clone(), true));
    let requests = vec![enqueue("q"), named];
    let both = jobs.batch_enqueue(Request::new(pb::BatchEnqueueRequest { requests })).await.unwrap();
    let both = both.into_inner();
    assert_eq!((both.deduplicated, both.jobs.get(1)), (vec![false, true], first.job.as_ref()));
}

/// Returns the code and the reason of a refusal.
fn reason(status: &Status) -> (Code, String) {
    use tonic_types::StatusExt as _;
    (status.code(), status.get_details_error_info().expect("ErrorInfo").reason)
}

#[tokio::test]
async fn gzip_is_answered_and_bounded() {
    use shoal_proto::jobs::v1::jobs_service_client::JobsServiceClient;

    let listener = shoal_kit::serve::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (shutdown, drain) = (CancellationToken::new(), shoal_kit::serve::Drain::default());
    let service = assemble(jobs().0, "clone".to_owned(), Background::default());
    let served = tokio::spawn(shoal_kit::serve::serve(service, listener, drain, shutdown.clone()));
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy();
    let accepts = JobsServiceClient::new(channel).accept_compressed(CompressionEncoding::Gzip);
    let compresses = accepts.clone().send_compressed(CompressionEncoding::Gzip);
    let encoding = |metadata: &tonic::metadata::MetadataMap| metadata.get("grpc-encoding").cloned();
    let with = |payload: usize| pb::EnqueueRequest { payload: vec![0; payload].into(), ..enqueue("q") };

    let answer = compresses.clone().enqueue(with(PAYLOAD_BYTES_MAX)).await.unwrap();
    assert_eq!(encoding(answer.metadata()).expect("compressed"), "gzip");
    assert_eq!(answer.into_inner().job.unwrap().payload.len(), PAYLOAD_BYTES_MAX);
    let plain = accepts.clone().enqueue(with(PAYLOAD_BYTES_MAX)).await.unwrap();
    assert_eq!(encoding(plain.metadata()), None, "who merely accepts it is answered without");

    // Each of these has a few kilobytes on the wire.
    let bomb = compresses.clone().enqueue(with(2 * MESSAGE_BYTES_MAX)).await.unwrap_err();
    assert_eq!(reason(&bomb), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned()));
    let requests = vec![pb::EnqueueRequest::default(); 100_000];
    let many = compresses.clone().batch_enqueue(pb::BatchEnqueueRequest { requests }).await.unwrap_err();
    assert_eq!(reason(&many), (Code::InvalidArgument, "TOO_MANY_ELEMENTS".to_owned()));
    shutdown.cancel();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn impossible_ids_are_not_found() {
    let jobs = jobs();
    for id in ["nope", "q.0123", "q.01m86edk29eey88zj21vs9avrh", "ü.ü"] {
        let get = jobs.get_job(Request::new(pb::GetJobRequest { id: id.to_owned() })).await;
        assert_eq!(get.unwrap_err().code(), Code::NotFound, "{id}");
        let request = pb::WatchJobRequest { id: id.to_owned(), ..pb::WatchJobRequest::default() };
        assert_eq!(jobs.watch_job(Request::new(request)).await.err().unwrap().code(), Code::NotFound, "{id}");
    }
}

#[tokio::test]
async fn watch_ends_when_clone_drains() {
    let draining = CancellationToken::new();
    let jobs = jobs_until(draining.clone());
    let id = jobs.enqueue(Request::new(enqueue("q"))).await.unwrap().into_inner().job.unwrap().id;
    let request = pb::WatchJobRequest { id, ..pb::WatchJobRequest::default() };
    let mut states = jobs.watch_job(Request::new(request)).await.unwrap().into_inner();
    assert!(states.next().await.unwrap().is_ok());
    draining.cancel();
    let end = states.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("call again"));
    assert!(states.next().await.is_none());
}

#[tokio::test]
async fn untraced_clone_passes_context_on() {
    let _untraced = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    let jobs = jobs();
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut request = Request::new(enqueue("q"));
    request.metadata_mut().insert("traceparent", context.parse().unwrap());
    assert_eq!(jobs.enqueue(request).await.unwrap().into_inner().job.unwrap().traceparent, context);
    let mut request = Request::new(enqueue("q"));
    request.metadata_mut().insert("traceparent", "00-garbage".parse().unwrap());
    assert_eq!(jobs.enqueue(request).await.unwrap().into_inner().job.unwrap().traceparent, "");
}

#[tokio::test]
async fn lease_span_links_enqueue_spans() {
    let spans = Spans::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    let ours = tracing_subscriber::filter::filter_fn(|meta| matches!(meta.name(), "send" | "lease"));
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_filter(ours);
    // Set for the whole process: the first thread that comes by decides which spans are made at all.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    let jobs = jobs();
    let mut contexts = Vec::new();
    for _ in 0..2 {
        let made = jobs.enqueue(Request::new(enqueue("traced"))).await.unwrap().into_inner().job.unwrap();
        assert!(trace::is_traceparent(&made.traceparent), "{}", made.traceparent);
        contexts.push(made.traceparent);
    }
    let request = pb::LeaseJobsRequest { max_jobs: 2, ..lease("traced") };
    let leased = jobs.lease_jobs(Request::new(request)).await.unwrap().into_inner().jobs;
    let carried: Vec<_> = leased.into_iter().map(|leased| leased.job.unwrap().traceparent).collect();
    assert_eq!(carried, contexts);

    let spans = spans.0.lock().unwrap();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).cloned().collect::<Vec<_>>();
    let (sent, leased) = (named("send traced"), named("lease traced"));
    assert_eq!((sent.len(), leased.len()), (2, 1));
    assert!(sent.iter().all(|span| span.span_kind == SpanKind::Producer));
    assert_eq!(leased[0].span_kind, SpanKind::Consumer);
    let ids = |span: &SpanData| (span.span_context.trace_id(), span.span_context.span_id());
    let links = leased[0].links.iter();
    let links: Vec<_> =
        links.map(|link| (link.span_context.trace_id(), link.span_context.span_id())).collect();
    assert_eq!(links, sent.iter().map(ids).collect::<Vec<_>>());
    let value = |name: &str| {
        let attribute = leased[0].attributes.iter().find(|attribute| attribute.key.as_str() == name);
        attribute.map(|attribute| attribute.value.to_string()).unwrap_or_default()
    };
    assert_eq!(value("messaging.system"), "shoal");
    assert_eq!(value("messaging.operation.name"), "lease");
    assert_eq!(value("messaging.destination.name"), "traced");
    assert_eq!(value("messaging.batch.message_count"), "2");
    assert_eq!(value("shoal.role"), "jobs");
}

/// An exporter that keeps the spans that ended.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}
