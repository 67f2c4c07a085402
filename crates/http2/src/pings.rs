//! The handle that asks the peer of a connection whether it is there.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::error::Error;
use crate::io::Shared;

/// Asks the peer whether it is there.
#[derive(Debug)]
pub struct Pings(Arc<Shared>);

impl Pings {
    pub(crate) fn new(shared: &Arc<Shared>) -> Pings {
        Pings(shared.clone())
    }

    /// Sends a PING and waits for its answer. Only one PING is under way at a time.
    ///
    /// # Errors
    /// When the connection is over first.
    pub async fn ping(&mut self) -> Result<(), Error> {
        let before = {
            let mut core = self.0.lock();
            core.send_ping();
            core.ping().answers()
        };
        poll_fn(|cx| {
            let mut core = self.0.lock();
            if core.ping().answers() > before {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = core.over() {
                return Poll::Ready(Err(error.clone()));
            }
            core.ping().register(cx);
            Poll::Pending
        })
        .await
    }
}
