//! Handles used on several threads while the connection runs on another: each wake-up comes, however the two meet.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use shoal_http2::{Config, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::frames::{PREFACE, SETTINGS, frame};
use super::harness::{Flag, State, Wire, request};

/// The longest wait, far more than everything takes: a lost wake-up never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a body in pieces of that size.
async fn send(mut stream: SendStream, len: usize, piece: usize) {
    let mut left = len;
    while left > 0 {
        let now = left.min(piece);
        left -= now;
        stream.send(Bytes::from(vec![7; now]), left == 0).await.expect("not reset");
    }
    if len == 0 {
        stream.finish().expect("not reset");
    }
}

/// Reads a body to its end.
async fn receive(mut body: RecvStream) -> usize {
    let mut len = 0;
    while let Some(data) = body.data().await {
        let data = data.expect("no reset");
        len += data.len();
        body.release(data.len());
    }
    len
}

/// Sends back as much as it is sent, each half in a task of its own.
async fn serve(socket: DuplexStream, config: Config) {
    let mut connection = shoal_http2::handshake(socket, config).await.expect("a handshake");
    while let Some(accepted) = poll_fn(|cx| connection.poll_accept(cx)).await {
        let (request, mut respond) = accepted.expect("a request");
        tokio::spawn(async move {
            let len = request.headers()["x-len"].to_str().expect("text").parse().expect("a number");
            let stream = respond.send_response(&Response::new(()), false).expect("not reset");
            let sending = tokio::spawn(send(stream, len, 700));
            assert_eq!(receive(request.into_body()).await, len);
            sending.await.expect("no panic");
        });
    }
}

/// Has callers make calls with bodies of that length.
async fn calls(config: Config, socket_bytes: usize, callers: usize, each: usize, len: usize) {
    let (near, far) = duplex(socket_bytes);
    let server = tokio::spawn(serve(far, config.clone()));
    let (sender, mut pings, mut connection) = shoal_http2::connect(near, config);
    let (done, mut all_done) = tokio::sync::oneshot::channel::<()>();
    let driver = tokio::spawn(async move {
        let mut retired = false;
        poll_fn(|cx| {
            if !retired && Pin::new(&mut all_done).poll(cx).is_ready() {
                retired = true;
                connection.retire();
            }
            Pin::new(&mut connection).poll(cx)
        })
        .await
    });
    // Then it knows how many streams it may open.
    tokio::time::timeout(PATIENCE, pings.ping()).await.expect("in time").expect("an answer");
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for call in 0..each {
                    let len = (len + caller + call) * usize::from(len > 0);
                    let mut request = request();
                    request.headers_mut().insert("x-len", len.into());
                    let (response, stream) = sender.send_request(&request, false).expect("open");
                    let sending = tokio::spawn(send(stream, len, 1_000));
                    // Answered on one thread, read on another.
                    let response = tokio::spawn(response).await.expect("no panic").expect("an answer");
                    let received = tokio::spawn(receive(response.into_body())).await.expect("no panic");
                    assert_eq!(received, len);
                    sending.await.expect("no panic");
                }
            })
        })
        .collect();
    let all = async {
        for caller in callers {
            caller.await.expect("no panic");
        }
        State::of(&sender).is_clean();
        done.send(()).expect("the connection is there");
        driver.await.expect("no panic").expect("a good end");
        server.await.expect("no panic");
    };
    tokio::time::timeout(PATIENCE, all).await.expect("a wake-up was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn small_calls_lose_no_wake_up() {
    calls(Config::default(), 64 << 10, 8, 400, 0).await;
    // Nothing else makes up for a wake-up that is lost.
    calls(Config::default(), 64 << 10, 1, 1_000, 0).await;
    calls(Config { streams_max: 3, ..Config::default() }, 1_000, 8, 100, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn windowed_bodies_lose_no_wake_up() {
    let tight =
        Config { stream_window: 2_000, connection_window: 1, send_buffer: 1_500, ..Config::default() };
    calls(tight, 900, 8, 40, 20_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cross_thread_resets_leave_nothing_behind() {
    let (near, far) = duplex(5_000);
    tokio::spawn(async move {
        let mut connection = shoal_http2::handshake(far, Config::default()).await.expect("a handshake");
        while let Some(Ok((request, mut respond))) = poll_fn(|cx| connection.poll_accept(cx)).await {
            tokio::spawn(async move {
                let Ok(mut stream) = respond.send_response(&Response::new(()), false) else { return };
                let _request = request;
                while stream.send(Bytes::from_static(&[1; 3_000]), false).await.is_ok() {}
            });
        }
    });
    let (sender, mut pings, connection) = shoal_http2::connect(near, Config::default());
    tokio::spawn(connection);
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for call in 0..200 {
                    let (response, mut stream) = sender.send_request(&request(), false).expect("open");
                    let mut body = response.await.expect("an answer").into_body();
                    body.data().await.expect("data").expect("no reset");
                    if (caller + call) % 2 == 0 {
                        // From another thread, while this one waits.
                        let reset =
                            tokio::spawn(async move { stream.send_reset(shoal_http2::Reason::CANCEL) });
                        while let Some(Ok(data)) = body.data().await {
                            body.release(data.len());
                        }
                        reset.await.expect("no panic");
                    }
                }
            })
        })
        .collect();
    let all = async {
        for caller in callers {
            caller.await.expect("no panic");
        }
        // All that was under way has come when this is answered.
        pings.ping().await.expect("an answer");
    };
    tokio::time::timeout(PATIENCE, all).await.expect("a wake-up was lost");
    let state = State::of(&sender);
    state.is_clean();
    assert_eq!(state.receivable(), 8 << 20);
}

type Meanwhile = Rc<RefCell<Option<Box<dyn FnOnce()>>>>;

/// A socket that has nothing more to be read, and runs a closure while it says so, as if on another thread.
struct Between {
    socket: DuplexStream,
    meanwhile: Meanwhile,
}

impl AsyncRead for Between {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if read.is_pending() {
            let meanwhile = self.meanwhile.borrow_mut().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile();
            }
        }
        read
    }
}

impl AsyncWrite for Between {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[test]
fn request_during_read_is_sent() {
    let (near, far) = duplex(1 << 16);
    let meanwhile = Meanwhile::default();
    let socket = Between { socket: near, meanwhile: meanwhile.clone() };
    let (sender, _pings, mut connection) = shoal_http2::connect(socket, Config::default());
    let mut wire = Wire::new(far);
    wire.bytes(&frame(SETTINGS, 0, 0, &[]));
    let woken = Flag::new();
    let mut run = || {
        while woken.take() {
            let waker = Waker::from(Arc::clone(&woken));
            assert!(pin!(&mut connection).poll(&mut Context::from_waker(&waker)).is_pending());
        }
    };
    run();
    let handles = Rc::new(RefCell::new(None));
    // This one wakes the connection, which then has left no word of whom to wake.
    let _first = sender.send_request(&request(), true).expect("open");
    let kept = handles.clone();
    *meanwhile.borrow_mut() = Some(Box::new(move || {
        *kept.borrow_mut() = Some(sender.send_request(&request(), true).expect("open"));
    }));
    run();
    assert!(handles.borrow().is_some());
    wire.read_bytes(PREFACE.len());
    wire.skip(PREFACE.len());
    let says: Vec<String> = wire.frames().iter().map(ToString::to_string).collect();
    assert!(says.ends_with(&["HEADERS 1 END".to_owned(), "HEADERS 3 END".to_owned()]), "{says:?}");
}
