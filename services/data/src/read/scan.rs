//! Scan: all rows of a table as a stream that can be resumed, its parts read at the same time.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered, Stream, StreamExt as _};
use prost::Message as _;
use shoal_kit::{Invalid, reason};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::data::{Data, SCANS_MAX, TOKEN_BYTES_MAX};
use crate::error::Error;
use crate::key::{PartitionKey, check_partition_prefix};
use crate::page_token::Binding;
use crate::row::{Row, Seen};
use crate::store::{Consistency, Scan, ScanPage, Store};
use crate::table::Table;

/// Parts that are read at the same time when the caller says nothing.
const PARALLELISM_DEFAULT: usize = 4;
/// Most parts that are read at the same time. A step of each is held in memory.
const PARALLELISM_MAX: usize = 8;
/// Steps without rows after which a message says how far the scan has come.
const EMPTY_STEPS_MAX: usize = 32;

/// A scan as the caller gives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScanRequest {
    /// Name of the table.
    pub(crate) table: String,
    /// Beginning of the partition keys that are wanted; empty for all.
    pub(crate) prefix: String,
    /// Parts to read at the same time; 0 stands for the default.
    pub(crate) parallelism: i32,
    /// Token of a message of an earlier scan, to go on behind it; empty from the beginning.
    pub(crate) resume_token: String,
    /// Time past which the scan ends with what it has.
    pub(crate) until: Option<Instant>,
}

/// Rows of a scan, and the token to go on behind them with. It is empty after the last rows of the table.
#[derive(Debug)]
pub(crate) struct ScanMessage {
    /// The rows with the keys of their partitions.
    pub(crate) rows: Vec<(PartitionKey, Row)>,
    /// The token to go on with.
    pub(crate) resume_token: String,
}

/// The places of all parts that are not read to their end.
#[derive(Clone, PartialEq, prost::Message)]
struct Places {
    #[prost(bytes = "vec", repeated, tag = "1")]
    places: Vec<Vec<u8>>,
}

type Step = BoxFuture<'static, (usize, Result<ScanPage, Error>)>;

/// A scan under way. Steps are begun when its messages are asked for, so a slow reader costs one step for each part.
struct Running<S> {
    data: Data<S>,
    table: Arc<Table>,
    prefix: String,
    consistency: Consistency,
    binding: Binding,
    until: Option<Instant>,
    stop: CancellationToken,
    parts: Vec<Part>,
    steps: FuturesUnordered<Step>,
    _permit: OwnedSemaphorePermit,
}

/// A part of the table.
struct Part {
    /// The place behind the rows that were given to the caller; none at the end.
    place: Option<Vec<u8>>,
    seen: Option<Seen>,
    reading: bool,
}

impl<S: Store> Data<S> {
    /// Scans a table. The stream ends after a message with an empty token, or, when the time is over or `stop` is cancelled, after
    /// any other one.
    ///
    /// # Errors
    /// Invalid fields, [`Error::TooManyScans`], and errors of the store; later errors end the stream.
    pub(crate) async fn scan(
        &self,
        request: ScanRequest,
        consistency: Consistency,
        stop: CancellationToken,
    ) -> Result<impl Stream<Item = Result<ScanMessage, Error>> + Send + use<S>, Error> {
        let ScanRequest { table, prefix, parallelism, resume_token, until } = request;
        let parallelism = match usize::try_from(parallelism) {
            Ok(0) => PARALLELISM_DEFAULT,
            Ok(parts) => parts.min(PARALLELISM_MAX),
            Err(_) => {
                return Err(
                    Invalid::new(reason::INVALID_PARALLELISM, "parallelism", "must not be negative").into()
                );
            }
        };
        check_partition_prefix(&prefix)?;
        let table = self.table_for(&table, consistency).await?;
        let permit = self.scans.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::TooManyScans { limit: SCANS_MAX })?;
        // Each part has a place of up to four keys.
        let binding = Binding::new("scan", "resume_token", 4 * PARALLELISM_MAX * TOKEN_BYTES_MAX)
            .field(table.id.as_bytes())
            .field(prefix.as_bytes());
        let places = if resume_token.is_empty() {
            self.store.parts(&table, &prefix, parallelism).await?
        } else {
            let places = self.open(&binding, &resume_token).await?;
            let places = Places::decode(&places[..]);
            places.map_err(|_| Error::Internal("a resume token has no places".to_owned()))?.places
        };
        let parts = places.into_iter().map(|place| Part { place: Some(place), seen: None, reading: false });
        let running = Running {
            data: self.clone(),
            table,
            prefix,
            consistency,
            binding,
            until,
            stop,
            parts: parts.collect(),
            steps: FuturesUnordered::new(),
            _permit: permit,
        };
        Ok(stream::unfold(Some(running), |running| async {
            let mut running = running?;
            match running.next().await {
                Ok((message, true)) => Some((Ok(message), Some(running))),
                Ok((message, false)) => Some((Ok(message), None)),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl<S: Store> Running<S> {
    /// Returns the next message, and whether another one follows.
    async fn next(&mut self) -> Result<(ScanMessage, bool), Error> {
        // Steps may be ready one after the other, and the connection's other calls must have their turn between them.
        tokio::task::yield_now().await;
        for _ in 0..EMPTY_STEPS_MAX {
            self.begin_steps();
            let over = over(self.until, self.stop.clone());
            let step = tokio::select! {
                biased;
                step = self.steps.next() => step,
                // A step that is under way is left: its part goes on from its old place.
                () = over => return Ok((self.message(Vec::new()).await?, false)),
            };
            let Some((at, page)) = step else { break };
            let page = page?;
            let part = &mut self.parts[at];
            *part = Part { place: page.next, seen: page.seen, reading: false };
            let ended = self.parts.iter().all(|part| part.place.is_none());
            if ended || self.is_over() {
                return Ok((self.message(page.rows).await?, false));
            }
            if !page.rows.is_empty() {
                return Ok((self.message(page.rows).await?, true));
            }
        }
        let more = self.parts.iter().any(|part| part.place.is_some());
        Ok((self.message(Vec::new()).await?, more))
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn begin_steps(&mut self) {
        for (at, part) in self.parts.iter_mut().enumerate() {
            let Some(place) = part.place.clone().filter(|_| !part.reading) else { continue };
            part.reading = true;
            let scan = Scan {
                table: self.table.clone(),
                prefix: self.prefix.clone(),
                place,
                consistency: self.consistency,
                seen: part.seen,
                until: self.until,
            };
            let store = self.data.store.clone();
            self.steps.push(Box::pin(async move { (at, store.scan(scan).await) }));
        }
    }

    async fn message(&mut self, rows: Vec<(PartitionKey, Row)>) -> Result<ScanMessage, Error> {
        let places: Vec<_> = self.parts.iter().filter_map(|part| part.place.clone()).collect();
        let resume_token = if places.is_empty() {
            String::new()
        } else {
            self.data.seal(&self.binding, &Places { places }.encode_to_vec()).await?
        };
        Ok(ScanMessage { rows, resume_token })
    }
}

/// Waits until the scan has to end.
async fn over(until: Option<Instant>, stop: CancellationToken) {
    match until {
        Some(until) => {
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = stop.cancelled() => {}
            }
        }
        None => stop.cancelled().await,
    }
}
