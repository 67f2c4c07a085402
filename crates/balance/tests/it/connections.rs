//! The ends of connections, and their effect on calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shoal_balance::EndpointState::{Connecting, Ready};
use shoal_balance::Target;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use crate::frames::{Frames, HEADERS, HEALTH_LAST, PING};
use crate::peer::{Peer, SOON, Upstream, answer, answer_status, trailers_ok};

fn request() -> http::Request<()> {
    http::Request::post("http://fish/test.v1.Fish/Swim").body(()).unwrap()
}

/// A server that answers its calls, and sends GOAWAY on its first connection, on command.
struct Leaving {
    peer: Peer,
    leave: Arc<Notify>,
    finish: Arc<Notify>,
    /// Reports each connection that the client has closed.
    closed: mpsc::UnboundedReceiver<()>,
}

fn leaving() -> Leaving {
    let (leave, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (left, finished) = (leave.clone(), finish.clone());
    let (tell, closed) = mpsc::unbounded_channel();
    let peer = Peer::start(None, move |listener| async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (left, finished, tell) = (left.clone(), finished.clone(), tell.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                loop {
                    let accepted = tokio::select! {
                        accepted = connection.accept() => accepted,
                        () = left.notified() => {
                            connection.graceful_shutdown();
                            continue;
                        }
                    };
                    let Some(Ok((request, mut respond))) = accepted else {
                        let _ = tell.send(());
                        return;
                    };
                    if request.uri().path().starts_with("/grpc.health.") {
                        answer_status(&mut respond, tonic::Code::Unimplemented);
                        continue;
                    }
                    let finished = finished.clone();
                    tokio::spawn(async move {
                        let mut stream = answer(&mut respond).unwrap();
                        finished.notified().await;
                        stream.send_data(Bytes::from_static(b"late"), false).unwrap();
                        stream.send_trailers(trailers_ok()).unwrap();
                    });
                }
            });
        }
    });
    Leaving { peer, leave, finish, closed }
}

async fn reads_late(body: &mut shoal_http2::RecvStream) {
    let data = timeout(SOON, body.data()).await.unwrap().unwrap().unwrap();
    assert_eq!(&data[..], b"late");
    assert!(timeout(SOON, body.trailers()).await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn goaway_finishes_old_calls() {
    let Leaving { peer, leave, finish, mut closed } = leaving();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let mut old = upstream.balancer.pick(None, &[]).unwrap();
    let (response, _stream) = old.send(&request(), true).unwrap();
    let mut body = timeout(SOON, response).await.unwrap().unwrap().into_body();

    leave.notify_one();
    upstream.until(peer.address, Connecting).await;
    upstream.until(peer.address, Ready).await;
    let error = old.send(&request(), true).unwrap_err();
    assert!(error.never_sent(), "{error}");
    assert!(error.never_sent());

    let mut new = upstream.balancer.pick(None, &[]).unwrap();
    let (response, _new_stream) = new.send(&request(), true).unwrap();
    let mut new_body = timeout(SOON, response).await.unwrap().unwrap().into_body();
    finish.notify_waiters();
    reads_late(&mut body).await;
    timeout(SOON, closed.recv()).await.unwrap().unwrap();
    reads_late(&mut new_body).await;
}

#[tokio::test]
async fn connection_ageing_is_no_restart() {
    let Leaving { peer, leave, .. } = leaving();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    known_for_80_ms(&upstream).await;
    let left = Instant::now();
    leave.notify_one();
    upstream.until(peer.address, Connecting).await;
    upstream.until(peer.address, Ready).await;
    // Later than this it is a newcomer: a machine that busy shows nothing here.
    if left.elapsed() < Duration::from_millis(200) {
        let endpoint = &upstream.balancer.snapshot()[0];
        assert!(endpoint.ewma > Duration::from_millis(70), "{endpoint:?}");
    }
}

#[tokio::test]
async fn killed_server_returns_as_newcomer() {
    let (peer, _reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    known_for_80_ms(&upstream).await;
    let address = peer.kill();
    upstream.until(address, Connecting).await;
    let (_peer, _reporter) = Peer::tonic(Some(address));
    upstream.until(address, Ready).await;
    let endpoint = &upstream.balancer.snapshot()[0];
    assert!(endpoint.ewma <= Duration::from_millis(30), "{endpoint:?}");
}

/// Lets the only endpoint be known for longer than the slow start.
async fn known_for_80_ms(upstream: &Upstream) {
    let mut pick = upstream.balancer.pick(None, &[]).unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    pick.first_response();
}

#[tokio::test]
async fn lost_connection_is_removed_before_calls_fail() {
    let Leaving { peer, .. } = leaving();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let mut pick = upstream.balancer.pick(None, &[]).unwrap();
    let (response, _stream) = pick.send(&request(), true).unwrap();
    let mut body = timeout(SOON, response).await.unwrap().unwrap().into_body();
    peer.kill();
    timeout(SOON, body.data()).await.unwrap().unwrap().unwrap_err();
    // One thread: nothing has run between the driver and here.
    assert!(upstream.balancer.pick(None, &[]).is_err());
}

#[tokio::test]
async fn removed_target_drains_then_closes() {
    let Leaving { peer, finish, mut closed, .. } = leaving();
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    let mut pick = upstream.balancer.pick(None, &[]).unwrap();
    let (response, stream) = pick.send(&request(), true).unwrap();
    let mut body = timeout(SOON, response).await.unwrap().unwrap().into_body();

    upstream.targets.send_replace([].into());
    let mut changed = upstream.balancer.changed();
    timeout(SOON, changed.wait_for(|_| upstream.balancer.pick(None, &[]).is_err())).await.unwrap().unwrap();
    finish.notify_waiters();
    reads_late(&mut body).await;
    drop((pick, stream, body));
    timeout(SOON, closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn drain_limit_cuts_removed_target() {
    let Leaving { peer, .. } = leaving();
    let upstream = Upstream::with(&[peer.address], |options| options.drain = Duration::from_millis(50));
    upstream.until(peer.address, Ready).await;
    let mut pick = upstream.balancer.pick(None, &[]).unwrap();
    let (response, _stream) = pick.send(&request(), true).unwrap();
    let mut body = timeout(SOON, response).await.unwrap().unwrap().into_body();
    upstream.targets.send_replace(Arc::from([] as [Target; 0]));
    timeout(SOON, body.data()).await.unwrap().unwrap().unwrap_err();
}

#[tokio::test]
async fn mute_peer_is_never_ready() {
    // The kernel accepts for it.
    let peer = Peer::start(None, |listener| async move {
        let _listener = listener;
        std::future::pending::<()>().await;
    });
    let upstream =
        Upstream::with(&[peer.address], |options| options.connect_timeout = Duration::from_millis(50));
    let mut changed = upstream.balancer.changed();
    let said =
        changed.wait_for(|_| upstream.reason(peer.address).contains("no answer to a ping within 50ms"));
    timeout(SOON, said).await.unwrap().unwrap();
    assert!(upstream.balancer.pick(None, &[]).is_err());
}

#[tokio::test]
async fn hanging_up_peer_is_backed_off() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let peer = Peer::start(None, move |listener| async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            drop(socket);
        }
    });
    let upstream = Upstream::of(&[peer.address]);
    let _ = upstream.balancer.pick_wait(None, &[], Instant::now() + Duration::from_millis(500)).await;
    // Twenty, forty, eighty… halved at most by the jitter: six fit.
    let accepted = accepted.load(Ordering::Relaxed);
    assert!((2..=8).contains(&accepted), "{accepted} connections in 500 ms");
}

/// Starts a server that answers the first `answers` pings of each connection, and none after a call. It reports both and
/// answers no call.
fn silent(answers: usize, when_called: bool) -> (Peer, mpsc::UnboundedReceiver<&'static str>) {
    let (tell, told) = mpsc::unbounded_channel();
    let peer = Peer::start(None, move |listener| async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut frames = Frames::accept(socket).await?;
                let (mut pings, mut called) = (0, false);
                loop {
                    let frame = frames.read().await?;
                    match frame.kind {
                        PING => {
                            pings += 1;
                            let _ = tell.send("ping");
                            if pings <= answers && !(called && when_called) {
                                frames.pong(&frame).await?;
                            }
                        }
                        HEADERS if frame.stream <= HEALTH_LAST => frames.answer(frame.stream, 12).await?,
                        HEADERS => {
                            called = true;
                            let _ = tell.send("call");
                        }
                        _ => {}
                    }
                    if false {
                        return std::io::Result::Ok(());
                    }
                }
            });
        }
    });
    (peer, told)
}

fn impatient(options: &mut shoal_balance::Options) {
    options.keepalive_interval = Duration::from_millis(30);
    options.keepalive_timeout = Duration::from_millis(60);
}

#[tokio::test]
async fn pings_detect_silent_peer() {
    let (peer, mut told) = silent(usize::MAX, true);
    let upstream = Upstream::with(&[peer.address], impatient);
    upstream.until(peer.address, Ready).await;
    // It is known not to count pings.
    for _ in 0..8 {
        timeout(SOON, told.recv()).await.unwrap().unwrap();
    }
    let mut pick = upstream.balancer.pick(None, &[]).unwrap();
    let (response, _stream) = pick.send(&request(), true).unwrap();
    let started = Instant::now();
    let error = timeout(SOON, response).await.unwrap().unwrap_err();
    assert!(error.is_io(), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn idle_silent_peer_is_removed() {
    let (peer, _told) = silent(3, false);
    let upstream = Upstream::with(&[peer.address], impatient);
    upstream.until(peer.address, Ready).await;
    let mut changed = upstream.balancer.changed();
    let said = changed.wait_for(|_| upstream.reason(peer.address).contains("no answer to a ping"));
    timeout(SOON, said).await.unwrap().unwrap();
}

#[tokio::test]
async fn running_call_gets_no_third_ping() {
    let (peer, mut told) = silent(usize::MAX, false);
    let upstream = Upstream::with(&[peer.address], impatient);
    upstream.until(peer.address, Ready).await;
    let mut pick = upstream.balancer.pick(None, &[]).unwrap();
    let (_response, _stream) = pick.send(&request(), true).unwrap();
    while told.recv().await != Some("call") {}
    // Time for ten pings.
    let mut pings = 0;
    let count = async {
        while told.recv().await == Some("ping") {
            pings += 1;
        }
    };
    let _ = timeout(Duration::from_millis(300), count).await;
    assert!(pings <= 2, "{pings} pings while a call was in flight");
    assert_eq!(upstream.state(peer.address), Some(Ready));
}

#[tokio::test]
async fn ping_complaint_is_not_repeated() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let complaints = Arc::new(AtomicUsize::new(0));
    let count = complaints.clone();
    // As grpc-go does: the first ping of a connection is free, and the third after it is too many.
    let peer = Peer::start(None, move |listener| async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let mut frames = Frames::accept(socket).await?;
                let mut pings = 0;
                loop {
                    let frame = frames.read().await?;
                    match frame.kind {
                        PING if pings == 3 => {
                            count.fetch_add(1, Ordering::Relaxed);
                            return frames.goaway(HEALTH_LAST, ENHANCE_YOUR_CALM, b"too_many_pings").await;
                        }
                        PING => {
                            pings += 1;
                            frames.pong(&frame).await?;
                        }
                        HEADERS => frames.answer(frame.stream, 12).await?,
                        _ => {}
                    }
                }
            });
        }
    });
    let upstream = Upstream::with(&[peer.address], |options| {
        options.keepalive_interval = Duration::from_millis(30);
    });
    upstream.until(peer.address, Ready).await;
    upstream.until(peer.address, Connecting).await;
    upstream.until(peer.address, Ready).await;
    // Time for twenty pings.
    let mut changed = upstream.balancer.changed();
    let changed = timeout(Duration::from_millis(600), changed.changed()).await;
    assert!(changed.is_err(), "{:?}", upstream.balancer.snapshot());
    assert_eq!(complaints.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn foreign_protocol_is_named() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for (answer, expected) in [
        (&b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"[..], "answered in HTTP/1.1"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "answered in TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "answered in SSH"),
        (b"-ERR unknown command\r\n", "answered `-ERR unknown command`"),
        (b"", "does this port expect TLS?"),
    ] {
        let peer = Peer::start(None, move |listener| async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 24]).await;
                let _ = socket.write_all(answer).await;
                if !answer.is_empty() {
                    // Until the client leaves.
                    let _ = socket.read_to_end(&mut Vec::new()).await;
                } else {
                    let _ = socket.read(&mut [0; 4096]).await;
                }
            }
        });
        let upstream = Upstream::of(&[peer.address]);
        let mut changed = upstream.balancer.changed();
        let named =
            timeout(SOON, changed.wait_for(|_| upstream.reason(peer.address).contains(expected))).await;
        assert!(named.is_ok(), "{expected}: {}", upstream.reason(peer.address));
    }
}
