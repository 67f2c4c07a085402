//! Conditional writes: what a caller asks for, checked, and what it does to the rows that a store finds. Nothing here knows how
//! a store makes the read and the write one step.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use shoal_kit::{Invalid, reason};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::mutation::{self, Mutation};
use crate::row::Row;
use crate::row_codec::{self, Draft};
use crate::table::{Table, Ttl, WriteMode};
use crate::value::{Attributes, Value};
use crate::write_token::WriteToken;

mod condition;

pub(crate) use condition::{Comparison, Condition};

/// Most conditions of one CheckAndMutate.
const CONDITIONS_MAX: usize = 100;
/// Most bytes of the rows in the answer to a write that was not applied: clients take messages of 4 MiB.
const REFUSED_BYTES_MAX: usize = 2 << 20;
/// Time for which an applied write is remembered by its token. It covers [`TOKEN_BEHIND_MAX`], tokens that were five minutes
/// ahead when the write was applied, and clocks that differ.
pub(crate) const APPLIED_SECONDS: u32 = 70 * 60;
/// Longest time that the token of a conditional write may be behind: a repeat must find the first one remembered.
const TOKEN_BEHIND_MAX: i64 = 60 * 60 * 1_000_000;
/// Name of the attribute under which the value of an Increment is remembered.
const VALUE: &str = "value";
/// Name of the attribute under which the hash of the request is remembered.
const REQUEST: &str = "request";
/// Shortest time to live. A row that a store has forgotten was written at least this long before its end.
const TTL_MICROS_MIN: i64 = 1_000_000;

/// Hash of a token, which names the write among all that a partition remembers.
pub(crate) type WriteHash = [u8; 16];

/// A checked write of one partition of a conditional table.
#[derive(Debug, Clone)]
pub(crate) struct ConditionalWrite {
    /// The table of the partition.
    pub(crate) table: Arc<Table>,
    /// The partition to check and change.
    pub(crate) partition: PartitionKey,
    /// The token of the write.
    pub(crate) token: WriteToken,
    /// The rows that are read, at least one, each once.
    pub(crate) rows: Vec<SortKey>,
    plan: Plan,
    /// Hash of all that the caller asks for, which tells a repeat from another write under the same token.
    request: WriteHash,
}

/// What is to become of the rows, which are named by their place in [`ConditionalWrite::rows`].
#[derive(Debug, Clone)]
enum Plan {
    CheckAndMutate { conditions: Vec<(usize, Condition)>, changes: Vec<(usize, RowChange)> },
    Increment { attribute: String, delta: Value },
}

#[derive(Debug, Clone)]
enum RowChange {
    Put { attributes: Attributes, ttl: Option<Ttl> },
    Delete,
}

/// Changes that the rows of a store allow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    /// The timestamp of the write: its token's, or later where a row was written later already.
    pub(crate) write_time: WriteTimestamp,
    /// The rows to change, by their place in [`ConditionalWrite::rows`].
    pub(crate) changes: Vec<(usize, Replacement)>,
    /// What is remembered of the write: an encoded row with the value of an Increment.
    pub(crate) applied: Bytes,
}

/// The new state of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Replacement {
    /// The row is put.
    Put {
        /// The encoded row.
        cell: Bytes,
        /// The time when the row ends, as in the cell.
        expire_time: Option<WriteTimestamp>,
    },
    /// The row is deleted.
    Delete,
}

/// A row as a store found it, and when it was written, which deleted rows know as well.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// The row, if it is there now.
    pub(crate) row: Option<Row>,
    /// The timestamp of the last write that the store knows of.
    pub(crate) last_write: Option<WriteTimestamp>,
}

/// Answer to a conditional write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The write was applied, now or by an earlier call with the same token.
    Applied {
        /// The timestamp of the write.
        write_time: WriteTimestamp,
        /// The value that an Increment made.
        value: Option<Value>,
    },
    /// A condition did not hold, and nothing was done. These are the rows that are there.
    Refused {
        /// The place of the first condition that did not hold, among those of the request.
        condition: usize,
        /// The rows that conditions and mutations name, without those that do not exist.
        rows: Vec<Row>,
        /// Set if the rows would have more than [`REFUSED_BYTES_MAX`], and the last of them were left out.
        left_out: bool,
    },
}

impl ConditionalWrite {
    /// Checks a CheckAndMutate against the table and the limits.
    ///
    /// # Errors
    /// Invalid fields, and [`Error::WrongWriteMode`] when the table is last-write-wins.
    pub(crate) fn check_and_mutate(
        table: Arc<Table>,
        partition: PartitionKey,
        token: WriteToken,
        conditions: Vec<(Option<Value>, Condition)>,
        mutations: Vec<Mutation>,
    ) -> Result<Self, Error> {
        table.require(WriteMode::Conditional, "CheckAndMutate")?;
        if conditions.len() > CONDITIONS_MAX {
            return Err(Invalid::new(
                reason::INVALID_CONDITIONS,
                "conditions",
                format!("must have at most {CONDITIONS_MAX} entries, has {}", conditions.len()),
            )
            .into());
        }
        mutation::check_count(mutations.len())?;
        let of = table.definition.sort_key_type;
        let mut rows = Rows::default();
        let mut request = RequestHash::of("CheckAndMutate");
        let mut checked = Vec::with_capacity(conditions.len());
        for (i, (sort_key, condition)) in conditions.into_iter().enumerate() {
            let within = |invalid: Invalid| invalid.within(&format!("conditions[{i}]"));
            let sort_key = SortKey::parse(of, sort_key, "sort_key").map_err(within)?;
            request.condition(&sort_key, &condition);
            checked.push((rows.place(sort_key), condition));
        }
        let mut changes: Vec<(usize, RowChange)> = Vec::with_capacity(mutations.len());
        let mut bytes = 0;
        for (i, mutation) in mutations.into_iter().enumerate() {
            let within = |invalid: Invalid| invalid.within(&format!("mutations[{i}]"));
            let (sort_key, change) = match mutation {
                Mutation::Put { sort_key, attributes, ttl } => {
                    let sort_key = SortKey::parse(of, sort_key, "put.sort_key").map_err(within)?;
                    bytes += mutation::check_attributes(&attributes, "put.attributes").map_err(within)?;
                    table.check_attributes(&attributes, "put.attributes").map_err(within)?;
                    let ttl = ttl.map(|ttl| Ttl::parse(ttl, "put.ttl")).transpose().map_err(within)?;
                    // The default of the table may be another one when the write is repeated.
                    request.put(&sort_key, &attributes, ttl);
                    (sort_key, RowChange::Put { attributes, ttl: ttl.or(table.definition.default_ttl) })
                }
                Mutation::Delete { sort_key } => {
                    let sort_key = SortKey::parse(of, sort_key, "delete.sort_key").map_err(within)?;
                    request.part(b"delete").part(&sort_key.ordered_bytes());
                    (sort_key, RowChange::Delete)
                }
                Mutation::DeleteRange { .. } => {
                    return Err(Invalid::new(
                        reason::RANGE_IN_CONDITIONAL_TABLE,
                        format!("mutations[{i}].delete_range"),
                        "a conditional table deletes single rows only; list them as deletes",
                    )
                    .into());
                }
            };
            let place = rows.place(sort_key);
            if changes.iter().any(|(other, _)| *other == place) {
                return Err(mutation::row_twice(i).into());
            }
            changes.push((place, change));
        }
        mutation::check_bytes(&table, bytes)?;
        let plan = Plan::CheckAndMutate { conditions: checked, changes };
        Ok(Self { table, partition, token, rows: rows.keys, plan, request: request.end() })
    }

    /// Checks an Increment against the table.
    ///
    /// # Errors
    /// Invalid fields, and [`Error::WrongWriteMode`] when the table is last-write-wins.
    pub(crate) fn increment(
        table: Arc<Table>,
        partition: PartitionKey,
        token: WriteToken,
        sort_key: Option<Value>,
        attribute: String,
        delta: Value,
    ) -> Result<Self, Error> {
        table.require(WriteMode::Conditional, "Increment")?;
        let sort_key = SortKey::parse(table.definition.sort_key_type, sort_key, "sort_key")?;
        mutation::check_attribute_name(&attribute, "attribute")?;
        if !matches!(delta, Value::Int(_) | Value::Double(_)) {
            let text = "must be an int_value or a double_value";
            return Err(Invalid::new(reason::INVALID_DELTA, "delta", text).into());
        }
        if let Some(schema) = table.attribute_schema() {
            schema.check_one(&attribute, &delta, "delta")?;
        }
        let mut request = RequestHash::of("Increment");
        let added = [(attribute.clone(), delta.clone())].into_iter().collect();
        request.put(&sort_key, &added, None);
        let plan = Plan::Increment { attribute, delta };
        Ok(Self { table, partition, token, rows: vec![sort_key], plan, request: request.end() })
    }

    /// Refuses a token that is so old that a first write under it may be forgotten.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the token is more than an hour behind `now`.
    pub(crate) fn check_age(token: &WriteToken, now: WriteTimestamp) -> Result<(), Invalid> {
        if token.stamp().0 >= now.0.saturating_sub(TOKEN_BEHIND_MAX) {
            return Ok(());
        }
        Err(Invalid::new(
            reason::TOKEN_IN_THE_PAST,
            "idempotency_token",
            "its time is more than an hour ago, and conditional writes are remembered for an hour; read the row to see \
             whether the write was applied",
        ))
    }

    /// Returns the name of this write among all that a partition remembers.
    pub(crate) fn hash(&self) -> WriteHash {
        xxh3_128(self.token.as_str().as_bytes()).to_be_bytes()
    }

    /// Reads what a store remembered of the applied write that had this write's token.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when that was another write, DATA_LOSS when it cannot be decoded.
    pub(crate) fn remembered(&self, write_time: WriteTimestamp, applied: &[u8]) -> Result<Outcome, Error> {
        let mut value = None;
        for (name, found) in row_codec::decode(applied)? {
            match (name.as_str(), found) {
                (VALUE, found) => value = Some(found),
                // An earlier release remembered none.
                (REQUEST, Value::Bytes(request)) if request[..] != self.request => {
                    return Err(token_of_another_write());
                }
                _ => {}
            }
        }
        match (&self.plan, &value) {
            (Plan::Increment { .. }, None) | (Plan::CheckAndMutate { .. }, Some(_)) => {
                Err(token_of_another_write())
            }
            _ => Ok(Outcome::Applied { write_time, value }),
        }
    }

    /// Returns the rows that the write changes if it is applied.
    pub(crate) fn written(&self) -> impl Iterator<Item = &SortKey> {
        let places: Vec<usize> = match &self.plan {
            Plan::CheckAndMutate { changes, .. } => changes.iter().map(|(place, _)| *place).collect(),
            Plan::Increment { .. } => vec![0],
        };
        places.into_iter().filter_map(|place| self.rows.get(place))
    }

    /// Decides at `now` what becomes of the rows: `found` has one for each of [`ConditionalWrite::rows`]. Returns the place of the
    /// first condition that does not hold, if there is one.
    ///
    /// # Errors
    /// When the row cannot be incremented.
    pub(crate) fn decide(
        &self,
        found: &[Found],
        now: WriteTimestamp,
    ) -> Result<Result<Decision, usize>, Error> {
        let last = found.iter().filter_map(|found| found.last_write).max();
        let stamp = self.token.stamp();
        // Later than all that these rows were written at, so that times of a row go up whatever the clocks of the clones do.
        let mut write_time = last.map_or(stamp, |last| stamp.max(WriteTimestamp(last.0.saturating_add(1))));
        if found.iter().any(|found| found.last_write.is_none()) {
            // A row that has ended may be forgotten, and was written before its end by its time to live.
            write_time =
                write_time.max(WriteTimestamp(now.0.saturating_sub(TTL_MICROS_MIN).saturating_add(1)));
        }
        // Counted from the time of the write, or from now if the token is older: a lock must hold for its time to live. A repeat
        // is answered from what is remembered, so it moves no end.
        let end = |ttl: Ttl| write_time.max(now).plus_seconds(ttl.seconds());
        let row = |place: usize| found.get(place).and_then(|found| found.row.as_ref());
        let mut applied = Attributes::default();
        let changes = match &self.plan {
            Plan::CheckAndMutate { conditions, changes } => {
                let unmet = conditions.iter().position(|(place, condition)| !condition.holds(row(*place)));
                if let Some(unmet) = unmet {
                    return Ok(Err(unmet));
                }
                let replace = |change: &RowChange| match change {
                    RowChange::Delete => Replacement::Delete,
                    RowChange::Put { attributes, ttl } => put(attributes, ttl.map(end)),
                };
                changes.iter().map(|(place, change)| (*place, replace(change))).collect()
            }
            Plan::Increment { attribute, delta } => {
                let default_end = self.table.definition.default_ttl.map(end);
                let (attributes, expire_time, value) = incremented(row(0), default_end, attribute, delta)?;
                if row(0).is_none() {
                    self.table.check_attributes(&attributes, "attribute")?;
                }
                applied.insert(VALUE.to_owned(), value);
                vec![(0, put(&attributes, expire_time))]
            }
        };
        applied.insert(REQUEST.to_owned(), Value::Bytes(Bytes::copy_from_slice(&self.request)));
        let applied = Draft::new(&applied, None).seal(Default::default()).into();
        Ok(Ok(Decision { write_time, changes, applied }))
    }

    /// Makes the answer to a write whose condition at a place did not hold.
    pub(crate) fn refused(condition: usize, found: Vec<Found>) -> Outcome {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for row in found.into_iter().filter_map(|found| found.row) {
            bytes += row.attributes.encoded_len();
            if bytes > REFUSED_BYTES_MAX && !rows.is_empty() {
                return Outcome::Refused { condition, rows, left_out: true };
            }
            rows.push(row);
        }
        Outcome::Refused { condition, rows, left_out: false }
    }
}

/// Adds to an attribute of a row. A new row ends at `default_end`.
fn incremented(
    row: Option<&Row>,
    default_end: Option<WriteTimestamp>,
    attribute: &str,
    delta: &Value,
) -> Result<(Attributes, Option<WriteTimestamp>, Value), Error> {
    let (mut attributes, expire_time) = match row {
        Some(row) => (row.attributes.clone(), row.expire_time),
        None => (Attributes::default(), default_end),
    };
    let current = attributes.iter().find_map(|(name, value)| (name == attribute).then_some(value));
    let refused = |why: &'static str| Error::NotIncremented { why };
    let value = match (current, delta) {
        (None, delta) => delta.clone(),
        (Some(Value::Int(current)), Value::Int(delta)) => {
            let sum = current.checked_add(*delta);
            Value::Int(sum.ok_or_else(|| refused("the sum does not fit into 64 bits"))?)
        }
        (Some(Value::Double(current)), Value::Double(delta)) => Value::Double(current + delta),
        (Some(_), _) => return Err(refused("the attribute holds a value of another kind than delta")),
    };
    attributes.insert(attribute.to_owned(), value.clone());
    mutation::check_attributes(&attributes, "attribute")?;
    Ok((attributes, expire_time, value))
}

fn token_of_another_write() -> Error {
    Invalid::new(
        reason::INVALID_IDEMPOTENCY_TOKEN,
        "idempotency_token",
        "belongs to another write of this partition, which was applied; nothing was done: make a new token for each write",
    )
    .into()
}

fn put(attributes: &Attributes, expire_time: Option<WriteTimestamp>) -> Replacement {
    let cell = Draft::new(attributes, expire_time).seal(Default::default()).into();
    Replacement::Put { cell, expire_time }
}

/// Hash of a request. Its form must stay while writes are remembered under it, across releases.
struct RequestHash(Xxh3Default);

impl RequestHash {
    fn of(call: &str) -> Self {
        let mut hash = Self(Xxh3Default::new());
        hash.part(call.as_bytes());
        hash
    }

    /// Adds bytes with their length, so that parts cannot run into each other.
    fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn condition(&mut self, key: &SortKey, condition: &Condition) {
        self.part(b"condition").part(&key.ordered_bytes());
        match condition {
            Condition::Exists => self.part(b"exists"),
            Condition::Absent => self.part(b"absent"),
            Condition::Attribute { name, comparison, value } => {
                let value: Attributes = [(name.clone(), value.clone())].into_iter().collect();
                self.part(b"attribute").part(comparison.name().as_bytes()).part(&value.encode_to_vec())
            }
            Condition::Size { name, comparison, bytes } => {
                let name_and_relation = self.part(b"size").part(name.as_bytes());
                name_and_relation.part(comparison.name().as_bytes()).part(&bytes.to_le_bytes())
            }
            Condition::WrittenAt(at) => self.part(b"written at").part(&at.0.to_le_bytes()),
        };
    }

    fn put(&mut self, key: &SortKey, attributes: &Attributes, ttl: Option<Ttl>) {
        let seconds = ttl.map_or(0, Ttl::seconds);
        self.part(b"put").part(&key.ordered_bytes()).part(&attributes.encode_to_vec());
        self.part(&seconds.to_le_bytes());
    }

    fn end(&self) -> WriteHash {
        self.0.digest128().to_be_bytes()
    }
}

/// Distinct rows in the order in which they are named first.
#[derive(Default)]
struct Rows {
    keys: Vec<SortKey>,
    places: HashMap<SortKey, usize>,
}

impl Rows {
    fn place(&mut self, key: SortKey) -> usize {
        *self.places.entry(key.clone()).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::table;
    use crate::table::SortKeyType;

    #[test]
    fn forgotten_rows_are_dated_late() {
        let mut table = table("t", SortKeyType::None);
        table.definition.write_mode = WriteMode::Conditional;
        let now = WriteTimestamp(1_800_000_000_000_000);
        let token = WriteToken::parse("1799999000000000-old", now).unwrap();
        let partition = PartitionKey::parse("p".to_owned()).unwrap();
        let put = Mutation::Put { sort_key: None, attributes: Attributes::default(), ttl: None };
        let write =
            ConditionalWrite::check_and_mutate(Arc::new(table), partition, token, vec![], vec![put]).unwrap();
        let time =
            |last_write| write.decide(&[Found { row: None, last_write }], now).unwrap().unwrap().write_time;
        // The row may have been put with a time to live of a second, and its end may be now.
        assert!(time(None) > WriteTimestamp(now.0 - TTL_MICROS_MIN) && time(None) <= now);
        let last = WriteTimestamp(now.0 - 5_000_000);
        assert_eq!(time(Some(last)), WriteTimestamp(last.0 + 1), "what is known needs no allowance");
    }
}
