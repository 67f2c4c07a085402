//! Hears what happens on Redis: ready jobs and due times over a channel, and changes of jobs over the event streams of the
//! queues that are watched at this clone. One blocking connection reads all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::Value;
use shoal_redis_link::{LinkError, SubscriptionEvent, Tail, TailEvent};
use tokio::sync::watch;

use super::RedisStore;
use super::failure::read_error;
use super::script::{changes, read};
use crate::error::Error;
use crate::hub::Hub;
use crate::job::id::{JobId, QueueName};
use crate::store::{Announcer, Following};

/// Number of entries in one answer from which on the clone counts as behind: the stream may have been trimmed before it read on.
const BEHIND: usize = 256;

/// The queues that are watched at this clone.
#[derive(Debug)]
pub(super) struct Follows {
    queues: Mutex<HashMap<QueueName, Follow>>,
    moved: watch::Sender<u64>,
}

#[derive(Debug)]
struct Follow {
    /// The id of the last entry before the first watcher came.
    from: String,
    watchers: usize,
}

impl Default for Follows {
    fn default() -> Self {
        Self { queues: Mutex::default(), moved: watch::channel(0).0 }
    }
}

impl Follows {
    fn queues(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, Follow>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, queue: &QueueName, from: Option<String>) -> Option<Following> {
        let mut queues = self.queues();
        if let Some(follow) = queues.get_mut(queue) {
            follow.watchers += 1;
        } else {
            queues.insert(queue.clone(), Follow { from: from?, watchers: 1 });
            self.moved.send_modify(|count| *count += 1);
        }
        Some(Box::new(Follower { follows: self.clone(), queue: queue.clone() }))
    }
}

/// Interest of a watcher in a queue, which ends when dropped.
struct Follower {
    follows: Arc<Follows>,
    queue: QueueName,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut queues = self.follows.queues();
        if let Some(follow) = queues.get_mut(&self.queue) {
            follow.watchers -= 1;
            if follow.watchers == 0 {
                queues.remove(&self.queue);
                self.follows.moved.send_modify(|count| *count += 1);
            }
        }
    }
}

impl Announcer for RedisStore {
    fn announce(&self, hub: Arc<Hub>) -> BoxFuture<'static, ()> {
        run(self.clone(), hub).boxed()
    }

    fn follow<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Following, Error>> {
        follow(self, queue).boxed()
    }
}

/// Follows a queue. Whoever reads its stream begins no later than here.
async fn follow(store: &RedisStore, queue: &QueueName) -> Result<Following, Error> {
    if let Some(following) = store.follows.join(queue, None) {
        return Ok(following);
    }
    let from = last_id(store, queue).await?;
    store
        .follows
        .join(queue, Some(from))
        .ok_or_else(|| Error::Internal("a watcher could not join".to_owned()))
}

/// Returns the id of the last entry of a queue's stream.
async fn last_id(store: &RedisStore, queue: &QueueName) -> Result<String, Error> {
    let mut info = redis::cmd("XINFO");
    info.arg("STREAM").arg(stream(store, queue));
    match store.link.query::<HashMap<String, Value>>(&info).await {
        Ok(info) => match info.get("last-generated-id") {
            Some(id) => read(id.clone()),
            None => Err(Error::Internal("XINFO STREAM names no last-generated-id".to_owned())),
        },
        Err(LinkError::Server { message, .. }) if message.contains("no such key") => Ok("0-0".to_owned()),
        Err(error) => Err(read_error(error)),
    }
}

/// Returns the key of a queue's stream.
fn stream(store: &RedisStore, queue: &QueueName) -> String {
    format!("{}ev", store.root(queue))
}

/// Tells the hub what happens, until dropped.
async fn run(store: RedisStore, hub: Arc<Hub>) {
    let mut moved = store.follows.moved.subscribe();
    let mut wake = store.link.subscribe(&store.wake);
    let mut tail = store.link.tail(Vec::new());
    let mut followed = HashMap::new();
    moved.mark_changed();
    loop {
        tokio::select! {
            _ = moved.changed() => follow_the_watched(&store, &tail, &mut followed),
            event = wake.recv() => match event {
                SubscriptionEvent::Message(message) => heard(&hub, &message),
                SubscriptionEvent::Reconnected => missed(&hub),
            },
            event = tail.recv() => match event {
                TailEvent::Entries { key, entries } => {
                    let Some(queue) = followed.get(&key) else { continue };
                    for (tail, version) in entries.iter().flat_map(|entry| &entry.fields).flat_map(|(_, value)| changes(value)) {
                        if let Some(id) = JobId::of_tail(queue, tail) {
                            hub.changed(&id, version);
                        }
                    }
                    if entries.len() >= BEHIND {
                        hub.gap(Some(queue));
                    }
                }
                TailEvent::Reconnected | TailEvent::RestartedOrFailedOver => missed(&hub),
            },
        }
    }
}

/// Reads the streams of exactly the watched queues.
fn follow_the_watched(store: &RedisStore, tail: &Tail, followed: &mut HashMap<Vec<u8>, QueueName>) {
    let queues = store.follows.queues();
    let wanted: BTreeSet<Vec<u8>> = queues.keys().map(|queue| stream(store, queue).into_bytes()).collect();
    followed.retain(|key, _| {
        let keep = wanted.contains(key);
        if !keep {
            tail.remove(key);
        }
        keep
    });
    for (queue, follow) in queues.iter() {
        let key = stream(store, queue).into_bytes();
        followed.entry(key).or_insert_with_key(|key| {
            tail.add(key.clone(), follow.from.clone());
            queue.clone()
        });
    }
}

/// Wakes everyone after a new connection, which may be to a Redis that knows less than the last one.
fn missed(hub: &Hub) {
    hub.ready_anywhere();
    hub.gap(None);
}

/// Reads a message: `rQUEUE` means that the queue has jobs again, `dMS QUEUE` that something is due in so many milliseconds,
/// earlier than before.
fn heard(hub: &Hub, message: &[u8]) {
    let Ok(text) = std::str::from_utf8(message) else { return };
    if let Some(name) = text.strip_prefix('r') {
        if let Ok(queue) = QueueName::parse(name) {
            hub.ready(&queue);
        }
    } else if let Some((within, name)) = text.strip_prefix('d').and_then(|rest| rest.split_once(' '))
        && let (Ok(within), Ok(queue)) = (within.parse(), QueueName::parse(name))
    {
        hub.due(&queue, Duration::from_millis(within));
    }
}
