//! A scripted upstream: an HTTP/2 server whose every stream is answered by a closure, that can be killed and come back.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::caller::{Answer, message};

/// A stream that an upstream was sent.
pub(crate) struct Call {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    /// The number of calls that came to this upstream before this one.
    pub(crate) number: usize,
}

type Handler = Arc<dyn Fn(Call) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A server; killed when dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    builder: h2::server::Builder,
    handler: Handler,
    calls: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<http::request::Parts>>>,
    about_itself: Arc<Mutex<Vec<String>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Upstream {
    pub(crate) async fn start<F, Fut>(handler: F) -> Upstream
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Upstream::with(h2::server::Builder::new(), handler).await
    }

    pub(crate) async fn with<F, Fut>(builder: h2::server::Builder, handler: F) -> Upstream
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let upstream = Upstream {
            address: listener.local_addr().expect("bound"),
            builder,
            handler: Arc::new(move |call| Box::pin(handler(call))),
            calls: Arc::default(),
            heads: Arc::default(),
            about_itself: Arc::default(),
            task: Mutex::default(),
        };
        upstream.serve(listener);
        upstream
    }

    /// Returns how many calls it was sent.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The head of the call of that number.
    pub(crate) fn head(&self, number: usize) -> http::request::Parts {
        self.heads.lock().expect("no panic")[number].clone()
    }

    /// Returns what it was asked about itself: the paths of health and reflection.
    pub(crate) fn asked_about_itself(&self) -> Vec<String> {
        self.about_itself.lock().expect("no panic").clone()
    }

    /// Ends the upstream as kill -9 does: the port is closed and every connection with it.
    pub(crate) async fn kill(&self) {
        let task = self.task.lock().expect("no panic").take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }

    /// Comes back on its port.
    pub(crate) async fn revive(&self) {
        let listener = super::within("the port", async {
            loop {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        self.serve(listener.await);
    }

    fn serve(&self, listener: TcpListener) {
        let (builder, handler) = (self.builder.clone(), self.handler.clone());
        let (calls, heads, about) = (self.calls.clone(), self.heads.clone(), self.about_itself.clone());
        let task = tokio::spawn(async move {
            // Aborting this task drops the set, and with it every connection and call.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connection(
                    stream,
                    builder.clone(),
                    handler.clone(),
                    calls.clone(),
                    heads.clone(),
                    about.clone(),
                );
                connections.spawn(connection);
            }
        });
        *self.task.lock().expect("no panic") = Some(task);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().expect("no panic").take() {
            task.abort();
        }
    }
}

async fn connection(
    stream: TcpStream,
    builder: h2::server::Builder,
    handler: Handler,
    calls: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<http::request::Parts>>>,
    about_itself: Arc<Mutex<Vec<String>>>,
) {
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let Some(Ok((request, mut respond))) = accepted else { break };
        if request.uri().path().starts_with("/grpc.") {
            // No health, no reflection: taken for serving as long as it is connected.
            about_itself.lock().expect("no panic").push(request.uri().path().to_owned());
            end(&mut respond, 12);
            continue;
        }
        let (parts, body) = request.into_parts();
        heads.lock().expect("no panic").push(parts.clone());
        let number = calls.fetch_add(1, Ordering::SeqCst);
        tasks.spawn(handler(Call { request: Request::from_parts(parts, body), respond, number }));
    }
    // A reset may have come in one read with the end. Whoever waits for one is told which of the two it was.
    drop(connection);
    while tasks.join_next().await.is_some() {}
}

/// Answers with nothing but a status.
pub(crate) fn end(respond: &mut SendResponse<Bytes>, code: i32) {
    let _ = respond.send_response(head(&[("grpc-status", &code.to_string())]), true);
}

/// Response headers.
pub(crate) fn head(headers: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::builder().header("content-type", "application/grpc");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).expect("valid")
}

/// Trailers with a code.
pub(crate) fn trailers(code: i32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers
}

impl Call {
    /// Reads the request to its end.
    pub(crate) async fn body(&mut self) -> Result<Vec<u8>, h2::Error> {
        let body = self.request.body_mut();
        let mut data = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            data.extend_from_slice(&chunk);
        }
        Ok(data)
    }

    /// Begins an answer.
    pub(crate) fn begin(&mut self) -> SendStream<Bytes> {
        self.respond.send_response(head(&[]), false).expect("the caller is there")
    }

    /// Answers a unary call with one message.
    pub(crate) async fn answer(mut self, payload: &[u8]) {
        if self.body().await.is_err() {
            return;
        }
        let Ok(mut stream) = self.respond.send_response(head(&[]), false) else { return };
        let _ = stream.send_data(message(payload), false);
        let _ = stream.send_trailers(trailers(0));
    }

    /// Answers with nothing but a status, once it has read everything.
    pub(crate) async fn refuse(mut self, code: i32) {
        let _ = self.body().await;
        end(&mut self.respond, code);
    }
}

/// The configuration of a gateway with these as clones of the session role, whose methods have idempotency levels.
pub(crate) fn as_session(upstreams: &[&Upstream]) -> String {
    let addresses: Vec<String> = upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
    format!("peer.session = '{}'", addresses.join(","))
}

/// A method that is safe to repeat, by our own descriptors.
pub(crate) const SAFE: &str = "/shoal.session.v1.SessionService/GetSession";

/// A method that is not safe to repeat.
pub(crate) const UNSAFE: &str = "/shoal.session.v1.SessionService/CreateSession";

/// Returns what [`Call::answer`] sends.
pub(crate) fn payload(answer: &Answer) -> &[u8] {
    answer.data.get(5..).unwrap_or_default()
}

/// An upstream that answers once it is let.
pub(crate) async fn held() -> (Upstream, watch::Sender<bool>) {
    let (release, released) = watch::channel(false);
    let upstream = Upstream::start(move |call| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            call.answer(b"ok").await;
        }
    })
    .await;
    (upstream, release)
}
