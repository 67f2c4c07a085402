//! The service's logic over a store, as one clone offers it. Its calls stand in `tables`, `read` and `write`: each finds the
//! table, checks the request against it, and asks the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, WriteTimestamp};
use crate::config::{BLOB_BYTES_MAX_DEFAULT, STREAM_IDLE_MAX_DEFAULT};
use crate::error::Error;
use crate::page_key::{PageKey, PageKeys};
use crate::page_token::Binding;
use crate::store::{KeyStore, WriteStore};
use crate::tags::Tags;

/// Rows or tables of a page when the caller gives no size.
pub(crate) const PAGE_SIZE_DEFAULT: usize = 100;
/// Most rows or tables of a page.
pub(crate) const PAGE_SIZE_MAX: usize = 1000;
/// Most watches of tables open at one clone.
pub(crate) const WATCHES_MAX: usize = 256;

/// Longest page token that is looked at. Ours are shorter, because keys have at most 1 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 4096;

/// Most scans at one clone at the same time. Each holds a step of each of its parts in memory.
pub(crate) const SCANS_MAX: usize = 16;

/// Most blobs that a clone takes or returns at the same time. Each holds about a message and a chunk in memory.
pub(crate) const BLOBS_MAX: usize = 64;

/// Longest time for which a caller is waited for until it has sent the next stored chunk, or the end of the blob; longer if
/// `data.stream_idle_max` is. Time in which chunks are being stored does not count.
const CHUNK_TIME_MAX: Duration = Duration::from_secs(60);

/// The data of a store, as one clone offers it.
#[derive(Debug, Clone)]
pub(crate) struct Data<S> {
    /// The store of the tables and rows.
    pub(crate) store: S,
    /// The clock that gives timestamps to writes without a token.
    pub(crate) clock: Arc<Clock>,
    /// The reporter of what writes touch.
    pub(crate) tags: Tags,
    keys: Arc<PageKeys>,
    /// Places of the scans that may run at this clone.
    pub(crate) scans: Arc<Semaphore>,
    /// Cancelled when the clone begins to shut down.
    pub(crate) draining: CancellationToken,
    /// The watches that may still be opened.
    pub(crate) watches: Arc<Semaphore>,
    /// Places of the blobs that may be under way at this clone.
    pub(crate) blobs: Arc<Semaphore>,
    /// The most bytes of a blob.
    pub(crate) blob_bytes_max: u64,
    /// The longest time for which a stream waits for its caller.
    pub(crate) stream_idle_max: Duration,
    /// Told when views of a table were changed at this clone.
    pub(crate) views_changed: Arc<Notify>,
    /// The longest time that a caller takes for a stored chunk of a blob.
    pub(crate) chunk_time_max: Duration,
}

impl<S: WriteStore> Data<S> {
    /// Offers the data of a store.
    pub(crate) fn new(store: S) -> Self {
        let clock = store.clock();
        let scans = Arc::new(Semaphore::new(SCANS_MAX));
        let watches = Arc::new(Semaphore::new(WATCHES_MAX));
        let (tags, draining, keys) = (Tags::default(), CancellationToken::new(), Arc::default());
        let (blobs, blob_bytes_max) = (Arc::new(Semaphore::new(BLOBS_MAX)), BLOB_BYTES_MAX_DEFAULT);
        let (stream_idle_max, views_changed) = (STREAM_IDLE_MAX_DEFAULT, Arc::default());
        let chunk_time_max = CHUNK_TIME_MAX;
        Self {
            store,
            clock,
            tags,
            keys,
            scans,
            draining,
            watches,
            blobs,
            blob_bytes_max,
            stream_idle_max,
            views_changed,
            chunk_time_max,
        }
    }

    /// Ends watches when the clone begins to shut down.
    pub(crate) fn until(self, draining: CancellationToken) -> Self {
        Self { draining, ..self }
    }

    /// Takes blobs of at most this many bytes, and ends streams that have waited for their callers for so long.
    pub(crate) fn within(self, blob_bytes_max: u64, stream_idle_max: Duration) -> Self {
        Self { blob_bytes_max, stream_idle_max, ..self }
    }

    /// Reports what writes touch.
    #[cfg(test)]
    pub(crate) fn reporting(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }
}

impl<S: KeyStore> Data<S> {
    /// Makes the token of a place in a list.
    ///
    /// # Errors
    /// Errors of the store.
    pub(crate) async fn seal(&self, binding: &Binding, place: &[u8]) -> Result<String, Error> {
        let now = WriteTimestamp::now();
        let key = match self.keys.signing(now) {
            Some(key) => key,
            None => match self.signing_key(now).await {
                Ok(key) => key,
                // Old keys hold, so a read needs no more of the store for its token than for its rows.
                Err(error) => self.known_key().await.ok_or(error)?,
            },
        };
        Ok(binding.seal(&key, place))
    }

    /// Returns the place in a token.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the token is none of ours or belongs to another request, and errors of the store.
    pub(crate) async fn open(&self, binding: &Binding, token: &str) -> Result<Vec<u8>, Error> {
        let token = binding.parse(token)?;
        let mut key = self.keys.get(token.key);
        if key.is_none() {
            // Another clone may have made it since.
            match self.store.page_keys().await {
                Ok(keys) => {
                    self.keys.learn(keys);
                    key = self.keys.get(token.key);
                }
                Err(error) => {
                    // That one replica does not have it says nothing.
                    let nearby = self.store.page_keys_nearby().await.unwrap_or_default();
                    key = Some(nearby.into_iter().find(|key| key.id == token.key).ok_or(error)?);
                }
            }
        }
        Ok(binding.open(&token, key.as_ref())?)
    }

    /// Returns the newest key that is known here or nearby, after the store could not be asked.
    async fn known_key(&self) -> Option<PageKey> {
        if let Some(key) = self.keys.put_off() {
            return Some(key);
        }
        self.keys.learn(self.store.page_keys_nearby().await.ok()?);
        self.keys.put_off()
    }

    /// Looks up the newest key, and makes one if there is none or it has signed for long.
    async fn signing_key(&self, now: WriteTimestamp) -> Result<PageKey, Error> {
        let mut keys = self.store.page_keys().await?;
        let newest = keys.iter().max_by_key(|key| key.id).cloned();
        let key = match (PageKey::due(newest.as_ref(), now), newest) {
            (None, Some(newest)) => newest,
            (Some(due), newest) => match (self.store.add_page_key(due).await, newest) {
                (Ok(key), _) => {
                    keys.push(key.clone());
                    key
                }
                // A store that takes no writes now keeps the old key going.
                (Err(error), Some(newest)) => {
                    tracing::warn!(%error, "no new key for page tokens could be made");
                    newest
                }
                (Err(error), None) => return Err(error),
            },
            (None, None) => return Err(Error::Internal("no key for page tokens is due".to_owned())),
        };
        self.keys.learn(keys);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::model::Model;

    #[tokio::test]
    async fn tokens_need_no_majority_of_keys() {
        let binding = || Binding::new("test", "page_token", TOKEN_BYTES_MAX);
        let model = Model::default();
        let (here, there) = (Data::new(model.clone()), Data::new(model.clone()));
        let first = here.seal(&binding(), b"place").await.unwrap();
        model.take_keys_away(true);
        here.keys.age();
        // The key that is known signs on, and what one replica has is enough for a clone that knows none.
        for clone in [&here, &there] {
            let token = clone.seal(&binding(), b"next").await.unwrap();
            assert_eq!(here.open(&binding(), &token).await.unwrap(), b"next");
            assert_eq!(clone.open(&binding(), &first).await.unwrap(), b"place");
        }
        let fresh = Data::new(model.clone());
        assert_eq!(fresh.open(&binding(), &first).await.unwrap(), b"place");
        model.take_keys_away(false);
        assert_eq!(fresh.open(&binding(), &first).await.unwrap(), b"place");
    }
}
