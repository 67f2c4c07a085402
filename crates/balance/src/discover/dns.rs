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

/// How often a name is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Once it resolves.
    resolved: Duration,
    /// Until it first does: a container that starts before its peers. Also the shortest time between two questions,
    /// however often a failing connection pokes.
    unresolved: Duration,
}

/// The pace everything but a test goes at.
pub(super) const PACE: Pace =
    Pace { resolved: Duration::from_secs(5), unresolved: Duration::from_millis(500) };

/// Asks the system's resolver: A and AAAA records, `/etc/hosts`, search domains.
///
/// One question is in flight at a time and the system bounds it (`resolv.conf`: by default 5 s × 2 attempts a server).
pub(super) async fn system(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect())
}

/// Follows `name` until the last receiver is gone. `resolve` is asked anew each time; tests pass a scripted one.
pub(super) async fn follow<R, F>(
    name: String,
    pace: Pace,
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
        let rest = if sender.borrow().is_empty() { Duration::ZERO } else { pace.resolved - pace.unresolved };
        let pause = async {
            tokio::time::sleep(pace.unresolved).await;
            tokio::select! { () = poke.poked() => {}, () = tokio::time::sleep(rest) => {} }
        };
        tokio::select! { () = pause => {}, () = sender.closed() => return }
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    const FAST: Pace = Pace { resolved: Duration::from_millis(50), unresolved: Duration::from_millis(5) };
    const SLOW: Pace = Pace { resolved: Duration::from_secs(3600), unresolved: Duration::from_millis(5) };

    type Answer = Result<Vec<&'static str>, &'static str>;

    /// Follows a name whose answers are `answers`, the last one for ever. Sends what was asked for each time.
    fn scripted(
        pace: Pace,
        poke: Poke,
        answers: Vec<Answer>,
    ) -> (watch::Receiver<Arc<[Target]>>, watch::Receiver<usize>) {
        let (sender, receiver) = watch::channel(Arc::from([]));
        let (asked, asked_times) = watch::channel(0);
        let answers = Mutex::new(VecDeque::from(answers));
        let resolve = move || {
            asked.send_modify(|times| *times += 1);
            let mut answers = answers.lock().unwrap();
            let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
            std::future::ready(match answer {
                Ok(addresses) => Ok(addresses.into_iter().map(|address| address.parse().unwrap()).collect()),
                Err(error) => Err(io::Error::other(error)),
            })
        };
        tokio::spawn(async move { follow("fish:1".into(), pace, resolve, poke, &sender).await });
        (receiver, asked_times)
    }

    fn addresses(targets: &watch::Receiver<Arc<[Target]>>) -> Vec<String> {
        targets.borrow().iter().map(Target::to_string).collect()
    }

    async fn until<T>(receiver: &mut watch::Receiver<T>, reached: impl FnMut(&T) -> bool) {
        let reached = receiver.wait_for(reached);
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("in time").expect("still open");
    }

    #[tokio::test]
    async fn a_failure_and_an_empty_answer_keep_the_last_list() {
        let answers = vec![Ok(vec!["127.0.0.1:1"]), Err("NXDOMAIN"), Ok(vec![]), Err("timed out")];
        let (targets, mut asked) = scripted(FAST, Poke::default(), answers);
        until(&mut asked, |times| *times >= 6).await;
        assert_eq!(addresses(&targets), ["127.0.0.1:1"]);
    }

    #[tokio::test]
    async fn a_rotated_answer_is_no_change_and_a_new_one_is() {
        let (one, two, three) = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3");
        let answers = vec![Ok(vec![two, one, two]), Ok(vec![one, two]), Ok(vec![three])];
        let (mut targets, _asked) = scripted(FAST, Poke::default(), answers);
        targets.changed().await.unwrap();
        assert_eq!(addresses(&targets), [one, two]);
        targets.borrow_and_update();
        targets.changed().await.unwrap();
        assert_eq!(addresses(&targets), [three]);
    }

    #[tokio::test]
    async fn a_name_that_never_resolved_is_asked_for_soon_again() {
        let (mut targets, _asked) =
            scripted(SLOW, Poke::default(), vec![Err("NXDOMAIN"), Ok(vec!["127.0.0.1:1"])]);
        until(&mut targets, |targets| targets.len() == 1).await;
    }

    #[tokio::test]
    async fn a_poke_asks_ahead_of_the_clock() {
        let poke = Poke::default();
        let answers = vec![Ok(vec!["127.0.0.1:1"]), Ok(vec!["127.0.0.1:2"])];
        let (mut targets, _asked) = scripted(SLOW, poke.clone(), answers);
        until(&mut targets, |targets| targets.len() == 1).await;
        poke.poke();
        until(&mut targets, |targets| targets[0].address.port() == 2).await;
    }

    #[tokio::test]
    async fn the_system_resolver_knows_this_host() {
        let addresses = system("localhost".into(), 7).await.unwrap();
        assert!(
            addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7),
            "{addresses:?}"
        );
    }
}
