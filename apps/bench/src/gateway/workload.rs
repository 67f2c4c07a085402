//! Calls that go through a gateway, and the answers that show it forwards them unchanged.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::echo;
use crate::load::call::{Call, connect, framed, once};

/// A stream of a hundred messages of a KiB.
const SERIES: echo::Series = echo::Series { messages: 100, bytes: 1024 };

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// 100 bytes there and back.
    Small,
    /// 16 KiB there and back.
    Large,
    /// A short question, a stream of answers.
    Stream,
}

impl Workload {
    pub(super) const ALL: [Workload; 3] = [Workload::Small, Workload::Large, Workload::Stream];

    pub(super) fn name(self) -> &'static str {
        match self {
            Workload::Small => "100 B unary",
            Workload::Large => "16 KiB unary",
            Workload::Stream => "stream of 100 × 1 KiB",
        }
    }

    pub(super) fn call(self) -> Call {
        match self {
            Workload::Small => Call::new(echo::ECHO, &text(100)),
            Workload::Large => Call::new(echo::ECHO, &text(16 << 10)),
            Workload::Stream => Call::new(echo::STREAM, &SERIES),
        }
    }

    /// Answer that must come back.
    fn expected(self) -> Bytes {
        match self {
            Workload::Small | Workload::Large => self.call().framed,
            Workload::Stream => {
                let message = echo::Text { text: String::new(), value: vec![b'x'; SERIES.bytes as usize] };
                framed(&message).repeat(SERIES.messages as usize).into()
            }
        }
    }
}

/// A message whose value has no two parts alike, so that one lost or moved would be seen.
fn text(bytes: usize) -> echo::Text {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut text = echo::Text { text: String::new(), value: Vec::new() };
    text.value = std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect();
    // The bytes are those of the message.
    while text.encoded_len() > bytes {
        text.value.pop();
    }
    text
}

/// Makes one call of each kind, and one of a method that is not there.
///
/// # Errors
/// When an answer is not the upstream's.
pub(super) async fn check(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = connect(address).await?;
    for workload in Workload::ALL {
        let call = workload.call();
        let mut body = BytesMut::new();
        let answer = once(&mut connection, &call.uri(address)?, call.framed, Some(&mut body))
            .await
            .with_context(|| workload.name())?;
        ensure!(
            answer.status == Some(0),
            "{}: grpc-status {:?} instead of 0",
            workload.name(),
            answer.status
        );
        ensure!(body == workload.expected(), "{}: another body than the upstream's", workload.name());
    }
    let nowhere = Call { path: "/shoal.bench.Echo/Nowhere", framed: framed(&text(100)) };
    let answer = once(&mut connection, &nowhere.uri(address)?, nowhere.framed, None).await?;
    ensure!(answer.status == Some(12), "an unknown method: grpc-status {:?} instead of 12", answer.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_messages() {
        assert_eq!(Workload::Small.call().framed.len(), 105);
        assert_eq!(Workload::Large.call().framed.len(), (16 << 10) + 5);
        assert_eq!(Workload::Stream.expected().len(), 100 * (5 + 3 + 1024));
    }
}
