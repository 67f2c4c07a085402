//! Many random calls on one connection, with our code at both ends or h2 at one: bodies, pauses, resets and dropped handles,
//! behind windows, buffers and sockets of any size. What should arrive arrives whole, nothing hangs, and at the end each
//! side is as it was at its beginning.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use shoal_http2::{Config, Reason, RecvStream, SendRequest, SendResponse, SendStream};
use tokio::io::duplex;

use super::executor::{Executor, Spawner, pause};
use super::harness::State;

/// The plan of one half of a call.
#[derive(Clone, Debug)]
struct Half {
    len: usize,
    chunk: usize,
    trailers: bool,
    /// Breaks the half off after so many bytes.
    cut: Option<usize>,
    /// Breaks off by a reset, not by a dropped handle.
    resets: bool,
    pause: u32,
}

/// A call: what each side sends, and how much it reads before it loses interest.
#[derive(Clone, Debug)]
struct Plan {
    number: usize,
    request: Half,
    response: Half,
    /// Makes the server answer before it reads.
    early: bool,
    /// Limits how much a side reads; the rest is dropped.
    read_by_client: Option<usize>,
    read_by_server: Option<usize>,
}

impl Half {
    fn random(rng: &mut Rng, cuts: bool) -> Half {
        let len = match rng.u8(0..4) {
            0 => 0,
            1 => rng.usize(0..100),
            2 => rng.usize(0..5_000),
            _ => rng.usize(0..60_000),
        };
        let cut = (cuts && rng.u8(0..6) == 0).then(|| rng.usize(0..=len));
        let (chunk, pause) = (1 + rng.usize(0..20_000), rng.u32(0..4));
        Half { len, chunk, trailers: rng.bool(), cut, resets: rng.bool(), pause }
    }

    fn bytes(&self, number: usize) -> Vec<u8> {
        (0..self.len).map(|at| (at * 7 + number) as u8).collect()
    }
}

impl Plan {
    fn random(rng: &mut Rng, number: usize, cuts: bool) -> Plan {
        let request = Half::random(rng, cuts);
        let response = Half::random(rng, cuts);
        let mut loses_interest = |len: usize| (cuts && rng.u8(0..8) == 0).then(|| rng.usize(0..=len));
        let (read_by_client, read_by_server) = (loses_interest(response.len), loses_interest(request.len));
        Plan { number, request, response, early: rng.bool(), read_by_client, read_by_server }
    }

    /// Returns whether all of the call is to arrive, at both ends.
    fn is_whole(&self) -> bool {
        let cuts = [self.request.cut, self.response.cut, self.read_by_client, self.read_by_server];
        cuts.iter().all(Option::is_none)
    }

    fn head(&self) -> Request<()> {
        let request = Request::post("http://mesh.test/a.B/C").header("x-call", self.number);
        request.body(()).expect("valid")
    }
}

fn number_of(headers: &HeaderMap) -> usize {
    headers["x-call"].to_str().expect("text").parse().expect("a number")
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-end"), HeaderValue::from_static("1"))])
}

/// The bodies that arrived at each end.
#[derive(Default)]
struct Arrived {
    requests: Vec<Option<Whole>>,
    responses: Vec<Option<Whole>>,
}

/// A body that arrived to its end, and whether trailers did.
type Whole = (Vec<u8>, bool);

struct World {
    plans: Vec<Plan>,
    arrived: RefCell<Arrived>,
}

impl World {
    fn new(rng: &mut Rng, calls: usize, cuts: bool) -> Rc<World> {
        let plans: Vec<_> = (0..calls).map(|number| Plan::random(rng, number, cuts)).collect();
        let arrived = Arrived { requests: vec![None; calls], responses: vec![None; calls] };
        Rc::new(World { plans, arrived: RefCell::new(arrived) })
    }

    /// Checks that calls that nobody broke off arrived whole at both ends. Of the others, a body that arrived to its end
    /// must be the one that was sent.
    fn check(&self, refused: bool) {
        let arrived = self.arrived.borrow();
        for plan in &self.plans {
            let halves = [
                ("request", &plan.request, &arrived.requests[plan.number]),
                ("response", &plan.response, &arrived.responses[plan.number]),
            ];
            for (which, half, whole) in halves {
                match whole {
                    Some((bytes, trailers)) => {
                        assert!(
                            *bytes == half.bytes(plan.number),
                            "a {which} is not what was sent: {plan:?}"
                        );
                        assert_eq!(*trailers, half.trailers, "{which} {plan:?}");
                    }
                    None => assert!(refused || !plan.is_whole(), "a {which} has not arrived: {plan:?}"),
                }
            }
        }
    }
}

/// Sends a body as planned. Returns whether it was sent to its end.
async fn send_half(mut stream: SendStream, half: Half, number: usize) -> bool {
    let bytes = half.bytes(number);
    let until = half.cut.unwrap_or(bytes.len());
    let mut chunks = bytes[..until].chunks(half.chunk).peekable();
    while let Some(chunk) = chunks.next() {
        pause(half.pause).await;
        let end = chunks.peek().is_none() && half.cut.is_none() && !half.trailers;
        if stream.send(Bytes::copy_from_slice(chunk), end).await.is_err() {
            return false;
        }
    }
    pause(half.pause).await;
    if half.cut.is_some() {
        if half.resets {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        return false;
    }
    if half.trailers {
        return stream.send_trailers(trailers()).is_ok();
    }
    until > 0 || stream.finish().is_ok()
}

/// Reads a body. Returns none if it did not come to its end.
async fn read_half(mut body: RecvStream, until: Option<usize>, pauses: u32) -> Option<Whole> {
    let mut all = Vec::new();
    while until.is_none_or(|until| all.len() < until) {
        pause(pauses).await;
        match body.data().await {
            Some(data) => {
                let data = data.ok()?;
                all.extend_from_slice(&data);
                body.release(data.len());
            }
            None => {
                let trailers = body.trailers().await.ok()?;
                return Some((all, trailers.is_some()));
            }
        }
    }
    None
}

async fn ask(world: Rc<World>, plan: Plan, sender: SendRequest, spawner: Spawner) {
    pause(plan.request.pause * 3).await;
    let Ok((response, send)) = sender.send_request(&plan.head(), false) else { return };
    let half = plan.request.clone();
    let number = plan.number;
    if half.cut.is_some() && !half.resets {
        // Both handles are dropped, and with them the call.
        send_half(send, half, number).await;
        return;
    }
    spawner.spawn(format!("request {number}"), async move {
        send_half(send, half, number).await;
    });
    if let Ok(response) = response.await {
        let whole = read_half(response.into_body(), plan.read_by_client, plan.response.pause).await;
        world.arrived.borrow_mut().responses[number] = whole;
    }
}

async fn answer(world: Rc<World>, request: Request<RecvStream>, mut respond: SendResponse, spawner: Spawner) {
    let number = number_of(request.headers());
    let plan = world.plans[number].clone();
    let body = request.into_body();
    let reading = async move {
        let whole = read_half(body, plan.read_by_server, plan.request.pause).await;
        world.arrived.borrow_mut().requests[number] = whole;
    };
    if plan.early {
        spawner.spawn(format!("reading {number}"), reading);
    } else {
        reading.await;
    }
    pause(plan.response.pause).await;
    if let Ok(send) = respond.send_response(&Response::new(()), false) {
        send_half(send, plan.response, number).await;
    }
}

/// Limits that are small enough to be reached.
fn config(rng: &mut Rng) -> Config {
    Config {
        stream_window: 1 + rng.u32(0..70_000),
        connection_window: rng.u32(0..200_000),
        streams_max: 1 + rng.u32(0..40),
        send_buffer: 1 + rng.usize(0..30_000),
        leaves_window: rng.bool(),
        ..Config::default()
    }
}

/// Serves with our code, and keeps the connection where the end of the test can look at it.
fn serve(
    socket: tokio::io::DuplexStream,
    config: Config,
    world: &Rc<World>,
    spawner: &Spawner,
) -> Rc<RefCell<Option<shoal_http2::ServerConnection<tokio::io::DuplexStream>>>> {
    let kept = Rc::new(RefCell::new(None));
    let (keep, world, calls) = (kept.clone(), world.clone(), spawner.clone());
    spawner.background("server", async move {
        let connection = shoal_http2::handshake(socket, config).await.expect("a handshake");
        *keep.borrow_mut() = Some(connection);
        loop {
            let accept =
                |cx: &mut std::task::Context<'_>| keep.borrow_mut().as_mut().expect("kept").poll_accept(cx);
            let Some(accepted) = poll_fn(accept).await else { return };
            let (request, respond) = accepted.expect("a request");
            let call = answer(world.clone(), request, respond, calls.clone());
            calls.spawn("answer".to_owned(), call);
        }
    });
    kept
}

/// Returns the bytes that may be received at the beginning.
fn receivable(config: &Config) -> i64 {
    i64::from(config.connection_window.max(65_535))
}

fn ours_to_ours(seed: u64, cuts: bool) {
    let mut rng = Rng::with_seed(seed);
    let mut executor = Executor::new(seed);
    let spawner = executor.spawner();
    let world = World::new(&mut rng, 40, cuts);
    let (near, far) = duplex(16 + rng.usize(0..5_000));
    let (of_client, of_server) = (config(&mut rng), config(&mut rng));
    let server = serve(far, of_server.clone(), &world, &spawner);
    let (sender, _pings, connection) = shoal_http2::connect(near, of_client.clone());
    spawner.background("client", async move { connection.await.expect("a good end") });
    for plan in world.plans.clone() {
        let name = format!("call {}", plan.number);
        spawner.spawn(name, ask(world.clone(), plan, sender.clone(), spawner.clone()));
    }
    executor.run(|| format!("{sender:?}\n{:?}", server.borrow()));
    // Before it knew the server's limit the client may have opened more.
    world.check(of_server.streams_max < 40);

    let client = State::of(&sender);
    let server = State::of(server.borrow().as_ref().expect("kept"));
    client.is_clean();
    server.is_clean();
    assert_eq!(client.receivable(), receivable(&of_client));
    assert_eq!(server.receivable(), receivable(&of_server));
    assert_eq!(client.number("send_window"), server.number("receive_window"));
    assert_eq!(server.number("send_window"), client.number("receive_window"));
    assert_eq!((client.number("stream_errors"), server.number("stream_errors")), (0, 0));
}

/// Prints the seed of a panic.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn each_seed(seeds: std::ops::Range<u64>, run: impl Fn(u64)) {
    for seed in seeds {
        let shown = Seed(seed);
        run(seed);
        drop(shown);
    }
}

#[test]
fn uninterrupted_calls_arrive_whole() {
    each_seed(0..30, |seed| ours_to_ours(seed, false));
}

#[test]
fn interrupted_calls_leave_nothing_behind() {
    each_seed(1_000..1_040, |seed| ours_to_ours(seed, true));
}

/// A window, and the size to which it is changed on the way. It only grows: h2 takes a smaller one back without giving what
/// was read before, and then waits for ever. `window.rs` has windows that shrink.
fn growing(rng: &mut Rng) -> (u32, Vec<u32>) {
    let first = 1 + rng.u32(0..70_000);
    let grow = |window: &mut u32, more: u32| {
        *window += more;
        Some(*window)
    };
    let steps: Vec<u32> = (0..rng.usize(0..5)).map(|_| rng.u32(1..30_000)).collect();
    (first, steps.into_iter().scan(first, grow).collect())
}

/// Reads a body that h2 has received.
async fn read_foreign(mut body: h2::RecvStream, until: Option<usize>, pauses: u32) -> Option<Whole> {
    let mut all = Vec::new();
    while until.is_none_or(|until| all.len() < until) {
        pause(pauses).await;
        match body.data().await {
            Some(data) => {
                let data = data.ok()?;
                all.extend_from_slice(&data);
                let _ = body.flow_control().release_capacity(data.len());
            }
            None => {
                let trailers = body.trailers().await.ok()?;
                return Some((all, trailers.is_some()));
            }
        }
    }
    None
}

/// Sends a body with h2, which buffers it.
async fn send_foreign(mut stream: h2::SendStream<Bytes>, half: Half, number: usize) {
    let bytes = half.bytes(number);
    let until = half.cut.unwrap_or(bytes.len());
    for chunk in bytes[..until].chunks(half.chunk) {
        pause(half.pause).await;
        if stream.send_data(Bytes::copy_from_slice(chunk), false).is_err() {
            return;
        }
    }
    pause(half.pause).await;
    if half.cut.is_some() {
        if half.resets {
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    } else if half.trailers {
        let _ = stream.send_trailers(trailers());
    } else {
        let _ = stream.send_data(Bytes::new(), true);
    }
}

fn foreign_to_ours(seed: u64, cuts: bool) {
    let mut rng = Rng::with_seed(seed);
    let mut executor = Executor::new(seed);
    let spawner = executor.spawner();
    let world = World::new(&mut rng, 30, cuts);
    let (near, far) = duplex(16 + rng.usize(0..5_000));
    let of_server = config(&mut rng);
    let server = serve(far, of_server.clone(), &world, &spawner);
    let (window, changes) = growing(&mut rng);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(65_535 + rng.u32(0..100_000))
        .max_concurrent_reset_streams(1_000)
        .data_frame_budget(1 << 30)
        .enable_push(false);
    let (others, to_come, world_of_calls) = (spawner.clone(), world.plans.clone(), world.clone());
    let background = spawner.clone();
    spawner.spawn("calls".to_owned(), async move {
        let (sender, mut connection) = builder.handshake::<_, Bytes>(near).await.expect("a handshake");
        let mut changes = changes.into_iter();
        // As long as it may ask, the connection stays.
        let asking = sender.clone();
        background.background("client", async move {
            let _asking = asking;
            poll_fn(|cx| {
                // One at a time may be under way.
                if let Some(window) = changes.next() {
                    let _ = connection.set_initial_window_size(window);
                }
                Pin::new(&mut connection).poll(cx)
            })
            .await
            .expect("a good end");
        });
        for plan in to_come {
            let (world, mut sender, spawner) = (world_of_calls.clone(), sender.clone(), others.clone());
            others.spawn(format!("call {}", plan.number), async move {
                pause(plan.request.pause * 3).await;
                poll_fn(|cx| sender.poll_ready(cx)).await.expect("an open connection");
                let (response, send) = sender.send_request(plan.head(), false).expect("open");
                let (half, number) = (plan.request.clone(), plan.number);
                if half.cut.is_some() && !half.resets {
                    return send_foreign(send, half, number).await;
                }
                spawner.spawn(format!("request {number}"), send_foreign(send, half, number));
                if let Ok(response) = response.await {
                    let body = response.into_body();
                    let whole = read_foreign(body, plan.read_by_client, plan.response.pause).await;
                    world.arrived.borrow_mut().responses[number] = whole;
                }
            });
        }
    });
    executor.run(|| format!("{:?}", server.borrow()));
    world.check(of_server.streams_max < 30);
    let state = State::of(server.borrow().as_ref().expect("kept"));
    state.is_clean();
    assert_eq!(state.receivable(), receivable(&of_server));
}

#[test]
fn foreign_client_calls_arrive_whole() {
    each_seed(2_000..2_015, |seed| foreign_to_ours(seed, false));
}

#[test]
fn interrupted_foreign_clients_leave_nothing_behind() {
    each_seed(3_000..3_015, |seed| foreign_to_ours(seed, true));
}

fn ours_to_foreign(seed: u64, cuts: bool) {
    let mut rng = Rng::with_seed(seed);
    let mut executor = Executor::new(seed);
    let spawner = executor.spawner();
    let mut world = World::new(&mut rng, 30, cuts);
    if cuts {
        // h2 counts a stream until its own reset of it is written, may refuse one for that, and takes trailers on a stream
        // it has refused for the end of all.
        let plans = &mut Rc::get_mut(&mut world).expect("nobody else has it").plans;
        plans.iter_mut().for_each(|plan| plan.request.trailers = false);
    }
    let (near, far) = duplex(16 + rng.usize(0..5_000));
    let of_client = config(&mut rng);
    let streams_max = 1 + rng.u32(0..40);
    let (window, changes) = growing(&mut rng);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(65_535 + rng.u32(0..100_000))
        .max_concurrent_streams(streams_max)
        .max_concurrent_reset_streams(1_000)
        .data_frame_budget(1 << 30)
        .max_pending_accept_reset_streams(1_000);
    let (calls, at_server) = (spawner.clone(), world.clone());
    spawner.background("server", async move {
        let mut connection = builder.handshake::<_, Bytes>(far).await.expect("a handshake");
        let mut changes = changes.into_iter();
        loop {
            if let Some(window) = changes.next() {
                let _ = connection.set_initial_window_size(window);
            }
            let Some(accepted) = connection.accept().await else { return };
            let (request, mut respond) = accepted.expect("a request");
            let number = number_of(request.headers());
            let (plan, world, spawner) = (at_server.plans[number].clone(), at_server.clone(), calls.clone());
            calls.spawn(format!("answer {number}"), async move {
                let body = request.into_body();
                let reading = async move {
                    let whole = read_foreign(body, plan.read_by_server, plan.request.pause).await;
                    world.arrived.borrow_mut().requests[number] = whole;
                };
                if plan.early {
                    spawner.spawn(format!("reading {number}"), reading);
                } else {
                    reading.await;
                }
                pause(plan.response.pause).await;
                if let Ok(send) = respond.send_response(Response::new(()), false) {
                    send_foreign(send, plan.response, number).await;
                }
            });
        }
    });
    let (sender, mut pings, connection) = shoal_http2::connect(near, of_client.clone());
    let client = Rc::new(RefCell::new(Some(connection)));
    let driven = client.clone();
    spawner.background("client", async move {
        poll_fn(|cx| match driven.borrow_mut().as_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => std::task::Poll::Ready(Ok(())),
        })
        .await
        .expect("a good end");
    });
    let (calls, asking, sending) = (spawner.clone(), world.clone(), sender.clone());
    spawner.spawn("calls".to_owned(), async move {
        // Then it knows how many it may open.
        pings.ping().await.expect("an answer");
        for plan in asking.plans.clone() {
            let name = format!("call {}", plan.number);
            calls.spawn(name, ask(asking.clone(), plan, sending.clone(), calls.clone()));
        }
    });
    executor.run(|| format!("{sender:?}"));
    // Streams that were reset may still count for it.
    world.check(cuts);
    let state = State::of(&sender);
    state.is_clean();
    assert_eq!(state.receivable(), receivable(&of_client));
    assert_eq!(state.number("stream_errors"), 0);
    // h2 wants to see the end before it is dropped.
    client.borrow_mut().take();
    executor.run(|| format!("{sender:?}"));
}

#[test]
fn foreign_server_calls_arrive_whole() {
    each_seed(4_000..4_015, |seed| ours_to_foreign(seed, false));
}

#[test]
fn interrupted_foreign_servers_leave_nothing_behind() {
    each_seed(5_000..5_015, |seed| ours_to_foreign(seed, true));
}
