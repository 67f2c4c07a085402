//! The addresses of a name, asked for again on our own clock: Docker's resolver answers a TTL of 600 s, and a stopped
//! container must not be missed for ten minutes. A failure or an empty answer keeps the last list.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Poke, publish};
use crate::source::TARGETS_MAX;
use crate::target::Target;

/// How often a name that resolves is asked for again.
const INTERVAL: Duration = Duration::from_secs(5);

/// How often a name that has never resolved is asked for: a container that starts before its peers.
const INTERVAL_UNRESOLVED: Duration = Duration::from_millis(500);

/// The shortest time between two questions, however often a failing connection pokes.
const INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Asks the system's resolver: A and AAAA records, `/etc/hosts`, search domains.
///
/// One question is in flight at a time and the system bounds it (`resolv.conf`: by default 5 s × 2 attempts a server).
pub(super) async fn system(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect())
}

/// Follows `name` until the last receiver is gone. `resolve` is asked anew each time; tests pass a scripted one.
pub(super) async fn follow<R, F>(
    name: String,
    mut resolve: R,
    poke: Poke,
    sender: &watch::Sender<Arc<[Target]>>,
) where
    R: FnMut() -> F,
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let mut last_error: Option<String> = None;
    loop {
        let answer = tokio::select! {
            answer = resolve() => answer,
            () = sender.closed() => return,
        };
        match usable(answer) {
            Ok(targets) => {
                let count = targets.len();
                if publish(sender, targets) {
                    tracing::info!(name, count, "name resolved");
                }
                last_error = None;
            }
            Err(error) => {
                let error = error.to_string();
                // Said once, not every five seconds of an outage.
                if last_error.as_ref() != Some(&error) {
                    tracing::warn!(name, error, "name not resolved; the old list stays");
                    last_error = Some(error);
                }
            }
        }
        let interval = if sender.borrow().is_empty() { INTERVAL_UNRESOLVED } else { INTERVAL };
        tokio::select! {
            () = async {
                tokio::time::sleep(INTERVAL_MIN).await;
                tokio::select! { () = poke.poked() => {}, () = tokio::time::sleep(interval - INTERVAL_MIN) => {} }
            } => {}
            () = sender.closed() => return,
        }
    }
}

/// Sorted and without repeats, so that a resolver that rotates its answers does not look like a change.
fn usable(answer: io::Result<Vec<SocketAddr>>) -> io::Result<Vec<Target>> {
    let mut addresses = answer?;
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::other("no address in the answer"));
    }
    addresses.truncate(TARGETS_MAX);
    Ok(addresses.into_iter().map(Target::new).collect())
}
