//! A reset, and the loss of a connection, at every stage of a call and in both directions: the other side is told, and
//! every other call goes on.

use std::time::{Duration, Instant};

use crate::harness::caller::message;
use crate::harness::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, Wire, frame, literal, response_block,
};
use crate::harness::peer::{again, peer};
use crate::harness::upstream::UNSAFE;

/// A caller's reset reaches the upstream within this, unless the machine is busy with something else.
const BOUND: Duration = Duration::from_millis(100);

const INTERNAL_ERROR: u32 = 2;
const CANCEL: u32 = 8;

/// The part of a request that was sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sent {
    Head,
    Half,
    Whole,
}

/// The part of an answer that was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answered {
    Nothing,
    Head,
    Part,
    Whole,
}

/// Every stage of a call that is not over.
const STAGES: [(Sent, Answered); 9] = [
    (Sent::Head, Answered::Nothing),
    (Sent::Head, Answered::Head),
    (Sent::Head, Answered::Part),
    (Sent::Half, Answered::Nothing),
    (Sent::Half, Answered::Head),
    (Sent::Half, Answered::Part),
    (Sent::Whole, Answered::Nothing),
    (Sent::Whole, Answered::Head),
    (Sent::Whole, Answered::Part),
];

fn is(kind: u8, stream: u32) -> impl Fn(&Frame) -> bool {
    move |frame| frame.kind == kind && frame.stream == stream
}

fn ends(stream: u32) -> impl Fn(&Frame) -> bool {
    move |frame| frame.stream == stream && frame.flags & END_STREAM != 0
}

/// Brings a call, which is `stream` to the caller, to a stage. Gives its stream at the upstream.
async fn reach((sent, answered): (Sent, Answered), front: &mut Wire, stream: u32, back: &mut Wire) -> u32 {
    front.open(stream, UNSAFE).await;
    let behind = back.call().await.expect("a call");
    if sent >= Sent::Half {
        front.send(DATA, 0, stream, b"half").await;
        back.until(is(DATA, behind)).await.expect("half of it");
    }
    if sent >= Sent::Whole {
        front.send(DATA, END_STREAM, stream, b"rest").await;
        back.until(ends(behind)).await.expect("the rest");
    }
    if answered >= Answered::Head {
        back.send(HEADERS, END_HEADERS, behind, &response_block()).await;
        front.until(is(HEADERS, stream)).await.expect("a head");
    }
    if answered >= Answered::Part {
        back.send(DATA, 0, behind, &message(b"part")).await;
        front.until(is(DATA, stream)).await.expect("a part");
    }
    if answered >= Answered::Whole {
        back.send(HEADERS, END_HEADERS | END_STREAM, behind, &literal("grpc-status", "0")).await;
        front.until(ends(stream)).await.expect("trailers");
    }
    behind
}

/// A whole call on these connections.
async fn call(front: &mut Wire, stream: u32, back: &mut Wire) {
    reach((Sent::Whole, Answered::Whole), front, stream, back).await;
}

/// The reset of a stream, by its code.
async fn reset_of(wire: &mut Wire, stream: u32) -> u32 {
    let reset = wire.until(is(RST_STREAM, stream)).await.expect("a reset");
    u32::from_be_bytes(reset.payload.try_into().expect("four bytes"))
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_reset_reaches_the_upstream() {
    let (_listener, mesh, mut back, _caller) = peer(&[]).await;
    let mut front = Wire::connect(mesh.address).await;
    let mut stream = 1;
    let mut took = Vec::new();
    for stage in STAGES {
        let behind = reach(stage, &mut front, stream, &mut back).await;
        let at = Instant::now();
        front.reset(stream, CANCEL).await;
        assert_eq!(reset_of(&mut back, behind).await, CANCEL, "{stage:?}");
        took.push(at.elapsed());
        call(&mut front, stream + 2, &mut back).await;
        stream += 4;
    }
    took.sort();
    eprintln!("a caller's reset at the upstream: {took:?}");
    // The median: a busy machine may hold up some, a gateway that waits holds up all.
    assert!(took[took.len() / 2] < BOUND, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_after_the_end_is_ignored() {
    let (_listener, mesh, mut back, _caller) = peer(&[]).await;
    let mut front = Wire::connect(mesh.address).await;
    call(&mut front, 1, &mut back).await;
    front.reset(1, CANCEL).await;
    call(&mut front, 3, &mut back).await;
    assert!(!back.has_sent(|frame| frame.kind == RST_STREAM).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn vanished_caller_is_a_cancellation() {
    let (_listener, mesh, mut back, _caller) = peer(&[]).await;
    let mut stays = Wire::connect(mesh.address).await;
    let mut stream = 1;
    for stage in STAGES {
        let mut front = Wire::connect(mesh.address).await;
        let kept = reach(stage, &mut stays, stream, &mut back).await;
        let lost = reach(stage, &mut front, 1, &mut back).await;
        drop(front);
        assert_eq!(reset_of(&mut back, lost).await, CANCEL, "{stage:?}");
        assert!(!back.has_sent(is(RST_STREAM, kept)).await, "{stage:?}");
        back.status_only(kept, 0).await;
        stays.until(ends(stream)).await.expect("its end");
        stream += 2;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_upstream_reset_reaches_caller() {
    let (_listener, mesh, mut back, _caller) = peer(&[]).await;
    let mut front = Wire::connect(mesh.address).await;
    let mut stream = 1;
    for stage in STAGES {
        let behind = reach(stage, &mut front, stream, &mut back).await;
        back.reset(behind, INTERNAL_ERROR).await;
        assert_eq!(reset_of(&mut front, stream).await, INTERNAL_ERROR, "{stage:?}");
        call(&mut front, stream + 2, &mut back).await;
        stream += 4;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_upstream_ends_the_call() {
    for stage in STAGES {
        let (listener, mesh, mut back, _caller) = peer(&[]).await;
        let mut front = Wire::connect(mesh.address).await;
        reach(stage, &mut front, 1, &mut back).await;
        drop(back);
        let end = front.until(|frame| ends(1)(frame) || is(RST_STREAM, 1)(frame)).await;
        assert_eq!(end.expect("an end").kind, HEADERS, "{stage:?}: trailers, not a reset");
        call(&mut front, 3, &mut again(&listener).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_answer_outlives_unwanted_request() {
    let (_listener, mesh, mut back, _caller) = peer(&[]).await;
    let mut front = Wire::connect(mesh.address).await;
    let mut stream = 1;
    // RFC 9113 §8.1: NO_ERROR after the answer says "stop sending"; some servers just leave it.
    for (says_so, sent) in [(true, Sent::Head), (true, Sent::Half), (false, Sent::Head), (false, Sent::Half)]
    {
        let behind = reach((sent, Answered::Part), &mut front, stream, &mut back).await;
        back.send(HEADERS, END_HEADERS | END_STREAM, behind, &literal("grpc-status", "0")).await;
        if says_so {
            back.reset(behind, 0).await;
        }
        let end = front.until(|frame| ends(stream)(frame) || is(RST_STREAM, stream)(frame)).await;
        assert_eq!(end.expect("an end").kind, HEADERS, "the trailers, before any reset");
        if !says_so {
            // Nothing holds the upstream's stream open once nobody listens.
            back.until(|frame| is(RST_STREAM, behind)(frame) || ends(behind)(frame)).await.expect("an end");
        }
        // Still on its way when the answer came.
        front.send(DATA, END_STREAM, stream, b"late").await;
        call(&mut front, stream + 2, &mut back).await;
        stream += 4;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_before_reset_is_not_lost() {
    const INITIAL_WINDOW: u16 = 4;
    let (_listener, mesh, mut back, _caller) = peer(&[(INITIAL_WINDOW, 4)]).await;
    let mut front = Wire::connect(mesh.address).await;
    let behind = reach((Sent::Half, Answered::Nothing), &mut front, 1, &mut back).await;
    // Held up by the upstream's window. The answer to what comes after says that the gateway has it.
    front.send(DATA, 0, 1, b"more").await;
    front.open(3, "/x.Y/Z").await;
    front.until(ends(3)).await.expect("UNIMPLEMENTED");
    let mut block = response_block();
    block.extend(literal("grpc-status", "0"));
    let mut both = frame(HEADERS, END_HEADERS | END_STREAM, behind, &block);
    both.extend(frame(RST_STREAM, 0, behind, &0u32.to_be_bytes()));
    back.bytes(&both).await;
    let end = front.until(|frame| ends(1)(frame) || is(RST_STREAM, 1)(frame)).await;
    assert_eq!(end.expect("an end").kind, HEADERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_after_end_harms_only_sender() {
    let (_listener, mesh, mut back, _caller) = peer(&[]).await;
    let mut stays = Wire::connect(mesh.address).await;
    let kept = reach((Sent::Half, Answered::Part), &mut stays, 1, &mut back).await;
    let mut front = Wire::connect(mesh.address).await;
    let behind = reach((Sent::Whole, Answered::Head), &mut front, 1, &mut back).await;
    front.send(DATA, 0, 1, b"more").await;
    assert_eq!(reset_of(&mut back, behind).await, CANCEL);
    assert!(!back.has_sent(is(RST_STREAM, kept)).await);
    call(&mut stays, 3, &mut back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_without_trailers_ends_alike() {
    let (_listener, mesh, mut back, _caller) = peer(&[]).await;
    let mut front = Wire::connect(mesh.address).await;
    let behind = reach((Sent::Whole, Answered::Part), &mut front, 1, &mut back).await;
    back.send(DATA, END_STREAM, behind, &message(b"last")).await;
    let end = front.until(ends(1)).await.expect("an end");
    // What it means is for the caller's library to say: INTERNAL or UNKNOWN.
    assert_eq!(end.kind, DATA);
    call(&mut front, 3, &mut back).await;
}
