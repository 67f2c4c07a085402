//! Endpoints that report the store they are on.

use std::net::SocketAddr;

use http::HeaderMap;
use prost::Message as _;
use shoal_balance::EndpointState::{NotServing, OtherStore, Ready};
use tokio::sync::watch;

use crate::peer::{Peer, Upstream, answer, message};

/// The health answer of a clone; the field numbers are those of `health.rs`.
#[derive(Clone, PartialEq, prost::Message)]
struct Said {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(string, tag = "20001")]
    engine: String,
    #[prost(string, tag = "20002")]
    store: String,
    #[prost(uint64, tag = "20003")]
    since_ms: u64,
}

fn serving(store: &str, since_ms: u64) -> Said {
    Said { status: 1, engine: format!("redis {store}"), store: store.to_owned(), since_ms }
}

/// A server whose health watch sends the last value of a channel.
fn clone_of(said: Said) -> (Peer, watch::Sender<Said>) {
    let (say, heard) = watch::channel(said);
    let peer = Peer::h2_with_health(move |_, mut respond| {
        let mut heard = heard.clone();
        async move {
            let Some(mut stream) = answer(&mut respond) else { return };
            heard.mark_changed();
            while heard.changed().await.is_ok() {
                let said = heard.borrow_and_update().encode_to_vec();
                if stream.send_data(message(&said), false).is_err() {
                    return;
                }
            }
            let _ = stream.send_trailers(HeaderMap::new());
        }
    });
    (peer, say)
}

fn picked(upstream: &Upstream) -> Vec<SocketAddr> {
    let mut picked: Vec<_> =
        (0..50).map(|_| upstream.balancer.pick(None, &[]).expect("one is ready").address()).collect();
    picked.sort();
    picked.dedup();
    picked
}

#[tokio::test]
async fn calls_go_to_one_store() {
    let (first, say_first) = clone_of(serving("a", 10));
    let (second, say_second) = clone_of(serving("b", 20));
    let upstream = Upstream::of(&[first.address, second.address]);
    upstream.until(second.address, OtherStore).await;
    upstream.until(first.address, Ready).await;
    assert_eq!(picked(&upstream), [first.address]);
    let reason = upstream.reason(second.address);
    assert!(reason.contains(&first.address.to_string()) && !reason.contains("redis"), "{reason}");
    let engines: Vec<_> = upstream.balancer.snapshot().into_iter().map(|e| e.backing.engine).collect();
    assert!(
        engines.contains(&"redis a".to_owned()) && engines.contains(&"redis b".to_owned()),
        "{engines:?}"
    );

    // It was told the right engine.
    say_second.send_replace(serving("a", 30));
    upstream.until(second.address, Ready).await;
    say_second.send_replace(serving("b", 40));
    say_first.send_replace(Said { status: 2, ..serving("a", 10) });
    upstream.until(first.address, NotServing).await;
    // Nobody else is left: there is nothing to mix it with.
    upstream.until(second.address, Ready).await;
    assert_eq!(picked(&upstream), [second.address]);
}
