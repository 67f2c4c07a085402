//! What an endpoint says of itself: `grpc.health.v1` on the very connection calls would go to.
//!
//! `Watch` where there is one, `Check` on a clock where there is not, and a server without the service is taken for
//! serving as long as it is connected (gRFC A17, with that last step added for servers that are not ours). Where the peer
//! allows but few streams, a watch would take one of them for good: there it is checked too.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_prost::ProstCodec;

use crate::call::body::{Incoming, Outgoing};
use crate::endpoint::backoff::Backoff;
use crate::endpoint::connection::Connection;
use crate::options::Options;
use crate::outcome::status_of;
use crate::stores::Backing;

/// A peer that allows fewer streams than this is not watched: more than a tenth of them would be ours.
const WATCH_STREAMS_MIN: u32 = 10;

/// A server that serves is out after so many checks in a row without an answer to them or to a call.
const UNANSWERED_MAX: u32 = 3;

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The longest name of an engine or a store that is taken from an answer, in characters.
const NAME_CHARS_MAX: usize = 200;

/// Whether an endpoint serves, and what it says of its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Serving(Backing),
    /// It does not, and this is what it said.
    NotServing(String, Backing),
}

/// `grpc.health.v1.HealthCheckResponse` with what a Shoal clone adds to it (kit's `health.rs` has the same fields). Servers
/// that are not ours leave them out.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
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

/// Reports the health of the server at the other end of `connection`, whenever it changes. Never returns.
pub(crate) async fn follow(connection: Arc<Connection>, options: &Options, mut report: impl FnMut(Health)) {
    let Some(service) = options.health_service.clone() else {
        report(Health::Serving(Backing::default()));
        return std::future::pending().await;
    };
    let origin = connection.authority.clone().and_then(|authority| {
        Uri::builder().scheme("http").authority(authority).path_and_query("/").build().ok()
    });
    let Some(origin) = origin else {
        report(failed(format!("{} is no authority", connection.address)));
        return std::future::pending().await;
    };
    let mut follower = Follower {
        client: tonic::client::Grpc::with_origin(
            SingleConnectionService { connection: connection.clone(), upstream: options.name.clone() },
            origin,
        ),
        connection,
        service,
        options,
    };
    if options.health_watched && follower.connection.streams.limit() >= WATCH_STREAMS_MIN {
        follower.watch(&mut report).await;
    }
    follower.check(&mut report).await;
    report(Health::Serving(Backing::default()));
    std::future::pending::<()>().await;
}

/// What came of one check.
enum Checked {
    Said(Health),
    Failed(Status),
    /// Not in time.
    Unanswered,
    /// All streams of the connection are in use by calls, so that the question would wait for them.
    Unasked,
}

/// The benefit of the doubt for a server that has said that it serves and does not answer now: its threads may all be busy
/// with calls, which a check waits behind as they do. One that is stuck is found by its calls and by pings. Pure.
#[derive(Debug, Default)]
struct Benefit {
    serves: bool,
    /// Checks in a row without an answer, and without an answer to a call meanwhile.
    unanswered: u32,
}

impl Benefit {
    /// It answered a check.
    fn said(&mut self, health: &Health) {
        *self = Benefit { serves: matches!(health, Health::Serving(_)), unanswered: 0 };
    }

    /// It did not. Returns whether its last word stands. `answered`: it answered calls meanwhile.
    fn holds(&mut self, answered: bool) -> bool {
        self.unanswered = if answered { 0 } else { self.unanswered + 1 };
        self.serves && self.unanswered < UNANSWERED_MAX
    }
}

struct Follower<'a> {
    client: tonic::client::Grpc<SingleConnectionService>,
    connection: Arc<Connection>,
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
                report(failed(format!("health watch: {}", said(&ended))));
            }
            sleep(backoff.next(&mut rng)).await;
        }
    }

    /// One watch stream, to its end. Returns how it ended.
    async fn watch_once(&mut self, mut report: impl FnMut(Health)) -> Status {
        let _slot = self.connection.streams.slot();
        let request = tonic::Request::new(HealthCheckRequest { service: self.service.clone() });
        let codec = ProstCodec::<HealthCheckRequest, Answer>::default();
        let opened = self.client.server_streaming(request, PathAndQuery::from_static(WATCH), codec);
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
                Some(said) => report(health_of(said)),
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
        let mut benefit = Benefit::default();
        loop {
            let answers = self.connection.answers();
            let missing = match self.check_once().await {
                Checked::Unasked => None,
                Checked::Said(health) => {
                    benefit.said(&health);
                    report(health);
                    None
                }
                Checked::Failed(status) if status.code() == Code::Unimplemented => return,
                Checked::Failed(status) => Some(said(&status)),
                Checked::Unanswered if benefit.holds(self.connection.answers() != answers) => None,
                Checked::Unanswered => Some(format!("no answer within {:?}", options.health_timeout)),
            };
            match missing {
                None => {
                    backoff.reset();
                    sleep(options.health_interval).await;
                }
                // Asked again sooner than by the clock: a server that was short of time for a second need not be out for five.
                Some(error) => {
                    benefit = Benefit::default();
                    report(failed(format!("health check: {error}")));
                    sleep(backoff.next(&mut rng)).await;
                }
            }
        }
    }

    /// What the server says now.
    async fn check_once(&mut self) -> Checked {
        if !self.connection.streams.has_room() {
            return Checked::Unasked;
        }
        let _slot = self.connection.streams.slot();
        let request = tonic::Request::new(HealthCheckRequest { service: self.service.clone() });
        let codec = ProstCodec::<HealthCheckRequest, Answer>::default();
        let asked = self.client.unary(request, PathAndQuery::from_static(CHECK), codec);
        match timeout(self.options.health_timeout, asked).await {
            Ok(Ok(answer)) => Checked::Said(health_of(answer.into_inner())),
            Ok(Err(status)) => Checked::Failed(status),
            Err(_) => Checked::Unanswered,
        }
    }
}

fn health_of(answer: Answer) -> Health {
    let status = answer.status();
    let short = |text: String| text.chars().take(NAME_CHARS_MAX).collect::<String>();
    let backing =
        Backing { engine: short(answer.engine), store: short(answer.store), since_ms: answer.since_ms };
    match status {
        ServingStatus::Serving => Health::Serving(backing),
        other if answer.why.is_empty() => Health::NotServing(other.as_str_name().into(), backing),
        other => Health::NotServing(format!("{}: {}", other.as_str_name(), short(answer.why)), backing),
    }
}

/// It could not be asked.
fn failed(reason: String) -> Health {
    Health::NotServing(reason, Backing::default())
}

fn said(status: &Status) -> String {
    format!("{:?} {}", status.code(), status.message())
}

/// A tonic service over one connection: no balancing, no spans, and not counted as a call.
#[derive(Clone)]
struct SingleConnectionService {
    connection: Arc<Connection>,
    upstream: String,
}

impl tower::Service<Request<tonic::body::Body>> for SingleConnectionService {
    type Response = Response<tonic::body::Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let SingleConnectionService { connection, upstream } = self.clone();
        Box::pin(async move {
            let broke = |error: shoal_http2::Error| status_of(&error, &upstream, connection.address);
            let (head, body) = request.into_parts();
            let mut body = Outgoing::begin(body).await?;
            let request = Request::from_parts(head, ());
            let (response, stream) =
                connection.sender().send_request(&request, body.is_empty()).map_err(|error| {
                    Status::unavailable(format!("`{upstream}` ({}): {error}", connection.address))
                })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_keeps_its_word_and_a_stuck_one_does_not() {
        let mut benefit = Benefit::default();
        assert!(!benefit.holds(true), "it has said nothing yet");
        benefit.said(&Health::Serving(Backing::default()));
        for _ in 0..10 {
            assert!(benefit.holds(true), "it answers calls");
        }
        assert_eq!([benefit.holds(false), benefit.holds(false), benefit.holds(false)], [true, true, false]);
        benefit.said(&failed("no".into()));
        assert!(!benefit.holds(true));
    }
}
