//! The beginning of a request body, kept to be sent again.

use std::sync::Arc;

use bytes::Bytes;

use crate::admission::connection_state::ConnectionState;

/// Most frames kept of a call, beside the limit on their bytes: each costs a few dozen bytes of its own.
const FRAMES_MAX: usize = 256;

/// A call that keeps less than this is not counted.
const SMALL_BYTES: usize = 4 << 10;

/// A piece shorter than this has memory of its own.
const OWN_BYTES: usize = 16 << 10;

/// The bytes that a larger piece may hold: it lies in the buffer it was received in, and keeps all of it.
const BUFFER_BYTES: usize = 40 << 10;

/// The bytes that one connection may hold by such buffers before pieces are copied out of them.
const UNCOPIED_BYTES_MAX: usize = 2 << 20;

/// The beginning of a body. The first frame has a field of its own: a unary call has only one, and needs no list.
pub(crate) struct ReplayBuffer {
    first: Option<Bytes>,
    rest: Vec<Bytes>,
    bytes: usize,
    bytes_max: usize,
    /// Set while nothing is missing.
    pub(crate) whole: bool,
    /// Once it is more than a little: whose it is, and what it was counted as.
    charged: Option<(Arc<ConnectionState>, usize)>,
}

impl ReplayBuffer {
    /// Creates an empty buffer that keeps at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> ReplayBuffer {
        ReplayBuffer { first: None, rest: Vec::new(), bytes: 0, bytes_max, whole: true, charged: None }
    }

    /// Keeps one more frame. Says whether it is kept; if not, nothing is from here on.
    pub(crate) fn push(&mut self, chunk: &Bytes, client: &Arc<ConnectionState>) -> bool {
        if !self.whole {
            return false;
        }
        let kept = match self.bytes + chunk.len() > self.bytes_max || self.len() == FRAMES_MAX {
            true => None,
            false => self.charge(chunk, client),
        };
        let Some(kept) = kept else {
            self.whole = false;
            return false;
        };
        self.bytes += chunk.len();
        match self.first {
            None => self.first = Some(kept),
            Some(_) => self.rest.push(kept),
        }
        true
    }

    /// Returns the piece to keep, if its connection may keep that much.
    fn charge(&mut self, chunk: &Bytes, client: &Arc<ConnectionState>) -> Option<Bytes> {
        if self.bytes + chunk.len() < SMALL_BYTES {
            return Some(chunk.clone());
        }
        let held = client.kept.held();
        let (kept, charge) = if chunk.len() < OWN_BYTES {
            (chunk.clone(), chunk.len())
        } else if held + BUFFER_BYTES <= UNCOPIED_BYTES_MAX {
            (chunk.clone(), BUFFER_BYTES)
        } else {
            (Bytes::copy_from_slice(chunk), chunk.len())
        };
        if held + charge > client.kept.most() {
            metrics::counter!("shoal_gateway_unbuffered_calls_total").increment(1);
            return None;
        }
        client.kept.hold(charge);
        self.charged.get_or_insert_with(|| (client.clone(), 0)).1 += charge;
        Some(kept)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Bytes> {
        match index {
            0 => self.first.as_ref(),
            _ => self.rest.get(index - 1),
        }
    }

    /// All frames, in their order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.first.iter().chain(&self.rest)
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub(crate) fn drop_all(&mut self) {
        self.first = None;
        self.rest = Vec::new();
        self.bytes = 0;
        if let Some((client, charge)) = self.charged.take() {
            client.kept.let_go(charge);
        }
    }
}

impl Drop for ReplayBuffer {
    fn drop(&mut self) {
        self.drop_all();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::admission::connection_slots::ConnectionSlots;
    use crate::config::Config;

    const KEPT_MAX: usize = 4 << 20;

    async fn client() -> Arc<ConnectionState> {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let occupied = ConnectionSlots::new(1, 0).take(address).await.expect("a slot");
        let mut config = Config::default();
        config.retry.connection_bytes = KEPT_MAX;
        Arc::new(ConnectionState::new(
            (address, 1).into(),
            0,
            occupied.slot.clone(),
            Arc::default(),
            Arc::default(),
            &config,
        ))
    }

    fn held(client: &ConnectionState) -> usize {
        client.kept.held()
    }

    /// Makes as many calls of `frames` frames of `len` bytes as the connection keeps.
    fn calls(client: &Arc<ConnectionState>, frames: usize, len: usize) -> Vec<ReplayBuffer> {
        let frame = Bytes::from(vec![7; len]);
        (0..10_000)
            .map_while(|_| {
                let mut kept = ReplayBuffer::new(64 << 10);
                (0..frames).all(|_| kept.push(&frame, client)).then_some(kept)
            })
            .collect()
    }

    #[tokio::test]
    async fn connection_keeps_bounded_bytes_for_replay() {
        let client = client().await;
        for (frames, len) in [(15, 4_100), (1, 16_384), (4, 16_384), (200, 300)] {
            let kept = calls(&client, frames, len);
            eprintln!(
                "{} calls of {frames} frames of {len} bytes are counted as {}",
                kept.len(),
                held(&client)
            );
            assert!(kept.len() >= 32 && held(&client) <= KEPT_MAX, "{}", held(&client));
            // Beyond a part of it no piece holds more than itself.
            let copied = kept.last().expect("some").get(0).expect("a frame");
            assert_eq!(copied.is_unique(), len >= OWN_BYTES, "{len}");
            drop(kept);
            assert_eq!(held(&client), 0);
        }
    }

    #[tokio::test]
    async fn small_bodies_are_not_counted() {
        let client = client().await;
        let kept = calls(&client, 1, 1_000);
        assert_eq!((kept.len(), held(&client)), (10_000, 0));
    }

    #[tokio::test]
    async fn too_long_body_is_not_kept() {
        let (client, frame) = (client().await, Bytes::from(vec![7; 16 << 10]));
        let mut kept = ReplayBuffer::new(64 << 10);
        assert!((0..4).all(|_| kept.push(&frame, &client)));
        assert!(!kept.push(&frame, &client) && !kept.whole);
        kept.drop_all();
        assert_eq!(held(&client), 0);
    }
}
