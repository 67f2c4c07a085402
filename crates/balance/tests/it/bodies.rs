//! Bodies through the channel: large ones, slow ones, and abandoned ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shoal_balance::EndpointState::Ready;
use shoal_balance::{Channel, ChannelOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request};

use crate::peer::{Peer, SOON, Upstream, answer, message, trailers_ok};
use crate::raw;

const MIB: usize = 1024 * 1024;

/// Starts a server that returns every byte it is sent, only as fast as the bytes are taken.
fn echo() -> Peer {
    Peer::h2(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = answer(&mut respond).unwrap();
        while let Some(Ok(mut data)) = body.data().await {
            let length = data.len();
            while !data.is_empty() {
                stream.reserve_capacity(data.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                let _ = stream.send_data(data.split_to(room.min(data.len())), false);
            }
            let _ = body.flow_control().release_capacity(length);
        }
        let _ = stream.send_trailers(trailers_ok());
    })
}

fn channel(upstream: &Upstream) -> Channel {
    Channel::new(upstream.balancer.clone(), ChannelOptions::default())
}

#[tokio::test]
async fn four_mebibyte_message_goes_both_ways() {
    let peer = echo();
    let upstream = Upstream::of(&[peer.address]);
    let sent: Vec<u8> = (0..4 * MIB).map(|n| (n / 7) as u8).collect();
    let back = raw::unary(&channel(&upstream), Request::new(sent.clone())).await.unwrap().into_inner();
    assert!(back == sent);
}

#[tokio::test]
async fn stream_goes_both_ways() {
    let peer = echo();
    let upstream = Upstream::of(&[peer.address]);
    let (send, messages) = mpsc::channel(1);
    let mut back = raw::bidi(&channel(&upstream), ReceiverStream::new(messages)).await.unwrap().into_inner();
    for n in 0..100_u8 {
        send.send(vec![n; 1000]).await.unwrap();
        assert_eq!(timeout(SOON, back.message()).await.unwrap().unwrap().unwrap(), vec![n; 1000]);
    }
    drop(send);
    assert!(timeout(SOON, back.message()).await.unwrap().unwrap().is_none());
    let endpoint = &upstream.balancer.snapshot()[0];
    assert_eq!((endpoint.in_flight, endpoint.calls), (0, 1));
}

#[tokio::test]
async fn large_stream_passes_small_windows() {
    let peer = echo();
    let upstream = Upstream::with(&[peer.address], |options| options.stream_window = 65_535);
    let messages = tokio_stream::iter((0..64_u8).map(|n| vec![n; MIB]));
    let mut back = raw::bidi(&channel(&upstream), messages).await.unwrap().into_inner();
    for n in 0..64_u8 {
        let message = timeout(SOON, back.message()).await.unwrap().unwrap().unwrap();
        assert!(message.len() == MIB && message.iter().all(|byte| *byte == n));
    }
    assert!(timeout(SOON, back.message()).await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn stopped_reader_stops_server() {
    let sent = Arc::new(AtomicUsize::new(0));
    let (count, stalled) = (sent.clone(), Arc::new(Notify::new()));
    let stall = stalled.clone();
    let peer = Peer::h2(move |_request, mut respond| {
        let (count, stall) = (count.clone(), stall.clone());
        async move {
            let mut stream = answer(&mut respond).unwrap();
            loop {
                let piece = message(&[7; 16 * 1024 - 5]);
                stream.reserve_capacity(piece.len());
                while stream.capacity() < piece.len() {
                    let room = std::future::poll_fn(|cx| stream.poll_capacity(cx));
                    match timeout(Duration::from_millis(200), room).await {
                        Ok(Some(Ok(_))) => {}
                        Ok(_) => return,
                        Err(_) => stall.notify_one(),
                    }
                }
                count.fetch_add(piece.len(), Ordering::Relaxed);
                let _ = stream.send_data(piece, false);
            }
        }
    });
    let upstream = Upstream::of(&[peer.address]);
    let mut back = raw::bidi(&channel(&upstream), tokio_stream::empty()).await.unwrap().into_inner();
    back.message().await.unwrap().unwrap();
    timeout(SOON, stalled.notified()).await.unwrap();
    // One stream window, and what the client had taken.
    let first = sent.load(Ordering::Relaxed);
    assert!(first <= MIB + 64 * 1024, "{first} bytes were sent to a reader that had stopped");
    for _ in 0..400 {
        timeout(SOON, back.message()).await.unwrap().unwrap().unwrap();
    }
    assert!(sent.load(Ordering::Relaxed) > 4 * MIB);
}

/// A body that counts the frames taken from it.
fn counted(count: Arc<AtomicUsize>) -> impl Stream<Item = Vec<u8>> + Send + 'static {
    tokio_stream::iter(std::iter::repeat_with(|| vec![1; 64 * 1024])).map(move |message| {
        count.fetch_add(message.len(), Ordering::Relaxed);
        message
    })
}

#[tokio::test]
async fn stopped_server_stops_writer() {
    let peer = Peer::h2(|request, mut respond| async move {
        let _body = request.into_body();
        let _stream = answer(&mut respond).unwrap();
        std::future::pending::<()>().await;
    });
    let upstream = Upstream::with(&[peer.address], |options| options.send_buffer = 256 * 1024);
    let taken = Arc::new(AtomicUsize::new(0));
    let _back = raw::bidi(&channel(&upstream), counted(taken.clone())).await.unwrap();
    let mut last = usize::MAX;
    while last != taken.load(Ordering::Relaxed) {
        last = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The server's window is 64 KiB; above it, tonic and the send buffer hold a few messages.
    assert!(last < 640 * 1024, "{last} bytes were taken for a server that does not read");
}

/// Starts a server that reports how the caller ended each call.
fn witness(headers: bool) -> (Peer, mpsc::UnboundedReceiver<h2::Reason>) {
    let (tell, told) = mpsc::unbounded_channel();
    let peer = Peer::h2(move |_request, mut respond| {
        let tell = tell.clone();
        async move {
            let reason = if headers {
                let mut stream = answer(&mut respond).unwrap();
                let _ = stream.send_data(message(b"first"), false);
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await
            } else {
                std::future::poll_fn(|cx| respond.poll_reset(cx)).await
            };
            let _ = tell.send(reason.unwrap());
        }
    });
    (peer, told)
}

#[tokio::test]
async fn leaving_before_answer_cancels_stream() {
    let (peer, mut told) = witness(false);
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let channel = channel(&upstream);
    let call = tokio::spawn(async move { raw::unary(&channel, Request::new(vec![1])).await });
    while upstream.balancer.snapshot()[0].in_flight == 0 {
        tokio::task::yield_now().await;
    }
    call.abort();
    let left = Instant::now();
    assert_eq!(timeout(SOON, told.recv()).await.unwrap(), Some(h2::Reason::CANCEL));
    assert!(left.elapsed() < Duration::from_millis(500), "{:?}", left.elapsed());
    assert_eq!(upstream.balancer.snapshot()[0].in_flight, 0);
}

#[tokio::test]
async fn leaving_during_answer_cancels_stream() {
    let (peer, mut told) = witness(true);
    let upstream = Upstream::of(&[peer.address]);
    // The request is still open too: its sender has to let go as well.
    let (_send, messages) = mpsc::channel(1);
    let mut back = raw::bidi(&channel(&upstream), ReceiverStream::new(messages)).await.unwrap().into_inner();
    assert_eq!(back.message().await.unwrap().unwrap(), b"first");
    assert_eq!(upstream.balancer.snapshot()[0].in_flight, 1);
    let left = Instant::now();
    drop(back);
    assert_eq!(timeout(SOON, told.recv()).await.unwrap(), Some(h2::Reason::CANCEL));
    assert!(left.elapsed() < Duration::from_millis(500), "{:?}", left.elapsed());
    let endpoint = &upstream.balancer.snapshot()[0];
    assert_eq!((endpoint.in_flight, endpoint.failures), (0, 0));
}

#[tokio::test]
async fn deadline_during_answer_cancels_stream() {
    let (peer, mut told) = witness(true);
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let channel = Channel::new(
        upstream.balancer.clone(),
        ChannelOptions { default_deadline: Some(Duration::from_millis(150)), ..ChannelOptions::default() },
    );
    let mut back = raw::bidi(&channel, tokio_stream::empty()).await.unwrap().into_inner();
    assert_eq!(back.message().await.unwrap().unwrap(), b"first");
    let status = timeout(SOON, back.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    drop(back);
    assert_eq!(timeout(SOON, told.recv()).await.unwrap(), Some(h2::Reason::CANCEL));
}

#[tokio::test]
async fn early_answer_ends_request_stream() {
    let peer = Peer::h2(|_request, mut respond| async move {
        crate::peer::answer_status(&mut respond, Code::PermissionDenied);
    });
    let upstream = Upstream::of(&[peer.address]);
    let (dropped, was_dropped) = oneshot::channel::<()>();
    let messages = counted(Arc::default()).chain(tokio_stream::pending()).map(move |message| {
        let _held = &dropped;
        message
    });
    let status = raw::bidi(&channel(&upstream), messages).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    // The stream's owner is gone: the task that sent from it has ended.
    timeout(SOON, was_dropped).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn empty_request_is_ended() {
    let peer = echo();
    let upstream = Upstream::of(&[peer.address]);
    let mut back = raw::bidi(&channel(&upstream), tokio_stream::empty()).await.unwrap().into_inner();
    assert!(timeout(SOON, back.message()).await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn running_stream_counts_as_stream() {
    let peer = echo();
    let upstream = Upstream::of(&[peer.address]);
    let (send, messages) = mpsc::channel(1);
    let mut back = raw::bidi(&channel(&upstream), ReceiverStream::new(messages)).await.unwrap().into_inner();
    let counts = || {
        let endpoint = &upstream.balancer.snapshot()[0];
        (endpoint.in_flight, endpoint.streams)
    };
    assert_eq!(counts(), (1, 0));
    // Nothing is said on it; whoever waits for it drives its clock.
    let turned = async {
        while counts() != (0, 1) {
            let said = timeout(Duration::from_millis(20), back.message()).await;
            assert!(said.is_err(), "{said:?}");
        }
    };
    timeout(SOON, turned).await.unwrap();
    send.send(vec![1]).await.unwrap();
    assert_eq!(timeout(SOON, back.message()).await.unwrap().unwrap(), Some(vec![1]));
    drop(back);
    assert_eq!(counts(), (0, 0));
}

#[tokio::test]
async fn stream_without_headers_counts_as_stream() {
    let peer = Peer::h2(|request, respond| async move {
        let _held = (request, respond);
        std::future::pending::<()>().await;
    });
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let channel = channel(&upstream);
    let counts = || {
        let endpoint = &upstream.balancer.snapshot()[0];
        (endpoint.in_flight, endpoint.streams)
    };
    let call = raw::bidi(&channel, tokio_stream::pending());
    let turned = async {
        while counts() != (0, 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        turned = timeout(SOON, turned) => turned.unwrap(),
    }
    assert_eq!(counts(), (0, 0));
}
