//! Every error of the service, and the one place where errors become the status that callers see.

use shoal_kit::Invalid;
use shoal_kit::reason;
use shoal_kit::{ApiError, EngineError};
use tonic::{Code, Status};

use crate::clock::{AHEAD_MAX, SetBack, WriteTimestamp};
use crate::write_token::WriteToken;

/// Reason why a call failed. `Clone`, because several callers may have waited for one read.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    /// An argument is not acceptable.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The table does not exist.
    #[error("no table `{0}`")]
    TableNotFound(String),
    /// The row does not exist.
    #[error("no such row")]
    RowNotFound,
    /// The table exists with another definition.
    #[error("table `{name}` exists with {difference}")]
    TableExists {
        /// The name of the table.
        name: String,
        /// The differences of the table that exists.
        difference: String,
    },
    /// The engine cannot be reached. Nothing was done.
    #[error("{engine} is not reachable: {detail}")]
    Unavailable {
        /// The name of the engine.
        engine: &'static str,
        /// The detail that was observed.
        detail: String,
    },
    /// The engine refused the call. Nothing was done.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine did not answer a read in time, or too few of its replicas did.
    #[error("{engine} did not answer the read: {detail}")]
    ReadFailed {
        /// The name of the engine.
        engine: &'static str,
        /// The detail that was observed.
        detail: String,
    },
    /// The rows to read stand behind more deleted rows than the engine passes over in one read.
    #[error("{engine} met too many deleted rows")]
    TooManyTombstones {
        /// The name of the engine.
        engine: &'static str,
    },
    /// A write was sent and its answer did not come: it may have happened.
    #[error("the outcome of the write {token:?} is unknown: {detail}")]
    OutcomeUnknown {
        /// The detail that was observed.
        detail: String,
        /// The token of the write. A repeat under the same token changes nothing more.
        token: Option<WriteToken>,
    },
    /// The clone's clock is too far from the engine's to date writes and to read change feeds, or was not compared with it yet.
    /// Nothing was done.
    #[error("this clone's clock differs from {engine}'s by {drift_micros:?} µs")]
    ClockDrift {
        /// The name of the engine.
        engine: &'static str,
        /// The difference in microseconds, if it is known; positive if this clone is ahead.
        drift_micros: Option<i64>,
        /// The largest difference that is allowed.
        limit: std::time::Duration,
    },
    /// The host's clock was set back so far that new writes would be dated too far ahead of it. Nothing was done.
    #[error(transparent)]
    ClockSetBack(#[from] SetBack),
    /// The clone has as many statements in flight as it may have.
    #[error("{limit} statements are in flight")]
    Overloaded {
        /// The most statements in flight.
        limit: usize,
    },
    /// The clone runs as many scans as it may.
    #[error("{limit} scans run")]
    TooManyScans {
        /// The most scans.
        limit: usize,
    },
    /// The clone carries as many blobs as it may.
    #[error("{limit} blobs are under way")]
    TooManyBlobs {
        /// The most blobs.
        limit: usize,
    },
    /// There is no blob in the row. Nothing was done.
    #[error("no such blob")]
    BlobNotFound,
    /// The blob was replaced or deleted while it was read.
    #[error("the blob was replaced or deleted while it was read")]
    BlobChanged,
    /// The blob's chunks are not what they were.
    #[error("a stored blob is damaged: {0}")]
    BlobDamaged(String),
    /// The caller did not send the blob in time. Nothing is visible of it.
    #[error("the blob did not come within {limit:?}")]
    BlobTooSlow {
        /// The longest time.
        limit: std::time::Duration,
    },
    /// The bytes of a stored chunk did not come in time.
    #[error("{bytes} bytes of the blob did not come within {limit:?}")]
    BlobChunkTooSlow {
        /// The bytes of a stored chunk.
        bytes: usize,
        /// The longest time.
        limit: std::time::Duration,
    },
    /// The caller took no message of a stream for too long, and the stream has ended.
    #[error("no message of {call} was taken for {limit:?}")]
    ReaderStalled {
        /// The name of the call.
        call: &'static str,
        /// The longest time.
        limit: std::time::Duration,
    },
    /// Stored data cannot be decoded.
    #[error("stored data is damaged: {0}")]
    DataLoss(String),
    /// The engine has a table under this table's name that the service did not make.
    #[error("the engine has another `{table}` already: {detail}")]
    ForeignTable {
        /// The name of the engine's table.
        table: String,
        /// The difference to the service's own table.
        detail: String,
    },
    /// The table is being dropped.
    #[error("table `{0}` is being dropped")]
    TableDropping(String),
    /// The table was dropped and created anew since the caller looked at it.
    #[error("table `{0}` is another one now")]
    TableChanged(String),
    /// The call does not fit how the table is written.
    #[error("{call} does not fit table `{table}`, which is {mode}")]
    WrongWriteMode {
        /// The name of the table.
        table: String,
        /// The write mode of the table.
        mode: &'static str,
        /// The calls that fit it.
        advice: &'static str,
        /// The name of the call.
        call: &'static str,
    },
    /// The attribute cannot be incremented.
    #[error("not incremented: {why}")]
    NotIncremented {
        /// The reason why.
        why: &'static str,
    },
    /// Other writes of the partition came first each time. Nothing was done.
    #[error("{attempts} attempts met other writes of the partition")]
    Contended {
        /// The number of attempts.
        attempts: u32,
    },
    /// The registry has the table and the engine has lost it. Nothing was done.
    #[error("the engine has no `{table}`, and the registry has it")]
    TableMissing {
        /// The name of the engine's table.
        table: String,
    },
    /// A later release made the table, and this one does not know how to use it. Nothing was done.
    #[error("table `{table}` is of a later release: {detail}")]
    NewerLayout {
        /// The name of the table.
        table: String,
        /// The part that this release does not know.
        detail: String,
    },
    /// The table has no change feed.
    #[error("table `{0}` has no change feed")]
    ChangeFeedOff(String),
    /// The changes from a place on are no longer kept.
    #[error("changes before {oldest:?} are gone")]
    ChangesGone {
        /// The oldest place from which on changes are kept.
        oldest: WriteTimestamp,
    },
    /// The place to go on from is behind all that can have happened: a clock was wrong when it was given.
    #[error("changes are asked for from {ahead_micros} µs ahead")]
    ChangesAhead {
        /// The microseconds by which the place is ahead.
        ahead_micros: i64,
    },
    /// The rows before a write have more bytes than its record takes. Nothing was done.
    #[error("the rows before the write have more than {max} bytes")]
    OldRowsTooLarge {
        /// The most bytes.
        max: usize,
    },
    /// A deleted range holds more rows than are read before they are deleted.
    #[error("the range holds more than {max} rows")]
    RangeTooLarge {
        /// The most rows of a range.
        max: usize,
    },
    /// The table has no such view.
    #[error("no view `{0}`")]
    ViewNotFound(String),
    /// Rows may be missing in the view.
    #[error("view `{view}` is still being built")]
    ViewBuilding {
        /// The name of the table and the view.
        view: String,
        /// The part of the table that is in it, 0 to 1.
        progress: f64,
    },
    /// The clone has as many watches open as it takes.
    #[error("{max} watches are open")]
    TooManyWatches {
        /// The most watches.
        max: usize,
    },
    /// The clone shuts down.
    #[error("this clone is shutting down")]
    Draining,
    /// A defect of the service, or a refusal of the engine that no caller can do anything about.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// Names the write whose outcome is unknown, for its caller to repeat it.
    #[must_use]
    pub(crate) fn of_write(self, token: &WriteToken) -> Self {
        match self {
            Error::OutcomeUnknown { detail, token: None } => {
                Error::OutcomeUnknown { detail, token: Some(token.clone()) }
            }
            other => other,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(invalid) => invalid.into(),
            Error::TableNotFound(name) => ApiError::new(
                Code::NotFound,
                reason::TABLE_NOT_FOUND,
                format!("there is no table `{name}`; create it with CreateTable, or see ListTables"),
            )
            .meta("table", name),
            Error::RowNotFound => {
                ApiError::new(Code::NotFound, reason::ROW_NOT_FOUND, "the table has no row with these keys")
            }
            Error::TableExists { name, difference } => ApiError::new(
                Code::AlreadyExists,
                reason::TABLE_EXISTS,
                format!("table `{name}` exists with another definition ({difference}), which no call changes; choose another name, or \
                     create it as it is: CreateTable then returns it with the default_ttl and description it has"),
            )
            .meta("table", name)
            .meta("difference", difference),
            Error::Unavailable { engine, detail } => {
                EngineError::Unavailable { engine, detail }.into_fault("")
            }
            Error::Engine(error) => error.into_fault("repeat it with its idempotency_token"),
            Error::ReadFailed { engine, detail } => ApiError::new(
                Code::Unavailable,
                reason::READ_FAILED,
                format!("{engine} did not answer the read ({detail}); try again"),
            )
            .meta("engine", engine)
            .retry_after(RETRY_AFTER),
            Error::TooManyTombstones { engine } => ApiError::new(
                Code::FailedPrecondition,
                reason::TOO_MANY_TOMBSTONES,
                format!(
                    "{engine} keeps deleted and ended rows for some days (gc_grace_seconds), and has more of them here than it \
                     reads through at once; set start behind them (descending: end before them), or ask for smaller ranges. \
                     The same call fails until {engine} has removed them"
                ),
            )
            .meta("engine", engine),
            Error::OutcomeUnknown { detail, token } => outcome_unknown(&detail, token.as_ref()),
            Error::ClockDrift { engine, drift_micros: None, limit } => ApiError::new(
                Code::Unavailable,
                reason::CLOCK_DRIFT,
                format!(
                    "this clone has not compared its clock with {engine}'s yet, so it writes nothing and shows no changes; try \
                     again, or at another clone"
                ),
            )
            .meta("engine", engine)
            .meta("limit", format!("{limit:?}"))
            .retry_after(RETRY_AFTER),
            Error::ClockDrift { engine, drift_micros: Some(drift_micros), limit } => {
                let seconds = format!("{:+.3}", drift_micros as f64 / 1e6);
                ApiError::new(
                    Code::Unavailable,
                    reason::CLOCK_DRIFT,
                    format!(
                        "this clone's clock differs from {engine}'s by {seconds} s, more than data.clock_drift_max \
                         ({limit:?}), so it writes nothing and shows no changes; try another clone, and run NTP on its host"
                    ),
                )
                .meta("engine", engine)
                .meta("drift_seconds", seconds)
                .meta("limit", format!("{limit:?}"))
                .retry_after(RETRY_AFTER)
            }
            Error::ClockSetBack(SetBack { micros }) => {
                let seconds = format!("{:.3}", micros as f64 / 1e6);
                ApiError::new(
                    Code::Unavailable,
                    reason::CLOCK_SET_BACK,
                    format!(
                        "this host's clock was set back: earlier writes are dated {seconds} s ahead of it, and at most {AHEAD_MAX:?} are \
                         allowed, so that later writes win; set the clock right, or give each write an idempotency_token of its time"
                    ),
                )
                .meta("ahead_seconds", seconds)
                .meta("limit", format!("{AHEAD_MAX:?}"))
                .retry_after(RETRY_AFTER)
            }
            Error::Overloaded { limit } => ApiError::new(
                Code::ResourceExhausted,
                reason::TOO_MANY_STATEMENTS,
                format!("this clone has {limit} statements in flight, which is its limit; try again shortly"),
            )
            .meta("limit", limit.to_string())
            .retry_after(RETRY_AFTER),
            Error::TooManyScans { limit } => ApiError::new(
                Code::ResourceExhausted,
                reason::TOO_MANY_SCANS,
                format!("this clone runs {limit} scans, which is its limit; try again when one has ended, or at another clone"),
            )
            .meta("limit", limit.to_string())
            .retry_after(RETRY_AFTER),
            Error::TooManyBlobs { limit } => ApiError::new(
                Code::ResourceExhausted,
                reason::TOO_MANY_BLOBS,
                format!("this clone carries {limit} blobs, which is its limit; try again when one is done, or at another clone"),
            )
            .meta("limit", limit.to_string())
            .retry_after(RETRY_AFTER),
            Error::BlobNotFound => ApiError::new(
                Code::NotFound,
                reason::BLOB_NOT_FOUND,
                "the table has no row with these keys that a PutBlob has put",
            ),
            Error::BlobChanged => ApiError::new(
                Code::Aborted,
                reason::BLOB_CHANGED,
                "the blob was replaced or deleted while it was read; drop what came of it and read it again",
            ),
            Error::BlobDamaged(detail) => {
                tracing::error!(%detail, "a stored blob is damaged");
                ApiError::new(
                    Code::DataLoss,
                    reason::BLOB_DAMAGED,
                    format!("the stored blob is damaged ({detail}); drop what came of it, and put it again or restore it from a backup"),
                )
                .meta("detail", detail)
            }
            Error::BlobTooSlow { limit } => ApiError::new(
                Code::DeadlineExceeded,
                reason::BLOB_TOO_SLOW,
                format!("the blob did not come within {limit:?}, and nothing was put; send it again without pauses"),
            )
            .meta("limit", format!("{limit:?}")),
            Error::BlobChunkTooSlow { bytes, limit } => ApiError::new(
                Code::DeadlineExceeded,
                reason::BLOB_TOO_SLOW,
                format!(
                    "the next {bytes} bytes of the blob, or its end, did not come within {limit:?}, and nothing was put; send it \
                     again at that pace or faster"
                ),
            )
            .meta("limit", format!("{limit:?}"))
            .meta("bytes", bytes.to_string()),
            Error::ReaderStalled { call, limit } => ApiError::new(
                Code::ResourceExhausted,
                reason::ANSWER_NOT_READ,
                format!(
                    "{call} ended because its caller took no message for {limit:?} (data.stream_idle_max); read messages as they \
                     arrive, and go on behind the last one: its resume_token stands, a blob goes on at an offset"
                ),
            )
            .meta("call", call)
            .meta("limit", format!("{limit:?}"))
            .of_caller(),
            Error::DataLoss(detail) => {
                tracing::error!(%detail, "stored data is damaged");
                ApiError::new(
                    Code::DataLoss,
                    reason::ROW_DAMAGED,
                    format!("a stored row cannot be decoded ({detail}); put it again or restore it from a backup"),
                )
                .meta("detail", detail)
            }
            Error::ForeignTable { table, detail } => ApiError::new(
                Code::FailedPrecondition,
                reason::FOREIGN_TABLE,
                format!(
                    "the engine has a table `{table}` that this service did not make ({detail}); rename or drop it"
                ),
            )
            .meta("table", table)
            .meta("detail", detail),
            Error::TableDropping(name) => ApiError::new(
                Code::FailedPrecondition,
                reason::TABLE_DROPPING,
                format!("table `{name}` is being dropped; repeat DropTable until it is gone, then create it"),
            )
            .meta("table", name),
            Error::TableChanged(name) => ApiError::new(
                Code::Aborted,
                reason::TABLE_CHANGED,
                format!("table `{name}` was not created at this create_time; see GetTable"),
            )
            .meta("table", name),
            Error::WrongWriteMode { table, mode, advice, call } => ApiError::new(
                Code::FailedPrecondition,
                reason::WRONG_WRITE_MODE,
                format!("{call} is not for table `{table}`, whose write_mode is {mode}; {advice}"),
            )
            .meta("table", table)
            .meta("write_mode", mode)
            .meta("call", call),
            Error::NotIncremented { why } => ApiError::new(
                Code::FailedPrecondition,
                reason::NOT_INCREMENTED,
                format!("{why}; read the row and write it with CheckAndMutate"),
            )
            .meta("why", why),
            Error::Contended { attempts } => ApiError::new(
                Code::Aborted,
                reason::WRITE_CONTENTION,
                format!("other writes of the partition came first in {attempts} attempts, and nothing was done; try again"),
            )
            .meta("attempts", attempts.to_string())
            .retry_after(RETRY_AFTER),
            Error::TableMissing { table } => ApiError::new(
                Code::FailedPrecondition,
                reason::TABLE_MISSING,
                format!(
                    "the registry has the table, and the engine has no `{table}`: restore it from a backup, or make it again \
                     empty with CreateTable"
                ),
            )
            .meta("table", table),
            Error::NewerLayout { table, detail } => ApiError::new(
                Code::FailedPrecondition,
                reason::TABLE_LAYOUT_NEWER,
                format!("a later release made table `{table}` ({detail}); update this clone"),
            )
            .meta("table", table)
            .meta("detail", detail),
            Error::ChangeFeedOff(name) => ApiError::new(
                Code::FailedPrecondition,
                reason::CHANGE_FEED_OFF,
                format!("table `{name}` has no change feed; create it with `change_feed` set"),
            )
            .meta("table", name),
            Error::ChangesGone { oldest } => ApiError::new(
                Code::FailedPrecondition,
                reason::CHANGES_GONE,
                "changes from the place of the resume token on are no longer kept; watch without a token, keep the one of the \
                 first response, read the table, and go on from there",
            )
            .meta("oldest_micros", oldest.0.to_string()),
            Error::ChangesAhead { ahead_micros } => ApiError::new(
                Code::FailedPrecondition,
                reason::CHANGES_GONE,
                "the place of the resume token is in the future, so a clock was wrong when it was given and changes may have been \
                 passed over; watch without a token, keep the one of the first response, read the table, and go on from there",
            )
            .meta("ahead_micros", ahead_micros.to_string()),
            Error::OldRowsTooLarge { max } => ApiError::new(
                Code::FailedPrecondition,
                reason::OLD_ROWS_TOO_LARGE,
                format!(
                    "a write reads the rows that it replaces or deletes for the table's views and its change feed with old_rows, at most \
                     {max} bytes; change fewer rows at once"
                ),
            )
            .meta("max", max.to_string()),
            Error::RangeTooLarge { max } => ApiError::new(
                Code::FailedPrecondition,
                reason::RANGE_TOO_LARGE,
                format!("the table reads rows before it deletes them, at most {max} of a range; delete smaller ranges"),
            )
            .meta("max", max.to_string()),
            Error::ViewNotFound(view) => ApiError::new(
                Code::NotFound,
                reason::VIEW_NOT_FOUND,
                format!("there is no view `{view}`; see views of the table in GetTable, or add it with UpdateTable"),
            )
            .meta("view", view),
            Error::ViewBuilding { view, progress } => ApiError::new(
                Code::FailedPrecondition,
                reason::VIEW_BUILDING,
                format!(
                    "view `{view}` is still being built, {:.0} % of its table is in it; wait until its state in GetTable is \
                     READY, or set allow_building and take what is there",
                    progress * 100.0
                ),
            )
            .meta("view", view)
            .meta("progress", format!("{progress:.3}")),
            Error::TooManyWatches { max } => ApiError::new(
                Code::ResourceExhausted,
                reason::TOO_MANY_WAITING,
                format!("this clone has {max} watches open, which is its limit; try again at another clone"),
            )
            .meta("max", max.to_string())
            .meta("what", "watches")
            .retry_after(RETRY_AFTER),
            Error::Draining => ApiError::new(
                Code::Unavailable,
                reason::DRAINING,
                "this clone is shutting down; go on at another one with the last resume_token",
            )
            .retry_after(RETRY_AFTER),
            Error::Internal(detail) => ApiError::internal(detail),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        ApiError::from(error).into()
    }
}

/// Time that callers are told to wait before they try again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(500);

/// Makes the error of a write without an answer. Its metadata has the token to repeat the write with.
fn outcome_unknown(detail: &str, token: Option<&WriteToken>) -> ApiError {
    let advice = match token {
        Some(_) => "repeat it with the idempotency_token it had, or with the one in this error's metadata",
        None => "repeat it",
    };
    let fault = ApiError::new(
        Code::Unavailable,
        reason::OUTCOME_UNKNOWN,
        format!("the write may or may not have happened ({detail}); {advice}: that cannot apply it twice"),
    )
    .retry_after(RETRY_AFTER);
    match token {
        Some(token) => fault.meta("idempotency_token", token.as_str()),
        None => fault,
    }
}
