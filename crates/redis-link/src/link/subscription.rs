//! Receives the messages of a channel over a push connection with its own keep-alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::error::LinkError;
use crate::link::Link;
use crate::topology::Route;

/// The number of messages that may wait for [`Subscription::recv`]. Further ones are dropped, and the subscriber is told.
const MESSAGES_MAX: usize = 4096;

/// The interval between PINGs on the push connection, because silence is no sign of life. A dead connection is found within it
/// and a call's deadline; then the subscriber learns that messages may be missing.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// An event of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionEvent {
    /// A message as it was published.
    Message(Vec<u8>),
    /// Messages published before this may have been missed: the subscription was established (the
    /// first time as well), or the subscriber was too slow. Read the state that the messages tell of.
    Reconnected,
}

/// A subscription to one channel; dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<SubscriptionEvent>,
    missed: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Subscription {
    pub(crate) fn start(link: Link, channel: &str) -> Subscription {
        let (sender, events) = mpsc::channel(MESSAGES_MAX);
        let missed = Arc::new(AtomicBool::new(false));
        let subscriber =
            Subscriber { link, channel: channel.to_owned(), sender, missed: Arc::clone(&missed) };
        let task = tokio::spawn(subscriber.run());
        Subscription { events, missed, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits for the next event, through every outage. Cancel-safe.
    pub async fn recv(&mut self) -> SubscriptionEvent {
        // What was dropped was published before this: a state read from now on covers it.
        if self.missed.swap(false, Ordering::AcqRel) {
            return SubscriptionEvent::Reconnected;
        }
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only with its runtime.
            None => std::future::pending().await,
        }
    }
}

struct Subscriber {
    link: Link,
    channel: String,
    sender: mpsc::Sender<SubscriptionEvent>,
    missed: Arc<AtomicBool>,
}

impl Subscriber {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            if let Err(error) = self.listen(&mut backoff).await {
                tracing::debug!(channel = self.channel, %error, "cannot subscribe to redis");
            }
            sleep(backoff.next()).await;
        }
    }

    /// Subscribes, and returns when the connection has died.
    async fn listen(&self, backoff: &mut Backoff) -> Result<(), LinkError> {
        let settings = &self.link.inner.settings;
        let deadline = tokio::time::Instant::now() + settings.call_deadline;
        // In a Cluster every node hears what is published on any.
        let node = match self.link.inner.topology.known(deadline).await? {
            Route::Single(node) => Arc::clone(node),
            Route::Cluster(cluster) => cluster.owner(None, deadline).await?,
        };
        node.serving().await?;
        let mut moves = node.moves();
        let (sender, missed) = (self.sender.clone(), Arc::clone(&self.missed));
        let pushes = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
            deliver(push, &sender, &missed);
            Ok(())
        };
        let mut connection = Connection::open_for_pushes(node.dialer(), settings, pushes).await?;
        let subscribed = timeout(settings.call_deadline, connection.requests.subscribe(&self.channel)).await;
        if let Ok(Err(error)) = &subscribed {
            return Err(LinkError::Unavailable(error.to_string()));
        }
        if subscribed.is_err() {
            return Err(LinkError::Unavailable(format!(
                "{} does not answer SUBSCRIBE",
                settings.place(node.endpoint())
            )));
        }
        let ping = redis::cmd("PING");
        loop {
            tokio::select! {
                () = connection.closed.cancelled() => return Ok(()),
                () = moves.moved() => return Ok(()),
                () = sleep(PING_INTERVAL) => {}
            }
            if !matches!(timeout(settings.call_deadline, connection.command(&ping)).await, Ok(Ok(_))) {
                return Ok(());
            }
            // Not before: a connection that dies as it is made is not made again at once.
            backoff.reset();
        }
    }
}

/// Queues a push message. The connection's driver calls this, so it must not wait.
fn deliver(push: PushInfo, sender: &mpsc::Sender<SubscriptionEvent>, missed: &AtomicBool) {
    let event = match push.kind {
        // In the connection's order: what follows it was published after the subscription was made.
        PushKind::Subscribe => SubscriptionEvent::Reconnected,
        PushKind::Message => match push.data.into_iter().nth(1) {
            Some(Value::BulkString(message)) => SubscriptionEvent::Message(message),
            _ => return,
        },
        _ => return,
    };
    if sender.try_send(event).is_err() {
        missed.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(text: &str) -> PushInfo {
        let data = vec![Value::BulkString(b"channel".to_vec()), Value::BulkString(text.into())];
        PushInfo { kind: PushKind::Message, data }
    }

    #[tokio::test]
    async fn slow_subscriber_learns_of_missed_messages() {
        let (sender, events) = mpsc::channel(1);
        let missed = Arc::new(AtomicBool::new(false));
        let task = AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
        let mut subscription = Subscription { events, missed: Arc::clone(&missed), _task: task };
        let message = |text: &str| SubscriptionEvent::Message(text.into());

        for text in ["kept", "lost", "lost"] {
            deliver(push(text), &sender, &missed);
        }
        assert_eq!(subscription.recv().await, SubscriptionEvent::Reconnected);
        assert_eq!(subscription.recv().await, message("kept"));
        deliver(push("next"), &sender, &missed);
        assert_eq!(subscription.recv().await, message("next"));
    }
}
