//! Peers that allow few streams: further connections are made, used, and closed again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_balance::EndpointState::{NotServing, Ready};
use shoal_balance::{Crowded, Options, Outcome, Pick, Share};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::peer::{Peer, SOON, Upstream, answer, answer_status, message, trailers_ok};

/// A server that allows few streams per connection and holds every call until it is released.
struct Narrow {
    peer: Peer,
    /// Returns how many calls it holds.
    held: watch::Receiver<usize>,
    /// Returns the number of open connections.
    connections: watch::Receiver<usize>,
    /// Releases one call.
    release: mpsc::UnboundedSender<()>,
    /// Cuts the oldest connection that was not cut.
    cut: Arc<Notify>,
    /// The health methods that were called.
    asked: Arc<Mutex<Vec<String>>>,
}

fn narrow(streams: u32) -> Narrow {
    let (holds, held) = watch::channel(0);
    let (opened, connections) = watch::channel(0);
    let (release, released) = mpsc::unbounded_channel();
    let released = Arc::new(tokio::sync::Mutex::new(released));
    let (cut, asked) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (cutting, asking) = (cut.clone(), asked.clone());
    let holds = Arc::new(holds);
    let opened = Arc::new(opened);
    let peer = Peer::start(None, move |listener| async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (holds, opened, released) = (holds.clone(), opened.clone(), released.clone());
            let (cutting, asking) = (cutting.clone(), asking.clone());
            tokio::spawn(async move {
                opened.send_modify(|open| *open += 1);
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(streams);
                let mut connection = builder.handshake::<_, bytes::Bytes>(socket).await.unwrap();
                let serve = async {
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        if request.uri().path().starts_with("/grpc.health.") {
                            asking.lock().unwrap().push(request.uri().path().to_owned());
                            let mut stream = answer(&mut respond).unwrap();
                            stream.send_data(message(&[8, 1]), false).unwrap();
                            stream.send_trailers(trailers_ok()).unwrap();
                            continue;
                        }
                        let (holds, released) = (holds.clone(), released.clone());
                        tokio::spawn(async move {
                            holds.send_modify(|held| *held += 1);
                            released.lock().await.recv().await;
                            holds.send_modify(|held| *held -= 1);
                            answer_status(&mut respond, tonic::Code::Ok);
                        });
                    }
                };
                tokio::select! { () = serve => {}, () = cutting.notified() => {} }
                opened.send_modify(|open| *open -= 1);
            });
        }
    });
    Narrow { peer, held, connections, release, cut, asked }
}

impl Narrow {
    async fn upstream(&self, change: impl FnOnce(&mut Options)) -> Upstream {
        let upstream = Upstream::with(&[self.peer.address], change);
        upstream.until(self.peer.address, Ready).await;
        upstream
    }

    async fn holds(&mut self, calls: usize) {
        let held = timeout(SOON, self.held.wait_for(|held| *held == calls)).await.is_ok();
        assert!(held, "{} calls arrived, not {calls}", *self.held.borrow());
    }

    async fn has_connections(&mut self, connections: usize) {
        let reached = timeout(SOON, self.connections.wait_for(|open| *open == connections)).await.is_ok();
        assert!(reached, "{} connections, not {connections}", *self.connections.borrow());
    }
}

/// A running call.
struct Call {
    response: shoal_http2::ResponseFuture,
    pick: Pick,
}

async fn call(upstream: &Upstream) -> Call {
    let mut pick = upstream.balancer.pick_wait(None, &[], Instant::now() + SOON).await.unwrap();
    let request = http::Request::post("http://fish/test.v1.Fish/Swim").body(()).unwrap();
    let (response, _) = pick.send(&request, true).unwrap();
    Call { response, pick }
}

#[tokio::test]
async fn calls_past_limit_use_more_connections() {
    let mut narrow = narrow(2);
    let upstream = narrow.upstream(|_| {}).await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(call(&upstream).await);
    }
    narrow.holds(6).await;
    assert!((3..=6).contains(&upstream.balancer.snapshot()[0].connections));
    for call in calls {
        narrow.release.send(()).unwrap();
        drop(call);
    }
}

#[tokio::test]
async fn second_connection_comes_before_first_fills() {
    let mut narrow = narrow(10);
    let upstream = narrow.upstream(|_| {}).await;
    let mut calls = Vec::new();
    for _ in 0..7 {
        calls.push(call(&upstream).await);
    }
    narrow.holds(7).await;
    assert_eq!(*narrow.connections.borrow(), 1, "seven of ten are no reason");
    calls.push(call(&upstream).await);
    narrow.has_connections(2).await;
}

#[tokio::test]
async fn connection_limit_makes_calls_wait() {
    let mut narrow = narrow(1);
    let upstream = narrow.upstream(|options| options.connections_max = 2).await;
    let calls = futures::future::join_all((0..4).map(|_| async {
        let call = call(&upstream).await;
        timeout(SOON, call.response).await.expect("its turn comes").unwrap();
    }));
    let script = async {
        narrow.holds(2).await;
        assert_eq!(upstream.balancer.snapshot()[0].connections, 2);
        assert_eq!(upstream.balancer.snapshot()[0].in_flight, 2, "the others wait, and are nobody's");
        for _ in 0..4 {
            narrow.release.send(()).unwrap();
        }
    };
    tokio::join!(calls, script);
    assert_eq!(*narrow.connections.borrow(), 2);
}

#[tokio::test]
async fn stream_wait_error_names_limit() {
    let mut narrow = narrow(2);
    let upstream = narrow.upstream(|options| options.connections_max = 1).await;
    let _calls = [call(&upstream).await, call(&upstream).await];
    narrow.holds(2).await;
    let share = Share::new(1);
    let refused =
        upstream.balancer.pick_wait(Some(&share), &[], Instant::now() + Duration::from_millis(50)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.crowded, Some(Crowded { allowed: 2, held: 0, too_many_wait: false }));
    assert!(refused.to_string().contains("allow 2 calls at once"), "{refused}");
}

#[tokio::test]
async fn greedy_share_leaves_some_streams() {
    let mut narrow = narrow(10);
    let upstream = narrow.upstream(|options| options.health_service = None).await;
    let (greedy, other) = (Share::new(1), Share::new(1));
    let picked = |share: &Arc<Share>, patience| {
        let (balancer, share) = (upstream.balancer.clone(), share.clone());
        async move { balancer.pick_wait(Some(&share), &[], Instant::now() + patience).await }
    };
    let mut held = Vec::new();
    let refused = loop {
        match picked(&greedy, Duration::from_millis(100)).await {
            Ok(pick) => held.push(pick),
            Err(refused) => break refused.crowded.expect("streams are missing"),
        }
    };
    assert_eq!((held.len(), refused.allowed, refused.held), (64, 80, 64));
    // The others wait for nothing, and the greedy one for its own.
    let others: Vec<Pick> = futures::future::join_all((0..10).map(|_| picked(&other, SOON)))
        .await
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(others.len(), 10);
    let (again, ()) = tokio::join!(picked(&greedy, SOON), async {
        tokio::task::yield_now().await;
        drop(others);
        held.pop();
    });
    again.expect("its turn");
    narrow.has_connections(8).await;
}

#[tokio::test]
async fn unsent_calls_do_not_count_as_failures() {
    let mut narrow = narrow(1);
    let upstream = narrow
        .upstream(|options| {
            options.connections_max = 1;
            options.health_service = None;
        })
        .await;
    let mut holding = call(&upstream).await;
    narrow.holds(1).await;
    // Longer than a hurry.
    let deadline = Instant::now() + Duration::from_millis(110);
    let waiting =
        futures::future::join_all((0..6).map(|_| upstream.balancer.pick_wait(None, &[], deadline))).await;
    assert!(waiting.iter().all(Result::is_err));
    assert_eq!(upstream.balancer.snapshot()[0].failures, 0);
    holding.pick.outcome(Outcome::TimedOut);
    assert_eq!(upstream.balancer.snapshot()[0].failures, 1, "that one had it");
}

#[tokio::test]
async fn idle_extra_connection_is_closed() {
    let mut narrow = narrow(1);
    let upstream = narrow.upstream(|options| options.connection_idle = Duration::from_millis(50)).await;
    let calls = [call(&upstream).await, call(&upstream).await];
    narrow.holds(2).await;
    for call in calls {
        narrow.release.send(()).unwrap();
        timeout(SOON, call.response).await.unwrap().unwrap();
    }
    narrow.has_connections(1).await;
    assert_eq!(upstream.state(narrow.peer.address), Some(Ready));
    let last = call(&upstream).await;
    narrow.release.send(()).unwrap();
    timeout(SOON, last.response).await.unwrap().unwrap();
}

#[tokio::test]
async fn losing_one_connection_keeps_endpoint() {
    let mut narrow = narrow(1);
    let upstream = narrow.upstream(|_| {}).await;
    let _calls = [call(&upstream).await, call(&upstream).await];
    narrow.holds(2).await;
    let mut changed = upstream.balancer.changed();
    narrow.cut.notify_one();
    let lost = changed.wait_for(|_| {
        let endpoint = &upstream.balancer.snapshot()[0];
        assert_eq!(endpoint.state, Ready);
        endpoint.connections < 3 && *narrow.connections.borrow() < 3
    });
    timeout(SOON, lost).await.unwrap().unwrap();
    let _third = call(&upstream).await;
    assert_eq!(upstream.state(narrow.peer.address), Some(Ready));
}

#[tokio::test]
async fn peer_with_few_streams_is_checked() {
    let narrow = narrow(1);
    let _upstream = narrow.upstream(|_| {}).await;
    assert_eq!(*narrow.asked.lock().unwrap(), ["/grpc.health.v1.Health/Check"]);
}

#[tokio::test]
async fn peer_with_many_streams_is_watched() {
    let narrow = narrow(10);
    let _upstream = narrow.upstream(|_| {}).await;
    assert_eq!(narrow.asked.lock().unwrap()[0], "/grpc.health.v1.Health/Watch");
}

#[tokio::test]
async fn full_endpoint_stays_ready() {
    let mut narrow = narrow(1);
    let upstream = narrow
        .upstream(|options| {
            options.connections_max = 1;
            options.health_interval = Duration::from_millis(5);
            options.health_timeout = Duration::from_millis(5);
        })
        .await;
    // A check may be under way when the call is made, and then fail: that is over in a moment.
    let _call = call(&upstream).await;
    narrow.holds(1).await;
    let mut changed = upstream.balancer.changed();
    let ill = changed.wait_for(|_| upstream.state(narrow.peer.address) == Some(NotServing));
    // Time for forty checks.
    assert!(timeout(Duration::from_millis(200), ill).await.is_err());
}

#[tokio::test]
async fn freed_stream_wakes_one_waiter() {
    // Its further connections come to nothing.
    let peer = Peer::start(None, |listener| async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        let mut connection = builder.handshake::<_, bytes::Bytes>(socket).await.unwrap();
        while connection.accept().await.is_some() {}
    });
    let upstream = Upstream::with(&[peer.address], |options| {
        options.health_service = None;
        options.connect_timeout = 6 * SOON;
    });
    upstream.until(peer.address, Ready).await;
    let first = upstream.balancer.pick_wait(None, &[], Instant::now() + SOON).await.unwrap();
    let mut changed = upstream.balancer.changed();
    let mut second = std::pin::pin!(upstream.balancer.pick_wait(None, &[], Instant::now() + 6 * SOON));
    assert!(timeout(Duration::from_millis(50), &mut second).await.is_err(), "there is room");
    changed.mark_unchanged();
    drop(first);
    let second = timeout(SOON, second).await.unwrap().unwrap();
    assert_eq!(second.address(), peer.address);
    assert!(!changed.has_changed().unwrap());
}

#[tokio::test]
async fn unread_bodies_open_another_connection() {
    let peer = Peer::h2(|request, mut respond| async move {
        if request.uri().path().ends_with("Stall") {
            return std::future::pending().await;
        }
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
        }
        answer_status(&mut respond, tonic::Code::Ok);
    });
    let upstream = Upstream::with(&[peer.address], |options| options.health_service = None);
    upstream.until(peer.address, Ready).await;
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut pick = upstream.balancer.pick_wait(None, &[], Instant::now() + SOON).await.unwrap();
        let request = http::Request::post("http://fish/test.v1.Fish/Stall").body(()).unwrap();
        let (response, mut stream) = pick.send(&request, false).unwrap();
        let upload = async move { stream.send(bytes::Bytes::from(vec![7; 1 << 20]), true).await };
        stalled.push((AbortOnDropHandle::new(tokio::spawn(upload)), response, pick));
    }
    let mut changed = upstream.balancer.changed();
    let grown = changed.wait_for(|_| upstream.balancer.snapshot()[0].connections == 2);
    timeout(SOON, grown).await.expect("another connection").unwrap();
    // More than the first connection has room for.
    let mut pick = upstream.balancer.pick_wait(None, &[], Instant::now() + SOON).await.unwrap();
    let request = http::Request::post("http://fish/test.v1.Fish/Swim").body(()).unwrap();
    let (response, mut stream) = pick.send(&request, false).unwrap();
    timeout(SOON, stream.send(bytes::Bytes::from(vec![7; 60 << 10]), true)).await.expect("room").unwrap();
    timeout(SOON, response).await.expect("an answer").unwrap();
}

#[tokio::test]
async fn zero_stream_peer_is_not_redialled() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let peer = Peer::start(None, move |listener| async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(0);
                let mut connection = builder.handshake::<_, bytes::Bytes>(socket).await.unwrap();
                while connection.accept().await.is_some() {}
            });
        }
    });
    let upstream = Upstream::with(&[peer.address], |options| options.health_service = None);
    upstream.until(peer.address, Ready).await;
    for _ in 0..20 {
        assert!(upstream.balancer.pick(None, &[]).is_err());
    }
    let refused = upstream.balancer.pick_wait(None, &[], Instant::now() + Duration::from_millis(100)).await;
    assert_eq!(refused.unwrap_err().crowded.map(|crowded| crowded.allowed), Some(0));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
