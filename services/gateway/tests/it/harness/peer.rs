//! An endpoint scripted frame by frame, and a gateway in front of it.

use tokio::net::TcpListener;

use super::caller::{Answer, Caller};
use super::frames::Wire;
use super::mesh::Mesh;
use super::upstream::payload;

/// A gateway of one core with one scripted endpoint, and its first connection, found serving.
pub(crate) async fn peer(settings: &[(u16, u32)]) -> (TcpListener, Mesh, Wire, Caller) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let mesh = Mesh::with_cores(1, &format!("peer.session = '{address}'")).await;
    let mut wire = Wire::accept(&listener, settings).await;
    wire.skip_health().await;
    let caller = mesh.caller().await;
    (listener, mesh, wire, caller)
}

/// The next connection, found serving.
pub(crate) async fn again(listener: &TcpListener) -> Wire {
    let mut wire = Wire::accept(listener, &[]).await;
    wire.skip_health().await;
    wire
}

/// Answered, with this message.
pub(crate) fn ok(answer: &Answer, expected: &[u8]) {
    assert_eq!((answer.code(), payload(answer)), (0, expected), "{answer:?}");
}
