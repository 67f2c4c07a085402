//! The channel as a tonic client sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shoal_balance::EndpointState::Ready;
use shoal_balance::{Channel, ChannelOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::frames::{Frames, HEADERS, HEALTH_LAST, PING};
use crate::peer::{Peer, SOON, Upstream, answer, message, trailers_ok};
use crate::raw;

fn channel(upstream: &Upstream) -> Channel {
    Channel::new(upstream.balancer.clone(), ChannelOptions::default())
}

/// Starts a server that never answers and reports the headers it receives.
fn deaf() -> (Peer, mpsc::UnboundedReceiver<http::request::Parts>) {
    let (tell, told) = mpsc::unbounded_channel();
    let peer = Peer::h2(move |request, respond| {
        let _ = tell.send(request.into_parts().0);
        async move {
            let _respond = respond;
            std::future::pending::<()>().await;
        }
    });
    (peer, told)
}

#[tokio::test]
async fn generated_client_works() {
    let (peer, _reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    let mut client = HealthClient::new(channel(&upstream));
    let answer = client.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let mut watched = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watched.message().await.unwrap().is_some());
    drop(watched);
    let endpoint = &upstream.balancer.snapshot()[0];
    assert_eq!((endpoint.calls, endpoint.in_flight, endpoint.failures), (2, 0, 0));
}

#[tokio::test]
async fn deadline_ends_call() {
    let (peer, mut told) = deaf();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let mut request = Request::new(vec![1]);
    request.set_timeout(Duration::from_millis(150));
    let started = Instant::now();
    let status = raw::unary(&channel(&upstream), request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("`fish`"), "{status}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let head = told.recv().await.unwrap();
    let sent = shoal_balance::parse_timeout(&head.headers["grpc-timeout"]).unwrap();
    assert!(sent <= Duration::from_millis(150), "{sent:?}");
}

#[tokio::test]
async fn expired_call_is_not_forwarded() {
    let (peer, mut told) = deaf();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let mut request = Request::new(vec![1]);
    request.set_timeout(Duration::ZERO);
    let status = raw::unary(&channel(&upstream), request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(upstream.balancer.snapshot()[0].calls, 0);
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn cancel_at_deadline_is_deadline_exceeded() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let peer = Peer::h2(move |request, mut respond| {
        let tell = tell.clone();
        async move {
            let timeout = shoal_balance::parse_timeout(&request.headers()["grpc-timeout"]).unwrap();
            let mut stream = answer(&mut respond).unwrap();
            let _ = tell.send(());
            tokio::time::sleep(timeout).await;
            let mut trailers = trailers_ok();
            trailers.insert("grpc-status", http::HeaderValue::from_static("1"));
            let _ = stream.send_trailers(trailers);
        }
    });
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    for _ in 0..20 {
        let mut request = Request::new(vec![1]);
        request.set_timeout(Duration::from_millis(30));
        let channel = channel(&upstream);
        let mut call = tokio::spawn(async move { raw::unary(&channel, request).await });
        tokio::select! {
            _ = told.recv() => {}
            // A busy machine: the time was up before the server had the call.
            ended = &mut call => {
                assert_eq!(ended.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
                continue;
            }
        }
        // This thread is busy while the time runs out on both sides: it then finds the server's word and its own timer
        // at once.
        let until = std::time::Instant::now() + Duration::from_millis(60);
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
}

#[tokio::test]
async fn default_deadline_applies() {
    let (peer, mut told) = deaf();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let options =
        ChannelOptions { default_deadline: Some(Duration::from_millis(100)), ..ChannelOptions::default() };
    let channel = Channel::new(upstream.balancer.clone(), options);
    let status = raw::unary(&channel, Request::new(vec![1])).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let head = told.recv().await.unwrap();
    assert!(
        shoal_balance::parse_timeout(&head.headers["grpc-timeout"]).unwrap() <= Duration::from_millis(100)
    );
    assert_eq!(head.headers["te"], "trailers");
    assert!(head.headers["user-agent"].to_str().unwrap().starts_with("shoal/"));
    assert_eq!(head.uri.authority().unwrap().as_str(), peer.address.to_string());
}

#[tokio::test]
async fn missing_endpoint_error_names_reason() {
    let (gone, _) = Peer::tonic(None);
    let address = gone.kill();
    let upstream = Upstream::of(&[address]);
    let options =
        ChannelOptions { unavailable_after: Duration::from_millis(200), ..ChannelOptions::default() };
    let channel = Channel::new(upstream.balancer.clone(), options);
    let started = Instant::now();
    let status = raw::unary(&channel, Request::new(vec![1])).await.unwrap_err();
    let waited = started.elapsed();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("`fish`") && status.message().contains("refused"), "{status}");
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_secs(1), "{waited:?}");
}

#[tokio::test]
async fn early_deadline_error_names_reason() {
    let (gone, _) = Peer::tonic(None);
    let upstream = Upstream::of(&[gone.kill()]);
    let mut request = Request::new(vec![1]);
    request.set_timeout(Duration::from_millis(100));
    let status = raw::unary(&channel(&upstream), request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("`fish`") && status.message().contains("refused"), "{status}");
}

#[tokio::test]
async fn call_waits_for_first_endpoint() {
    let (gone, _) = Peer::tonic(None);
    let address = gone.kill();
    let upstream = Upstream::of(&[address]);
    let mut client = HealthClient::new(channel(&upstream));
    let call = tokio::spawn(async move { client.check(HealthCheckRequest::default()).await });
    let (_peer, _reporter) = Peer::tonic(Some(address));
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn server_error_passes_unchanged() {
    let peer = Peer::h2(|_request, mut respond| async move {
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .header("grpc-message", "no%20such%20fish")
            .header("x-extra", "kept")
            .body(())
            .unwrap();
        respond.send_response(response, true).unwrap();
    });
    let upstream = Upstream::of(&[peer.address]);
    let status = raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such fish"));
    assert_eq!(status.metadata().get("x-extra").unwrap(), "kept");
}

#[tokio::test]
async fn metadata_and_trailers_pass_through() {
    let peer = Peer::h2(|request, mut respond| async move {
        let echoed = request.headers()["x-bait"].clone();
        let mut stream = answer(&mut respond).unwrap();
        stream.send_data(message(b"hi"), false).unwrap();
        let mut trailers = trailers_ok();
        trailers.insert("x-bait", echoed);
        stream.send_trailers(trailers).unwrap();
    });
    let upstream = Upstream::of(&[peer.address]);
    let mut request = Request::new(vec![]);
    request.metadata_mut().insert("x-bait", "worm".parse().unwrap());
    let response = raw::unary(&channel(&upstream), request).await.unwrap();
    assert_eq!(response.get_ref(), b"hi");
    assert_eq!(response.metadata().get("x-bait").unwrap(), "worm");
}

/// Starts a server that resets its first `refusals` calls with `reason` and counts all calls.
fn resetting(refusals: usize, reason: h2::Reason) -> (Peer, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let peer = Peer::h2(move |_request, mut respond| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        async move {
            if nth < refusals {
                return respond.send_reset(reason);
            }
            let mut stream = answer(&mut respond).unwrap();
            stream.send_data(message(b"hi"), false).unwrap();
            stream.send_trailers(trailers_ok()).unwrap();
        }
    });
    (peer, calls)
}

#[tokio::test]
async fn refused_call_is_retried_once() {
    let (peer, calls) = resetting(1, h2::Reason::REFUSED_STREAM);
    let upstream = Upstream::of(&[peer.address]);
    raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);

    let (peer, calls) = resetting(usize::MAX, h2::Reason::REFUSED_STREAM);
    let upstream = Upstream::of(&[peer.address]);
    let status = raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn refused_call_goes_to_another_endpoint() {
    let (refusing, refused) = resetting(usize::MAX, h2::Reason::REFUSED_STREAM);
    let (working, _) = resetting(0, h2::Reason::REFUSED_STREAM);
    let upstream = Upstream::of(&[refusing.address, working.address]);
    upstream.until(refusing.address, Ready).await;
    upstream.until(working.address, Ready).await;
    for _ in 0..50 {
        raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap();
    }
    assert!(refused.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn processed_call_is_not_repeated() {
    for (reason, code) in [
        (h2::Reason::INTERNAL_ERROR, Code::Internal),
        (h2::Reason::CANCEL, Code::Cancelled),
        (h2::Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
    ] {
        let (peer, calls) = resetting(usize::MAX, reason);
        let upstream = Upstream::of(&[peer.address]);
        let status = raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn killed_server_fails_its_calls() {
    let (peer, mut told) = deaf();
    let (other, mut other_told) = deaf();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let channel = channel(&upstream);
    let call = tokio::spawn(async move { raw::unary(&channel, Request::new(vec![1])).await });
    told.recv().await.unwrap();
    let targets = [peer.address, other.address].map(shoal_balance::Target::new);
    upstream.targets.send_replace(Arc::from(targets));
    upstream.until(other.address, Ready).await;
    peer.kill();
    let status = tokio::time::timeout(SOON, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("lost before it answered"), "{status}");
    assert!(other_told.try_recv().is_err());
}

/// Starts a scripted peer that ends its first connection with a call by a GOAWAY naming `last`, and answers calls on later
/// ones.
pub(crate) fn going_away(last: u32) -> (Peer, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let peer = Peer::start(None, move |listener| async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let mut frames = Frames::accept(socket).await?;
                loop {
                    let frame = frames.read().await?;
                    match frame.kind {
                        PING => frames.pong(&frame).await?,
                        HEADERS if frame.stream <= HEALTH_LAST => frames.answer(frame.stream, 12).await?,
                        HEADERS if count.fetch_add(1, Ordering::Relaxed) == 0 => {
                            return frames.goaway(last, 0, b"").await;
                        }
                        HEADERS => frames.answer(frame.stream, 5).await?,
                        _ => {}
                    }
                }
            });
        }
    });
    (peer, calls)
}

#[tokio::test]
async fn call_above_goaway_is_retried() {
    let (peer, calls) = going_away(HEALTH_LAST);
    let upstream = Upstream::of(&[peer.address]);
    let status = raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn call_covered_by_goaway_is_not_retried() {
    let (peer, calls) = going_away(HEALTH_LAST + 2);
    let upstream = Upstream::of(&[peer.address]);
    let status = raw::unary(&channel(&upstream), Request::new(vec![1])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn invalid_request_fails_at_once() {
    let (peer, _reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    let mut request = http::Request::new(tonic::body::Body::empty());
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    let status = tower::Service::call(&mut channel(&upstream), request).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
}
