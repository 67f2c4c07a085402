//! Streams whose caller stops reading: they end, and what they hold is given back. A stream counts only the time for which a message
//! waits for its caller, never the time that a message takes to be made.
//!
//! Messages are made in a task of their own, one ahead of the caller. A connection whose window is used up polls none of its streams,
//! and a stream that waited for such a poll to make its next message could not tell that from a message that takes long.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::Instrument as _;

use crate::error::Error;

/// A stream of answers that ends when its caller takes none for too long.
struct Guarded<T> {
    slot: Arc<Slot<T>>,
    _maker: AbortOnDropHandle<()>,
}

/// Place of one message between the task that makes them and their caller.
struct Slot<T> {
    state: Mutex<State<T>>,
    taken: Notify,
}

struct State<T> {
    /// The message that waits for its caller.
    message: Option<Result<T, Error>>,
    /// The error that tells the caller why the stream ended.
    error: Option<Error>,
    ended: bool,
    caller: Option<Waker>,
}

impl<T> Slot<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the caller.
    fn tell(&self, change: impl FnOnce(&mut State<T>)) {
        let caller = {
            let mut state = self.state();
            change(&mut state);
            state.caller.take()
        };
        caller.into_iter().for_each(Waker::wake);
    }

    /// Makes messages until they end, or one of them waits for its caller for `limit`.
    async fn fill(
        &self,
        mut messages: BoxStream<'static, Result<T, Error>>,
        limit: Duration,
        call: &'static str,
    ) {
        let _lost = Lost(self);
        while let Some(message) = messages.next().await {
            self.tell(|state| state.message = Some(message));
            if tokio::time::timeout(limit, self.taken.notified()).await.is_err() {
                drop(messages);
                metrics::counter!("shoal_data_stalled_readers_total").increment(1);
                self.tell(|state| {
                    state.message = None;
                    state.error = Some(Error::ReaderStalled { call, limit });
                    state.ended = true;
                });
                return;
            }
        }
        self.tell(|state| state.ended = true);
    }
}

/// Ends a stream whose task is lost in a panic.
struct Lost<'a, T>(&'a Slot<T>);

impl<T> Drop for Lost<'_, T> {
    fn drop(&mut self) {
        self.0.tell(|state| {
            if !state.ended {
                state.error = Some(Error::Internal("a stream's task was lost".to_owned()));
                state.ended = true;
            }
        });
    }
}

/// Returns the messages, which end with [`Error::ReaderStalled`] when one of them waits for its caller for `limit`. All that the
/// stream of messages holds is dropped then, whether or not the caller comes back.
pub(super) fn until_stalled<T: Send + 'static>(
    messages: impl Stream<Item = Result<T, Error>> + Send + 'static,
    limit: Duration,
    call: &'static str,
) -> BoxStream<'static, Result<T, Status>> {
    let state = State { message: None, error: None, ended: false, caller: None };
    let slot = Arc::new(Slot { state: Mutex::new(state), taken: Notify::new() });
    let (maker, messages) = (slot.clone(), messages.boxed());
    let make = async move { maker.fill(messages, limit, call).await };
    let maker = tokio::spawn(make.in_current_span());
    Guarded { slot, _maker: AbortOnDropHandle::new(maker) }.boxed()
}

impl<T> Stream for Guarded<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.slot.state();
        if let Some(message) = state.message.take() {
            self.slot.taken.notify_one();
            return Poll::Ready(Some(message.map_err(Status::from)));
        }
        if let Some(error) = state.error.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.caller = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use shoal_proto::data::v1 as pb;
    use tokio::time::Instant;
    use tonic::Request;

    use super::*;
    use crate::blob::BlobStart;
    use crate::data::Data;
    use crate::service::blob::get_blob;
    use crate::service::feed::watch_table;
    use crate::service::read::scan;
    use crate::store::model::Model;
    use crate::table::{SortKeyType, WriteMode};
    use crate::tables::NewTable;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Messages that hold a place.
    fn numbers(place: Arc<()>, every: Duration) -> impl Stream<Item = Result<u32, Error>> + Send {
        stream::unfold(0, move |number| {
            let place = place.clone();
            async move {
                let _held = place;
                tokio::time::sleep(every).await;
                Some((Ok(number), number + 1))
            }
        })
    }

    /// Waits until nobody but the test holds the place.
    async fn given_back(place: &Arc<()>) {
        let end = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(place) > 1 {
            assert!(Instant::now() < end, "the place is still held");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn stalled_reader_gives_up_its_place() {
        let place = Arc::new(());
        let mut messages = until_stalled(numbers(place.clone(), Duration::ZERO), LIMIT, "Scan");
        assert_eq!(messages.next().await.unwrap().unwrap(), 0);
        given_back(&place).await;
        let error = messages.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn unread_answer_gives_up_its_place() {
        let place = Arc::new(());
        let unread = until_stalled(numbers(place.clone(), Duration::ZERO), LIMIT, "Scan");
        given_back(&place).await;
        drop(unread);
    }

    async fn data_with_blob() -> Data<Model> {
        let data = Data::new(Model::default()).within(1 << 20, Duration::from_secs(2));
        let plain = NewTable::plain("t", SortKeyType::None, WriteMode::LastWriteWins);
        let table = NewTable { change_feed: Some((false, None)), ..plain };
        data.create(table).await.unwrap();
        let start =
            BlobStart { table: "t".to_owned(), partition_key: "p".to_owned(), ..BlobStart::default() };
        let bytes = stream::iter([Ok::<_, Error>(Bytes::from_static(b"abc"))]);
        data.put_blob(start, bytes).await.unwrap();
        data
    }

    /// Holds every place of a clone with answers that nobody reads, and waits until another caller is served.
    async fn served_after_all_stalled<T>(open: impl AsyncFn() -> Result<T, Status>) {
        let mut unread = Vec::new();
        let refused = loop {
            match open().await {
                Ok(answer) => unread.push(answer),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(refused) = open().await {
            assert!(Instant::now() < end, "{} answers are unread: {refused}", unread.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn stalled_blobs_leave_room_for_others() {
        let data = data_with_blob().await;
        let request = pb::GetBlobRequest {
            table: "t".to_owned(),
            partition_key: "p".to_owned(),
            ..pb::GetBlobRequest::default()
        };
        served_after_all_stalled(async || get_blob(&data, request.clone()).await).await;
    }

    #[tokio::test]
    async fn stalled_scans_leave_room_for_others() {
        let data = data_with_blob().await;
        let request =
            || Request::new(pb::ScanRequest { table: "t".to_owned(), ..pb::ScanRequest::default() });
        served_after_all_stalled(async || scan(&data, request(), data.draining.clone()).await).await;
    }

    #[tokio::test]
    async fn stalled_watches_leave_room_for_others() {
        let data = data_with_blob().await;
        let request = || pb::WatchTableRequest { table: "t".to_owned(), ..pb::WatchTableRequest::default() };
        served_after_all_stalled(async || watch_table(&data, request()).await).await;
    }

    #[tokio::test]
    async fn slow_messages_are_waited_for() {
        let mut messages = until_stalled(numbers(Arc::default(), LIMIT * 5), LIMIT, "WatchTable");
        for number in 0..3 {
            assert_eq!(messages.next().await.unwrap().unwrap(), number);
        }
    }
}
