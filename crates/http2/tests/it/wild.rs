//! Wild bytes: whatever a peer sends, nothing panics, what is held stays within the limits, what we send is HTTP/2, and a
//! cut ends everything. The fuzz targets in `fuzz/` run the same functions; here they are given the seeds kept there,
//! mutated at random.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, HeaderValue};
use shoal_http2::hpack::{Decoder, Encoder, Field, Index, Name};
use shoal_http2::{Config, Reason, RecvStream, ResponseFuture, SendError, SendStream};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, Frame, HEADERS, PADDED, PUSH_PROMISE, SETTINGS, WITH_PRIORITY, frame,
};
use super::harness::{Call, Client, Server, State, Wire, once, request};

/// The calls that the application at our side holds.
const HELD_MAX: usize = 24;

/// The bytes beside those of DATA that may wait to be sent: those that a server lets wait before it reads no more, what one
/// frame may still add, and the heads of the responses.
const ANSWER_BYTES: usize = (256 << 10) + (64 << 10) + HELD_MAX * 1_000;

/// The length of a piece that repeats another one.
const REPEATED_BYTES_MAX: usize = 64 << 10;

/// Turns `input` into the pieces that are to be sent: mostly frames whose length is right, so that what lies behind their
/// heads is reached.
fn pieces(mut input: &[u8], head: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    while let [how, flags, stream, len, rest @ ..] = input {
        // What is made here takes nothing of what follows.
        let own = if matches!(how & 0x0f, 10 | 11) { 0 } else { usize::from(*len) };
        let (payload, rest) = rest.split_at(rest.len().min(own));
        input = rest;
        let stream = if *stream == u8::MAX { u32::MAX } else { u32::from(*stream) };
        let mut bytes = if how & 0x10 == 0 { Vec::new() } else { head.to_vec() };
        bytes.extend_from_slice(payload);
        pieces.push(match how & 0x0f {
            kind @ 0..=9 => frame(kind, *flags, stream, &bytes),
            10 => frame(DATA, *flags, stream, &vec![7; usize::from(*len) * 64]),
            11 => {
                let last = pieces.last().map_or(&[][..], Vec::as_slice);
                last.repeat(usize::from(*len).min(REPEATED_BYTES_MAX / last.len().max(1)))
            }
            12 => frame(*how, *flags, stream, &bytes),
            _ => bytes,
        });
    }
    pieces.push(input.to_vec());
    pieces
}

/// The bits of an input's first byte, which choose the limits.
const SMALL: u8 = 1;
const UNGREETED: u8 = 2;
const RAW: u8 = 4;
const LATE: u8 = 8;
const SLOW: u8 = 16;

fn config(how: u8) -> Config {
    if how & SMALL == 0 {
        return Config::default();
    }
    Config {
        stream_window: 100,
        connection_window: 65_535,
        streams_max: 3,
        header_list_max: 600,
        queued_max: 3,
        send_buffer: 1_000,
        pending_accept_resets_max: 2,
        locally_reset_max: 2,
        late_resets: how & LATE != 0,
        ..Config::default()
    }
}

/// Reads what our side sends as a peer would.
struct Peer {
    decoder: Decoder,
    block: Vec<u8>,
    /// Makes it read only when nothing else goes on.
    slow: bool,
}

impl Peer {
    fn new(how: u8) -> Peer {
        Peer { decoder: Decoder::new(4096), block: Vec::new(), slow: how & SLOW != 0 }
    }

    /// Returns the bytes between it and our side.
    fn socket_bytes(&self) -> usize {
        if self.slow { 2_000 } else { 64 << 20 }
    }

    /// Sends all of a piece, unless our side takes no more although everything that it sends is read.
    fn sends(&mut self, mut piece: &[u8], side: &mut impl Side, limits: &Limits<'_>) {
        loop {
            let taken = side.wire().offer(piece);
            piece = &piece[taken..];
            side.runs();
            side.check(limits);
            if self.slow && taken > 0 {
                // What it has not read holds our side up, and no more than that.
                if piece.is_empty() { return } else { continue }
            }
            let heard = side.says();
            self.hears(&heard);
            if piece.is_empty() || (taken == 0 && heard.is_empty()) {
                return;
            }
        }
    }

    fn hears(&mut self, frames: &[Frame]) {
        for frame in frames {
            assert!(matches!(frame.kind, 0..=9) && frame.kind != PUSH_PROMISE, "{frame}");
            if !matches!(frame.kind, HEADERS | CONTINUATION) {
                continue;
            }
            assert_eq!(frame.flags & (PADDED | WITH_PRIORITY), 0, "{frame}");
            self.block.extend_from_slice(&frame.payload);
            if frame.flags & END_HEADERS != 0 {
                let mut names = Vec::new();
                self.decoder.decode(&self.block, |field| names.push(field.name)).expect("our own block");
                assert!(!names.contains(&Name::Malformed) && !names.contains(&Name::Padded));
                self.block.clear();
            }
        }
    }
}

/// A side of a connection, driven by a wild peer.
trait Side {
    fn wire(&mut self) -> &mut Wire;
    fn runs(&mut self);
    fn says(&mut self) -> Vec<Frame>;
    /// Returns the state of the connection, unless it is over or has not begun.
    fn stands(&mut self) -> Option<State>;

    /// Checks that what is held stays within the limits.
    fn check(&mut self, limits: &Limits<'_>) {
        let Some(state) = self.stands() else { return };
        let frame_bytes_max = 16_384;
        let at_most = |what: &str, most: usize| {
            let number = state.number(what);
            assert!(number <= most as i64, "{what} is {number}, more than {most}");
            // The frame that was too much is counted, and ends the connection when that has been said.
            assert!(number >= -frame_bytes_max, "{what} is {number}");
        };
        let Limits { config, open_max, held } = limits;
        at_most("open", *open_max);
        at_most("ids", *open_max);
        at_most("pending_accept_resets", config.pending_accept_resets_max);
        at_most("accept", open_max + config.pending_accept_resets_max);
        at_most("queued", config.queued_max);
        at_most("streams", open_max + config.pending_accept_resets_max + held);
        at_most("unsent", config.send_buffer + ANSWER_BYTES);
        at_most("receive_window", config.connection_window.max(65_535) as usize);
    }
}

/// The limits of a side.
struct Limits<'c> {
    config: &'c Config,
    open_max: usize,
    held: usize,
}

impl Side for Server {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn runs(&mut self) {
        self.run();
    }

    fn says(&mut self) -> Vec<Frame> {
        self.frames()
    }

    fn stands(&mut self) -> Option<State> {
        self.run();
        self.is_open().then(|| self.state())
    }
}

impl Side for Client {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn runs(&mut self) {
        self.run();
    }

    fn says(&mut self) -> Vec<Frame> {
        self.frames()
    }

    fn stands(&mut self) -> Option<State> {
        self.run();
        self.end.is_none().then(|| self.state())
    }
}

/// Acts on a body at random.
fn read_some(body: &mut RecvStream, random: &mut Rng) {
    for _ in 0..random.usize(0..4) {
        let Poll::Ready(Some(Ok(data))) = once(body.data()) else { break };
        if random.bool() {
            body.release(data.len());
        }
    }
    if random.u8(0..4) == 0 {
        let _ = once(body.trailers());
    }
}

/// Acts on a sending half at random.
fn send_some(stream: &mut SendStream, random: &mut Rng) {
    let mut cx = Context::from_waker(Waker::noop());
    match random.u8(0..8) {
        0 => drop(stream.finish()),
        1 => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from(random.u16(0..17)));
            drop(stream.send_trailers(trailers));
        }
        2 => stream.send_reset(Reason::CANCEL),
        _ => {
            let mut data = Bytes::from(vec![3; random.usize(0..70_000)]);
            let _ = stream.poll_send(&mut cx, &mut data, random.bool());
        }
    }
}

/// Gives our server what a client may send. The first byte chooses the limits, and whether it begins as it should.
pub(crate) fn to_a_server(input: &[u8]) {
    let [how, seed, input @ ..] = input else { return };
    let (config, mut random, mut peer) = (config(*how), Rng::with_seed(u64::from(*seed)), Peer::new(*how));
    let mut server = Server::silent(config.clone(), peer.socket_bytes());
    if how & UNGREETED == 0 {
        server.greet();
    }
    let head = [&[0x83, 0x86, 0x84, 0x41, 1][..], b"m"].concat();
    let pieces = if how & RAW == 0 { pieces(input, &head) } else { vec![input.to_vec()] };
    let mut held: Vec<(Call, Option<SendStream>)> = Vec::new();
    for piece in pieces {
        let (first, second) = piece.split_at(random.usize(0..=piece.len()));
        for part in [first, second] {
            let limits = |held| Limits { config: &config, open_max: config.streams_max as usize, held };
            // Calls that were not taken yet may be as many as may be open.
            peer.sends(part, &mut server, &limits(held.len() + config.streams_max as usize));
            while let Some(call) = server.accepted.pop_front() {
                held.push((call, None));
            }
            held.retain_mut(|(call, answer)| {
                match random.u8(0..12) {
                    0 => return false,
                    1 | 2 => read_some(&mut call.body, &mut random),
                    3..=5 => match answer {
                        Some(stream) => send_some(stream, &mut random),
                        None => {
                            let response = http::Response::new(());
                            *answer = call.respond.send_response(&response, random.u8(0..4) == 0).ok();
                        }
                    },
                    _ => {}
                }
                true
            });
            held.truncate(HELD_MAX);
            server.check(&limits(held.len()));
        }
    }
    server.wire.cut();
    server.run();
    assert!(server.end.is_some(), "a cut ends it");
    for (call, _) in &mut held {
        while let Poll::Ready(Some(Ok(_))) = once(call.body.data()) {}
        assert!(once(call.body.data()).is_ready(), "a cut ends every body");
        assert!(once(call.body.trailers()).is_ready());
    }
}

/// Gives our client, which sends several requests, what a server may send.
pub(crate) fn to_a_client(input: &[u8]) {
    let [how, seed, input @ ..] = input else { return };
    let (config, mut random, mut peer) = (config(*how), Rng::with_seed(u64::from(*seed)), Peer::new(*how));
    let mut client = Client::silent(config.clone(), peer.socket_bytes());
    if how & UNGREETED == 0 {
        client.wire.settings(&[]);
        client.wire.send(SETTINGS, 1, 0, &[]);
    }
    let mut pieces = if how & RAW == 0 { pieces(input, &[0x88]) } else { vec![input.to_vec()] };
    let mut asked = 0;
    // The first requests are there before anything is said.
    pieces.insert(0, Vec::new());
    let mut held: Vec<(Option<ResponseFuture>, Option<RecvStream>, SendStream)> = Vec::new();
    for piece in pieces {
        for _ in 0..random.usize(0..4) {
            if held.len() < HELD_MAX {
                match client.sender.send_request(&request(), random.bool()) {
                    Ok((response, stream)) => {
                        asked += 1;
                        held.push((Some(response), None, stream));
                    }
                    Err(SendError::Invalid(why)) => panic!("{why}"),
                    Err(_) => {}
                }
            }
        }
        let (first, second) = piece.split_at(random.usize(0..=piece.len()));
        for part in [first, second] {
            // A reset that waits keeps its stream open.
            let open_max = |held| if config.late_resets { asked } else { held };
            let limits = |held| Limits { config: &config, open_max: open_max(held), held };
            peer.sends(part, &mut client, &limits(held.len()));
            held.retain_mut(|(response, body, stream)| {
                if let Some(awaited) = response
                    && let Poll::Ready(answered) = once(awaited)
                {
                    *body = answered.ok().map(http::Response::into_body);
                    *response = None;
                }
                match random.u8(0..12) {
                    0 => return false,
                    1 | 2 => body.iter_mut().for_each(|body| read_some(body, &mut random)),
                    3..=5 => send_some(stream, &mut random),
                    _ => {}
                }
                true
            });
            client.check(&limits(held.len()));
        }
    }
    client.wire.cut();
    client.run();
    assert!(client.end.is_some(), "a cut ends it");
    for (response, body, _) in &mut held {
        if let Some(response) = response {
            assert!(once(response).is_ready(), "a cut ends every call");
        }
        if let Some(body) = body {
            while let Poll::Ready(Some(Ok(_))) = once(body.data()) {}
            assert!(once(body.data()).is_ready(), "a cut ends every body");
        }
    }
}

/// Gives a decoder header blocks, each with its length before it. The fields go through our own encoder and arrive the same.
pub(crate) fn to_hpack(input: &[u8]) {
    let [how, input @ ..] = input else { return };
    let table_max = [4096, 0, 100, 65_536][usize::from(how & 3)];
    let mut decoder = Decoder::new(table_max);
    if how & 4 != 0 {
        decoder = decoder.trimming();
    }
    let (mut encoder, mut second) = (Encoder::new(), Decoder::new(4096));
    let mut input = input;
    while let [len, rest @ ..] = input {
        let (block, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        input = rest;
        let (mut fields, mut octets) = (Vec::new(), 0);
        let decoded = decoder.decode(block, |field| {
            octets += field.size();
            fields.push(field);
        });
        assert!(octets <= block.len() * (table_max.max(4096) + 32), "{octets} of {}", block.len());
        fields.retain(|field| !matches!(field.name, Name::Malformed | Name::Padded));
        // A table of any size the other side may choose, now and then.
        if len % 8 == 0 {
            encoder.set_table_max(usize::from(*len) * 20);
        }
        let indices = [Index::Yes, Index::No, Index::Never, Index::Yes];
        let mut again = Vec::new();
        encoder.begin(&mut again);
        for (at, field) in fields.iter().enumerate() {
            encoder.field(&field.name, &field.value, indices[at % indices.len()], &mut again);
        }
        let mut received: Vec<Field> = Vec::new();
        second.decode(&again, |field| received.push(field)).expect("our own block");
        assert_eq!(received, fields);
        for (at, (received, sent)) in received.iter().zip(&fields).enumerate() {
            let secret = sent.value.is_sensitive() || indices[at % indices.len()] == Index::Never;
            assert_eq!(received.value.is_sensitive(), secret, "{sent:?}");
        }
        if decoded.is_err() {
            return;
        }
    }
}
