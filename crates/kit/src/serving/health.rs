//! `grpc.health.v1` of a clone. Its answers also name the engine and the store behind the clone, in fields that other readers of
//! health pass over: whoever balances over clones compares them, without a call or a stream more.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::stream::unfold;
use http::{Request, Response};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_prost::ProstCodec;

use crate::errors::api_error::ApiError;
use crate::errors::reason;
use crate::serving::backing::{Known, Probe};
use crate::serving::message::SMALL_MESSAGE_BYTES_MAX;
use crate::serving::routes::{Answer, RequestBody};

/// The message of a clone that has not reached its engine. It names no address, since gateways pass it on.
const NOT_REACHED: &str = "its engine was not reached since it started";

/// `grpc.health.v1.HealthCheckResponse` and what a clone adds to it (`balance`'s `health.rs` reads the same fields).
#[derive(Clone, PartialEq, prost::Message)]
struct HealthAnswer {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
    #[prost(string, tag = "20001")]
    engine: String,
    #[prost(string, tag = "20002")]
    store: String,
    #[prost(uint64, tag = "20003")]
    since_ms: u64,
    #[prost(string, tag = "20004")]
    why: String,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    names: Vec<&'static str>,
    probe: Probe,
    draining: watch::Sender<bool>,
}

impl Health {
    /// Answers for a clone that serves these services.
    pub(crate) fn new(names: Vec<&'static str>, probe: Probe) -> Self {
        Self(Arc::new(Inner { names, probe, draining: watch::Sender::new(false) }))
    }

    /// Answers NOT_SERVING from now on.
    pub(crate) fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    fn answers_for(&self, service: &str) -> bool {
        service.is_empty() || self.0.names.contains(&service)
    }

    fn answer(&self, known: &Known, draining: bool) -> HealthAnswer {
        let status =
            if known.reached && !draining { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthAnswer {
            status: status.into(),
            engine: self.0.probe.engine().to_owned(),
            store: known.store.clone(),
            since_ms: known.since_ms,
            why: if known.reached { String::new() } else { NOT_REACHED.to_owned() },
        }
    }
}

/// The method Check.
struct Check(Health);

impl UnaryService<HealthCheckRequest> for Check {
    type Response = HealthAnswer;
    type Future = BoxFuture<tonic::Response<HealthAnswer>, Status>;

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let (health, service) = (&self.0, request.into_inner().service);
        let answer = if health.answers_for(&service) {
            let known = health.0.probe.watch().borrow().clone();
            let draining = *health.0.draining.borrow();
            Ok(tonic::Response::new(health.answer(&known, draining)))
        } else {
            Err(unknown(service, &health.0.names))
        };
        Box::pin(std::future::ready(answer))
    }
}

fn unknown(service: String, names: &[&str]) -> Status {
    let message = format!("no service `{service}` here; there is: {}", names.join(", "));
    ApiError::new(Code::NotFound, reason::UNKNOWN_SERVICE, message).meta("service", service).into()
}

/// The method Watch.
struct Watch(Health);

type Answers = Pin<Box<dyn Stream<Item = Result<HealthAnswer, Status>> + Send>>;

impl ServerStreamingService<HealthCheckRequest> for Watch {
    type Response = HealthAnswer;
    type ResponseStream = Answers;
    type Future = BoxFuture<tonic::Response<Answers>, Status>;

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let health = self.0.clone();
        let is_known = health.answers_for(&request.into_inner().service);
        let (known, draining) = (health.0.probe.watch(), health.0.draining.subscribe());
        let answers = unfold((None, known, draining), move |(last, mut known, mut draining)| {
            let health = health.clone();
            async move {
                loop {
                    let answer = match is_known {
                        true => {
                            let draining = *draining.borrow_and_update();
                            health.answer(&known.borrow_and_update(), draining)
                        }
                        false => HealthAnswer {
                            status: ServingStatus::ServiceUnknown.into(),
                            ..HealthAnswer::default()
                        },
                    };
                    if last.as_ref() != Some(&answer) {
                        return Some((Ok(answer.clone()), (Some(answer), known, draining)));
                    }
                    tokio::select! {
                        changed = known.changed() => changed.ok()?,
                        changed = draining.changed() => changed.ok()?,
                    }
                }
            }
        });
        let answers: Answers = Box::pin(answers);
        Box::pin(std::future::ready(Ok(tonic::Response::new(answers))))
    }
}

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower::Service<Request<RequestBody>> for Health {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Answer {
        let health = self.clone();
        let grpc = || {
            let codec = ProstCodec::<HealthAnswer, HealthCheckRequest>::default();
            let grpc = Grpc::new(codec).max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX);
            grpc.accept_compressed(CompressionEncoding::Gzip).send_compressed(CompressionEncoding::Gzip)
        };
        match request.uri().path() {
            "/grpc.health.v1.Health/Check" => {
                Box::pin(async move { Ok(grpc().unary(Check(health), request).await) })
            }
            "/grpc.health.v1.Health/Watch" => {
                Box::pin(async move { Ok(grpc().server_streaming(Watch(health), request).await) })
            }
            _ => Box::pin(async { Ok(Status::unimplemented("").into_http()) }),
        }
    }
}
