//! The reader of the event streams for all watchers of a clone: it reads the buckets that somebody watches, and no more.
//!
//! On one Redis that is one blocking connection; on a Cluster one for each watched bucket, because a blocking read
//! cannot span slots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shoal_redis_link::{Link, TailEvent};
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{Names, field};
use crate::event::{Cursor, Event, Place};
use crate::store::{Listen, StoreEvent};

/// The number of batches of events that a watcher may be behind; past it, the watcher reads history.
const BEHIND_MAX: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct Hub {
    link: Link,
    names: Arc<Names>,
    /// The reader, as long as somebody listens.
    reader: Arc<Mutex<Weak<Reader>>>,
}

/// Reads until the last listener lets it go.
#[derive(Debug)]
struct Reader {
    heard: broadcast::Sender<StoreEvent>,
    /// The number of watchers of each bucket, and the place from which on it is read.
    watched: Mutex<HashMap<u8, (usize, Place)>>,
    changes: mpsc::UnboundedSender<Change>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum Change {
    Add(u8, Place),
    Remove(u8),
}

impl Hub {
    pub(super) fn new(link: Link, names: Arc<Names>) -> Self {
        Self { link, names, reader: Arc::default() }
    }

    pub(super) fn listen(&self) -> Listener {
        let mut shared = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = shared.upgrade().unwrap_or_else(|| {
            let reader = Arc::new(Reader::start(self.link.clone(), Arc::clone(&self.names)));
            *shared = Arc::downgrade(&reader);
            reader
        });
        drop(shared);
        Listener { heard: reader.heard.subscribe(), buckets: Vec::new(), reader }
    }
}

impl Reader {
    fn start(link: Link, names: Arc<Names>) -> Self {
        let heard = broadcast::channel(BEHIND_MAX).0;
        let (changes, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(read(link, names, heard.clone(), asked));
        Self { heard, watched: Mutex::default(), changes, _task: AbortOnDropHandle::new(task) }
    }

    /// Reads the cursor's buckets too. Returns those that the reader began at a later place for another watcher.
    fn watch(&self, cursor: &Cursor) -> Vec<u8> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut behind = Vec::new();
        for (bucket, place) in cursor.places() {
            let (watchers, from) = watched.entry(bucket).or_insert((0, place));
            *watchers += 1;
            if *watchers == 1 {
                // The reader's task lives as long as this.
                let _ = self.changes.send(Change::Add(bucket, place));
            } else if *from > place {
                behind.push(bucket);
            }
        }
        behind
    }

    fn unwatch(&self, buckets: &[u8]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for bucket in buckets {
            if let Some((watchers, _)) = watched.get_mut(bucket) {
                *watchers -= 1;
                if *watchers == 0 {
                    watched.remove(bucket);
                    let _ = self.changes.send(Change::Remove(*bucket));
                }
            }
        }
    }
}

async fn read(
    link: Link,
    names: Arc<Names>,
    heard: broadcast::Sender<StoreEvent>,
    mut asked: mpsc::UnboundedReceiver<Change>,
) {
    let mut tail = link.tail(Vec::new());
    let mut buckets = HashMap::new();
    loop {
        tokio::select! {
            biased;
            change = asked.recv() => match change {
                Some(Change::Add(bucket, place)) => {
                    let key = names.events(bucket).into_bytes();
                    tail.add(key.clone(), field::place_id(place));
                    buckets.insert(key, bucket);
                }
                Some(Change::Remove(bucket)) => {
                    let key = names.events(bucket).into_bytes();
                    tail.remove(&key);
                    buckets.remove(&key);
                }
                None => return,
            },
            event = tail.recv() => {
                let news = match event {
                    TailEvent::Entries { key, entries } => {
                        let Some(bucket) = buckets.get(&key).copied() else { continue };
                        let events: Option<Vec<Event>> =
                            entries.iter().map(|entry| field::event(bucket, &entry.id, &entry.fields)).collect();
                        match events {
                            Some(events) => StoreEvent::Events(bucket, events.into()),
                            // Reading history will say what is wrong with them.
                            None => StoreEvent::Look(bucket),
                        }
                    }
                    // Entries may have been trimmed or lost meanwhile: history knows.
                    TailEvent::Reconnected | TailEvent::RestartedOrFailedOver => StoreEvent::LookEverywhere,
                };
                // Nobody listens: nothing to do.
                let _ = heard.send(news);
            }
        }
    }
}

/// A receiver of what the reader reads.
pub(crate) struct Listener {
    heard: broadcast::Receiver<StoreEvent>,
    buckets: Vec<u8>,
    reader: Arc<Reader>,
}

impl Listen for Listener {
    fn follow(&mut self, cursor: &Cursor) -> Vec<u8> {
        self.buckets = cursor.places().into_iter().map(|(bucket, _)| bucket).collect();
        self.reader.watch(cursor)
    }

    async fn next(&mut self) -> StoreEvent {
        match self.heard.recv().await {
            Ok(heard) => heard,
            Err(broadcast::error::RecvError::Lagged(_)) => StoreEvent::LookEverywhere,
            // The listener owns the reader, which owns the sender.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.reader.unwatch(&self.buckets);
    }
}
