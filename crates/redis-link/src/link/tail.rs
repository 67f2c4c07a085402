//! Reads streams as they grow: `XREAD BLOCK` in a loop, on separate connections, across restarts and fail-overs.
//!
//! The truth is in the stream's entries, not in this connection: after every break reading continues after the last id
//! that was handed out, so an entry that is still in Redis is not missed, and none is handed out twice.

mod reader;
mod reply;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::link::Link;
use crate::link::tail::reader::{Reader, Readers};
use crate::slot;
use crate::topology::Route;

/// The number of events that may wait for [`Tail::recv`]. Beyond it reading waits too, and the entries stay in Redis.
const EVENTS_MAX: usize = 64;

/// An event of a reader of streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailEvent {
    /// New entries of one stream, in order.
    Entries {
        /// The stream's key.
        key: Vec<u8>,
        /// The entries; at least one.
        entries: Vec<Entry>,
    },
    /// A connection to the same Redis was lost and made again: no entry was missed, unless the stream was trimmed
    /// meanwhile.
    Reconnected,
    /// Redis restarted, or another one took its place: entries may be lost, and ids may have gone back. Read
    /// the state that the entries tell of again: a stream whose ids went back hands out only entries that are added
    /// from now on.
    RestartedOrFailedOver,
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id: `milliseconds-sequence`.
    pub id: String,
    /// Names and values, in the order in which they were added.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A reader of streams; dropping it closes its connections.
#[derive(Debug)]
pub struct Tail {
    cursors: Arc<Cursors>,
    events: mpsc::Receiver<TailEvent>,
    _task: AbortOnDropHandle<()>,
}

/// The positions of reading, shared by the handle and the readers.
#[derive(Debug)]
struct Cursors {
    map: Mutex<BTreeMap<Vec<u8>, Cursor>>,
    /// Counts changes by the handle, and tells the readers.
    version: watch::Sender<u64>,
}

#[derive(Debug, Clone)]
struct Cursor {
    /// The last id that was handed out, or `$` until the first read.
    id: String,
    /// The version at which the cursor was added. Entries that were read for an earlier cursor of the same key are not handed
    /// out.
    added: u64,
}

impl Tail {
    pub(crate) fn start(link: Link, cursors: Vec<(Vec<u8>, String)>) -> Tail {
        let map = cursors.into_iter().map(|(key, id)| (key, Cursor { id, added: 0 })).collect();
        let cursors = Arc::new(Cursors { map: Mutex::new(map), version: watch::channel(0).0 });
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let task = tokio::spawn(supervise(link, Arc::clone(&cursors), sender));
        Tail { cursors, events, _task: AbortOnDropHandle::new(task) }
    }

    /// Reads one more stream from after `last_id` (`$`: from now on), or moves the cursor of one that is read.
    pub fn add(&self, key: impl Into<Vec<u8>>, last_id: impl Into<String>) {
        let (key, id) = (key.into(), last_id.into());
        self.cursors.change(|map, added| {
            map.insert(key, Cursor { id, added });
        });
    }

    /// Stops reading a stream. Events that are queued already are still received.
    pub fn remove(&self, key: &[u8]) {
        self.cursors.change(|map, _| {
            map.remove(key);
        });
    }

    /// Waits for the next event, through every outage. Cancel-safe.
    pub async fn recv(&mut self) -> TailEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only with its runtime.
            None => std::future::pending().await,
        }
    }
}

impl Cursors {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Cursor>, u64)) {
        self.version.send_modify(|version| {
            *version += 1;
            change(&mut self.map.lock().unwrap_or_else(PoisonError::into_inner), *version);
        });
    }

    /// Returns the cursors of one reader: those of a slot, or of all streams outside a Cluster.
    fn of(&self, slot: Option<u16>) -> BTreeMap<Vec<u8>, Cursor> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |key: &[u8]| slot.is_none_or(|slot| slot::of_key(key) == slot);
        map.iter().filter(|(key, _)| wanted(key)).map(|(key, cursor)| (key.clone(), cursor.clone())).collect()
    }

    /// Moves the cursor that `read` is a copy of. Returns whether that cursor is still there.
    fn advance(&self, key: &[u8], read: &Cursor, id: &str) -> bool {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        match map.get_mut(key) {
            Some(cursor) if cursor.added == read.added => {
                id.clone_into(&mut cursor.id);
                true
            }
            _ => false,
        }
    }

    /// Returns whether the handle has changed the cursors of a reader since the reader took `read`.
    fn differ(&self, slot: Option<u16>, read: &BTreeMap<Vec<u8>, Cursor>) -> bool {
        let now = self.of(slot);
        now.len() != read.len()
            || !now.iter().zip(read).all(|((a, now), (b, read))| a == b && now.added == read.added)
    }

    fn slots(&self) -> Vec<u16> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slots: Vec<_> = map.keys().map(|key| slot::of_key(key)).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

/// Keeps a reader, and so a connection, for each group of streams that one command can read: all streams on a single Redis, and
/// those of one slot in a Cluster.
async fn supervise(link: Link, cursors: Arc<Cursors>, events: mpsc::Sender<TailEvent>) {
    let mut version = cursors.version.subscribe();
    let shared = Arc::new(Readers::new(link, cursors, events));
    let mut readers: HashMap<Option<u16>, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        version.mark_unchanged();
        let groups: Vec<Option<u16>> = match shared.link.inner.topology.learned().await {
            Route::Single(_) => vec![None],
            Route::Cluster(_) => shared.cursors.slots().into_iter().map(Some).collect(),
        };
        readers.retain(|group, _| groups.contains(group));
        for group in groups {
            readers.entry(group).or_insert_with(|| {
                let reader = Reader::new(Arc::clone(&shared), group);
                AbortOnDropHandle::new(tokio::spawn(reader.run()))
            });
        }
        if version.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_read_moves_no_newer_cursor() {
        let cursors = Cursors { map: Mutex::default(), version: watch::channel(0).0 };
        let set = |id: &str| {
            cursors.change(|map, added| {
                map.insert(b"s".to_vec(), Cursor { id: id.to_owned(), added });
            });
        };
        set("5-0");
        let read = cursors.of(None);
        assert!(!cursors.differ(None, &read));
        assert!(cursors.advance(b"s", &read[b"s".as_slice()], "6-0"));
        assert!(!cursors.differ(None, &read), "reading on is no change");

        set("1-0");
        assert!(cursors.differ(None, &read));
        assert!(!cursors.advance(b"s", &read[b"s".as_slice()], "7-0"));
        assert_eq!(cursors.of(None)[b"s".as_slice()].id, "1-0");
    }
}
