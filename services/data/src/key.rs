//! Keys of rows and ranges of sort keys. They are ordered like their stored bytes: text by its UTF-8 bytes, bytes unsigned,
//! integers signed.

use bytes::Bytes;
use shoal_kit::{Invalid, reason};

use crate::table::{KeyParts, SortKeyType};
use crate::value::{List, Value};

mod composite;

/// Longest partition key, and longest sort key of text or bytes.
const KEY_BYTES_MAX: usize = 1024;

/// Key of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PartitionKey(String);

/// Sort key of a row. `Unit` is the key of the only row in a partition of a table without sort keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SortKey {
    /// The table has no sort keys.
    Unit,
    /// A sort key of type STRING.
    Text(String),
    /// A sort key of type INT64.
    Int(i64),
    /// A sort key of type BYTES.
    Bytes(Bytes),
    /// A sort key of several parts, encoded; as a bound of a range also one of the first parts.
    Composite(KeyParts, Bytes),
}

/// Range of sort keys from `start` (inclusive) to `end` (exclusive). An absent bound is open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SortRange {
    /// The first sort key.
    pub(crate) start: Option<SortKey>,
    /// The sort key after the last.
    pub(crate) end: Option<SortKey>,
}

impl PartitionKey {
    /// Checks the length.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the key is empty or too long.
    pub(crate) fn parse(key: String) -> Result<Self, Invalid> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Invalid::new(
                reason::INVALID_PARTITION_KEY,
                "partition_key",
                format!("must have 1 to {KEY_BYTES_MAX} bytes, has {}", key.len()),
            ));
        }
        Ok(Self(key))
    }

    /// Returns the key as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks the beginning of partition keys, which may be empty.
///
/// # Errors
/// INVALID_ARGUMENT when no key is that long.
pub(crate) fn check_partition_prefix(prefix: &str) -> Result<(), Invalid> {
    if prefix.len() > KEY_BYTES_MAX {
        return Err(Invalid::new(
            reason::INVALID_PARTITION_KEY,
            "prefix",
            format!("must have at most {KEY_BYTES_MAX} bytes, has {}", prefix.len()),
        ));
    }
    Ok(())
}

impl SortKey {
    /// Reads the sort key of one row.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the value does not fit the table.
    pub(crate) fn parse(of: SortKeyType, value: Option<Value>, field: &str) -> Result<Self, Invalid> {
        match (of, value) {
            (SortKeyType::None, None) => Ok(SortKey::Unit),
            (SortKeyType::None, Some(_)) => Err(Invalid::new(
                reason::SORT_KEY_UNEXPECTED,
                field.to_owned(),
                "the table's sort_key_type is NONE; leave it unset",
            )),
            (_, None) => Err(Invalid::new(
                reason::SORT_KEY_REQUIRED,
                field.to_owned(),
                format!("is required: the table's sort_key_type is {}", of.name()),
            )),
            (_, Some(value)) => Self::of_value(of, value, field),
        }
    }

    /// Reads a bound of a range. Empty text and empty bytes are an open bound.
    fn parse_bound(of: SortKeyType, value: Option<Value>, field: &str) -> Result<Option<Self>, Invalid> {
        match value {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() && of == SortKeyType::String => Ok(None),
            Some(Value::Bytes(bytes)) if bytes.is_empty() && of == SortKeyType::Bytes => Ok(None),
            Some(Value::List(list)) if matches!(of, SortKeyType::Composite(_)) => {
                if list.is_empty() {
                    Ok(None)
                } else {
                    Self::of_list(of, list, false, field).map(Some)
                }
            }
            Some(value) => Self::parse(of, Some(value), field).map(Some),
        }
    }

    fn of_value(of: SortKeyType, value: Value, field: &str) -> Result<Self, Invalid> {
        let sized = |len| check_size(len, field);
        match (of, value) {
            (SortKeyType::String, Value::String(text)) => sized(text.len()).map(|()| SortKey::Text(text)),
            (SortKeyType::Bytes, Value::Bytes(bytes)) => sized(bytes.len()).map(|()| SortKey::Bytes(bytes)),
            (SortKeyType::Int64, Value::Int(int)) => Ok(SortKey::Int(int)),
            (SortKeyType::Composite(_), Value::List(list)) => Self::of_list(of, list, true, field),
            _ => Err(Invalid::new(
                reason::SORT_KEY_TYPE_MISMATCH,
                field.to_owned(),
                format!("the table's sort_key_type is {}; set {}", of.name(), of.value_field()),
            )),
        }
    }

    /// Reads a composite sort key, or the first parts of one.
    fn of_list(of: SortKeyType, list: List, whole: bool, field: &str) -> Result<Self, Invalid> {
        let SortKeyType::Composite(parts) = of else {
            let problem = format!("the table's sort_key_type is {}", of.name());
            return Err(Invalid::new(reason::SORT_KEY_TYPE_MISMATCH, field.to_owned(), problem));
        };
        let values = list.into_values();
        let bytes = composite::encode(&parts, &values, field)?;
        if whole && values.len() < parts.len() {
            let problem = format!("has {} of {} values: ({parts})", values.len(), parts.len());
            return Err(Invalid::new(reason::INVALID_SORT_KEY, field.to_owned(), problem));
        }
        check_size(bytes.len(), field)?;
        Ok(SortKey::Composite(parts, bytes.into()))
    }

    /// Makes a key of this type of its stored bytes.
    pub(crate) fn of_blob(of: SortKeyType, bytes: Bytes) -> Self {
        match of {
            SortKeyType::Composite(parts) => SortKey::Composite(parts, bytes),
            _ => SortKey::Bytes(bytes),
        }
    }

    /// Returns the smallest key that is greater than this one; none after the last.
    pub(crate) fn successor(&self) -> Option<Self> {
        match self {
            SortKey::Unit => None,
            SortKey::Text(text) => Some(SortKey::Text(format!("{text}\0"))),
            SortKey::Int(int) => int.checked_add(1).map(SortKey::Int),
            SortKey::Bytes(bytes) => Some(SortKey::Bytes([bytes, &[0][..]].concat().into())),
            SortKey::Composite(parts, bytes) => {
                Some(SortKey::Composite(*parts, [bytes, &[0][..]].concat().into()))
            }
        }
    }

    /// Returns bytes that sort like the keys of one type.
    pub(crate) fn ordered_bytes(&self) -> Vec<u8> {
        match self {
            SortKey::Unit => Vec::new(),
            SortKey::Text(text) => text.as_bytes().to_vec(),
            // With the sign bit flipped negative numbers come first.
            SortKey::Int(int) => (int.cast_unsigned() ^ (1 << 63)).to_be_bytes().to_vec(),
            SortKey::Bytes(bytes) | SortKey::Composite(_, bytes) => bytes.to_vec(),
        }
    }

    /// Returns the number of [`SortKey::ordered_bytes`].
    pub(crate) fn ordered_len(&self) -> usize {
        match self {
            SortKey::Unit => 0,
            SortKey::Text(text) => text.len(),
            SortKey::Int(_) => size_of::<i64>(),
            SortKey::Bytes(bytes) | SortKey::Composite(_, bytes) => bytes.len(),
        }
    }

    /// Reads a key from its [`SortKey::ordered_bytes`]; none if no key of that type has these.
    pub(crate) fn of_ordered_bytes(of: SortKeyType, bytes: &[u8]) -> Option<Self> {
        match of {
            SortKeyType::None => bytes.is_empty().then_some(SortKey::Unit),
            SortKeyType::String => String::from_utf8(bytes.to_vec()).ok().map(SortKey::Text),
            SortKeyType::Int64 => {
                let bytes: [u8; 8] = bytes.try_into().ok()?;
                Some(SortKey::Int((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()))
            }
            SortKeyType::Bytes | SortKeyType::Composite(_) => {
                Some(SortKey::of_blob(of, Bytes::copy_from_slice(bytes)))
            }
        }
    }

    /// Returns the key as a value; none for the row without a sort key. A composite one whose bytes were damaged is its bytes.
    pub(crate) fn into_value(self) -> Option<Value> {
        match self {
            SortKey::Unit => None,
            SortKey::Text(text) => Some(Value::String(text)),
            SortKey::Int(int) => Some(Value::Int(int)),
            SortKey::Bytes(bytes) => Some(Value::Bytes(bytes)),
            SortKey::Composite(parts, bytes) => Some(match composite::decode(&parts, &bytes) {
                Some(values) => Value::List(values.into_iter().collect()),
                None => Value::Bytes(bytes),
            }),
        }
    }
}

impl SortRange {
    /// Makes the range of `start` and `end`, or of all keys that begin with `prefix`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when a value does not fit the table, the end comes before the start, or the prefix comes with a bound.
    pub(crate) fn parse(
        of: SortKeyType,
        start: Option<Value>,
        end: Option<Value>,
        prefix: Option<Value>,
    ) -> Result<Self, Invalid> {
        let Some(prefix) = prefix else {
            let start = SortKey::parse_bound(of, start, "start")?;
            let end = SortKey::parse_bound(of, end, "end")?;
            if matches!((&start, &end), (Some(start), Some(end)) if start > end) {
                return Err(Invalid::new(
                    reason::INVERTED_RANGE,
                    "end",
                    "comes before start: no key is in such a range; set descending for the other order",
                ));
            }
            return Ok(Self { start, end });
        };
        if start.is_some() || end.is_some() {
            return Err(Invalid::new(
                reason::PREFIX_WITH_BOUNDS,
                "prefix",
                "cannot come together with start or end",
            ));
        }
        if of == SortKeyType::Int64 {
            return Err(Invalid::new(
                reason::SORT_KEY_TYPE_MISMATCH,
                "prefix",
                "the table's sort_key_type is INT64; use start and end",
            ));
        }
        Ok(match SortKey::parse_bound(of, Some(prefix), "prefix")? {
            None => Self::default(),
            Some(prefix) => Self { end: after_prefix(&prefix), start: Some(prefix) },
        })
    }

    /// Returns whether no key can be in the range.
    pub(crate) fn is_empty(&self) -> bool {
        matches!((&self.start, &self.end), (Some(start), Some(end)) if start >= end)
    }

    /// Returns the part of the range behind `last`, in this direction; none if it is empty.
    #[must_use]
    pub(crate) fn behind(&self, last: &SortKey, descending: bool) -> Option<Self> {
        let rest = if descending {
            Self { start: self.start.clone(), end: Some(last.clone()) }
        } else {
            Self { start: Some(last.successor()?), end: self.end.clone() }
        };
        (!rest.is_empty() && *last != SortKey::Unit).then_some(rest)
    }
}

/// Returns the smallest key that is greater than every key with this prefix; none if there is no such key.
fn after_prefix(prefix: &SortKey) -> Option<SortKey> {
    match prefix {
        SortKey::Text(text) => {
            // UTF-8 sorts like its characters, so the end is the prefix with its last character moved on.
            let mut chars: Vec<char> = text.chars().collect();
            while let Some(last) = chars.pop() {
                if let Some(next) = (last..=char::MAX).nth(1) {
                    chars.push(next);
                    return Some(SortKey::Text(chars.into_iter().collect()));
                }
            }
            None
        }
        SortKey::Bytes(bytes) => after_bytes(bytes).map(SortKey::Bytes),
        SortKey::Composite(parts, bytes) => after_bytes(bytes).map(|end| SortKey::Composite(*parts, end)),
        SortKey::Unit | SortKey::Int(_) => None,
    }
}

/// Returns the smallest bytes that are greater than all that begin with these; none if there are no such.
fn after_bytes(bytes: &[u8]) -> Option<Bytes> {
    let kept = bytes.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = bytes[..=kept].to_vec();
    end[kept] += 1;
    Some(end.into())
}

/// Checks the length of a sort key.
fn check_size(len: usize, field: &str) -> Result<(), Invalid> {
    match len {
        1..=KEY_BYTES_MAX => Ok(()),
        _ => Err(Invalid::new(
            reason::INVALID_SORT_KEY,
            field.to_owned(),
            format!("must have 1 to {KEY_BYTES_MAX} bytes, has {len}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> SortKey {
        SortKey::Text(text.to_owned())
    }

    fn bytes(bytes: &'static [u8]) -> SortKey {
        SortKey::Bytes(Bytes::from_static(bytes))
    }

    #[test]
    fn ordered_bytes_sort_like_keys() {
        let ints = [i64::MIN, -2, -1, 0, 1, 255, 256, i64::MAX].map(SortKey::Int);
        for pair in ints.windows(2) {
            assert!(pair[0].ordered_bytes() < pair[1].ordered_bytes(), "{pair:?}");
        }
        for (of, key) in [
            (SortKeyType::Int64, SortKey::Int(-7)),
            (SortKeyType::String, text("ä\0")),
            (SortKeyType::Bytes, bytes(b"\xff\0")),
            (SortKeyType::None, SortKey::Unit),
        ] {
            assert_eq!(SortKey::of_ordered_bytes(of, &key.ordered_bytes()), Some(key));
        }
        assert_eq!(SortKey::of_ordered_bytes(SortKeyType::String, b"\xff"), None);
        assert_eq!(SortKey::of_ordered_bytes(SortKeyType::Int64, b"123"), None);
    }

    #[test]
    fn prefix_ends_before_other_keys() {
        for (prefix, end) in [
            (text("ab"), Some(text("ac"))),
            (text("a\u{10ffff}"), Some(text("b"))),
            (text("\u{d7ff}"), Some(text("\u{e000}"))),
            (text("\u{10ffff}"), None),
            (bytes(b"a\xff"), Some(bytes(b"b"))),
            (bytes(b"\xff\xff"), None),
        ] {
            assert_eq!(after_prefix(&prefix), end, "{prefix:?}");
        }
    }

    #[test]
    fn range_continues_behind_last_key() {
        let all = SortRange::default();
        let ints = |start, end| SortRange { start: Some(SortKey::Int(start)), end: Some(SortKey::Int(end)) };
        assert_eq!(ints(0, 9).behind(&SortKey::Int(3), false), Some(ints(4, 9)));
        assert_eq!(ints(0, 9).behind(&SortKey::Int(3), true), Some(ints(0, 3)));
        assert_eq!(ints(0, 9).behind(&SortKey::Int(8), false), None);
        assert_eq!(ints(0, 9).behind(&SortKey::Int(0), true), None);
        assert_eq!(all.behind(&SortKey::Int(i64::MAX), false), None);
        assert_eq!(all.behind(&SortKey::Unit, false), None);
        assert_eq!(all.behind(&SortKey::Unit, true), None);
        assert_eq!(all.behind(&text("a"), false).unwrap().start, Some(text("a\0")));
    }

    #[test]
    fn keys_of_wrong_type_are_refused() {
        let reason = |result: Result<SortKey, Invalid>| match result {
            Err(Invalid { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        let parse = |of, value| reason(SortKey::parse(of, value, "sort_key"));
        assert_eq!(parse(SortKeyType::String, None), "SORT_KEY_REQUIRED");
        assert_eq!(parse(SortKeyType::None, Some(Value::Int(1))), "SORT_KEY_UNEXPECTED");
        assert_eq!(parse(SortKeyType::String, Some(Value::Int(1))), "SORT_KEY_TYPE_MISMATCH");
        assert_eq!(parse(SortKeyType::String, Some(Value::String(String::new()))), "INVALID_SORT_KEY");
        assert_eq!(parse(SortKeyType::Bytes, Some(Value::Bytes(vec![0; 1025].into()))), "INVALID_SORT_KEY");
        assert!(PartitionKey::parse(String::new()).is_err());
        assert!(PartitionKey::parse("x".repeat(1024)).is_ok());
        assert!(PartitionKey::parse("x".repeat(1025)).is_err());
        let value = || Some(Value::String("a".into()));
        assert!(SortRange::parse(SortKeyType::String, value(), None, value()).is_err());
        assert!(SortRange::parse(SortKeyType::Int64, None, None, Some(Value::Int(1))).is_err());
    }

    #[test]
    fn an_inverted_range_is_refused() {
        let ints = |start, end| {
            let range =
                SortRange::parse(SortKeyType::Int64, Some(Value::Int(start)), Some(Value::Int(end)), None);
            range.map_err(|invalid| invalid.reason)
        };
        assert_eq!(ints(5, 4), Err(reason::INVERTED_RANGE));
        assert!(ints(5, 5).unwrap().is_empty());
        assert!(!ints(-5, 5).unwrap().is_empty());
    }
}
