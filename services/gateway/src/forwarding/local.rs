//! Calls of the gateway's own services: an HTTP/2 stream made into what tonic expects, and its answer back into frames.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode, Uri};
use http_body::{Body as _, Frame};
use shoal_balance::code_of;
use shoal_http2::{Error as Broken, Reason, RecvStream};
use shoal_kit::message::{SMALL_MESSAGE_BYTES_MAX, WholeMessages};
use tokio::time::timeout_at;
use tonic::{Code, Status};
use tower::Service as _;
use tracing::{Instrument as _, Span};

use crate::error::Error;
use crate::forwarding::call_end::CallEnd;
use crate::forwarding::context::CallContext;
use crate::forwarding::downstream::Downstream;
use crate::forwarding::request_head::RequestHead;
use crate::routing::reflection_client::{REFLECTION_V1, REFLECTION_V1ALPHA};

/// Answers one call.
pub(super) async fn serve(
    context: &CallContext,
    head: RequestHead,
    body: RecvStream,
    caller: &mut Downstream,
    span: &Span,
) -> CallEnd {
    let path = head.path().to_owned();
    let deadline = head.deadline;
    let answered = tokio::select! {
        _ = caller_gone(caller) => Err(None),
        answered = answer(context, head, body).instrument(span.clone()) => answered.map_err(Some),
    };
    let (response, mut answer) = match answered {
        Ok(parts) => parts,
        Err(None) => {
            let ending = caller.client().ending();
            return ending.map_or(CallEnd::CallerGone, CallEnd::Failed);
        }
        Err(Some(error)) => return CallEnd::Failed(error),
    };
    let ended = answer.is_end_stream();
    let code = code_of(response.status(), response.headers());
    if ended && code == Code::Unimplemented && !response.headers().contains_key(Status::GRPC_STATUS_DETAILS) {
        return CallEnd::Failed(Error::UnknownMethod { path });
    }
    if caller.head(&response, ended).is_err() {
        return CallEnd::CallerGone;
    }
    if ended {
        return CallEnd::Answered(code);
    }
    let response_body = response_body(&mut answer, caller);
    let late = async {
        match deadline {
            Some((_, at)) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    // Health watches and the like never end by themselves; their callers simply come back.
    let error = tokio::select! {
        ended = response_body => return ended,
        () = late => late_at(path, deadline),
        () = context.stop.cancelled() => Error::Draining,
    };
    CallEnd::Failed(error)
}

async fn answer(
    context: &CallContext,
    head: RequestHead,
    body: RecvStream,
) -> Result<(http::Response<()>, tonic::body::Body), Error> {
    let (path, deadline) = (head.path().to_owned(), head.deadline);
    let body = WholeMessages::new(Incoming(body), SMALL_MESSAGE_BYTES_MAX, &context.memory);
    let mut request = head.into_request().map(|()| tonic::body::Body::new(body));
    same_wire(request.uri_mut());
    let mut routes = context.routes.clone();
    let call = routes.call(request);
    let response = match deadline {
        None => call.await,
        Some((_, at)) => timeout_at(at, call).await.map_err(|_| late_at(path, deadline))?,
    };
    match response {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            Ok((http::Response::from_parts(parts, ()), body))
        }
        Err(never) => match never {},
    }
}

fn late_at(path: String, deadline: Option<(std::time::Duration, tokio::time::Instant)>) -> Error {
    Error::DeadlineExceeded {
        path,
        upstream: "gateway".to_owned(),
        allowed: deadline.map_or(std::time::Duration::ZERO, |(allowed, _)| allowed),
        progress: "answered by the gateway itself".to_owned(),
    }
}

async fn caller_gone(caller: &mut Downstream) -> Reason {
    caller.gone().await
}

/// Moves the answer's body to the caller, at the caller's pace.
async fn response_body(body: &mut tonic::body::Body, caller: &mut Downstream) -> CallEnd {
    let mut chunk = Bytes::new();
    std::future::poll_fn(|cx| {
        loop {
            if caller.poll_gone(cx).is_ready() {
                return Poll::Ready(CallEnd::CallerGone);
            }
            let Some(to) = caller.body() else { return Poll::Ready(CallEnd::CallerGone) };
            if !chunk.is_empty() {
                if ready!(to.poll_send(cx, &mut chunk, false)).is_err() {
                    return Poll::Ready(CallEnd::CallerGone);
                }
                continue;
            }
            let trailers = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        chunk = data;
                        continue;
                    }
                    Err(frame) => frame.into_trailers().unwrap_or_default(),
                },
                Some(Err(status)) => trailers_of(&status),
                None => HeaderMap::new(),
            };
            let code = code_of(StatusCode::OK, &trailers);
            let _ = to.send_trailers(trailers);
            return Poll::Ready(CallEnd::Answered(code));
        }
    })
    .await
}

fn trailers_of(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Fails only for metadata we never set.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// v1alpha of reflection is v1 under another name: its messages have the same fields under the same numbers, so one
/// implementation answers both.
fn same_wire(uri: &mut Uri) {
    if uri.path() == REFLECTION_V1ALPHA {
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static(REFLECTION_V1));
        *uri = Uri::from_parts(parts).unwrap_or_default();
    }
}

/// A caller's body as tonic reads it.
struct Incoming(RecvStream);

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match ready!(self.0.poll_data(cx)) {
            Some(Ok(data)) => {
                // What was taken counts as read: one message is buffered, whose size is limited.
                self.0.release(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(match ready!(self.0.poll_trailers(cx)) {
                Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                Err(error) => Some(Err(error)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
