//! One reader of the event streams for all watchers of a clone: it reads the buckets that somebody watches, and no more.
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
use crate::store::{Heard, Listen};

/// Batches of events a watcher may be behind; past it, it reads history.
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
    heard: broadcast::Sender<Heard>,
    watched: Mutex<HashMap<u8, usize>>,
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

    pub(super) fn listen(&self, cursor: &Cursor) -> Listener {
        let mut shared = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = shared.upgrade().unwrap_or_else(|| {
            let reader = Arc::new(Reader::start(self.link.clone(), Arc::clone(&self.names)));
            *shared = Arc::downgrade(&reader);
            reader
        });
        drop(shared);
        Listener { heard: reader.heard.subscribe(), buckets: reader.watch(cursor), reader }
    }
}

impl Reader {
    fn start(link: Link, names: Arc<Names>) -> Self {
        let heard = broadcast::channel(BEHIND_MAX).0;
        let (changes, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(read(link, names, heard.clone(), asked));
        Self { heard, watched: Mutex::default(), changes, _task: AbortOnDropHandle::new(task) }
    }

    /// Reads the cursor's buckets too. One that is read already has been read up to a place that its history covers.
    fn watch(&self, cursor: &Cursor) -> Vec<u8> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let places = cursor.places();
        for (bucket, place) in &places {
            let watchers = watched.entry(*bucket).or_default();
            *watchers += 1;
            if *watchers == 1 {
                // The reader's task lives as long as this.
                let _ = self.changes.send(Change::Add(*bucket, *place));
            }
        }
        places.into_iter().map(|(bucket, _)| bucket).collect()
    }

    fn unwatch(&self, buckets: &[u8]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for bucket in buckets {
            if let Some(watchers) = watched.get_mut(bucket) {
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
    heard: broadcast::Sender<Heard>,
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
                            Some(events) => Heard::Events(bucket, events.into()),
                            // Reading history will say what is wrong with them.
                            None => Heard::Look(bucket),
                        }
                    }
                    // Entries may have been trimmed or lost meanwhile: history knows.
                    TailEvent::Reconnected | TailEvent::RestartedOrFailedOver => Heard::LookEverywhere,
                };
                // Nobody listens: nothing to do.
                let _ = heard.send(news);
            }
        }
    }
}

/// Hears what the reader reads.
pub(crate) struct Listener {
    heard: broadcast::Receiver<Heard>,
    buckets: Vec<u8>,
    reader: Arc<Reader>,
}

impl Listen for Listener {
    async fn heard(&mut self) -> Heard {
        match self.heard.recv().await {
            Ok(heard) => heard,
            Err(broadcast::error::RecvError::Lagged(_)) => Heard::LookEverywhere,
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
