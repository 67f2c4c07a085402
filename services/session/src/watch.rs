//! Watching: a watcher hears of every event of its buckets once, in order, from where it left off, on any clone.
//!
//! Listening begins before history is read, so that no event is missed; an event that is received twice is sent once, because every
//! event has a place. A listener that fell behind reads history again.

pub(crate) mod watchers;

use std::collections::VecDeque;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use shoal_kit::reason;
use tokio::time::sleep;

use crate::error::Error;
use crate::event::{Cursor, Event, Notice, Place};
use crate::store::{History, Listen as _, Store, StoreEvent};

/// The number of events of a bucket read at once.
const PAGE: usize = 256;
/// The number of buckets asked at once when all of them are read.
const CONCURRENCY: usize = 32;

/// The pause between two attempts to read while the store does not answer.
const AWAY_PAUSE: Duration = Duration::from_millis(250);

/// A watch by one watcher.
pub(crate) struct Watch<S: Store> {
    store: S,
    listener: S::Listener,
    cursor: Cursor,
    /// The user whose events are told; `None`: everybody.
    user: Option<String>,
    /// Buckets whose history is to be read.
    unread: VecDeque<u8>,
    /// Notices that were read and not told yet.
    pending: VecDeque<(u8, Notice)>,
}

/// A message to a watcher, and the token by which the watch goes on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchMessage {
    pub(crate) notice: Notice,
    pub(crate) resume_token: String,
}

impl<S: Store> Watch<S> {
    /// Starts a watch from `resume` on, or from now on: of one user's bucket and events, or of everybody's.
    pub(crate) async fn start(
        store: S,
        of: Option<(u8, String)>,
        resume: Option<Cursor>,
    ) -> Result<Self, Error> {
        // Before the ends are asked for: what happens from then on is heard.
        let mut listener = store.listen();
        let (cursor, unread) = match (&of, resume) {
            (None, None) => {
                let ends = store.ends().await?;
                (Cursor::All(Box::new(*ends)), Vec::new())
            }
            (Some((bucket, _)), None) => (Cursor::One(*bucket, end_of(&store, *bucket).await?), Vec::new()),
            (None, Some(cursor @ Cursor::All(_))) => {
                let unread = cursor.unlike(&*store.ends().await?);
                (cursor, unread)
            }
            (Some((bucket, _)), Some(cursor)) => {
                // A token of a watch on everybody is good for one user too.
                let place = cursor.place(*bucket).ok_or_else(other_watch)?;
                (Cursor::One(*bucket, place), vec![*bucket])
            }
            (None, Some(Cursor::One(..))) => return Err(other_watch()),
        };
        let mut unread: VecDeque<u8> = unread.into();
        unread.extend(listener.follow(&cursor));
        let user = of.map(|(_, user)| user);
        Ok(Self { store, listener, cursor, user, unread, pending: VecDeque::new() })
    }

    /// Waits for the next message. Cancel-safe between events, not within: drop the watcher when it is cancelled.
    pub(crate) async fn next(&mut self) -> Result<WatchMessage, Error> {
        loop {
            while let Some((bucket, notice)) = self.pending.pop_front() {
                if let Some(told) = self.tell(bucket, notice) {
                    return Ok(told);
                }
            }
            if self.unread.is_empty() {
                match self.listener.next().await {
                    StoreEvent::Events(bucket, events) => {
                        self.pending
                            .extend(events.iter().map(|event| (bucket, Notice::Event(event.clone()))));
                    }
                    StoreEvent::Look(bucket) => self.unread.push_back(bucket),
                    StoreEvent::LookEverywhere => self.look_everywhere().await?,
                }
            } else {
                match self.read().await {
                    // The store is away for a while: what happens meanwhile is read when it is back.
                    Err(Error::Engine(error)) if error.is_certain() => sleep(AWAY_PAUSE).await,
                    read => read?,
                }
            }
        }
    }

    /// Finds the buckets in which something was missed.
    async fn look_everywhere(&mut self) -> Result<(), Error> {
        if let Cursor::One(bucket, _) = self.cursor {
            self.unread = [bucket].into();
            return Ok(());
        }
        let ends = loop {
            match self.store.ends().await {
                Err(Error::Engine(error)) if error.is_certain() => sleep(AWAY_PAUSE).await,
                ends => break ends?,
            }
        };
        self.unread = self.cursor.unlike(&ends).into();
        Ok(())
    }

    /// Moves past an event; returns the message if it is new and wanted.
    fn tell(&mut self, bucket: u8, notice: Notice) -> Option<WatchMessage> {
        let at = self.cursor.place(bucket)?;
        match &notice {
            Notice::Event(event) => {
                if event.place <= at {
                    return None;
                }
                self.cursor.advance(bucket, event.place);
                if self.user.as_ref().is_some_and(|user| *user != event.user) {
                    return None;
                }
            }
            // It may go back: the store may have lost what was there.
            Notice::Gap { place, .. } => self.cursor.advance(bucket, *place),
        }
        Some(WatchMessage { notice, resume_token: self.cursor.encode() })
    }

    /// Reads the history of some unread buckets.
    async fn read(&mut self) -> Result<(), Error> {
        let batch: Vec<u8> = self.unread.iter().copied().take(CONCURRENCY).collect();
        let read: Vec<(u8, History)> = stream::iter(batch)
            .map(|bucket| {
                let (store, after) = (&self.store, self.cursor.place(bucket).unwrap_or_default());
                async move { Ok::<_, Error>((bucket, store.history(bucket, after, PAGE).await?)) }
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        for (bucket, history) in read {
            self.unread.pop_front();
            self.plan(bucket, history);
        }
        Ok(())
    }

    fn plan(&mut self, bucket: u8, history: History) {
        let full = history.events.len() == PAGE;
        if history.gap {
            let place = match history.events.first() {
                Some(event) => before(event),
                None => history.last,
            };
            self.pending.push_back((bucket, Notice::Gap { bucket, place }));
        }
        self.pending.extend(history.events.into_iter().map(|event| (bucket, Notice::Event(event))));
        if full {
            self.unread.push_back(bucket);
        }
    }
}

/// Returns the place just before an event, so that the event itself is new.
fn before(event: &Event) -> Place {
    let Place { millis, seq } = event.place;
    match seq.checked_sub(1) {
        Some(seq) => Place { millis, seq },
        None => Place { millis: millis.saturating_sub(1), seq: u64::MAX },
    }
}

async fn end_of<S: Store>(store: &S, bucket: u8) -> Result<Place, Error> {
    Ok(store.history(bucket, Place { millis: u64::MAX, seq: u64::MAX }, 1).await?.last)
}

fn other_watch() -> Error {
    Error::invalid(reason::INVALID_RESUME_TOKEN, "resume_token", "belongs to a watch on other users")
}
