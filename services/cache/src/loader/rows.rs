//! The built-in loader: rows of the data service as objects, `data.TABLE`.
//!
//! The id is `PARTITION_KEY`, or `PARTITION_KEY/SORT_KEY` when the table has a sort key. In the partition key a `/` is
//! written `%2F` and a `%` is written `%25`; nothing else is escaped. The sort key is all that follows the first `/`, as it
//! is: text, a decimal integer, or bytes in lower-case hex, by the table's type. A row has exactly one id, so that a Delete
//! of it cannot miss another spelling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use shoal_client::Channel;
use shoal_kit::reason;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::data::v1::{BatchGetRequest, GetRequest, GetTableRequest, Row, RowKey, SortKeyType};
use shoal_proto::r#type::v1::{Value, value};
use tokio::time::Instant;
use tonic::{Code, Request};

use super::remote::{failure, reason_of};
use super::{Lifetime, LoadError, Loaded, Loader, Loads, Wanted};
use crate::key::{Tags, unescaped};

/// The time for which a table's definition is taken for true. The type of a sort key never changes; a table of that name
/// that was dropped and made anew is seen within this.
const DEFINITION_TTL: Duration = Duration::from_secs(10);
/// The number of definitions kept.
const DEFINITIONS_MAX: usize = 1024;

/// The data service, as loader of every table.
pub(crate) struct Tables {
    client: DataServiceClient<Channel>,
    definitions: Mutex<HashMap<String, (SortKeyType, Instant)>>,
}

/// The rows of one table.
pub(crate) struct RowLoader {
    tables: Arc<Tables>,
    table: String,
    timeout: Duration,
}

impl Tables {
    pub(crate) fn new(channel: Channel) -> Arc<Self> {
        Arc::new(Self { client: shoal_client::data(channel), definitions: Mutex::default() })
    }

    /// Makes the loader of one table's rows; a call takes at most `timeout`.
    pub(crate) fn rows(self: &Arc<Self>, table: &str, timeout: Duration) -> RowLoader {
        RowLoader { tables: self.clone(), table: table.to_owned(), timeout }
    }

    async fn sort_key_type(&self, table: &str, timeout: Duration) -> Result<SortKeyType, LoadError> {
        let now = Instant::now();
        if let Some((known, until)) = self.definitions().get(table)
            && *until > now
        {
            return Ok(*known);
        }
        let mut request = Request::new(GetTableRequest { name: table.to_owned() });
        request.set_timeout(timeout);
        let answer =
            self.client.clone().get_table(request).await.map_err(|status| failure(&status, timeout))?;
        let definition = answer.into_inner().table.ok_or_else(|| protocol("GetTable without a table"))?;
        let sort_key_type = match SortKeyType::try_from(definition.sort_key_type) {
            Ok(SortKeyType::Unspecified) => SortKeyType::String,
            Ok(known) => known,
            Err(_) => return Err(protocol("a sort_key_type that is not known here")),
        };
        let mut definitions = self.definitions();
        if definitions.len() >= DEFINITIONS_MAX {
            definitions.retain(|_, (_, until)| *until > now);
        }
        if definitions.len() < DEFINITIONS_MAX {
            definitions.insert(table.to_owned(), (sort_key_type, now + DEFINITION_TTL));
        }
        Ok(sort_key_type)
    }

    /// Reads rows, in the order of their keys. The default consistency is QUORUM: at ONE a stale replica's row would be cached
    /// as new.
    async fn rows_of(
        &self,
        table: &str,
        keys: Vec<RowKey>,
        timeout: Duration,
    ) -> Result<Vec<Option<Row>>, LoadError> {
        let ends = Instant::now() + timeout;
        match <[RowKey; 1]>::try_from(keys) {
            Ok([key]) => Ok(vec![self.row(table, key, ends, timeout).await?]),
            Err(mut keys) => {
                let mut rows = Vec::with_capacity(keys.len());
                while !keys.is_empty() {
                    let asked = keys.len();
                    let mut request = Request::new(BatchGetRequest {
                        table: table.to_owned(),
                        keys: keys.clone(),
                        ..Default::default()
                    });
                    request.set_timeout(ends.saturating_duration_since(Instant::now()));
                    let answer = self.client.clone().batch_get(request).await;
                    let results = answer.map_err(|status| failure(&status, timeout))?.into_inner().results;
                    // Large rows come in several answers.
                    if results.is_empty() || results.len() > asked {
                        return Err(protocol("BatchGet with no results, or more than keys"));
                    }
                    keys.drain(..results.len());
                    rows.extend(results.into_iter().map(|result| result.row));
                }
                Ok(rows)
            }
        }
    }

    async fn row(
        &self,
        table: &str,
        key: RowKey,
        ends: Instant,
        timeout: Duration,
    ) -> Result<Option<Row>, LoadError> {
        let RowKey { partition_key, sort_key } = key;
        let mut request = Request::new(GetRequest {
            table: table.to_owned(),
            partition_key,
            sort_key,
            ..Default::default()
        });
        request.set_timeout(ends.saturating_duration_since(Instant::now()));
        match self.client.clone().get(request).await {
            Ok(answer) => answer.into_inner().row.map(Some).ok_or_else(|| protocol("Get without a row")),
            Err(status)
                if status.code() == Code::NotFound
                    && reason_of(&status) == reason::ROW_NOT_FOUND.as_str() =>
            {
                Ok(None)
            }
            Err(status) => Err(failure(&status, timeout)),
        }
    }

    fn definitions(&self) -> std::sync::MutexGuard<'_, HashMap<String, (SortKeyType, Instant)>> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader for RowLoader {
    fn load(&self, _kind: &str, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Loads, LoadError>> {
        let Self { tables, table, timeout } = self;
        let (tables, table, timeout) = (tables.clone(), table.clone(), *timeout);
        async move {
            let sort_key_type = tables.sort_key_type(&table, timeout).await?;
            let mut loads = Vec::with_capacity(wanted.len());
            let mut keys = Vec::with_capacity(wanted.len());
            for Wanted { id, .. } in &wanted {
                match parse(id, sort_key_type) {
                    Ok((partition_key, sort_key)) => {
                        loads.push(None);
                        keys.push(RowKey { partition_key, sort_key });
                    }
                    Err(problem) => loads.push(Some(Err(LoadError::InvalidId { problem }))),
                }
            }
            let mut rows = tables.rows_of(&table, keys, timeout).await?.into_iter();
            let row = || rows.next().map_or_else(|| Err(protocol("fewer rows than keys")), Ok);
            fill_up(loads, row)
        }
        .boxed()
    }
}

/// Returns the results in the order of the ids: those that were known before, and a row for each of the others.
fn fill_up(
    loads: Vec<Option<Result<Loaded, LoadError>>>,
    mut row: impl FnMut() -> Result<Option<Row>, LoadError>,
) -> Result<Loads, LoadError> {
    let result = |load: Option<_>| match load {
        Some(load) => Ok(load),
        None => Ok(Ok(row()?.map_or_else(|| Loaded::Missing { tags: Tags::default() }, |row| loaded(&row)))),
    };
    loads.into_iter().map(result).collect()
}

fn protocol(detail: &str) -> LoadError {
    LoadError::Protocol { detail: detail.to_owned() }
}

/// Returns the lifetime of an entry, which must not outlive its row.
fn loaded(row: &Row) -> Loaded {
    let lifetime = match row.expire_time {
        None => Lifetime::OfKind,
        Some(end) => {
            let end = SystemTime::try_from(end).unwrap_or(SystemTime::UNIX_EPOCH);
            Lifetime::AtMost(end.duration_since(SystemTime::now()).unwrap_or_default())
        }
    };
    Loaded::Object {
        value: row.encode_to_vec().into(),
        tags: Tags::default(),
        lifetime,
        version: Bytes::new(),
    }
}

/// Parses the keys that an id names.
fn parse(id: &str, sort_key_type: SortKeyType) -> Result<(String, Option<Value>), String> {
    let (partition, sort) = match id.split_once('/') {
        Some((partition, sort)) => (partition, Some(sort)),
        None => (id, None),
    };
    let partition = unescape(partition)?;
    let sort = match (sort, sort_key_type) {
        (None, SortKeyType::None) => return Ok((partition, None)),
        (Some(_), SortKeyType::None) => {
            return Err(
                "the table has no sort key: the id is the partition key, with %2F for each `/` in it".into(),
            );
        }
        (None, _) => return Err("the table has a sort key: the id is PARTITION_KEY/SORT_KEY".into()),
        (Some(sort), _) => sort,
    };
    let kind = match sort_key_type {
        SortKeyType::Composite => {
            return Err("the table has composite sort keys, which no id names".into());
        }
        SortKeyType::Int64 => match sort.parse::<i64>() {
            Ok(number) if number.to_string() == sort => value::Kind::IntValue(number),
            _ => {
                return Err(format!(
                    "the sort key `{sort}` must be an integer in its shortest form, such as 7 or -7"
                ));
            }
        },
        SortKeyType::Bytes => match from_hex(sort) {
            Some(bytes) => value::Kind::BytesValue(bytes.into()),
            None => {
                return Err(format!("the sort key `{sort}` must be bytes in lower-case hex, such as 00ff"));
            }
        },
        SortKeyType::String | SortKeyType::Unspecified | SortKeyType::None => {
            value::Kind::StringValue(sort.to_owned())
        }
    };
    Ok((partition, Some(Value { kind: Some(kind) })))
}

fn unescape(text: &str) -> Result<String, String> {
    unescaped(text).ok_or_else(|| {
        "in the partition key write %25 for `%` and %2F for `/`, and escape nothing else".to_owned()
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, sort_key_type: SortKeyType, partition: &str, sort: Option<value::Kind>) {
        let sort = sort.map(|kind| Value { kind: Some(kind) });
        assert_eq!(parse(id, sort_key_type), Ok((partition.to_owned(), sort)), "{id}");
    }

    #[test]
    fn row_id_follows_sort_key_type() {
        use SortKeyType::{Bytes, Int64, None as Single, String as Text};
        check("ada", Single, "ada", None);
        check("a%2Fb%25", Single, "a/b%", None);
        check("ada/x/y%", Text, "ada", Some(value::Kind::StringValue("x/y%".into())));
        check("ada/", Text, "ada", Some(value::Kind::StringValue(String::new())));
        check("ada/-7", Int64, "ada", Some(value::Kind::IntValue(-7)));
        check("ada/00ff", Bytes, "ada", Some(value::Kind::BytesValue(vec![0, 255].into())));
    }

    #[test]
    fn second_spelling_of_id_refused() {
        use SortKeyType::{Bytes, Int64, None as Single, String as Text};
        for (id, sort_key_type) in [
            ("a%2fb", Single),
            ("%61", Single),
            ("a%", Single),
            ("a%2", Single),
            ("a%é", Single),
            ("a/b", Single),
            ("a", Text),
            ("a/07", Int64),
            ("a/+7", Int64),
            ("a/-0", Int64),
            ("a/x", Int64),
            ("a/FF", Bytes),
            ("a/f", Bytes),
        ] {
            assert!(parse(id, sort_key_type).is_err(), "{id}");
        }
    }

    #[test]
    fn entries_end_with_their_row() {
        let soon = SystemTime::now() + Duration::from_secs(5);
        let row = Row { expire_time: Some(soon.into()), ..Row::default() };
        let Loaded::Object { lifetime: Lifetime::AtMost(left), .. } = loaded(&row) else { panic!("bounded") };
        assert!(left <= Duration::from_secs(5) && left > Duration::from_secs(4), "{left:?}");
        let gone = SystemTime::now() - Duration::from_secs(5);
        let row = Row { expire_time: Some(gone.into()), ..Row::default() };
        assert!(matches!(loaded(&row), Loaded::Object { lifetime: Lifetime::AtMost(Duration::ZERO), .. }));
    }
}
