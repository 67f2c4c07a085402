//! Follows the health that an endpoint reports: `grpc.health.v1` on the very connection that calls go to.
//!
//! Uses `Watch` where there is one, and `Check` on a clock where there is not. A server without the service counts as serving
//! while it is connected (gRFC A17, with that last step added for foreign servers). Where the peer allows only a few streams, a
//! watch would take one of them for good: there it is checked too.

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

/// The fewest streams a peer must allow to be watched: below it, more than a tenth of them would be ours.
const WATCH_STREAMS_MIN: u32 = 10;

/// The number of checks in a row without an answer, to them or to a call, after which a serving server is taken out.
const UNANSWERED_MAX: u32 = 3;

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The longest name of an engine or a store that is taken from an answer, in characters.
const NAME_CHARS_MAX: usize = 200;

/// The reported health, and the store behind the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Serving(Backing),
    /// The endpoint does not serve, for the reason it gave.
    NotServing(String, Backing),
}

/// `grpc.health.v1.HealthCheckResponse` with the fields that a Shoal clone adds (the same as in kit's `health.rs`). Foreign
/// servers leave them out.
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
        report(failed(format!("{} is not a valid authority", connection.address)));
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

/// The result of one check.
enum Checked {
    Said(Health),
    Failed(Status),
    /// There was no answer in time.
    Unanswered,
    /// All streams of the connection are in use by calls, so that the check would wait for them.
    Unasked,
}

/// The grace for a server that has reported that it serves and does not answer now: its threads may all be busy with calls, and
/// a check waits behind them. A server that is stuck is found by its calls and by pings.
#[derive(Debug, Default)]
struct Benefit {
    serves: bool,
    /// The checks in a row during which neither they nor a call were answered.
    unanswered: u32,
}

impl Benefit {
    /// Records an answer to a check.
    fn said(&mut self, health: &Health) {
        *self = Benefit { serves: matches!(health, Health::Serving(_)), unanswered: 0 };
    }

    /// Records a missing answer. Returns whether the last report stays valid. `answered`: the server answered calls meanwhile.
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
    /// Watches health. Returns if the server cannot be watched.
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
                // A stream that ends after it has worked (because of a proxy's limit, say) is opened again at once; its last
                // report stays valid meanwhile.
                backoff.reset();
            } else {
                report(failed(format!("health watch: {}", said(&ended))));
            }
            sleep(backoff.next(&mut rng)).await;
        }
    }

    /// Runs one watch stream to its end. Returns how it ended.
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

    /// Checks health on a clock. Returns if the server has no health service.
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
                // The next check comes sooner than by the clock: a server that was short of time for a second need not be out
                // for five.
                Some(error) => {
                    benefit = Benefit::default();
                    report(failed(format!("health check: {error}")));
                    sleep(backoff.next(&mut rng)).await;
                }
            }
        }
    }

    /// Asks for the current health.
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

/// Returns the health of a server that could not be asked.
fn failed(reason: String) -> Health {
    Health::NotServing(reason, Backing::default())
}

fn said(status: &Status) -> String {
    format!("{:?} {}", status.code(), status.message())
}

/// A tonic service over one connection, without balancing or spans. Its calls are not counted.
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
    fn busy_server_gets_grace_stuck_does_not() {
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
