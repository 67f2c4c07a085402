//! The judgement of a broken stream: one test per kind of error.

use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use shoal_balance::EndpointState::Ready;
use shoal_balance::{Channel, ChannelOptions};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::channel::going_away;
use crate::frames::{Frames, HEADERS, HEALTH_LAST, PING};
use crate::peer::{Peer, SOON, Upstream, message};
use crate::raw;

/// The judgement of an endpoint: successes, failures, and whether it is avoided for a while.
type Judged = (u64, u64, bool);

const SUCCESS: Judged = (1, 0, false);
const SERVER_ERROR: Judged = (0, 1, false);
const ENDPOINT_FAULT: Judged = (0, 1, true);
const OVERLOADED: Judged = (0, 1, true);
const NEITHER: Judged = (0, 0, false);

fn channel(upstream: &Upstream) -> Channel {
    Channel::new(upstream.balancer.clone(), ChannelOptions::default())
}

fn judged(upstream: &Upstream) -> Judged {
    let endpoint = &upstream.balancer.snapshot()[0];
    (endpoint.successes, endpoint.failures, endpoint.penalty > Duration::ZERO)
}

/// Makes one call at `peer`, which must fail with `code`, and returns how its endpoint is judged.
async fn after_call(peer: &Peer, code: Code) -> Judged {
    let upstream = Upstream::with(&[peer.address], |options| options.header_list_max = 1_000);
    upstream.until(peer.address, Ready).await;
    let status = raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    judged(&upstream)
}

/// A server that resets each call with `reason`.
fn resetting(reason: h2::Reason) -> Peer {
    Peer::h2(move |_, mut respond| async move { respond.send_reset(reason) })
}

/// A server that never answers, and reports each call.
fn silent() -> (Peer, mpsc::UnboundedReceiver<()>) {
    let (report, calls) = mpsc::unbounded_channel();
    let peer = Peer::h2(move |request, respond| {
        let _ = report.send(());
        async move {
            let _call = (request, respond);
            std::future::pending::<()>().await;
        }
    });
    (peer, calls)
}

#[tokio::test]
async fn reset_with_error_is_server_error() {
    for (reason, code) in [
        (h2::Reason::INTERNAL_ERROR, Code::Internal),
        (h2::Reason::PROTOCOL_ERROR, Code::Internal),
        (h2::Reason::NO_ERROR, Code::Internal),
        (h2::Reason::HTTP_1_1_REQUIRED, Code::Internal),
        (h2::Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
    ] {
        assert_eq!(after_call(&resetting(reason), code).await, SERVER_ERROR, "{reason}");
    }
}

#[tokio::test]
async fn reset_with_cancel_is_success() {
    assert_eq!(after_call(&resetting(h2::Reason::CANCEL), Code::Cancelled).await, SUCCESS);
}

#[tokio::test]
async fn reset_for_overload_avoids_endpoint() {
    let calm = after_call(&resetting(h2::Reason::ENHANCE_YOUR_CALM), Code::ResourceExhausted).await;
    assert_eq!(calm, OVERLOADED);
    let (successes, failures, avoided) =
        after_call(&resetting(h2::Reason::REFUSED_STREAM), Code::Unavailable).await;
    assert_eq!((successes, failures, avoided), (0, 2, true), "it is sent twice");
}

#[tokio::test]
async fn malformed_answer_is_endpoint_fault() {
    let peer = Peer::start(None, move |listener| async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut frames = Frames::accept(socket).await?;
                loop {
                    let frame = frames.read().await?;
                    match frame.kind {
                        PING => frames.pong(&frame).await?,
                        HEADERS if frame.stream <= HEALTH_LAST => frames.answer(frame.stream, 12).await?,
                        // :status 200, and a field name in upper case.
                        HEADERS => {
                            frames.write(HEADERS, 5, frame.stream, &[0x88, 0, 1, b'A', 1, b'a']).await?;
                        }
                        _ => {}
                    }
                }
                #[allow(unreachable_code, reason = "gives the block its type")]
                std::io::Result::Ok(())
            });
        }
    });
    assert_eq!(after_call(&peer, Code::Internal).await, ENDPOINT_FAULT);
}

#[tokio::test]
async fn oversized_answer_headers_are_success() {
    let peer = Peer::h2(|_, mut respond| async move {
        let response = http::Response::builder().header("x", "y".repeat(2_000)).body(()).unwrap();
        let _ = respond.send_response(response, true);
    });
    assert_eq!(after_call(&peer, Code::ResourceExhausted).await, SUCCESS);
}

#[tokio::test]
async fn lost_connection_is_endpoint_fault() {
    let (peer, mut calls) = silent();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let channel = channel(&upstream);
    let call = tokio::spawn(async move { raw::unary(&channel, Request::new(vec![1])).await });
    calls.recv().await.unwrap();
    peer.kill();
    let status = tokio::time::timeout(SOON, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(judged(&upstream), ENDPOINT_FAULT);
}

#[tokio::test]
async fn call_above_goaway_is_neither() {
    let (peer, _) = going_away(HEALTH_LAST);
    // The call is sent again, and the second answer is NOT_FOUND.
    assert_eq!(after_call(&peer, Code::NotFound).await, SUCCESS);
}

#[tokio::test]
async fn cancel_by_this_side_is_neither() {
    let (peer, mut calls) = silent();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let (send, frames) = mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
    let mut request =
        http::Request::new(tonic::body::Body::new(StreamBody::new(ReceiverStream::new(frames))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("/test.v1.Fish/Swim");
    let mut channel = channel(&upstream);
    let call = tokio::spawn(async move { tower::Service::call(&mut channel, request).await.map(|_| ()) });
    send.send(Ok(Frame::data(message(b"hi")))).await.unwrap();
    calls.recv().await.unwrap();
    send.send(Err(Status::internal("no more messages"))).await.unwrap();
    let status = tokio::time::timeout(SOON, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "{status}");
    assert_eq!(judged(&upstream), NEITHER);
}
