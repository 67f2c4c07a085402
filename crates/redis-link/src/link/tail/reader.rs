//! Reads streams over a blocking connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{InfoDict, Value};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{Cursor, Cursors, TailEvent, reply};
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::error::{self, LinkError};
use crate::link::Link;
use crate::node::Moves;
use crate::node::Node;
use crate::topology::Route;

/// The time for which Redis holds back the answer to a read that finds nothing. A dead connection is noticed within it.
const BLOCK: Duration = Duration::from_secs(1);

/// The most entries of one stream in one answer, which bounds the size of an event.
const COUNT: usize = 256;

/// The interval between two tries to end a blocking read whose streams have changed: the first may come before the read.
const UNBLOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The number of connections that the readers of one tail make at the same time.
const CONNECTING_MAX: usize = 4;

/// The state that the readers of one tail share.
pub(super) struct Readers {
    pub(super) link: Link,
    pub(super) cursors: Arc<Cursors>,
    events: mpsc::Sender<TailEvent>,
    connecting: Semaphore,
    restarts: Mutex<Restarts>,
}

/// The changes of Redis (from one `run_id` to another) that were told. All readers of a node see a change, and it is told once.
/// Holds one pair for each restart.
#[derive(Debug, Default)]
struct Restarts {
    /// The number of changes told.
    count: u64,
    /// The last change of each pair: a fail-over can come again, to a process that was there before.
    told: HashMap<(String, String), u64>,
}

impl Restarts {
    /// Returns whether to tell this change: it was not told since `read_at`, the count when the reader last read from `before`.
    fn is_news(&mut self, before: &str, after: &str, read_at: u64) -> bool {
        let pair = (before.to_owned(), after.to_owned());
        if self.told.get(&pair).is_some_and(|told| *told > read_at) {
            return false;
        }
        self.count += 1;
        self.told.insert(pair, self.count);
        true
    }
}

/// Reads one group of streams: those of a slot, or all of them.
pub(super) struct Reader {
    readers: Arc<Readers>,
    slot: Option<u16>,
    version: watch::Receiver<u64>,
    /// The `run_id` of the Redis that was read last.
    run_id: Option<String>,
    /// The number of changes told at that time.
    read_at: u64,
}

/// A connection for blocking reads, with the ids that Redis tells for it.
struct Session {
    node: Arc<Node>,
    moves: Moves,
    connection: Connection,
    client_id: i64,
    run_id: String,
}

impl Readers {
    pub(super) fn new(link: Link, cursors: Arc<Cursors>, events: mpsc::Sender<TailEvent>) -> Readers {
        let connecting = Semaphore::new(CONNECTING_MAX);
        Readers { link, cursors, events, connecting, restarts: Mutex::default() }
    }

    /// Sends an event to the handle. A dropped handle has aborted the readers already.
    async fn send(&self, event: TailEvent) {
        let _ = self.events.send(event).await;
    }

    fn restarts(&self) -> std::sync::MutexGuard<'_, Restarts> {
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    pub(super) fn new(readers: Arc<Readers>, slot: Option<u16>) -> Reader {
        let version = readers.cursors.version.subscribe();
        Reader { readers, slot, version, run_id: None, read_at: 0 }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            if let Err(error) = self.read(&mut backoff).await {
                tracing::debug!(%error, "the reader of redis streams connects again");
                if let Route::Cluster(cluster) = self.readers.link.inner.topology.now() {
                    cluster.suspect();
                }
            }
            sleep(backoff.next()).await;
        }
    }

    /// Connects and reads until something fails.
    async fn read(&mut self, backoff: &mut Backoff) -> Result<(), LinkError> {
        let mut session = self.connect().await?;
        self.tell(&session).await?;
        self.read_at = self.readers.restarts().count;
        loop {
            self.version.mark_unchanged();
            let mut cursors = self.readers.cursors.of(self.slot);
            if cursors.is_empty() {
                // The connection may die unseen meanwhile: the next read finds out.
                tokio::select! {
                    _ = self.version.changed() => continue,
                    () = session.moves.moved() => return Err(session.left()),
                }
            }
            self.resolve(&session, &mut cursors).await?;
            let asked_at = self.readers.restarts().count;
            let streams = self.next(&mut session, &cursors).await?;
            self.read_at = asked_at;
            backoff.reset();
            for (key, entries) in streams {
                let (Some(cursor), Some(last)) = (cursors.get(&key), entries.last()) else { continue };
                if self.readers.cursors.advance(&key, cursor, &last.id) {
                    self.readers.send(TailEvent::Entries { key, entries }).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Session, LinkError> {
        let settings = &self.readers.link.inner.settings;
        let deadline = Instant::now() + settings.call_deadline;
        let node = match self.readers.link.inner.topology.known(deadline).await? {
            Route::Single(node) => Arc::clone(node),
            Route::Cluster(cluster) => cluster.owner(self.slot, deadline).await?,
        };
        node.serving().await?;
        let moves = node.moves();
        let connection = {
            let _turn = self.readers.connecting.acquire().await;
            Connection::open(node.dialer(), settings, &[]).await?
        };
        let mut id = redis::cmd("CLIENT");
        id.arg("ID");
        let client_id = value(self.ask(&node, &connection, &id).await?)?;
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let info: InfoDict = value(self.ask(&node, &connection, &info).await?)?;
        let run_id =
            info.get("run_id").ok_or_else(|| LinkError::unexpected("INFO server names no run_id"))?;
        Ok(Session { node, moves, connection, client_id, run_id })
    }

    /// Tells the handle what the new connection means, and moves back the cursors that are ahead of their streams.
    async fn tell(&mut self, session: &Session) -> Result<(), LinkError> {
        let Some(before) = self.run_id.clone() else {
            self.run_id = Some(session.run_id.clone());
            return Ok(());
        };
        if before == session.run_id {
            self.readers.send(TailEvent::Reconnected).await;
            return Ok(());
        }
        for (key, cursor) in self.readers.cursors.of(self.slot) {
            let last = self.last_id(session, &key).await?;
            if parse_id(&last) < parse_id(&cursor.id) {
                self.readers.cursors.advance(&key, &cursor, &last);
            }
        }
        let is_news = self.readers.restarts().is_news(&before, &session.run_id, self.read_at);
        if is_news {
            self.readers.send(TailEvent::RestartedOrFailedOver).await;
        }
        self.run_id = Some(session.run_id.clone());
        Ok(())
    }

    /// Replaces `$` by the id that it means now, because each `XREAD` would take it anew.
    async fn resolve(
        &self,
        session: &Session,
        cursors: &mut BTreeMap<Vec<u8>, Cursor>,
    ) -> Result<(), LinkError> {
        for (key, cursor) in cursors.iter_mut().filter(|(_, cursor)| cursor.id == "$") {
            cursor.id = self.last_id(session, key).await?;
            self.readers.cursors.advance(key, cursor, &cursor.id);
        }
        Ok(())
    }

    /// Returns the greatest id that the stream ever had; `0-0` if there is none.
    async fn last_id(&self, session: &Session, key: &[u8]) -> Result<String, LinkError> {
        let mut info = redis::cmd("XINFO");
        info.arg("STREAM").arg(key);
        match self.ask(&session.node, &session.connection, &info).await {
            Ok(reply) => {
                let info: std::collections::HashMap<String, Value> = value(reply)?;
                let last = info.get("last-generated-id").cloned();
                value(last.ok_or_else(|| LinkError::unexpected("XINFO STREAM names no last-generated-id"))?)
            }
            Err(LinkError::Server { code, message }) if code == "ERR" && message.contains("no such key") => {
                Ok("0-0".to_owned())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the entries after the cursors; none after [`BLOCK`], or when the cursors change.
    async fn next(
        &mut self,
        session: &mut Session,
        cursors: &BTreeMap<Vec<u8>, Cursor>,
    ) -> Result<Vec<(Vec<u8>, Vec<super::Entry>)>, LinkError> {
        let mut xread = redis::cmd("XREAD");
        xread.arg("COUNT").arg(COUNT).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
        for key in cursors.keys() {
            xread.arg(key.as_slice());
        }
        for cursor in cursors.values() {
            xread.arg(cursor.id.as_str());
        }
        let patience = BLOCK + self.readers.link.inner.settings.call_deadline;
        let mut reply = std::pin::pin!(timeout(patience, session.connection.command(&xread)));
        let mut changed = false;
        let reply = loop {
            tokio::select! {
                reply = &mut reply => break reply,
                () = session.moves.moved() => return Err(session.left()),
                _ = self.version.changed(), if !changed => changed = self.readers.cursors.differ(self.slot, cursors),
                () = sleep(UNBLOCK_INTERVAL), if changed => {}
            }
            if changed {
                session.unblock(&self.readers.link).await;
            }
        };
        let reply = settle(&session.node, reply)?;
        reply::parse(reply).ok_or_else(|| LinkError::unexpected("the reply of XREAD"))
    }

    async fn ask(
        &self,
        node: &Node,
        connection: &Connection,
        command: &redis::Cmd,
    ) -> Result<Value, LinkError> {
        settle(
            node,
            timeout(self.readers.link.inner.settings.call_deadline, connection.command(command)).await,
        )
    }
}

impl Session {
    /// Returns the error of a server that the link has left for another one.
    fn left(&self) -> LinkError {
        LinkError::Unavailable(format!("{} is another server now", self.node.place()))
    }

    /// Ends the blocking read, if it has begun. Its failure costs a wait of [`BLOCK`].
    async fn unblock(&self, link: &Link) {
        let mut unblock = redis::cmd("CLIENT");
        unblock.arg("UNBLOCK").arg(self.client_id);
        let deadline = Instant::now() + link.inner.settings.call_deadline;
        let _ = self.node.command(&unblock, deadline).await;
    }
}

fn settle(
    node: &Node,
    reply: Result<Result<Value, redis::RedisError>, tokio::time::error::Elapsed>,
) -> Result<Value, LinkError> {
    match reply {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(error::after_send(&node.place(), error)),
        Err(_) => Err(LinkError::Unknown(format!("{} does not answer a blocking read", node.place()))),
    }
}

fn value<T: redis::FromRedisValue>(reply: Value) -> Result<T, LinkError> {
    T::from_redis_value(reply).map_err(LinkError::unexpected)
}

/// Reads an id as its two numbers, by which ids are ordered; `$` and other words are the least.
fn parse_id(id: &str) -> (u64, u64) {
    let (time, sequence) = id.split_once('-').unwrap_or((id, "0"));
    (time.parse().unwrap_or(0), sequence.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut restarts = Restarts::default();
        assert!(restarts.is_news("a", "b", 0));
        assert!(!restarts.is_news("a", "b", 0), "another reader's sight of the same change");
        assert!(restarts.is_news("b", "a", 1));
        assert!(!restarts.is_news("b", "a", 1));
        assert!(restarts.is_news("a", "b", 2), "the second fail-over to the same process");
        assert!(!restarts.is_news("a", "b", 2));
        assert!(!restarts.is_news("a", "b", 0), "a reader that was not there for the changes in between");
    }
}
