//! Our side of a connection, and the other side by hand, frame by frame, without a runtime: tasks are polled when they are
//! woken and only then, so that a lost wake-up is a frame that is missing; and a frame that is not sent after that is never
//! sent.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Request, Response};
use shoal_http2::{
    ClientConnection, Config, Error, ListTooLong, Pings, RecvStream, ResponseFuture, SendRequest,
    SendResponse, SendStream, ServerConnection,
};
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf, duplex};

use super::frames::{ACK, END_HEADERS, END_STREAM, Frame, HEADERS, PREFACE, SETTINGS, frame, request_block};

type Future<T> = Pin<Box<dyn std::future::Future<Output = T>>>;

/// The number of polls after which a side that is woken again counts as spinning.
const POLLS_MAX: usize = 100_000;

/// The number of tries to look at a connection's state that is in use each time.
const LOOKS_MAX: usize = 1_000_000;

/// The bytes between the two sides, unless a test wants fewer.
const SOCKET_BYTES: usize = 64 << 20;

/// A waker that notes its wake-up, with a number that tells the order of wake-ups.
#[derive(Debug)]
pub(crate) struct Flag(AtomicU64);

impl Flag {
    pub(crate) fn new() -> Arc<Flag> {
        Arc::new(Flag(AtomicU64::new(Flag::next())))
    }

    fn next() -> u64 {
        static WAKES: AtomicU64 = AtomicU64::new(1);
        WAKES.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn take(&self) -> bool {
        self.0.swap(0, Ordering::SeqCst) != 0
    }

    /// Returns the number of the wake-up, if the task is woken.
    pub(crate) fn since(&self) -> Option<u64> {
        Some(self.0.load(Ordering::SeqCst)).filter(|since| *since != 0)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        let _ = self.0.compare_exchange(0, Flag::next(), Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// A future that is polled only when it was woken.
pub(crate) struct Task<T> {
    future: Future<T>,
    woken: Arc<Flag>,
}

impl<T> Task<T> {
    pub(crate) fn new(future: impl std::future::Future<Output = T> + 'static) -> Task<T> {
        Task { future: Box::pin(future), woken: Flag::new() }
    }

    pub(crate) fn poll(&mut self) -> Poll<T> {
        if !self.woken.take() {
            return Poll::Pending;
        }
        let waker = Waker::from(self.woken.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Returns the number of the wake-up, if the task is woken.
    pub(crate) fn woken_since(&self) -> Option<u64> {
        self.woken.since()
    }

    #[track_caller]
    pub(crate) fn ready(&mut self) -> T {
        match self.poll() {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("not woken, or not ready"),
        }
    }
}

/// Polls a future once, without a waker.
pub(crate) fn once<T>(future: impl std::future::Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Returns the value that is ready already.
#[track_caller]
pub(crate) fn now<T>(future: impl std::future::Future<Output = T>) -> T {
    match once(future) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("not ready"),
    }
}

/// Sends all of `data`, for which there must be room.
#[track_caller]
pub(crate) fn send(stream: &mut SendStream, data: &[u8], end: bool) {
    now(stream.send(Bytes::copy_from_slice(data), end)).expect("a stream that takes it");
}

/// Returns the part of a body that is here. Releases nothing.
#[track_caller]
pub(crate) fn read(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Poll::Ready(Some(data)) = once(body.data()) {
        all.extend_from_slice(&data.expect("no reset"));
    }
    all
}

/// Returns the error with which a body ends.
#[track_caller]
pub(crate) fn failure(body: &mut RecvStream) -> Error {
    loop {
        if let Err(error) = now(body.data()).expect("not an end") {
            return error;
        }
    }
}

/// The other side's end of the socket.
pub(crate) struct Wire {
    socket: Option<DuplexStream>,
    unread: Vec<u8>,
    /// Tells whether our side has ended the connection.
    pub(crate) closed: bool,
}

impl Wire {
    pub(crate) fn new(socket: DuplexStream) -> Wire {
        Wire { socket: Some(socket), unread: Vec::new(), closed: false }
    }

    /// Writes bytes that there must be room for. A side that is gone is noticed by reading.
    #[track_caller]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        assert_eq!(self.offer(bytes), bytes.len(), "the socket is full");
    }

    /// Writes the bytes that there is room for.
    pub(crate) fn offer(&mut self, bytes: &[u8]) -> usize {
        let socket = self.socket.as_mut().expect("not cut");
        let mut written = 0;
        while written < bytes.len() {
            let mut context = Context::from_waker(Waker::noop());
            match Pin::new(&mut *socket).poll_write(&mut context, &bytes[written..]) {
                Poll::Ready(Ok(more)) => written += more,
                Poll::Ready(Err(_)) => return bytes.len(),
                Poll::Pending => break,
            }
        }
        written
    }

    #[track_caller]
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes(&frame(kind, flags, stream, payload));
    }

    #[track_caller]
    pub(crate) fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &payload);
    }

    /// Lets our side send more on a stream, or for 0 on all of them.
    #[track_caller]
    pub(crate) fn window(&mut self, stream: u32, bytes: u32) {
        self.send(super::frames::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    #[track_caller]
    pub(crate) fn reset(&mut self, stream: u32, code: u32) {
        self.send(super::frames::RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    #[track_caller]
    pub(crate) fn goaway(&mut self, last: u32, code: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&code.to_be_bytes());
        self.send(super::frames::GOAWAY, 0, 0, &payload);
    }

    #[track_caller]
    pub(crate) fn data(&mut self, stream: u32, payload: &[u8], end: bool) {
        self.send(super::frames::DATA, if end { END_STREAM } else { 0 }, stream, payload);
    }

    /// Sends DATA of any length, in as many frames as it takes.
    #[track_caller]
    pub(crate) fn much_data(&mut self, stream: u32, len: usize) {
        for part in vec![7; len].chunks(16_384) {
            self.data(stream, part, false);
        }
    }

    #[track_caller]
    pub(crate) fn headers(&mut self, stream: u32, block: &[u8], end: bool) {
        self.send(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, block);
    }

    /// Reads the frames that are there.
    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        self.read_bytes(usize::MAX);
        let mut frames = Vec::new();
        while let Some(frame) = Frame::take(&mut self.unread) {
            frames.push(frame);
        }
        frames
    }

    /// Reads at most so many bytes, for the next `frames`.
    pub(crate) fn read_bytes(&mut self, most: usize) -> usize {
        let Some(socket) = self.socket.as_mut() else { return 0 };
        let mut read = 0;
        while read < most {
            let mut space = vec![0; most.saturating_sub(read).min(1 << 16)];
            let mut buffer = ReadBuf::new(&mut space);
            let mut context = Context::from_waker(Waker::noop());
            match Pin::new(&mut *socket).poll_read(&mut context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    read += buffer.filled().len();
                    self.unread.extend_from_slice(buffer.filled());
                }
                Poll::Ready(_) => {
                    self.closed = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        read
    }

    /// Skips bytes that were read and are no frame.
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.unread.drain(..bytes);
    }

    /// Closes the socket.
    pub(crate) fn cut(&mut self) {
        self.socket = None;
    }
}

/// A request that our server was given.
pub(crate) struct Call {
    pub(crate) head: Request<()>,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse,
}

impl Call {
    /// Begins the response.
    #[track_caller]
    pub(crate) fn answer(&mut self, end: bool) -> SendStream {
        self.respond.send_response(&Response::new(()), end).expect("not over")
    }
}

enum Serving {
    Greeting(Future<Result<ServerConnection<DuplexStream>, Error>>),
    Open(Box<ServerConnection<DuplexStream>>),
    Over,
}

/// Our server; the test is its client.
pub(crate) struct Server {
    pub(crate) wire: Wire,
    serving: Serving,
    woken: Arc<Flag>,
    pub(crate) accepted: VecDeque<Call>,
    /// The result with which the connection ended.
    pub(crate) end: Option<Result<(), Error>>,
}

impl Server {
    /// Makes a server that knows its client's settings, which are the defaults, and whose own settings are acknowledged.
    pub(crate) fn new(config: Config) -> Server {
        let mut server = Server::silent(config, SOCKET_BYTES);
        server.greet();
        server.wire.send(SETTINGS, ACK, 0, &[]);
        server.says();
        server
    }

    /// Makes a server to which nothing was sent yet.
    pub(crate) fn silent(config: Config, socket_bytes: usize) -> Server {
        let (near, far) = duplex(socket_bytes);
        Server {
            wire: Wire::new(far),
            serving: Serving::Greeting(Box::pin(shoal_http2::handshake(near, config))),
            woken: Flag::new(),
            accepted: VecDeque::new(),
            end: None,
        }
    }

    /// Returns the bytes that a client sends first.
    pub(crate) fn greet(&mut self) {
        self.wire.bytes(PREFACE);
        self.wire.settings(&[]);
    }

    /// Polls the connection as long as it is woken.
    pub(crate) fn run(&mut self) {
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "it spins");
            if !self.woken.take() {
                return;
            }
            let waker = Waker::from(self.woken.clone());
            let mut context = Context::from_waker(&waker);
            if let Serving::Greeting(greeting) = &mut self.serving {
                match greeting.as_mut().poll(&mut context) {
                    Poll::Ready(Ok(connection)) => self.serving = Serving::Open(Box::new(connection)),
                    Poll::Ready(Err(error)) => {
                        self.end = Some(Err(error));
                        self.serving = Serving::Over;
                    }
                    Poll::Pending => continue,
                }
            }
            let Serving::Open(connection) = &mut self.serving else { return };
            let end = loop {
                match connection.poll_accept(&mut context) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        let (parts, body) = request.into_parts();
                        self.accepted.push_back(Call { head: Request::from_parts(parts, ()), body, respond });
                    }
                    Poll::Ready(None) => break Some(Ok(())),
                    Poll::Ready(Some(Err(error))) => break Some(Err(error)),
                    Poll::Pending => break None,
                }
            };
            if end.is_some() {
                self.end = end;
                self.serving = Serving::Over;
            }
        }
    }

    /// Polls the connection once, which is open and woken. Returns whether it is woken again.
    pub(crate) fn run_once(&mut self) -> bool {
        assert!(self.woken.take(), "not woken");
        let waker = Waker::from(self.woken.clone());
        let Serving::Open(connection) = &mut self.serving else { panic!("not open") };
        let polled = connection.poll_accept(&mut Context::from_waker(&waker));
        assert!(polled.is_pending(), "a request, or the end");
        self.woken.since().is_some()
    }

    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        self.run();
        self.wire.frames()
    }

    /// Returns what our side has sent since, one line for each frame.
    pub(crate) fn says(&mut self) -> Vec<String> {
        self.frames().iter().map(ToString::to_string).collect()
    }

    /// Sends a request's headers.
    #[track_caller]
    pub(crate) fn open(&mut self, stream: u32, end: bool) {
        self.wire.headers(stream, &request_block(), end);
    }

    /// Takes the next request.
    #[track_caller]
    pub(crate) fn take(&mut self) -> Call {
        self.run();
        self.accepted.pop_front().expect("a request")
    }

    /// Takes a request whose header list is too long, and answers it. Returns the limit that the list is above.
    #[track_caller]
    pub(crate) fn refuse(&mut self) -> String {
        let mut call = self.take();
        let too_long = *call.head.extensions().get::<ListTooLong>().expect("it is too long");
        call.answer(true);
        too_long.to_string()
    }

    /// Sends a request's headers, and takes it.
    #[track_caller]
    pub(crate) fn call(&mut self, stream: u32, end: bool) -> Call {
        self.open(stream, end);
        self.take()
    }

    #[track_caller]
    pub(crate) fn connection(&mut self) -> &mut ServerConnection<DuplexStream> {
        self.run();
        match &mut self.serving {
            Serving::Open(connection) => connection,
            _ => panic!("not open: {:?}", self.end),
        }
    }

    /// Sends a PING.
    pub(crate) fn ping(&mut self) -> Task<Result<(), Error>> {
        let mut pings = self.connection().pings();
        Task::new(async move { pings.ping().await })
    }

    /// Drops the connection.
    pub(crate) fn drop_connection(&mut self) {
        self.serving = Serving::Over;
    }

    /// Returns whether the handshake is done, and the connection is not over.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.serving, Serving::Open(_))
    }

    #[track_caller]
    pub(crate) fn state(&mut self) -> State {
        State::of(self.connection())
    }
}

/// Our client; the test is its server.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) sender: SendRequest,
    pings: Option<Pings>,
    connection: Option<ClientConnection<DuplexStream>>,
    woken: Arc<Flag>,
    /// The result with which the connection ended.
    pub(crate) end: Option<Result<(), Error>>,
}

impl Client {
    /// Makes a client that was sent default settings.
    pub(crate) fn new(config: Config) -> Client {
        Client::told(config, &[])
    }

    /// Makes a client that was sent `settings`.
    pub(crate) fn told(config: Config, settings: &[(u16, u32)]) -> Client {
        let mut client = Client::silent(config, SOCKET_BYTES);
        client.wire.settings(settings);
        client.wire.send(SETTINGS, ACK, 0, &[]);
        client.says();
        client
    }

    /// Makes a client to which nothing was sent yet.
    pub(crate) fn silent(config: Config, socket_bytes: usize) -> Client {
        let (near, far) = duplex(socket_bytes);
        let (sender, pings, connection) = shoal_http2::connect(near, config);
        let (connection, woken) = (Some(connection), Flag::new());
        Client { wire: Wire::new(far), sender, pings: Some(pings), connection, woken, end: None }
    }

    /// Polls the connection as long as it is woken.
    pub(crate) fn run(&mut self) {
        for polls in 0.. {
            assert!(polls < POLLS_MAX, "it spins");
            if !self.woken.take() {
                return;
            }
            self.poll();
        }
    }

    fn poll(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let waker = Waker::from(self.woken.clone());
        let polled = pin!(connection).poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(end) = polled {
            self.end = Some(end);
            self.connection = None;
        }
    }

    /// Polls the tasks and the connection in the order in which they were woken, until none is. Tasks that are done leave.
    pub(crate) fn settle<T>(&mut self, tasks: &mut Vec<Task<T>>) {
        loop {
            let tasks_woken =
                tasks.iter().enumerate().filter_map(|(at, task)| Some((task.woken_since()?, at)));
            match (self.woken.since(), tasks_woken.min()) {
                (Some(since), task) if task.is_none_or(|(other, _)| since < other) => {
                    self.woken.take();
                    self.poll();
                }
                (_, Some((_, at))) => {
                    if tasks[at].poll().is_ready() {
                        tasks.remove(at);
                    }
                }
                (_, None) => return,
            }
        }
    }

    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        self.run();
        self.wire_frames()
    }

    /// Reads the frames that are there. Polls nothing.
    pub(crate) fn wire_frames(&mut self) -> Vec<Frame> {
        self.wire.read_bytes(usize::MAX);
        if self.wire.unread.starts_with(PREFACE) {
            self.wire.unread.drain(..PREFACE.len());
        }
        self.wire.frames()
    }

    /// Returns what our side has sent since, one line for each frame.
    pub(crate) fn says(&mut self) -> Vec<String> {
        self.frames().iter().map(ToString::to_string).collect()
    }

    /// Sends a request.
    #[track_caller]
    pub(crate) fn request(&mut self, end: bool) -> (ResponseFuture, SendStream) {
        self.sender.send_request(&request(), end).expect("taken")
    }

    /// Sends a PING, once.
    pub(crate) fn ping(&mut self) -> Task<Result<(), Error>> {
        let mut pings = self.pings.take().expect("not asked yet");
        Task::new(async move { pings.ping().await })
    }

    /// Answers a request, as the server.
    #[track_caller]
    pub(crate) fn answer(&mut self, stream: u32, end: bool) {
        self.wire.headers(stream, &super::frames::response_block(), end);
        self.run();
    }

    pub(crate) fn retire(&mut self) {
        self.connection.as_mut().expect("open").retire();
        // Whoever holds the connection polls it.
        self.woken.clone().wake();
    }

    pub(crate) fn has_late_resets(&self) -> bool {
        self.connection.as_ref().expect("open").has_late_resets()
    }

    pub(crate) fn send_late_resets(&mut self) {
        self.connection.as_mut().expect("open").send_late_resets();
        // Whoever holds the connection polls it.
        self.woken.clone().wake();
    }

    /// Drops the connection.
    pub(crate) fn drop_connection(&mut self) {
        self.connection = None;
    }

    pub(crate) fn left_by_peer(&self) -> Option<Error> {
        self.connection.as_ref().expect("open").left_by_peer()
    }

    pub(crate) fn state(&mut self) -> State {
        self.run();
        State::of(&self.sender)
    }
}

/// Returns a request that every side takes.
pub(crate) fn request() -> Request<()> {
    Request::post("http://mesh.test/a.B/C").body(()).expect("valid")
}

/// The state of a connection, by its `Debug`.
pub(crate) struct State(String);

impl State {
    #[track_caller]
    pub(crate) fn of(side: &impl Debug) -> State {
        // Another thread may hold it.
        for _ in 0..LOOKS_MAX {
            if let Some((_, inside)) = format!("{side:?}").split_once("Core { ") {
                return State(inside.to_owned());
            }
            std::thread::yield_now();
        }
        panic!("no Core in {side:?}");
    }

    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> i64 {
        let fields = self.0.split(['}', ',']).filter_map(|field| field.trim().split_once(": "));
        let field = fields.into_iter().find(|(field, _)| *field == name);
        let (_, value) = field.unwrap_or_else(|| panic!("no {name} in {}", self.0));
        value.parse().expect("a number")
    }

    /// Returns the bytes that the peer may send, and those that it will be told that it may.
    #[track_caller]
    pub(crate) fn receivable(&self) -> i64 {
        self.number("receive_window") + self.number("released")
    }

    /// Checks that no stream is left, in any of the places where one may be.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        for place in [
            "streams",
            "ids",
            "open",
            "queued",
            "accept",
            "waiting_for_room",
            "waiting_for_share",
            "waiting_for_window",
            "pending_accept_resets",
        ] {
            assert_eq!(self.number(place), 0, "{place} of {}", self.0);
        }
    }
}
