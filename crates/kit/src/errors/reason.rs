//! The reasons of errors: every `reason` that an `ErrorInfo` of ours can have, what it means and what its receiver does.
//! `docs/errors.md` is made from this table.

use std::fmt;

/// A reason: UPPER_SNAKE and stable, for callers branch on it. Made here alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(&'static str);

impl Reason {
    /// Returns its name, as it travels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl PartialEq<&str> for Reason {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// A line of the registry.
#[derive(Debug)]
pub struct Entry {
    /// The reason.
    pub reason: Reason,
    /// The gRPC code that it comes with.
    pub code: &'static str,
    /// The meaning, and what to do.
    pub text: &'static str,
}

macro_rules! reasons {
    ($($name:ident $code:ident $text:literal)*) => {
        $(
            #[doc = $text]
            pub const $name: Reason = Reason(stringify!($name));
        )*

        /// All reasons, sorted.
        pub const ALL: &[Entry] = &[$(Entry { reason: $name, code: stringify!($code), text: $text }),*];
    };
}

reasons! {
    ANSWERS_NOT_TAKEN RESOURCE_EXHAUSTED "Answers that their callers do not read hold all the memory that answers may hold in this process. Read answers as they arrive, then call again."
    ANSWERS_UNREAD RESOURCE_EXHAUSTED "The connection has too many bytes of unread answers (`gateway.limits.unread_bytes`). Read them, or call on another connection."
    ANSWER_HEADERS_TOO_LONG RESOURCE_EXHAUSTED "The answer's headers or trailers are over a limit. The service behind the gateway must send less metadata."
    ANSWER_NOT_READ RESOURCE_EXHAUSTED "The answer was not read within `gateway.limits.unread_time`, or a message of a stream within `data.stream_idle_max`, and was dropped. Read answers as they arrive; go on with the last `resume_token` or offset."
    ATTRIBUTES_LIMIT_EXCEEDED RESOURCE_EXHAUSTED "The session's attributes would pass a limit; nothing was changed. Remove some first."
    ATTRIBUTE_SCHEMA_VIOLATED INVALID_ARGUMENT "An attribute is not as the table's `attribute_schema` wants it (`attribute`, `wanted`, `found` in the metadata)."
    BATCH_TOO_LARGE INVALID_ARGUMENT "The batch has more bytes than one call may enqueue. Send several batches."
    BLOB_CHANGED ABORTED "The blob was replaced or deleted while it was read. Drop what came of it and read it again."
    BLOB_DAMAGED DATA_LOSS "The stored chunks of a blob are lost or have not the checksum that they had. Drop what came of it, and put it again or restore it from a backup."
    BLOB_NOT_FOUND NOT_FOUND "The row does not exist, or no PutBlob has put it."
    BLOB_TOO_LARGE INVALID_ARGUMENT "The blob has more bytes than the service takes (`data.blob_bytes_max`). Split it."
    BLOB_TOO_SLOW DEADLINE_EXCEEDED "The bytes of a blob did not come in time, and nothing was put. Send it again without pauses."
    CALLER_IN_FLIGHT RESOURCE_EXHAUSTED "The caller has as many calls in flight as its quota allows. Wait as long as `RetryInfo` says."
    CALLER_RATE RESOURCE_EXHAUSTED "The caller has used up the rate that its quota allows. Wait as long as `RetryInfo` says."
    CALLS_IN_FLIGHT RESOURCE_EXHAUSTED "The gateway has nearly as many calls in flight as `gateway.limits.calls` allows, and this connection more than its part. End calls that are not needed and try again."
    CANCELLED CANCELLED "The call was cancelled by its caller."
    CHANGES_GONE FAILED_PRECONDITION "Changes from the place of the resume token on are no longer kept, or the place is in the future. Watch without a token, keep the token of the first response, read the table anew, and go on from that token."
    CHANGE_FEED_OFF FAILED_PRECONDITION "The table has no change feed. Create tables that are watched with `change_feed`."
    CLOCK_DRIFT UNAVAILABLE "The clone's clock differs from Cassandra's by more than `data.clock_drift_max`, or was not compared with it yet, so it refuses writes and watches. Nothing was done. Try another clone, and run NTP on its host."
    CLOCK_SET_BACK UNAVAILABLE "The host's clock shows a time more than five minutes before that of earlier writes without an idempotency token. Nothing was done. Set the clock right, or give each write a token of its time."
    CONNECTION_AGED UNAVAILABLE "The connection was to end (`gateway.connection`) and the call outlived the grace time. Call again on a new connection."
    DEADLINE_EXCEEDED DEADLINE_EXCEEDED "The deadline passed before the answer was complete. The call may have taken effect."
    DELAY_AND_RUN_TIME INVALID_ARGUMENT "Both `delay` and `run_time` are set. Give one of them."
    DRAINING UNAVAILABLE "The process shuts down. Call again; another clone serves the call."
    EMPTY_NAME INVALID_ARGUMENT "A name is empty. Names have at least one character."
    EMPTY_VALUE INVALID_ARGUMENT "An attribute has no value. Set one of its kinds."
    ENDPOINT_LOST UNAVAILABLE "The endpoint that had the call is gone, and the call could not be repeated elsewhere (`not_repeated_because`). Repeat it if it is safe to repeat."
    ENGINE_EVICTS FAILED_PRECONDITION "The Redis is configured to evict keys and would lose data. Its operator sets `maxmemory-policy noeviction`."
    ENGINE_FULL RESOURCE_EXHAUSTED "The engine has no room; nothing was done, reads go on. Its operator gives it more room."
    ENGINE_MISCONFIGURED UNAVAILABLE "The engine cannot be used as it or this clone is configured, for example with a wrong password; nothing was done. Its operator corrects the configuration."
    ENGINE_MOVING UNAVAILABLE "The engine moves the data that the call needs to another node; nothing was done. Try again shortly."
    ENGINE_READ_ONLY UNAVAILABLE "The engine takes no changes; nothing was done, reads go on. Try again when it takes them."
    ENGINE_UNAVAILABLE UNAVAILABLE "The engine is not reachable; nothing was done. Try again shortly."
    FOREIGN_TABLE FAILED_PRECONDITION "The engine has a table of this name that the data service did not make. Rename or drop it."
    FRAMEWORK UNKNOWN "The call failed before it reached its method. The message says why."
    HEADERS_TOO_LONG RESOURCE_EXHAUSTED "The request's headers are over `gateway.limits`. Send less metadata."
    HEADERS_TOO_LONG_FOR_UPSTREAM RESOURCE_EXHAUSTED "The request's headers are over what the upstream allows (SETTINGS_MAX_HEADER_LIST_SIZE). Send less metadata."
    INTERNAL INTERNAL "A defect of the service or damaged data. The service's log has the details."
    INVALID_ATTRIBUTE_NAME INVALID_ARGUMENT "The name of an attribute is empty, too long or has characters that are not allowed."
    INVALID_ATTRIBUTE_SCHEMA INVALID_ARGUMENT "An `attribute_schema` has too many attributes or bytes, or a name, type or limit that it cannot have."
    INVALID_BACKOFF INVALID_ARGUMENT "The back-off between attempts is out of range."
    INVALID_BATCH INVALID_ARGUMENT "The batch is empty, too long, or its requests name different queues."
    INVALID_BLOB INVALID_ARGUMENT "A message of a PutBlob is not as it must be, or the bytes are not those of its size or sha256. Mend the call."
    INVALID_BLOB_RANGE INVALID_ARGUMENT "The offset or length lies outside the blob. Ask for bytes that it has."
    INVALID_CONDITIONS INVALID_ARGUMENT "A CheckAndMutate has too many conditions, one without a kind, or one that no row can meet."
    INVALID_DELAY INVALID_ARGUMENT "The delay is out of range."
    INVALID_DELTA INVALID_ARGUMENT "The delta of an Increment is neither an int_value nor a double_value."
    INVALID_DESCRIPTION INVALID_ARGUMENT "The description of a table is too long."
    INVALID_DURATION INVALID_ARGUMENT "A duration is negative or out of range."
    INVALID_FENCING_TOKEN INVALID_ARGUMENT "The fencing token is not one that a lease gave."
    INVALID_ID INVALID_ARGUMENT "The id is not one that Enqueue gave."
    INVALID_IDEMPOTENCY_TOKEN INVALID_ARGUMENT "The idempotency token does not have the form MICROSECONDS-NONCE, or belongs to another write, which was applied. Make a new token for each write."
    INVALID_INTERVAL INVALID_ARGUMENT "The interval of the watch is out of range."
    INVALID_KEY INVALID_ARGUMENT "The key is empty or too long."
    INVALID_KEYS INVALID_ARGUMENT "The list of keys is empty or too long."
    INVALID_KIND INVALID_ARGUMENT "The job's kind is empty, too long or has characters that are not allowed."
    INVALID_LEASE INVALID_ARGUMENT "The lease is not one that Get gave, or is given with `only_if_absent`. Send it as it came, alone."
    INVALID_LEASE_DURATION INVALID_ARGUMENT "The lease duration is out of range."
    INVALID_MAX_ATTEMPTS INVALID_ARGUMENT "The number of attempts is out of range."
    INVALID_MAX_JOBS INVALID_ARGUMENT "The number of jobs to lease is out of range."
    INVALID_MESSAGE INVALID_ARGUMENT "The request is not a valid message of its type, or its compression cannot be undone."
    INVALID_MUTATIONS INVALID_ARGUMENT "The list of mutations is empty or too long."
    INVALID_NAME INVALID_ARGUMENT "A namespace or kind has a name that is not allowed."
    INVALID_OBJECT_ID INVALID_ARGUMENT "The object's id is not one that its loader accepts."
    INVALID_PAGE_SIZE INVALID_ARGUMENT "The page size is negative. A page size above the maximum is lowered to it."
    INVALID_PAGE_TOKEN INVALID_ARGUMENT "The page token is not the `next_page_token` of the same list with the same other fields. Begin with an empty one."
    INVALID_PARALLELISM INVALID_ARGUMENT "The parallelism of a scan is negative. Leave it at 0 for the default."
    INVALID_PARTITION_KEY INVALID_ARGUMENT "The partition key is empty or too long."
    INVALID_PATH UNIMPLEMENTED "The path of the request is not `/package.Service/Method`."
    INVALID_QUEUE INVALID_ARGUMENT "The queue's name is empty, too long or has characters that are not allowed."
    INVALID_REQUEST_ID INVALID_ARGUMENT "The request id is too long or has characters that are not allowed."
    INVALID_RESUME_TOKEN INVALID_ARGUMENT "The resume token is not one that the watch gave. Begin with an empty one."
    INVALID_RETENTION INVALID_ARGUMENT "The retention, of finished jobs or of a change feed, is out of range."
    INVALID_RUN_TIME INVALID_ARGUMENT "The run time is out of range."
    INVALID_SESSION_ID INVALID_ARGUMENT "The session id is not one that CreateSession gave."
    INVALID_SORT_KEY INVALID_ARGUMENT "The sort key is empty or too long."
    INVALID_SORT_KEY_PARTS INVALID_ARGUMENT "The parts of a composite sort key are too few or too many, or do not go with the `sort_key_type`."
    INVALID_STATE INVALID_ARGUMENT "The state is none of the enumeration."
    INVALID_TABLE_NAME INVALID_ARGUMENT "The table's name is empty, too long or has characters that are not allowed."
    INVALID_TAG INVALID_ARGUMENT "A tag is empty or too long."
    INVALID_TIMEOUT INVALID_ARGUMENT "The header `grpc-timeout` cannot be read."
    INVALID_TIMESTAMP INVALID_ARGUMENT "A time is outside the years 1 to 9999."
    INVALID_TTL INVALID_ARGUMENT "A time to live is out of range."
    INVALID_UPDATE_MASK INVALID_ARGUMENT "The update_mask is empty, or names a field that cannot be changed. Name default_ttl, description or both."
    INVALID_VIEW INVALID_ARGUMENT "The declaration of a view is not acceptable: an expression, the filter, the projection, a name that two views have, or too many views. The message says which and why."
    INVALID_WAIT INVALID_ARGUMENT "The time to wait is out of range, or nothing is there to wait for."
    INVALID_WORKER INVALID_ARGUMENT "The worker's name is too long."
    INVERTED_RANGE INVALID_ARGUMENT "The end of a range comes before its start, so no key is in it. Set descending for the other order."
    JOB_EXPIRED ALREADY_EXISTS "The request id made a job that has finished and whose retention has passed; nothing was enqueued."
    JOB_FINISHED FAILED_PRECONDITION "The job has ended and cannot be cancelled."
    JOB_NOT_FOUND NOT_FOUND "There is no such job: it was never enqueued here, or its retention has passed."
    KIND_NOT_DECLARED FAILED_PRECONDITION "The cache has no loader for this kind of object. Declare one in its configuration."
    LEASE_LOST ABORTED "The lease has run out, or the job was finished otherwise. Stop working on it."
    LIMIT_EXCEEDED INVALID_ARGUMENT "A field is over its limit (`limit`, `max`). Send less."
    LIST_VALUE INVALID_ARGUMENT "A `list_value` stands where only a single value may: it is for sort keys of COMPOSITE tables alone."
    LOADER_PAUSED UNAVAILABLE "The loader failed again and again, and the clone leaves it alone for a while. Call again after the time in `RetryInfo`; the owner of the loader looks at `last`."
    LOADER_PROTOCOL INTERNAL "The loader's answer breaks the contract of ObjectLoaderService. Its owner corrects it."
    LOADER_REFUSED ANY "The loader answered with an error; the code is its own, UNIMPLEMENTED becomes FAILED_PRECONDITION."
    LOADER_TIMED_OUT UNAVAILABLE "The loader did not answer in time. Try again, or raise its time-out."
    LOADER_UNAVAILABLE UNAVAILABLE "The loader is not reachable. Try again shortly."
    LOAD_INTERRUPTED UNAVAILABLE "The clone stopped before the load was done. Call again."
    MESSAGE_TOO_LARGE RESOURCE_EXHAUSTED "The message is larger than the service accepts. Send less at once."
    MESSAGE_TOO_LONG INVALID_ARGUMENT "The failure's message is too long. Shorten it."
    MISSING_TARGET INVALID_ARGUMENT "Neither a token nor a session id is given."
    MISSING_TOKEN INVALID_ARGUMENT "The token is empty."
    MISSING_USER_ID INVALID_ARGUMENT "The user id is empty."
    MUTATE_TOO_LARGE INVALID_ARGUMENT "The rows of one Mutate have too many bytes. Send several."
    MUTATION_WITHOUT_KIND INVALID_ARGUMENT "A mutation sets none of put, delete and delete_range."
    NAME_TOO_LONG INVALID_ARGUMENT "The name of the service in a health check is too long."
    NOT_FOUND NOT_FOUND "What the call names is not there."
    NOT_INCREMENTED FAILED_PRECONDITION "The attribute or the cached value is no number of the delta's kind, or the sum is too large. Of a row: read it and write it with CheckAndMutate. Of an entry: Set it."
    NO_DATA_PEER FAILED_PRECONDITION "The kind is read from the data service, and the clone does not know where that is. Start it with `--peer data=HOST:PORT`."
    NO_ENDPOINT UNAVAILABLE "No endpoint of the upstream could take the call in time. Try again shortly."
    OBJECT_NOT_FOUND NOT_FOUND "The loader knows no object with this id."
    OLD_ROWS_TOO_LARGE FAILED_PRECONDITION "The rows that a write replaces or deletes have more bytes than are read before it, which the table does for its change feed or its views. Change fewer rows at once."
    OUTCOME_UNKNOWN UNAVAILABLE "The engine did not answer in time: the change may have been made. The message says how to repeat it safely."
    PREFIX_WITH_BOUNDS INVALID_ARGUMENT "`prefix` is given with `start` or `end`. Give one of them."
    PROTOCOL_ERROR INTERNAL "The call broke the gRPC protocol."
    QUEUE_NOT_FOUND NOT_FOUND "There is no such queue: nothing was enqueued to it, or it has been empty for a day."
    RANGE_IN_CONDITIONAL_TABLE INVALID_ARGUMENT "A conditional table deletes single rows only. List them as deletes."
    RANGE_TOO_LARGE FAILED_PRECONDITION "The range to delete holds more rows than are read before they are deleted, which the table does for its change feed or its views. Delete smaller ranges."
    READ_FAILED UNAVAILABLE "The engine did not answer the read. Try again."
    REQUEST_ID_REUSED INVALID_ARGUMENT "The request id was used for a call with other fields; nothing was done. Use a new one for each request."
    REQUEST_ID_SPENT FAILED_PRECONDITION "The session that the request id created has ended or was rotated. Use a new request id."
    REQUEST_UNFINISHED DEADLINE_EXCEEDED "The request to a unary method was not complete in time (`gateway.limits.request_time`)."
    ROLE_WITHOUT_PEERS UNAVAILABLE "The gateway knows no clone of the Shoal role that has this service. Name them with `--peer ROLE=HOST:PORT`."
    ROW_DAMAGED DATA_LOSS "A stored row cannot be decoded. Put it again or restore it from a backup."
    ROW_NOT_FOUND NOT_FOUND "The table has no row with these keys."
    ROW_TOO_LARGE INVALID_ARGUMENT "A row has too many bytes."
    ROW_TWICE INVALID_ARGUMENT "Two mutations of one call change the same row."
    SESSIONS_LIMIT_EXCEEDED RESOURCE_EXHAUSTED "The user has as many sessions as `sessions_per_user_max` allows. Revoke one first."
    SESSION_NOT_FOUND NOT_FOUND "There is no session for this token or id: it has ended or never was. Sign in again."
    SORT_KEY_REQUIRED INVALID_ARGUMENT "The table has a sort key and the request gives none."
    SORT_KEY_TYPE_MISMATCH INVALID_ARGUMENT "The sort key has another type than the table's."
    SORT_KEY_UNEXPECTED INVALID_ARGUMENT "The table has no sort key and the request gives one."
    SUCCESSOR_LOST FAILED_PRECONDITION "The token's successor was derived with a key that is no longer configured. Sign in again."
    TABLE_CHANGED ABORTED "The table was dropped and created anew. See GetTable, and repeat with its create_time."
    TABLE_DROPPING FAILED_PRECONDITION "The table is being dropped. Repeat DropTable until it is gone, then create it."
    TABLE_EXISTS ALREADY_EXISTS "There is a table of this name with another definition."
    TABLE_LAYOUT_NEWER FAILED_PRECONDITION "A later release of the data service made the table, and this clone does not know its layout. Update the clone; the other tables go on."
    TABLE_MISSING FAILED_PRECONDITION "The registry has the table and the engine has lost it. Restore it from a backup, or make it again empty with CreateTable."
    TABLE_NOT_FOUND NOT_FOUND "There is no table of this name. Create it first."
    TABLE_REQUIRED INVALID_ARGUMENT "The request names no table."
    TOKEN_IN_THE_FUTURE INVALID_ARGUMENT "The idempotency token's time is in the future. Are its units microseconds?"
    TOKEN_IN_THE_PAST INVALID_ARGUMENT "The idempotency token's time is implausibly long ago. Are its units microseconds?"
    TOO_LARGE INVALID_ARGUMENT "A field of the job has too many bytes."
    TOO_MANY_ATTRIBUTES INVALID_ARGUMENT "A row has too many attributes."
    TOO_MANY_BLOBS RESOURCE_EXHAUSTED "The clone carries as many blobs as it may. Try again when one is done; read blobs to their end or cancel them."
    TOO_MANY_CALLS RESOURCE_EXHAUSTED "The route has as many calls in flight as it allows. Try again shortly."
    TOO_MANY_ELEMENTS INVALID_ARGUMENT "The message has more fields and elements than the service decodes. Send less at once."
    TOO_MANY_LOADS RESOURCE_EXHAUSTED "The clone has as many loads of this kind going on as it may. Try again shortly."
    TOO_MANY_QUEUES RESOURCE_EXHAUSTED "There are as many queues as `queues_max` allows. Use one of them, or raise the limit."
    TOO_MANY_SCANS RESOURCE_EXHAUSTED "The clone runs as many scans as it may. Try again when one has ended; read scans to their end or cancel them."
    TOO_MANY_STATEMENTS RESOURCE_EXHAUSTED "The clone has as many statements in flight as it may. Try again shortly."
    TOO_MANY_TAGS INVALID_ARGUMENT "An entry has too many tags."
    TOO_MANY_TOMBSTONES FAILED_PRECONDITION "The rows to read stand behind more deleted or ended rows than the engine passes over in one read (Cassandra: `tombstone_failure_threshold`). Set `start` behind them, or ask for smaller ranges; the same call fails until the engine has removed them."
    TOO_MANY_WAITING RESOURCE_EXHAUSTED "The clone has as many waiting calls as it takes. Try another clone, or later."
    TOO_MANY_WATCHES RESOURCE_EXHAUSTED "As many calls watch the upstreams as may. End one, or use ListUpstreams."
    UNFINISHED_MESSAGES RESOURCE_EXHAUSTED "Messages that have not fully arrived hold all the memory they may, and this one came slowest. Send it again."
    UNFORWARDABLE_REQUEST INTERNAL "The request cannot be sent on over HTTP/2."
    UNIMPLEMENTED UNIMPLEMENTED "The service has no such method, or does not support what the call asks for."
    UNKNOWN_ENUM_VALUE INVALID_ARGUMENT "A value of an enumeration is unknown to this service."
    UNKNOWN_METHOD UNIMPLEMENTED "The service has no such method. List them with reflection."
    UNKNOWN_SERVICE UNIMPLEMENTED "There is no such service here; of a health check the code is NOT_FOUND."
    UNSUPPORTED_ENCODING UNIMPLEMENTED "The request is compressed in a way that the service does not know (`grpc-accept-encoding` lists what it does)."
    UPSTREAM_CONNECTION_FULL RESOURCE_EXHAUSTED "The upstream does not read, and many calls wait for its connection. Try again shortly."
    UPSTREAM_NOT_DESCRIBED UNAVAILABLE "The service may be one of an upstream that has not said yet what it serves. Try again shortly."
    UPSTREAM_NOT_GRPC ANY "The upstream answered with plain HTTP; the code follows its status."
    UPSTREAM_OVERLOADED RESOURCE_EXHAUSTED "The upstream has as many unanswered calls as it answers in time. Try again shortly."
    UPSTREAM_PROTOCOL_ERROR INTERNAL "The upstream broke the HTTP/2 protocol."
    UPSTREAM_STREAMS RESOURCE_EXHAUSTED "The upstream's servers allow no further stream. Try again shortly."
    VALUE_TOO_LARGE INVALID_ARGUMENT "The value is larger than its namespace allows. Send less, or raise `max_value`."
    VALUE_WITHOUT_KIND INVALID_ARGUMENT "A value sets none of its kinds."
    VERSION_MISMATCH ABORTED "The session has another version than the one expected; nothing was changed. Read it and decide again."
    VIEW_BUILDING FAILED_PRECONDITION "The view is still being built, so rows may be missing in it. Wait until `state` of the view in GetTable is READY; the metadata has the progress. `allow_building` reads it all the same."
    VIEW_NOT_FOUND NOT_FOUND "The table has no view of this name. See its `views` in GetTable."
    WATCHERS_LIMIT_EXCEEDED RESOURCE_EXHAUSTED "The clone serves as many watchers as `watchers_max` allows. Try another clone."
    WRITE_CONTENTION ABORTED "Other conditional writes of the partition came first each time, and nothing was done. Try again."
    WRONG_WRITE_MODE FAILED_PRECONDITION "The call is for tables of the other write_mode: Mutate and BulkMutate for LAST_WRITE_WINS, CheckAndMutate and Increment for CONDITIONAL."
}

/// Returns `docs/errors.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for Entry { reason, code, text } in ALL {
        let code = if *code == "ANY" { "any" } else { code };
        page.push_str(&format!("| `{reason}` | {code} | {text} |\n"));
    }
    page
}

const HEAD: &str = "# Errors

<!-- Made from crates/kit/src/errors/reason.rs: SHOAL_WRITE_DOCS=1 cargo test -p shoal-kit reason -->

Every error that a Shoal service makes has a gRPC code, a message, and one `google.rpc.ErrorInfo` with domain `shoal` and
one of the reasons below; the variables of the message are in its `metadata`. INVALID_ARGUMENT also has a
`google.rpc.BadRequest` that names the field. `google.rpc.RetryInfo` says how long to wait where waiting helps. Branch on
the reason: messages change.

What an upstream of the gateway answered passes through as it is.

| reason | code | meaning, and what to do |
|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_sorted_and_unique() {
        assert!(ALL.is_sorted_by(|a, b| a.reason.as_str() < b.reason.as_str()));
    }

    #[test]
    fn page_of_errors_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        if std::env::var_os("SHOAL_WRITE_DOCS").is_some() {
            std::fs::write(path, reference()).expect("written");
        }
        let page = std::fs::read_to_string(path).expect("docs/errors.md");
        assert!(
            page == reference(),
            "docs/errors.md is old: SHOAL_WRITE_DOCS=1 cargo test -p shoal-kit reason"
        );
    }
}
