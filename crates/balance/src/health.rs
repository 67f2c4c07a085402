//! What an endpoint says of itself: `grpc.health.v1` on the very connection calls would go to.
//!
//! `Watch` where there is one, `Check` on a clock where there is not, and a server without the service is taken for
//! serving as long as it is connected (gRFC A17, with that last step added for servers that are not ours). Where the peer
//! allows but few streams, a watch would take one of them for good: there it is checked too.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, Uri};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::attempt::status_of;
use crate::backoff::Backoff;
use crate::body::{Incoming, Outgoing};
use crate::connection::Link;
use crate::options::Options;

/// A peer that allows fewer streams than this is not watched: more than a tenth of them would be ours.
const WATCH_STREAMS_MIN: u32 = 10;

/// Whether an endpoint serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Serving,
    /// It does not, and this is what it said.
    NotServing(String),
}

/// Reports the health of the server at the other end of `link`, whenever it changes. Never returns.
pub(crate) async fn follow(link: Arc<Link>, options: &Options, mut report: impl FnMut(Health)) {
    let Some(service) = options.health_service.clone() else {
        report(Health::Serving);
        return std::future::pending().await;
    };
    let origin = link.authority.clone().and_then(|authority| {
        Uri::builder().scheme("http").authority(authority).path_and_query("/").build().ok()
    });
    let Some(origin) = origin else {
        report(Health::NotServing(format!("{} is no authority", link.address)));
        return std::future::pending().await;
    };
    let mut follower = Follower {
        client: HealthClient::with_origin(
            Lone { link: link.clone(), upstream: options.name.clone() },
            origin,
        ),
        link,
        service,
        options,
    };
    if follower.link.streams.limit() >= WATCH_STREAMS_MIN {
        follower.watch(&mut report).await;
    }
    follower.check(&mut report).await;
    report(Health::Serving);
    std::future::pending::<()>().await;
}

struct Follower<'a> {
    client: HealthClient<Lone>,
    link: Arc<Link>,
    service: String,
    options: &'a Options,
}

impl Follower<'_> {
    /// Watches. Returns if the server cannot be watched.
    async fn watch(&mut self, report: &mut impl FnMut(Health)) {
        let mut rng = fastrand::Rng::new();
        let mut backoff = Backoff::new(self.options.backoff_first, self.options.backoff_max);
        loop {
            let mut told = false;
            let ended = self.watch_once(|health| {
                told = true;
                report(health);
            });
            let ended = ended.await;
            match ended.code() {
                Code::Unimplemented => return,
                // Some servers have the method and never answer: they may still answer Check.
                Code::DeadlineExceeded if !told => return,
                _ => {}
            }
            if told {
                // A stream that ended after it had worked (a proxy's limit, say) leaves its last word standing while it
                // is opened again at once.
                backoff.reset();
            } else {
                report(Health::NotServing(format!("health watch: {}", said(&ended))));
            }
            sleep(backoff.next(&mut rng)).await;
        }
    }

    /// One watch stream, to its end. Returns how it ended.
    async fn watch_once(&mut self, mut report: impl FnMut(Health)) -> Status {
        let _seat = self.link.streams.seat();
        let opened = self.client.watch(HealthCheckRequest { service: self.service.clone() });
        let first = timeout(self.options.health_timeout, async {
            let mut answers = opened.await?.into_inner();
            let first = answers.message().await?;
            Ok((answers, first))
        });
        let (mut answers, mut answer) = match first.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("no first answer in time"),
        };
        loop {
            match answer {
                Some(said) => report(health_of(said.status())),
                None => return Status::ok("ended"),
            }
            answer = match answers.message().await {
                Ok(answer) => answer,
                Err(status) => return status,
            };
        }
    }

    /// Checks on a clock. Returns if the server has no health service.
    async fn check(&mut self, report: &mut impl FnMut(Health)) {
        let options = self.options;
        let mut rng = fastrand::Rng::new();
        let mut backoff = Backoff::new(options.backoff_first, options.health_interval);
        loop {
            let missing = match self.check_once().await {
                None => None,
                Some(Ok(health)) => {
                    report(health);
                    None
                }
                Some(Err(status)) if status.code() == Code::Unimplemented => return,
                Some(Err(status)) => Some(said(&status)),
            };
            match missing {
                None => {
                    backoff.reset();
                    sleep(options.health_interval).await;
                }
                // Asked again sooner than by the clock: a server that was short of time for a second need not be out for five.
                Some(error) => {
                    report(Health::NotServing(format!("health check: {error}")));
                    sleep(backoff.next(&mut rng)).await;
                }
            }
        }
    }

    /// What the server says now. `None`: all its streams are in use by calls, so that the question would wait for them; what
    /// was said last stands.
    async fn check_once(&mut self) -> Option<Result<Health, Status>> {
        if !self.link.streams.has_room() {
            return None;
        }
        let _seat = self.link.streams.seat();
        let request = HealthCheckRequest { service: self.service.clone() };
        Some(match timeout(self.options.health_timeout, self.client.check(request)).await {
            Ok(answer) => answer.map(|answer| health_of(answer.into_inner().status())),
            Err(_) => {
                Err(Status::deadline_exceeded(format!("no answer within {:?}", self.options.health_timeout)))
            }
        })
    }
}

fn health_of(status: ServingStatus) -> Health {
    match status {
        ServingStatus::Serving => Health::Serving,
        other => Health::NotServing(other.as_str_name().into()),
    }
}

fn said(status: &Status) -> String {
    format!("{:?} {}", status.code(), status.message())
}

/// A tonic service over one connection: no balancing, no spans, and not counted as a call.
#[derive(Clone)]
struct Lone {
    link: Arc<Link>,
    upstream: String,
}

impl tower::Service<Request<tonic::body::Body>> for Lone {
    type Response = Response<tonic::body::Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let Lone { link, upstream } = self.clone();
        Box::pin(async move {
            let broke = |error: shoal_http2::Error| status_of(&error, &upstream, link.address);
            let (head, body) = request.into_parts();
            let mut body = Outgoing::begin(body).await?;
            let request = Request::from_parts(head, ());
            let (response, stream) = link
                .sender()
                .send_request(&request, body.is_empty())
                .map_err(|error| Status::unavailable(format!("`{upstream}` ({}): {error}", link.address)))?;
            let pump = body.send(stream);
            let (head, stream) = response.await.map_err(broke)?.into_parts();
            if stream.is_end_stream() {
                return Ok(Response::from_parts(head, tonic::body::Body::empty()));
            }
            let body = Incoming::new(stream, head.status, None, None, pump);
            Ok(Response::from_parts(head, tonic::body::Body::new(body)))
        })
    }
}
