//! Writes: the changes that callers ask for, checked and made into what a store applies.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use shoal_kit::{Invalid, reason};
use xxhash_rust::xxh3::Xxh3Default;

use crate::clock::WriteTimestamp;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::row_codec::{Draft, WriteId};
use crate::table::{Table, Ttl};
use crate::value::{Attributes, Value};
use crate::write_token::WriteToken;

/// Most changes in one Mutate.
const MUTATIONS_MAX: usize = 100;
/// Most attributes of a row.
const ATTRIBUTES_MAX: usize = 256;
/// Longest name of an attribute.
const ATTRIBUTE_NAME_BYTES_MAX: usize = 255;
/// Most bytes of a row's encoded attributes.
const ROW_BYTES_MAX: usize = 1 << 20;
/// Most bytes of the encoded attributes of all rows in one Mutate: Cassandra refuses a write larger than half a commit log
/// segment, and small installations have segments of 8 MiB.
const MUTATE_BYTES_MAX: usize = 2 << 20;
/// Most such bytes where the table has a change feed: the record of the write has the rows as well, and the rows before them.
pub(crate) const RECORDED_BYTES_MAX: usize = 1 << 20;

/// A change as the caller gives it.
#[derive(Debug, Clone)]
pub(crate) enum Mutation {
    /// Writes a whole row.
    Put {
        /// The sort key of the row.
        sort_key: Option<Value>,
        /// The attributes of the row.
        attributes: Attributes,
        /// The time to live; none stands for the table's default.
        ttl: Option<Duration>,
    },
    /// Deletes a row.
    Delete {
        /// The sort key of the row.
        sort_key: Option<Value>,
    },
    /// Deletes the rows in a range.
    DeleteRange {
        /// The first sort key.
        start: Option<Value>,
        /// The sort key after the last.
        end: Option<Value>,
    },
}

/// A checked write of one partition, which is applied whole or not at all.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    /// The table of the partition.
    pub(crate) table: Arc<Table>,
    /// The partition to change.
    pub(crate) partition: PartitionKey,
    /// The token of the write, which has the timestamp of puts and deletes.
    pub(crate) token: WriteToken,
    /// The changes, at least one, of distinct rows.
    pub(crate) changes: Vec<Change>,
}

/// A checked change.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Writes a whole row.
    Put {
        /// The sort key of the row.
        sort_key: SortKey,
        /// The encoded row.
        cell: Bytes,
        /// The time when the row ends, as in the cell.
        expire_time: Option<WriteTimestamp>,
    },
    /// Deletes a row.
    Delete {
        /// The sort key of the row.
        sort_key: SortKey,
    },
    /// Deletes a range that is not empty.
    DeleteRange {
        /// The range of sort keys.
        range: SortRange,
    },
}

impl Write {
    /// Checks the mutations against the table and the limits.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the path of the field.
    pub(crate) fn parse(
        table: Arc<Table>,
        partition: PartitionKey,
        token: WriteToken,
        mutations: Vec<Mutation>,
    ) -> Result<Self, Invalid> {
        check_count(mutations.len())?;
        let of = table.definition.sort_key_type;
        let stamp = token.stamp();
        let mut changes = Vec::with_capacity(mutations.len());
        let mut drafts = Vec::new();
        let mut bytes = 0;
        for (i, mutation) in mutations.into_iter().enumerate() {
            // Formatted for a refusal alone.
            let within = |invalid: Invalid| invalid.within(&format!("mutations[{i}]"));
            match mutation {
                Mutation::Put { sort_key, attributes, ttl } => {
                    let sort_key = SortKey::parse(of, sort_key, "put.sort_key").map_err(within)?;
                    bytes += check_attributes(&attributes, "put.attributes").map_err(within)?;
                    table.check_attributes(&attributes, "put.attributes").map_err(within)?;
                    let ttl = match ttl {
                        Some(ttl) => Some(Ttl::parse(ttl, "put.ttl").map_err(within)?),
                        None => table.definition.default_ttl,
                    };
                    // Counted from the write's own time, so that a repeat ends at the same time.
                    let expire_time = ttl.map(|ttl| stamp.plus_seconds(ttl.seconds()));
                    drafts.push(Draft::new(&attributes, expire_time));
                    changes.push(Change::Put { sort_key, cell: Bytes::new(), expire_time });
                }
                Mutation::Delete { sort_key } => {
                    let sort_key = SortKey::parse(of, sort_key, "delete.sort_key").map_err(within)?;
                    changes.push(Change::Delete { sort_key });
                }
                Mutation::DeleteRange { start, end } => {
                    let range = SortRange::parse(of, start, end, None);
                    let range = range.map_err(|invalid| within(invalid.within("delete_range")))?;
                    changes.push(Change::DeleteRange { range });
                }
            }
        }
        check_bytes(&table, bytes)?;
        refuse_repeated_rows(&changes)?;
        // A range without a key in it deletes nothing, so the engine does not see it.
        changes.retain(|change| !matches!(change, Change::DeleteRange { range } if range.is_empty()));
        let id = write_id(&token, &changes, &drafts);
        let mut drafts = drafts.into_iter();
        for change in &mut changes {
            if let Change::Put { cell, .. } = change
                && let Some(draft) = drafts.next()
            {
                *cell = draft.seal(id).into();
            }
        }
        Ok(Self { table, partition, token, changes })
    }

    /// Returns the timestamp of puts and deletes.
    pub(crate) fn stamp(&self) -> WriteTimestamp {
        self.token.stamp()
    }

    /// Returns the timestamp at which ranges are deleted: before everything else of the same write.
    pub(crate) fn range_stamp(&self) -> WriteTimestamp {
        WriteTimestamp(self.stamp().0 - 1)
    }
}

/// Returns the identity of a write among those of its timestamp: a rank, then a hash of its token and of all that it changes.
///
/// The rank puts a write that deletes rows above one that does not, and a write that deletes ranges below one that does not,
/// as an engine decides between the deletes themselves and the other write's puts. So one of two writes stays in all rows of
/// both, as if they had come one after the other.
fn write_id(token: &WriteToken, changes: &[Change], drafts: &[Draft]) -> WriteId {
    let deletes = changes.iter().any(|change| matches!(change, Change::Delete { .. }));
    let ranges = changes.iter().any(|change| matches!(change, Change::DeleteRange { .. }));
    let rank = match (deletes, ranges) {
        (true, _) => 2,
        (false, false) => 1,
        (false, true) => 0,
    };
    let mut hasher = Xxh3Default::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&bytes.len().to_le_bytes());
        hasher.update(bytes);
    };
    part(token.as_str().as_bytes());
    let mut drafts = drafts.iter();
    for change in changes {
        match change {
            Change::Put { sort_key, .. } => {
                part(b"put");
                part(&sort_key.ordered_bytes());
                part(drafts.next().map(Draft::content).unwrap_or_default());
            }
            Change::Delete { sort_key } => {
                part(b"delete");
                part(&sort_key.ordered_bytes());
            }
            Change::DeleteRange { range } => {
                part(b"range");
                for bound in [&range.start, &range.end] {
                    part(&bound.as_ref().map(SortKey::ordered_bytes).unwrap_or_default());
                }
            }
        }
    }
    let mut id = [rank; size_of::<WriteId>()];
    id[1..].copy_from_slice(&hasher.digest().to_be_bytes());
    id
}

/// Checks the number of mutations of one write.
///
/// # Errors
/// INVALID_ARGUMENT when there are none or too many.
pub(crate) fn check_count(mutations: usize) -> Result<(), Invalid> {
    if (1..=MUTATIONS_MAX).contains(&mutations) {
        return Ok(());
    }
    Err(Invalid::new(
        reason::INVALID_MUTATIONS,
        "mutations",
        format!("must have 1 to {MUTATIONS_MAX} entries, has {mutations}"),
    ))
}

/// Checks the encoded size of all rows of one write.
///
/// # Errors
/// INVALID_ARGUMENT when it is too large.
pub(crate) fn check_bytes(table: &Table, bytes: usize) -> Result<(), Invalid> {
    let (max, of) = match table.change_feed() {
        Some(_) => (RECORDED_BYTES_MAX, "one write of a table with a change_feed"),
        None => (MUTATE_BYTES_MAX, "one write"),
    };
    if bytes <= max {
        return Ok(());
    }
    let problem = format!("the rows have {bytes} bytes; {of} has at most {max}: send several");
    Err(Invalid::new(reason::MUTATE_TOO_LARGE, "mutations", problem))
}

/// Checks the attributes of a row. Returns their encoded size.
///
/// # Errors
/// INVALID_ARGUMENT when there are too many, or one has a bad name, or all together are too large.
pub(crate) fn check_attributes(attributes: &Attributes, field: &str) -> Result<usize, Invalid> {
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(Invalid::new(
            reason::TOO_MANY_ATTRIBUTES,
            field.to_owned(),
            format!("has {} attributes; a row has at most {ATTRIBUTES_MAX}", attributes.len()),
        ));
    }
    for (name, _) in attributes.iter() {
        check_attribute_name(name, field)?;
    }
    let bytes = attributes.encoded_len();
    if bytes > ROW_BYTES_MAX {
        return Err(Invalid::new(
            reason::ROW_TOO_LARGE,
            field.to_owned(),
            format!(
                "has {bytes} bytes; a row has at most {ROW_BYTES_MAX}: put larger values with PutBlob, and their keys here"
            ),
        ));
    }
    Ok(bytes)
}

/// Checks the length of an attribute's name.
///
/// # Errors
/// INVALID_ARGUMENT when it is empty or too long.
pub(crate) fn check_attribute_name(name: &str, field: &str) -> Result<(), Invalid> {
    if (1..=ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(Invalid::new(
        reason::INVALID_ATTRIBUTE_NAME,
        field.to_owned(),
        format!("names have 1 to {ATTRIBUTE_NAME_BYTES_MAX} bytes, one has {}", name.len()),
    ))
}

/// Makes the refusal of a second change of one row.
pub(crate) fn row_twice(index: usize) -> Invalid {
    Invalid::new(
        reason::ROW_TWICE,
        format!("mutations[{index}]"),
        "changes a row that another entry changes too; one Mutate changes a row once",
    )
}

/// Refuses two changes of one row, because changes of one write have no order.
fn refuse_repeated_rows(changes: &[Change]) -> Result<(), Invalid> {
    if changes.len() < 2 {
        return Ok(());
    }
    let mut seen = HashSet::new();
    for (i, change) in changes.iter().enumerate() {
        let key = match change {
            Change::Put { sort_key, .. } | Change::Delete { sort_key } => sort_key,
            Change::DeleteRange { .. } => continue,
        };
        if !seen.insert(key) {
            return Err(row_twice(i));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::table;
    use crate::table::SortKeyType;

    fn parse(mutations: Vec<Mutation>) -> Result<Write, Invalid> {
        let table = Arc::new(table("t", SortKeyType::Int64));
        let token = WriteToken::parse("1000-n", WriteTimestamp(1_000))?;
        Write::parse(table, PartitionKey::parse("p".into())?, token, mutations)
    }

    fn put(key: i64, attributes: Attributes) -> Mutation {
        Mutation::Put { sort_key: Some(Value::Int(key)), attributes, ttl: None }
    }

    fn one(name: &str, bytes: usize) -> Attributes {
        [(name.to_owned(), Value::Bytes(vec![0; bytes].into()))].into_iter().collect()
    }

    #[track_caller]
    fn refused(mutations: Vec<Mutation>, expected_reason: &str, expected_field: &str) {
        match parse(mutations) {
            Err(Invalid { reason, field, .. }) => {
                assert_eq!((reason.as_str(), &*field), (expected_reason, expected_field));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn limits_are_said_with_the_field() {
        refused(vec![], "INVALID_MUTATIONS", "mutations");
        let many = |n: i64| (0..n).map(|i| put(i, Attributes::default())).collect::<Vec<_>>();
        assert_eq!(parse(many(100)).unwrap().changes.len(), 100);
        refused(many(101), "INVALID_MUTATIONS", "mutations");
        refused(vec![put(1, one("", 1))], "INVALID_ATTRIBUTE_NAME", "mutations[0].put.attributes");
        refused(
            vec![put(1, one(&"x".repeat(256), 1))],
            "INVALID_ATTRIBUTE_NAME",
            "mutations[0].put.attributes",
        );
        refused(vec![put(1, one("a", ROW_BYTES_MAX))], "ROW_TOO_LARGE", "mutations[0].put.attributes");
        let large = || one("a", ROW_BYTES_MAX - 100);
        assert!(parse(vec![put(1, large()), put(2, large())]).is_ok());
        refused(vec![put(1, large()), put(2, large()), put(3, large())], "MUTATE_TOO_LARGE", "mutations");
        let wide: Attributes = (0..257).map(|i| (format!("a{i}"), Value::Bool(true))).collect();
        refused(vec![put(1, wide)], "TOO_MANY_ATTRIBUTES", "mutations[0].put.attributes");
        let ttl = Mutation::Put {
            sort_key: Some(Value::Int(1)),
            attributes: Attributes::default(),
            ttl: Some(Duration::ZERO),
        };
        refused(vec![ttl], "INVALID_TTL", "mutations[0].put.ttl");
        let text = Some(Value::String("a".into()));
        let range = Mutation::DeleteRange { start: text, end: None };
        refused(vec![range], "SORT_KEY_TYPE_MISMATCH", "mutations[0].delete_range.start");
    }

    #[test]
    fn a_row_is_changed_once() {
        let delete = |key| Mutation::Delete { sort_key: Some(Value::Int(key)) };
        refused(vec![put(1, one("a", 1)), delete(1)], "ROW_TWICE", "mutations[1]");
        refused(vec![delete(1), delete(2), delete(1)], "ROW_TWICE", "mutations[2]");
        assert!(parse(vec![put(1, one("a", 1)), delete(2)]).is_ok());
    }

    #[test]
    fn range_deletes_come_before_puts() {
        let range =
            |start, end| Mutation::DeleteRange { start: Some(Value::Int(start)), end: Some(Value::Int(end)) };
        let write = parse(vec![put(1, one("a", 1)), range(0, 9), range(5, 5)]).unwrap();
        assert_eq!(write.changes.len(), 2);
        assert!(write.range_stamp() < write.stamp());
    }
}
